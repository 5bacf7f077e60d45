//! The moment at which a loose part is whole.
//!
//! FREEZE and DETACH make a part's copy link by link, in no order and without a rename or an fsync at the end. But the last thing that
//! the engine does to each copy is to take a file away that must not go along (seen with strace on 26.7): so when that name goes,
//! the part is committed before the answer, and FREEZE has lasted when it answers. A part that was written before the engine had such a
//! file is committed with what follows, as any other change of a loose part.

use moorhouse_catalog::{PartChange, TableShard};

use super::error::FsError;
use super::place;
use super::tree::Ino;
use super::{Role, ShardFs};

/// What a part's copy must not have.
const LAST_TO_GO: &str = "metadata_version.txt";

impl ShardFs {
    /// The table shard of the loose part that is whole now that `name` has gone from the directory `parent`.
    pub(super) fn completed_loose(&self, parent: Ino, name: &str) -> Option<TableShard> {
        if name != LAST_TO_GO {
            return None;
        }
        let (ts, below) = self.tree.read().expect("lock").place(parent).ok()?.entry(name)?;
        let is_part = place::committed_part(&below[..below.len() - 1]).is_some_and(|part| place::is_loose(&part));
        (is_part && self.role(ts) == Some(Role::Writer)).then_some(ts)
    }

    /// Commits what is to be heard of a table shard, now.
    pub(super) async fn commit_waiting(&self, ts: TableShard) -> Result<(), FsError> {
        self.commit_in_order(ts, PartChange::default(), None).await
    }
}
