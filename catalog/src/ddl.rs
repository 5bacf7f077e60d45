//! Tasks of the distributed DDL queue: what was asked, how far it is, how it ended.
//!
//! A task lives through its leader: the record says which step was the last, and the next leader goes on from there. Its
//! **token** names the request, so that a client that lost its answer asks again, of whoever leads, and gets the outcome of
//! the one task. What is *not* stored: the turn that a statement waits for (the client asks again), and which nodes are up.

use serde::{Deserialize, Serialize};

use crate::ids::{DdlSeq, DdlToken, GroupName, NodeName, ShardId};
use crate::records::DdlStatement;
use crate::trust::AuditSeq;

/// One entry of the distributed DDL queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DdlTask {
    pub seq: DdlSeq,
    pub statement: DdlStatement,
    pub outcome: DdlOutcome,
    #[serde(default, skip_serializing_if = "DdlStep::is_queued")]
    pub step: DdlStep,
    /// `None` in records of older builds alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<DdlToken>,
    /// The audit's record of the request, to be ended with the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditSeq>,
    /// How far each node was when somebody last noted it: for people, and for a new leader that has not heard of them yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<DdlNode>,
}

impl DdlTask {
    /// As it enters the queue.
    pub fn new(seq: DdlSeq, statement: DdlStatement) -> Self {
        let (step, outcome) = (DdlStep::Queued, DdlOutcome::Running);
        Self { seq, statement, outcome, step, token: None, audit: None, nodes: Vec::new() }
    }

    pub fn is_running(&self) -> bool {
        self.outcome == DdlOutcome::Running
    }
}

/// Goes from queued to applying, never back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DdlStep {
    /// The catalog is as before.
    #[default]
    Queued,
    /// The catalog shows the change, and the nodes apply it. `changed` is false for one that was so already.
    Applying { changed: bool },
}

impl DdlStep {
    fn is_queued(&self) -> bool {
        *self == Self::Queued
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DdlOutcome {
    Running,
    Done,
    Failed { error: String },
}

/// One node's part in a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DdlNode {
    pub node: NodeName,
    pub group: GroupName,
    /// That it held at the time.
    pub shards: Vec<ShardId>,
    pub state: DdlNodeState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DdlNodeState {
    Waiting,
    Applied,
    Failed { errors: Vec<DdlShardError> },
}

/// Why a task cannot be applied, in the engine's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DdlShardError {
    /// `None`: it is not about one shard.
    pub shard: Option<ShardId>,
    pub error: String,
}

impl DdlShardError {
    /// Errors of one node that a task keeps, and bytes of each.
    const KEPT: usize = 64;
    const BYTES: usize = 1_024;
}

/// Cut to what a record may hold.
pub(crate) fn bounded(nodes: Vec<DdlNode>) -> Vec<DdlNode> {
    let bound = |mut node: DdlNode| {
        if let DdlNodeState::Failed { errors } = &mut node.state {
            errors.truncate(DdlShardError::KEPT);
            for error in errors {
                let end = (0..=DdlShardError::BYTES.min(error.error.len())).rev();
                let end = end.into_iter().find(|end| error.error.is_char_boundary(*end)).unwrap_or(0);
                error.error.truncate(end);
            }
        }
        node
    };
    nodes.into_iter().map(bound).collect()
}
