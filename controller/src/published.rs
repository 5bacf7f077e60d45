//! What the owner loop shows to everybody else: the directory and who is up. Cheap to clone, never half a change.

use std::sync::Arc;

use moorhouse_catalog::directory::Directory;
use moorhouse_catalog::{ClusterView, GroupName, Node, NodeName, Revision};

use crate::liveness::Liveness;

#[derive(Debug, Clone)]
pub struct Published {
    pub directory: Arc<Directory>,
    pub liveness: Arc<Liveness>,
    /// A node that has applied less than this may lack a table that a user was told to be there.
    pub ready_revision: Revision,
}

impl Published {
    /// Gets new statements.
    pub fn is_ready(&self, node: &Node) -> bool {
        !node.draining && self.has_applied(&node.name, self.ready_revision)
    }

    /// Up, with an engine that has applied at least `revision`, and at least one view.
    pub fn has_applied(&self, node: &NodeName, revision: Revision) -> bool {
        let applied = |revision: Revision| revision > Revision(0);
        self.liveness.get(node).is_some_and(|l| l.up && applied(l.view_revision) && l.view_revision >= revision)
    }

    pub fn cluster_view(&self) -> Option<ClusterView> {
        self.directory.cluster_view(|node| self.is_ready(node))
    }

    pub fn nodes_up(&self, group: &GroupName) -> Vec<Node> {
        self.directory.group_nodes(group).filter(|node| self.liveness.is_up(&node.name)).cloned().collect()
    }
}
