//! `moorhouse-gateway`: flags in, exit code out (2: wrong flags or taken ports).

use std::process::ExitCode;

use clap::Parser;
use moorhouse_base::{tasks, telemetry};
use moorhouse_gateway::config::{Flags, Mistakes};
use moorhouse_gateway::server::Gateway;

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    telemetry::init_logs();
    let gateway = match flags.check() {
        Ok(config) => Gateway::bind(config).await,
        Err(mistakes) => Err(mistakes),
    };
    match gateway {
        Err(mistakes) => wrong(&mistakes),
        Ok(gateway) => match gateway.run(tasks::stop_signal()).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "the gateway cannot go on");
                ExitCode::FAILURE
            }
        },
    }
}

fn wrong(mistakes: &Mistakes) -> ExitCode {
    for mistake in mistakes {
        eprintln!("moorhouse-gateway: {mistake}");
    }
    ExitCode::from(2)
}
