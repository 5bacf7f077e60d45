//! Where the shard router sends each shard: what the newest assignment says, whoever tells it first.
//!
//! A move tells the new place directly, and the next view tells it again. A view from before the move may come in between:
//! the epoch of the assignment decides, so that a shard never goes back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use moorhouse_catalog::{Epoch, NodeView, ShardId};
use tokio::sync::watch;

use crate::router::ShardRouter;

#[derive(Clone)]
pub struct Routes {
    router: ShardRouter,
    newest: Arc<Mutex<HashMap<ShardId, Epoch>>>,
}

impl Routes {
    pub fn new(router: ShardRouter) -> Self {
        Self { router, newest: Arc::default() }
    }

    pub fn router(&self) -> &ShardRouter {
        &self.router
    }

    /// Follows a view where it is not older than what is known.
    pub fn apply_view(&self, view: &NodeView) {
        for assignment in &view.assignments {
            let node = view.nodes.iter().find(|node| node.name == assignment.node);
            if let Some(node) = node
                && self.is_newest(assignment.shard, assignment.epoch)
            {
                self.router.route(assignment.shard, &node.engine_native);
            }
        }
    }

    /// Ends a hold: the shard is at `target` under `epoch`.
    pub fn release(&self, shard: ShardId, epoch: Epoch, target: &str) {
        self.is_newest(shard, epoch);
        self.router.release(shard, target);
    }

    /// Follows views until their sender is gone.
    pub async fn follow(self, mut views: watch::Receiver<Arc<NodeView>>) {
        while views.changed().await.is_ok() {
            let view = views.borrow_and_update().clone();
            self.apply_view(&view);
        }
    }

    fn is_newest(&self, shard: ShardId, epoch: Epoch) -> bool {
        let mut newest = self.newest.lock().expect("lock");
        let known = newest.entry(shard).or_insert(epoch);
        *known = epoch.max(*known);
        *known == epoch
    }
}
