//! What the newest view wants of this node, and the shards that are on their way out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use moorhouse_catalog::{BlobId, Epoch, NodeView, ShardId};

use crate::fs::ShardFs;
use crate::limits;

/// The owner's own state, which outlives an engine's crash.
pub(super) struct Wanted {
    pub(super) view: Arc<NodeView>,
    /// Shards taken out for a move, with the epoch under which they were here.
    pub(super) leaving: HashMap<ShardId, Leaving>,
    /// Staged blobs of shards that have left; evictable once the view shows the shard elsewhere.
    pub(super) departed: HashMap<ShardId, Vec<BlobId>>,
}

#[derive(Clone, Copy)]
pub(super) struct Leaving {
    pub(super) epoch: Epoch,
    pub(super) since: Instant,
}

impl Wanted {
    pub(super) fn new(view: Arc<NodeView>) -> Self {
        Self { view, leaving: HashMap::new(), departed: HashMap::new() }
    }

    /// A newer view replaces the one before; an older one that was on its way is ignored.
    pub(super) fn take(&mut self, view: Arc<NodeView>) {
        if view.revision < self.view.revision {
            return;
        }
        self.view = view;
        let here: HashMap<ShardId, Epoch> =
            self.view.assignments.iter().filter(|a| a.node == self.view.node).map(|a| (a.shard, a.epoch)).collect();
        self.leaving.retain(|shard, leaving| here.get(shard) == Some(&leaving.epoch));
    }

    pub(super) fn epoch_here(&self, shard: ShardId) -> Option<Epoch> {
        self.view.assignments.iter().find(|a| a.shard == shard && a.node == self.view.node).map(|a| a.epoch)
    }

    /// A move that nobody ended or cancelled: its controller is gone.
    pub(super) fn expire_leaving(&mut self) {
        self.leaving.retain(|shard, leaving| {
            let stays = leaving.since.elapsed() < limits::LEAVING_LONGEST;
            if !stays {
                tracing::warn!(%shard, "the shard was taken out for a move that never ended: it comes back");
            }
            stays
        });
    }

    /// The view without the shards that are on their way out.
    pub(super) fn effective(&self) -> NodeView {
        let mut view = (*self.view).clone();
        view.assignments.retain(|a| a.node != view.node || !self.leaving.contains_key(&a.shard));
        view
    }

    pub(super) async fn release_departed(&mut self, fs: &ShardFs) {
        let elsewhere: HashSet<ShardId> =
            self.view.assignments.iter().filter(|a| a.node != self.view.node).map(|a| a.shard).collect();
        if !self.departed.keys().any(|shard| elsewhere.contains(shard)) {
            return;
        }
        // A move may leave something behind that is no active part: those bytes are this node's to keep.
        let still_ours: HashSet<BlobId> = match fs.staged_here().await {
            Ok(blobs) => blobs.into_iter().collect(),
            Err(error) => {
                tracing::info!(%error, "the bytes of departed shards are released later");
                return;
            }
        };
        self.departed.retain(|shard, blobs| {
            if elsewhere.contains(shard) {
                blobs.retain(|blob| !still_ours.contains(blob));
                fs.release_staged(blobs);
                fs.forget_letting(*shard, &still_ours);
            }
            !elsewhere.contains(shard)
        });
    }
}
