//! `moorhouse-agent`: see the library.

use std::process::ExitCode;

use clap::Parser;
use moorhouse_node_agent::args::Args;
use moorhouse_node_agent::node;

fn main() -> ExitCode {
    let args = Args::parse();
    moorhouse_base::telemetry::init_logs();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("moorhouse-agent: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(node::run(args));
    // A thread that still waits for the kernel must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.lines() {
                eprintln!("moorhouse-agent: {line}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
