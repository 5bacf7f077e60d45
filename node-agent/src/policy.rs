//! How this node keeps each table's bytes: the table's own settings over the node's defaults, and who could keep copies.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{OnceLock, RwLock};
use std::time::Duration;

use moorhouse_catalog::{Durability, NodeName, NodeView, TableId, TableShard, TableStorage};

use crate::limits;

/// Follows the views. What it does *not* hold: anything that must survive; the catalog has it all.
#[derive(Debug, Default)]
pub struct Policy {
    durability: OnceLock<Durability>,
    staging_patience: OnceLock<Duration>,
    seen: RwLock<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    tables: HashMap<TableId, TableStorage>,
    others: Vec<NodeName>,
}

impl Policy {
    /// For tables that say nothing; once, at the start. Without it: [`Durability::Local`].
    pub fn set_default(&self, durability: Durability) {
        let _ = self.durability.set(durability);
    }

    /// How long an INSERT waits for room in full staging; once, at the start. Without it: [`limits::STAGING_PATIENCE`].
    pub fn set_staging_patience(&self, patience: Duration) {
        let _ = self.staging_patience.set(patience);
    }

    pub fn staging_patience(&self) -> Duration {
        self.staging_patience.get().copied().unwrap_or(limits::STAGING_PATIENCE)
    }

    pub fn apply_view(&self, view: &NodeView) {
        let mut seen = self.seen.write().expect("lock");
        seen.tables = view.tables.iter().map(|table| (table.id, table.storage)).collect();
        seen.others = view.nodes.iter().map(|node| &node.name).filter(|name| **name != view.node).cloned().collect();
    }

    /// The table's own settings; all `None` for a table that this node does not know.
    pub fn storage(&self, table: TableId) -> TableStorage {
        self.seen.read().expect("lock").tables.get(&table).copied().unwrap_or_default()
    }

    pub fn durability(&self, table: TableId) -> Durability {
        let default = self.durability.get().copied().unwrap_or_default();
        self.storage(table).durability.unwrap_or(default)
    }

    /// The other nodes, in the order in which this table shard asks them to keep copies: always the same one first, so that
    /// parts which share files find those there already (rendezvous hashing, Thaler and Ravishankar 1998).
    pub fn keepers(&self, ts: TableShard) -> Vec<NodeName> {
        let mut others = self.seen.read().expect("lock").others.clone();
        others.sort_by_cached_key(|name| {
            let mut hasher = DefaultHasher::new();
            (ts.table, ts.shard, name.as_str()).hash(&mut hasher);
            hasher.finish()
        });
        others
    }
}
