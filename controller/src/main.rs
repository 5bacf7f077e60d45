//! `moorhouse-controller`: exit code 0 after a clean stop, 1 if it may not go on, 2 if it cannot start.

use std::process::ExitCode;

use clap::Parser;
use moorhouse_base::{tasks, telemetry};
use moorhouse_controller::config::{Args, Config};
use moorhouse_controller::server;
use tracing::{error, info};

#[tokio::main]
async fn main() -> ExitCode {
    let config = match Config::check(Args::parse()) {
        Ok(config) => config,
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("moorhouse-controller: {mistake}");
            }
            return ExitCode::from(2);
        }
    };
    if let Some(file) = &config.restore {
        return match server::restore(&config, file).await {
            Ok(records) => {
                println!("{records} records restored");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("moorhouse-controller: {error}");
                ExitCode::from(2)
            }
        };
    }
    telemetry::init_logs();
    let started = tokio::select! {
        started = server::start(&config) => started,
        () = tasks::stop_signal() => return ExitCode::SUCCESS,
    };
    let mut running = match started {
        Ok(running) => running,
        Err(error) => {
            eprintln!("moorhouse-controller: {error}");
            return ExitCode::from(2);
        }
    };
    tokio::select! {
        () = tasks::stop_signal() => {}
        end = running.ended() => {
            error!(%end, "the controller ends");
            return ExitCode::FAILURE;
        }
    }
    info!("stopping");
    if !running.stop().await {
        error!("some tasks did not end in time");
    }
    ExitCode::SUCCESS
}
