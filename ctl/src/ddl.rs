//! Tasks of the DDL queue.

use clap::Subcommand;
use moorhouse_proto::{DdlNodeInfo, DdlTaskInfo, ListDdlRequest};
use serde_json::{Value, json};

use crate::args::Output;
use crate::controller::{Controller, in_words};
use crate::error::CtlError;
use crate::show::{Listing, print_json, print_text};

#[derive(Debug, Subcommand)]
pub enum DdlCommand {
    /// Lists tasks, the newest last
    List {
        /// Only those that have not ended
        #[arg(long)]
        running: bool,
    },
    /// Shows a task: how far each node is, and what failed on which shard
    Show { seq: u64 },
}

pub async fn run(controller: &mut Controller, command: DdlCommand, output: Output) -> Result<(), CtlError> {
    match command {
        DdlCommand::List { running } => {
            let mut listing = Listing::new(&["seq", "action", "target", "step", "outcome", "error"]);
            let tasks = tasks(controller, 0).await?.into_iter();
            for task in tasks.filter(|task| !running || task.outcome == "running") {
                let DdlTaskInfo { seq, action, target, step, outcome, error, nodes: _ } = task;
                listing.push([json!(seq), json!(action), json!(target), json!(step), json!(outcome), json!(error)]);
            }
            listing.print(output)
        }
        DdlCommand::Show { seq } => {
            let task = tasks(controller, seq.max(1)).await?.into_iter().next();
            let task = task.ok_or_else(|| CtlError::failed(format!("there is no DDL task {seq}")))?;
            show(&task, output)
        }
    }
}

async fn tasks(controller: &mut Controller, seq: u64) -> Result<Vec<DdlTaskInfo>, CtlError> {
    Ok(controller.admin().list_ddl(ListDdlRequest { seq }).await.map_err(in_words)?.into_inner().tasks)
}

fn show(task: &DdlTaskInfo, output: Output) -> Result<(), CtlError> {
    let mut nodes = Listing::new(&["group", "node", "shards", "state", "failures"]);
    for node in &task.nodes {
        nodes.push([json!(node.group), json!(node.node), shards(node), json!(node.state), failures(node, output)]);
    }
    match output {
        Output::Json => print_json(&json!({
            "seq": task.seq, "action": task.action, "target": task.target, "step": task.step,
            "outcome": task.outcome, "error": task.error, "nodes": nodes.to_json(),
        })),
        Output::Table => {
            let error = if task.error.is_empty() { String::new() } else { format!(": {}", task.error) };
            let DdlTaskInfo { seq, action, target, outcome, .. } = task;
            print_text(&format!("{seq} {action} {target}: {outcome}{error}\n{}", nodes.to_table()))
        }
    }
}

fn shards(node: &DdlNodeInfo) -> Value {
    let numbers: Vec<String> = node.shards.iter().map(ToString::to_string).collect();
    json!(numbers.join(","))
}

fn failures(node: &DdlNodeInfo, output: Output) -> Value {
    if output == Output::Json {
        let failure = |failure: &moorhouse_proto::DdlFailure| json!({"shard": failure.shard, "error": failure.error});
        return Value::Array(node.failures.iter().map(failure).collect());
    }
    let line = |failure: &moorhouse_proto::DdlFailure| match failure.shard {
        Some(shard) => format!("shard {shard}: {}", failure.error),
        None => failure.error.clone(),
    };
    json!(node.failures.iter().map(line).collect::<Vec<_>>().join("\n"))
}
