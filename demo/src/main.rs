//! `moorhouse-demo`: runs the demo and writes its numbers. Exit code 0 only if every answer was right and nothing was lost.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use moorhouse_demo::{DemoError, DemoOptions, run};

#[derive(Debug, Parser)]
#[command(
    name = "moorhouse-demo",
    version,
    about = "Runs a whole Moorhouse warehouse on TPC-H and checks what it answers"
)]
struct Args {
    /// Leave the warehouse running and print its connection strings
    #[arg(long)]
    keep: bool,
    /// TPC-H scale factor: 1 is about 8.7 million rows
    #[arg(long, default_value_t = 0.1)]
    scale: f64,
    /// Where the warehouse lives; made anew
    #[arg(long, default_value = "target/demo")]
    dir: PathBuf,
    /// The metadata store, as for `moorctl dev up`
    #[arg(long)]
    store: Option<String>,
    /// The object store, as for `moorctl dev up`
    #[arg(long)]
    objects: Option<String>,
    /// The lowest port, as for `moorctl dev up`
    #[arg(long)]
    port_base: Option<u16>,
    /// The numbers, as one flat JSON object
    #[arg(long, default_value = "target/demo.json")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let Args { keep, scale, dir, store, objects, port_base, out } = Args::parse();
    if !(0.001..=100.0).contains(&scale) {
        eprintln!("moorhouse-demo: --scale {scale} is not between 0.001 and 100; the default is 0.1");
        return ExitCode::from(2);
    }
    let options = DemoOptions { keep, scale, dir, store, objects, port_base, out: Some(out) };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("moorhouse-demo: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&options)) {
        Ok(report) if report.is_good() => ExitCode::SUCCESS,
        Ok(report) => {
            eprintln!("moorhouse-demo: not good: {}", report.faults().join(", "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("moorhouse-demo: {error}");
            match error {
                DemoError::Moorctl { code: Some(2), .. } | DemoError::NotMine(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
