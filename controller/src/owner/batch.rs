//! A group commit while it is gathered.

use std::collections::BTreeMap;
use std::sync::Arc;

use moorhouse_catalog::entry::Write;
use moorhouse_catalog::state::{Applied, CatalogError, Reply, Undo};
use moorhouse_catalog::{PartChange, TableShard, Version};

use super::Answer;
use crate::limits;

/// Commands of one store transaction.
#[derive(Default)]
pub(super) struct Batch {
    pub answers: Vec<(Answer<Reply>, Result<Reply, CatalogError>)>,
    /// The newest write of each key is the one that counts.
    pub writes: BTreeMap<Vec<u8>, Write>,
    bytes: usize,
    pub changes: Vec<(TableShard, Version, Arc<PartChange>)>,
    pub undo: Undo,
}

impl Batch {
    pub fn add(&mut self, applied: Result<Applied, CatalogError>, answer: Answer<Reply>) {
        let reply = applied.map(|Applied { reply, writes, changes, undo }| {
            self.undo.extend(undo);
            for write in writes {
                if let Write::Put { value, .. } = &write {
                    self.bytes += value.len();
                }
                self.writes.insert(write.key().to_vec(), write);
            }
            self.changes.extend(changes);
            reply
        });
        self.answers.push((answer, reply));
    }

    /// Whether one more command of any kind might not fit.
    pub fn is_large(&self) -> bool {
        self.writes.len() >= limits::BATCH_WRITES / 2 || self.bytes >= limits::BATCH_BYTES / 2
    }

    /// A command that is larger than a transaction may be is one of its own.
    pub fn has_room_for(&self, applied: &Applied) -> bool {
        let size = |write: &Write| match write {
            Write::Put { value, .. } => value.len(),
            Write::Delete { .. } => 0,
        };
        let bytes: usize = applied.writes.iter().map(size).sum();
        let fits = self.writes.len() + applied.writes.len() <= limits::BATCH_WRITES;
        self.writes.is_empty() || (fits && self.bytes + bytes <= limits::BATCH_BYTES)
    }
}
