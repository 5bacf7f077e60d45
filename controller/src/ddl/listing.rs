//! Tasks of the queue as `moorctl ddl` shows them.

use moorhouse_catalog::state::Catalog;
use moorhouse_catalog::{DdlNode, DdlNodeState, DdlOutcome, DdlSeq, DdlStep, DdlTask};
use moorhouse_proto::{DdlFailure, DdlNodeInfo, DdlTaskInfo};

use super::describe;

/// Oldest first; `None`: all that are kept.
pub fn list(catalog: &Catalog, only: Option<DdlSeq>) -> Vec<DdlTaskInfo> {
    let wanted = |task: &&DdlTask| only.is_none_or(|seq| task.seq == seq);
    catalog.ddl().values().filter(wanted).map(info).collect()
}

fn info(task: &DdlTask) -> DdlTaskInfo {
    let DdlTask { seq, statement, outcome, step, token: _, audit: _, nodes } = task;
    let (action, target) = describe(statement);
    let (word, error) = match outcome {
        DdlOutcome::Running => ("running", String::new()),
        DdlOutcome::Done => ("done", String::new()),
        DdlOutcome::Failed { error } => ("failed", error.clone()),
    };
    let step = match step {
        DdlStep::Queued => "queued",
        DdlStep::Applying { .. } => "applying",
    };
    DdlTaskInfo {
        seq: seq.0,
        action: action.to_owned(),
        target,
        step: step.to_owned(),
        outcome: word.to_owned(),
        error,
        nodes: nodes.iter().map(|node| node_info(*seq, node)).collect(),
    }
}

fn node_info(seq: DdlSeq, node: &DdlNode) -> DdlNodeInfo {
    let DdlNode { node, group, shards, state } = node;
    let (word, errors) = match state {
        DdlNodeState::Waiting => ("waiting", &[][..]),
        DdlNodeState::Applied => ("applied", &[][..]),
        DdlNodeState::Failed { errors } => ("failed", &errors[..]),
    };
    let failure = |error: &moorhouse_catalog::DdlShardError| DdlFailure {
        ddl_seq: seq.0,
        error: error.error.clone(),
        shard: error.shard.map(|shard| u32::from(shard.0)),
    };
    DdlNodeInfo {
        node: node.to_string(),
        group: group.to_string(),
        shards: shards.iter().map(|shard| u32::from(shard.0)).collect(),
        state: word.to_owned(),
        failures: errors.iter().map(failure).collect(),
    }
}
