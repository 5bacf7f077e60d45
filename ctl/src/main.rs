//! `moorctl`: the operator's command line.
//!
//! Two parts share it. `dev` starts and stops a whole warehouse as processes of this machine and keeps what it started
//! in `DIR/dev.json`. Everything else asks a controller over gRPC, which it finds by `--controller` or in that file.
//! Exit codes: 0 done, 1 it failed, 2 the input or the machine is not fit for it (one line, with the remedy).

mod args;
mod cache;
mod commands;
mod controller;
mod ddl;
mod dev;
mod documents;
mod error;
mod fsck;
mod leader;
mod meta;
mod security;
mod show;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::error::CtlError;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return refuse_flags(&error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("moorctl: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(commands::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("moorctl: {}", error::one_line(&error.to_string()));
            error.exit_code()
        }
    }
}

/// Help and version go out as they are; a mistake becomes one line.
fn refuse_flags(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nothing useful is left to do if stdout is closed.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or(&text).trim_start_matches("error: ");
    let said = said.split("\n\nFor more information").next().unwrap_or(said);
    let refused = CtlError::bad_input(error::one_line(said), "see moorctl --help");
    eprintln!("moorctl: {refused}");
    refused.exit_code()
}
