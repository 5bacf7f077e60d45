//! Reading: a snapshot and the changelog after it, of every table shard, and a look at the objects now and then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use moorhouse_catalog::{Location, ObjectKey, ShardId, TableShard, Version};
use moorhouse_proto::ChangelogUpdate;
use tonic::Streaming;

use crate::agent::Agent;
use crate::controllers::{Failure, read_update};
use crate::history::{Event, Parts, replay};

const LOOK: Duration = Duration::from_millis(250);

/// What a reader knows of one table shard.
struct Known {
    version: Version,
    parts: Parts,
    /// When a controller last said so.
    as_of_ms: u64,
}

impl Agent {
    /// As long as the process lives.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut known = BTreeMap::new();
        loop {
            if let Ok(changes) = self.controllers.watch_changelog(&self.name).await {
                // Changes may have been missed while there was no stream.
                known.clear();
                self.follow_one(changes, &mut known).await;
            }
            self.pause(LOOK).await;
        }
    }

    /// Until the stream breaks.
    async fn follow_one(&self, mut changes: Streaming<ChangelogUpdate>, known: &mut BTreeMap<TableShard, Known>) {
        loop {
            tokio::select! {
                biased;
                update = changes.message() => match update {
                    Ok(Some(update)) => {
                        if self.apply(&update, known).is_err() {
                            return;
                        }
                    }
                    Ok(None) | Err(_) => return,
                },
                () = tokio::time::sleep(LOOK) => {
                    self.learn(known).await;
                    self.look(known).await;
                }
            }
        }
    }

    fn apply(&self, update: &ChangelogUpdate, known: &mut BTreeMap<TableShard, Known>) -> Result<(), Failure> {
        let (at, version, change) = read_update(update)?;
        let Some(shard) = known.get_mut(&at) else { return Ok(()) };
        if version <= shard.version {
            return Ok(());
        }
        if version != shard.version.next() {
            // A gap: from a snapshot again.
            known.remove(&at);
            return Ok(());
        }
        replay(&mut shard.parts, &change);
        shard.version = version;
        shard.as_of_ms = self.around.observer.now_ms();
        self.show(at, shard);
        Ok(())
    }

    /// Snapshots of the table shards that it does not know, and forgets those that are gone.
    async fn learn(&self, known: &mut BTreeMap<TableShard, Known>) {
        let tables = self.tables(|_| true);
        known.retain(|at, _| tables.contains(&at.table));
        for table in tables {
            for shard in (0..self.shard_count()).map(ShardId) {
                let at = TableShard { table, shard };
                if known.contains_key(&at) {
                    continue;
                }
                // Before the question: what comes after may be deleted from then on.
                let as_of_ms = self.around.observer.now_ms();
                let Ok(snapshot) = self.controllers.snapshot(at).await else { return };
                let parts = snapshot.parts.into_iter().map(|part| (part.part.clone(), Arc::new(part))).collect();
                let shard = Known { version: snapshot.version, parts, as_of_ms };
                self.show(at, &shard);
                known.insert(at, shard);
            }
        }
    }

    fn show(&self, at: TableShard, shard: &Known) {
        let (version, parts) = (shard.version, shard.parts.clone());
        self.around.observer.saw(&Event::Shown { reader: self.name.clone(), at, version, parts });
    }

    /// Reads an object of some part.
    async fn look(&self, known: &BTreeMap<TableShard, Known>) {
        let stored = |location: &Location| match location {
            Location::Stored { object, .. } => Some(object.clone()),
            Location::Staged { .. } => None,
        };
        let of = |shard: &Known| -> Vec<(ObjectKey, u64)> {
            let files = shard.parts.values().flat_map(|part| &part.files);
            files.filter_map(|file| Some((stored(&file.location)?, shard.as_of_ms))).collect()
        };
        let all: Vec<_> = known.values().flat_map(of).collect();
        let Some((object, as_of_ms)) = self.chance().pick(&all).cloned() else { return };
        let found = self.around.objects.get_range(object.as_str(), 0, 4).await.is_ok();
        self.around.observer.saw(&Event::Read { reader: self.name.clone(), object, found, as_of_ms });
    }
}
