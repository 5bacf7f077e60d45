//! `moorhouse-operator`: flags in, exit code out (2: wrong flags, or no cluster).

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use kube::Client;
use moorhouse_base::tasks::{TaskGroup, stop_signal};
use moorhouse_base::telemetry;
use moorhouse_operator::args::{Args, Command, RunArgs};
use moorhouse_operator::context::{Context, Settings};
use moorhouse_operator::controller::Controllers;
use moorhouse_operator::{OperatorError, crd, run};

/// For what is under way at the end.
const STOP_WITHIN: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    telemetry::init_logs();
    let outcome = match args.command {
        Command::Run(args) => operate(args).await,
        Command::Crds { dir } => write_crds(&dir).map_err(|error| error.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("moorhouse-operator: {problem}");
            ExitCode::from(2)
        }
    }
}

async fn operate(args: RunArgs) -> Result<(), String> {
    let client = Client::try_default().await.map_err(|error| format!("there is no cluster to be found: {error}"))?;
    let version =
        client.apiserver_version().await.map_err(|error| format!("the API server does not answer: {error}"))?;
    let tasks = TaskGroup::new();
    let metrics = telemetry::serve_metrics(args.metrics, &tasks).await;
    metrics.map_err(|error| format!("--metrics {}: {error}", args.metrics))?;
    tracing::info!(api_server = version.git_version, namespace = args.namespace, "the operator is up");
    let controllers = Controllers::new(args.elsewhere(), tasks.clone());
    let settings = Settings { namespace: args.operator_namespace };
    let context = Arc::new(Context::new(client, controllers, settings));
    let stop = tasks.token().child_token();
    let stopper = stop.clone();
    tasks.spawn("stop-signal", async move {
        stop_signal().await;
        stopper.cancel();
    });
    run::run(context, args.namespace, stop).await;
    tasks.shutdown(STOP_WITHIN).await;
    Ok(())
}

fn write_crds(dir: &Path) -> Result<(), OperatorError> {
    std::fs::create_dir_all(dir).map_err(OperatorError::File)?;
    for (file, definition) in crd::definitions() {
        std::fs::write(dir.join(file), crd::to_yaml(&definition)?).map_err(OperatorError::File)?;
    }
    Ok(())
}
