//! How far the nodes are with a task, from what they last said. Pure.

use moorhouse_catalog::state::CatalogError;
use moorhouse_catalog::{DdlNode, DdlNodeState, DdlSeq, DdlShardError, DdlTask, Node, Revision, ShardId};
use moorhouse_proto::DdlProgress;

use crate::limits;
use crate::published::Published;

pub struct Standing {
    /// Those that count: up, or, until the leader has `settled`, not heard of yet.
    pub nodes: Vec<DdlNode>,
}

impl Standing {
    pub fn of(shown: &Published, task: &DdlTask, revision: Revision, settled: bool) -> Self {
        let state = |node: &Node| -> Option<DdlNodeState> {
            let Some(live) = shown.liveness.get(&node.name) else {
                let applied = |known: &&DdlNode| known.node == node.name && known.state == DdlNodeState::Applied;
                let was_noted = task.nodes.iter().any(|known| applied(&known));
                return (!settled && !was_noted).then_some(DdlNodeState::Waiting);
            };
            let failures = live.failures.iter().filter(|failure| failure.seq == task.seq);
            let errors: Vec<DdlShardError> =
                failures.map(|failure| DdlShardError { shard: failure.shard, error: failure.error.clone() }).collect();
            match () {
                () if !live.up => None,
                () if !errors.is_empty() => Some(DdlNodeState::Failed { errors }),
                () if shown.has_applied(&node.name, revision) => Some(DdlNodeState::Applied),
                () => Some(DdlNodeState::Waiting),
            }
        };
        let directory = &shown.directory;
        let node = |node: &Node| {
            let shards = directory.assignments_of(&node.name).map(|assignment| assignment.shard).collect();
            Some(DdlNode { node: node.name.clone(), group: node.group.clone(), shards, state: state(node)? })
        };
        Self { nodes: directory.nodes.values().filter_map(node).collect() }
    }

    pub fn is_waiting(&self) -> bool {
        self.nodes.iter().any(|node| node.state == DdlNodeState::Waiting)
    }

    pub fn progress(&self, seq: DdlSeq) -> DdlProgress {
        let done = self.nodes.iter().filter(|node| node.state == DdlNodeState::Applied).count();
        let (nodes_total, nodes_done) = (self.nodes.len() as u32, done as u32);
        DdlProgress { ddl_seq: seq.0, nodes_total, nodes_done, finished: false, error: String::new() }
    }

    /// The engine's own words come first, so that clients recognise its code; then where, and how many others there are.
    pub fn first_error(&self) -> Option<String> {
        let errors = self.nodes.iter().flat_map(|node| match &node.state {
            DdlNodeState::Failed { errors } => errors.iter().map(|error| (node, error)).collect(),
            DdlNodeState::Waiting | DdlNodeState::Applied => Vec::new(),
        });
        let errors: Vec<(&DdlNode, &DdlShardError)> = errors.collect();
        let (node, DdlShardError { shard, error }) = errors.first()?;
        let shard = shard.map_or_else(String::new, |shard| format!(", shard {shard}"));
        let others = match errors.len() - 1 {
            0 => String::new(),
            others => format!("; {others} more: see `moorctl ddl show`"),
        };
        Some(format!("{error} (on node {}{shard}{others})", node.node))
    }

    pub fn timed_out(&self) -> String {
        let waiting = self.nodes.iter().filter(|node| node.state == DdlNodeState::Waiting);
        let names: Vec<String> = waiting.map(|node| format!("{}{}", node.node, shards(&node.shards))).collect();
        CatalogError::Sql {
            code: 159,
            name: "TIMEOUT_EXCEEDED",
            message: format!(
                "After {} s the statement is not applied on {}: look at the log there",
                limits::DDL_TIMEOUT.as_secs(),
                names.join(", ")
            ),
        }
        .to_string()
    }
}

fn shards(shards: &[ShardId]) -> String {
    if shards.is_empty() {
        return String::new();
    }
    let numbers: Vec<String> = shards.iter().map(ToString::to_string).collect();
    format!(" (shards {})", numbers.join(", "))
}
