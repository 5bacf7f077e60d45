//! `moorhouse-bench`: Moorhouse against the same engine without it, in the same run on the same machine.
//!
//! Reading order: [`fs`] says what is measured and how; [`contender`] gives each side its tables, in the [`warehouse`] and at
//! its [`rivals`]; [`proxy`] stands before the object store; [`controller`] measures the metadata controller by itself;
//! [`stats`] and [`report`] make figures of it.
//! Exit codes: 0 all was measured (a missed goal is no error), 1 something was not, 2 the input is wrong.

mod args;
mod contender;
mod controller;
mod error;
mod fs;
mod moorctl;
mod proxy;
mod report;
mod rivals;
mod stats;
mod warehouse;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};

#[tokio::main]
async fn main() -> ExitCode {
    let Args { command } = Args::parse();
    let measured = match command {
        Command::Fs(args) => fs::run(args).await,
        Command::Controller(args) => controller::run(args).await,
    };
    match measured {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("moorhouse-bench: {error}");
            ExitCode::from(2)
        }
    }
}
