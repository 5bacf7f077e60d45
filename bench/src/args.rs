//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "moorhouse-bench", version, about = "Measures Moorhouse against the same ClickHouse without it")]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The shard file system against a local disk and ClickHouse's own s3 disk
    Fs(FsArgs),
    /// The metadata controller on a real etcd, against plain puts to it
    Controller(ControllerArgs),
}

#[derive(Debug, Clone, clap::Args)]
pub struct FsArgs {
    /// Rows of the large table [default: 20000000, with --quick 1000000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1000..))]
    pub rows: Option<u64>,
    /// Rounds of what takes seconds [default: 3, with --quick 1]; what takes less has more
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// A smoke run of under two minutes: its figures say only that everything can be measured
    #[arg(long)]
    pub quick: bool,
    /// Only these figures, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Where the report goes
    #[arg(long, default_value = "target/bench/fs.json")]
    pub out: PathBuf,
    /// Where everything is started; on the disk that is measured
    #[arg(long, default_value = "target/bench/scratch")]
    pub scratch: PathBuf,
}

#[derive(Debug, Clone, clap::Args)]
pub struct ControllerArgs {
    /// A smoke run of under a minute: its figures say only that everything can be measured
    #[arg(long)]
    pub quick: bool,
    /// Only these figures, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Where the report goes
    #[arg(long, default_value = "target/bench/controller.json")]
    pub out: PathBuf,
    /// Where etcd and the controllers are started; on the disk that is measured
    #[arg(long, default_value = "target/bench/scratch-controller")]
    pub scratch: PathBuf,
}
