//! Which step leads from the nodes that there are to those that are asked for. Pure.
//!
//! Out: the StatefulSet is raised; the controller gives shards to nodes that join.
//! In: drain → lower the StatefulSet → pod gone → mark the volume as emptied → off the controller's books → delete the volume.
//! The controller refuses to forget a node that anything needs, so a volume goes only after it has confirmed that.
//! To nothing (suspended): everything stored → lower. Nodes stay on the books and volumes stay: their return is a restart.
//!
//! A drain that has begun is finished, also when more nodes are asked for in the meantime: the controller has no way back.

use std::collections::{BTreeMap, BTreeSet};

/// What there is. Ordinals are those of the StatefulSet's pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scaling {
    /// The spec's replicas; 0 when suspended.
    pub wanted: u32,
    /// The StatefulSet's replicas; 0 if there is none yet.
    pub running: u32,
    pub pods: BTreeSet<u32>,
    /// Each volume claim, and whether it is marked as emptied.
    pub claims: BTreeMap<u32, bool>,
    /// On the controller's books; None: it does not answer.
    pub nodes: Option<Vec<NodeSeen>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeSeen {
    pub ordinal: u32,
    pub is_up: bool,
    pub is_draining: bool,
    pub shards: u32,
    /// Has bytes that are nowhere else, or not yet in the object store.
    pub staged_parts: u64,
}

impl NodeSeen {
    /// The controller may be ready to forget it.
    fn is_left(&self) -> bool {
        self.is_draining && self.shards == 0
    }

    fn is_empty(&self) -> bool {
        self.is_left() && self.staged_parts == 0
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Settled,
    Raise,
    Lower,
    /// Has the controller empty these nodes.
    Drain(BTreeSet<u32>),
    /// Parts that are yet to be stored.
    AwaitStored(u64),
    AwaitController,
    AwaitPod(u32),
    MarkClaim(u32),
    Forget(u32),
    DeleteClaim(u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the StatefulSet is to have from now on.
    pub replicas: u32,
    pub step: Step,
}

pub fn plan(seen: &Scaling) -> Plan {
    let keep = |step| Plan { replicas: seen.running, step };
    if let Some(step) = finish_earlier(seen) {
        return keep(step);
    }
    let wanted = wanted(seen);
    if wanted > seen.running {
        return Plan { replicas: wanted, step: Step::Raise };
    }
    if wanted == seen.running {
        return keep(Step::Settled);
    }
    let Some(nodes) = &seen.nodes else { return keep(Step::AwaitController) };
    let leaving = nodes.iter().filter(|node| node.ordinal >= wanted && node.ordinal < seen.running);
    if wanted == 0 {
        let staged: u64 = leaving.map(|node| node.staged_parts).sum();
        if staged > 0 {
            return keep(Step::AwaitStored(staged));
        }
    } else {
        let full: Vec<&NodeSeen> = leaving.filter(|node| !node.is_empty()).collect();
        let undrained: BTreeSet<u32> = full.iter().filter(|node| !node.is_left()).map(|node| node.ordinal).collect();
        if !undrained.is_empty() {
            return keep(Step::Drain(undrained));
        }
        if !full.is_empty() {
            return keep(Step::AwaitStored(full.iter().map(|node| node.staged_parts).sum()));
        }
    }
    Plan { replicas: wanted, step: Step::Lower }
}

/// Nodes that do not run but hold shards come back first, after a suspension or when somebody else has lowered the set; fewer of
/// them is a scale-in.
/// And while a node is being drained, the set is not raised over its head.
fn wanted(seen: &Scaling) -> u32 {
    let nodes = || seen.nodes.iter().flatten();
    if seen.wanted == 0 {
        return 0;
    }
    let is_asleep = |node: &&NodeSeen| node.ordinal >= seen.running && (!node.is_draining || node.shards > 0);
    if let Some(last) = nodes().filter(is_asleep).map(|node| node.ordinal).max() {
        return seen.wanted.max(last + 1);
    }
    // One that was drained by hand in the midst of the others is somebody's maintenance, and no scale-in.
    let is_draining = |ordinal: &u32| nodes().any(|node| node.ordinal == *ordinal && node.is_draining);
    let leaving = (0..seen.running).rev().take_while(is_draining).last();
    leaving.map_or(seen.wanted, |lowest| seen.wanted.min(lowest.max(1)))
}

/// The rest of an earlier scale-in: what is no longer in the StatefulSet, but still somewhere else.
fn finish_earlier(seen: &Scaling) -> Option<Step> {
    let emptied = |ordinal: u32| seen.claims.get(&ordinal).copied();
    let nodes = seen.nodes.as_ref();
    let left_nodes = nodes.into_iter().flatten().filter(|node| node.ordinal >= seen.running && node.is_left());
    let left_claims = seen.claims.iter().filter(|(ordinal, emptied)| **ordinal >= seen.running && **emptied);
    let mut left: BTreeSet<u32> = left_nodes.map(|node| node.ordinal).collect();
    left.extend(left_claims.map(|(ordinal, _)| *ordinal));
    let ordinal = left.into_iter().next_back()?;
    if seen.pods.contains(&ordinal) {
        return Some(Step::AwaitPod(ordinal));
    }
    let Some(nodes) = nodes else { return Some(Step::AwaitController) };
    let node = nodes.iter().find(|node| node.ordinal == ordinal);
    Some(match (node, emptied(ordinal)) {
        (Some(_), Some(false)) => Step::MarkClaim(ordinal),
        (Some(_), Some(true) | None) => Step::Forget(ordinal),
        (None, _) => Step::DeleteClaim(ordinal),
    })
}

#[cfg(test)]
#[path = "scale_tests.rs"]
mod tests;
