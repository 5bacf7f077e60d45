//! A whole warehouse as processes of this machine.
//!
//! Nouns: **settings** are what `dev up` was asked for; the **plan** is computed from them (which processes, with which
//! flags, on which ports); the **state** (`DIR/dev.json`) is settings plus what runs now. Rule: the state is written
//! before the next process starts, so that `dev down` finds everything whatever broke in between.

pub mod certificates;
pub mod down;
pub mod mounts;
pub mod nodes;
pub mod plan;
pub mod preflight;
pub mod process;
pub mod state;
pub mod up;

use std::path::Path;

use serde_json::json;

use crate::args::{DevCommand, Output};
use crate::dev::state::{DevDir, DevState};
use crate::error::CtlError;
use crate::show::{Listing, print_json, print_text};

pub async fn run(command: DevCommand, dir: &Path, output: Output) -> Result<(), CtlError> {
    match command {
        DevCommand::Up(args) => up::up(dir, &args, output).await,
        DevCommand::Down => down::down(dir).await,
        DevCommand::Status => status(dir, output).await,
        DevCommand::Kill { node } => nodes::kill(dir, &node).await,
        DevCommand::Start { node } => nodes::start(dir, &node).await,
    }
}

async fn status(dir: &Path, output: Output) -> Result<(), CtlError> {
    let dir = DevDir::new(dir)?;
    let state = dir.load_or_refuse()?;
    let mut processes = Listing::new(&["name", "state", "pid", "ports", "log"]);
    for planned in plan::processes(&dir, &state) {
        let run = state.running.get(&planned.name);
        let (word, pid) = match run {
            None => ("down", None),
            Some(run) if !run.is_alive() => ("dead", None),
            Some(run) if process::is_healthy(planned.metrics_port).await => ("up", Some(run.pid)),
            Some(run) => ("starting", Some(run.pid)),
        };
        let ports = plan::port_ranges(&planned.ports);
        let log = dir.log(&planned.name).display().to_string();
        processes.push([json!(planned.name), json!(word), json!(pid), json!(ports), json!(log)]);
    }
    match output {
        Output::Json => {
            print_json(&json!({"processes": processes.to_json(), "connections": connections(&state).to_json()}))
        }
        Output::Table => print_text(&format!("{}\n{}", processes.to_table(), connections(&state).to_table())),
    }
}

/// How to connect, one row a group.
pub fn connections(state: &DevState) -> Listing {
    let mut listing = Listing::new(&["group", "http", "native"]);
    for endpoint in state.endpoints() {
        listing.push([json!(endpoint.group), json!(endpoint.http), json!(endpoint.native)]);
    }
    listing
}
