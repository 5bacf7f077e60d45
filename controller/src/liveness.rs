//! Which nodes are up. Lives in the leader's memory only, and is rebuilt from heartbeats.

use std::collections::BTreeMap;
use std::time::Duration;

use moorhouse_catalog::directory::Directory;
use moorhouse_catalog::state::{CatalogError, Fence};
use moorhouse_catalog::{DdlSeq, Incarnation, NodeName, Revision, ShardId};
use moorhouse_proto::NodeLoad;
use tokio::time::Instant;

/// What of its view a node could not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DdlFailure {
    pub seq: DdlSeq,
    /// `None`: it is not about one shard.
    pub shard: Option<ShardId>,
    pub error: String,
}

/// One heartbeat, read.
#[derive(Debug, Clone)]
pub struct Beat {
    pub node: NodeName,
    pub incarnation: Incarnation,
    /// The stream it came by, so that the end of an older stream does not take a node down.
    pub session: u64,
    pub view_revision: Revision,
    pub failures: Vec<DdlFailure>,
    pub load: NodeLoad,
    pub config_error: String,
}

/// What a node's newest process last said.
#[derive(Debug, Clone)]
pub struct NodeLive {
    pub incarnation: Incarnation,
    pub session: u64,
    pub up: bool,
    /// Newest view that its engine has applied.
    pub view_revision: Revision,
    pub failures: Vec<DdlFailure>,
    pub load: NodeLoad,
    /// Why its engine runs with an older configuration than the view's; empty: it does not.
    pub config_error: String,
    heard: Instant,
}

/// Nodes that have spoken since this leader began.
#[derive(Debug, Clone, Default)]
pub struct Liveness(BTreeMap<NodeName, NodeLive>);

impl Liveness {
    pub fn get(&self, node: &NodeName) -> Option<&NodeLive> {
        self.0.get(node)
    }

    pub fn is_up(&self, node: &NodeName) -> bool {
        self.0.get(node).is_some_and(|live| live.up)
    }

    pub fn up(&self) -> impl Iterator<Item = (&NodeName, &NodeLive)> {
        self.0.iter().filter(|(_, live)| live.up)
    }

    /// True if something changed that others wait for; load alone is nothing to wake up for.
    pub fn hear(&mut self, directory: &Directory, beat: Beat, now: Instant) -> Result<bool, CatalogError> {
        let Beat { node, incarnation, session, view_revision, failures, load, config_error } = beat;
        let Some(known) = directory.nodes.get(&node) else { return Err(CatalogError::UnknownNode(node)) };
        if known.incarnation != incarnation {
            let fence = Fence::Incarnation { node, newest: known.incarnation, claimed: incarnation };
            return Err(CatalogError::Fenced(fence));
        }
        let live = NodeLive { incarnation, session, up: true, view_revision, failures, load, config_error, heard: now };
        let before = self.0.insert(node, live.clone());
        let seen = |l: &NodeLive| (l.incarnation, l.up, l.view_revision, l.failures.clone(), l.config_error.clone());
        Ok(before.as_ref().map(seen) != Some(seen(&live)))
    }

    /// The stream has ended. True if that takes the node down.
    pub fn disconnect(&mut self, node: &NodeName, session: u64) -> bool {
        match self.0.get_mut(node) {
            Some(live) if live.session == session && live.up => {
                live.up = false;
                true
            }
            _ => false,
        }
    }

    /// Takes nodes down that were silent for `lease`; answers with their names.
    pub fn expire(&mut self, lease: Duration, now: Instant) -> Vec<NodeName> {
        let silent = |live: &NodeLive| live.up && now.saturating_duration_since(live.heard) > lease;
        let mut down = Vec::new();
        for (name, live) in self.0.iter_mut().filter(|(_, live)| silent(live)) {
            live.up = false;
            down.push(name.clone());
        }
        down
    }

    /// Forgets processes that are not the newest of their node. True if there were any.
    pub fn retain_newest(&mut self, directory: &Directory) -> bool {
        let before = self.0.len();
        self.0.retain(|name, live| directory.nodes.get(name).is_some_and(|n| n.incarnation == live.incarnation));
        self.0.len() != before
    }
}
