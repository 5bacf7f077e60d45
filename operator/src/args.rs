//! The command line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Keeps Moorhouse warehouses on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "moorhouse-operator", version)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watches Moorhouse's resources and reconciles them, until it is told to stop
    Run(RunArgs),
    /// Writes the definitions of the resources, one file each
    Crds {
        /// Directory to write to
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Only this namespace; absent: all
    #[arg(long, env = "MOORHOUSE_NAMESPACE")]
    pub namespace: Option<String>,
    /// Where the operator itself runs: network policies let it in from there
    #[arg(long, env = "MOORHOUSE_OPERATOR_NAMESPACE", default_value = "moorhouse-system")]
    pub operator_namespace: String,
    /// Address for /metrics and /healthz
    #[arg(long, env = "MOORHOUSE_METRICS", default_value = "0.0.0.0:7431")]
    pub metrics: SocketAddr,
    /// NAMESPACE/WAREHOUSE=http://HOST:PORT: where to reach the controllers of a warehouse, for an operator outside of the
    /// cluster (`kubectl port-forward`); repeatable
    #[arg(long = "controller-at", value_parser = controller_at)]
    pub controllers_at: Vec<(String, String)>,
}

impl RunArgs {
    pub fn elsewhere(&self) -> BTreeMap<String, String> {
        self.controllers_at.iter().cloned().collect()
    }
}

fn controller_at(text: &str) -> Result<(String, String), String> {
    let shape = || format!("'{text}' is not NAMESPACE/WAREHOUSE=http://HOST:PORT");
    let (warehouse, url) = text.split_once('=').ok_or_else(shape)?;
    let is_whole = warehouse.split('/').filter(|part| !part.is_empty()).count() == 2 && url.starts_with("http://");
    if is_whole { Ok((warehouse.to_owned(), url.to_owned())) } else { Err(shape()) }
}
