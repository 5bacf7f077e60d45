//! Readers whose engine does not see what their directory shows.

use std::collections::HashMap;
use std::sync::Mutex;

use moorhouse_catalog::TableShard;
use tokio::sync::Notify;

/// What a reader's engine must do to see what its directory shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Parts have come: the engine lists the directory again, and lets go of what they cover.
    Again,
    /// A part has gone without one that covers it, or is another one under its name: the engine notices that only when it
    /// attaches the table.
    Afresh,
}

/// What waits for the engine's owner: at most one entry a table shard.
#[derive(Default)]
pub struct Stale {
    due: Mutex<HashMap<TableShard, Look>>,
    news: Notify,
}

impl Stale {
    /// Of two reasons the stronger one stays.
    pub fn note(&self, ts: TableShard, look: Look) {
        let mut due = self.due.lock().expect("lock");
        let known = due.entry(ts).or_insert(look);
        *known = look.max(*known);
        drop(due);
        self.news.notify_one();
    }

    /// Everything that waits; waits itself until there is something. Takes nothing if it is dropped before.
    pub async fn take(&self) -> HashMap<TableShard, Look> {
        loop {
            let due = std::mem::take(&mut *self.due.lock().expect("lock"));
            if !due.is_empty() {
                return due;
            }
            self.news.notified().await;
        }
    }

    /// Drops what waits for table shards that go.
    pub(super) fn forget(&self, goes: impl Fn(TableShard) -> bool) {
        self.due.lock().expect("lock").retain(|ts, _| !goes(*ts));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorhouse_catalog::{ShardId, TableId};

    #[tokio::test]
    async fn the_stronger_reason_stays_and_is_taken_once() {
        let stale = Stale::default();
        let ts = |shard| TableShard { table: TableId(uuid::Uuid::nil()), shard: ShardId(shard) };
        stale.note(ts(0), Look::Again);
        stale.note(ts(0), Look::Afresh);
        stale.note(ts(0), Look::Again);
        stale.note(ts(1), Look::Again);
        stale.note(ts(2), Look::Afresh);
        stale.forget(|gone| gone == ts(2));
        assert_eq!(stale.take().await, HashMap::from([(ts(0), Look::Afresh), (ts(1), Look::Again)]));
        let (due, ()) = tokio::join!(stale.take(), async { stale.note(ts(3), Look::Again) });
        assert_eq!(due, HashMap::from([(ts(3), Look::Again)]));
    }
}
