//! The catalog in memory: a pure state machine over durable records.
//!
//! A command is *planned* against the state (nothing changes), its entries are set, the [invariants]
//! are run over what it touched, and only then are the writes handed out. Loading sets the same entries: whatever was
//! written is what a later leader finds. The caller makes the writes of several commands durable together, and
//! reloads if that fails. A command that needs a part list which is not in memory is answered [`NotLoaded`]: the caller loads
//! it and asks again.

mod catch_up;
mod cluster;
mod command;
mod commit;
mod ddl;
mod ddl_tasks;
mod documents;
mod loading;
mod moves;
pub mod orphans;
mod plan;
mod reading;
mod setting;
mod shard;
#[cfg(test)]
mod tests;
mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use command::{CatalogError, Command, CommitParts, CompleteMove, Fence, Reply};
pub use loading::{LISTS, ListError, ListSeed, NotHere, NotLoaded, PartList};
pub use shard::Shard;

use crate::ddl::DdlTask;
use crate::directory::Directory;
use crate::documents::{Document, DocumentKey, DocumentVersion};
use crate::entry::{Entry, Write};
use crate::ids::{BlobId, DdlSeq, ObjectKey, PartPath, TableId, TableShard, Version};
use crate::invariants;
use crate::links::{Links, StoreForm};
use crate::packed::Layouts;
use crate::records::{DoomedObject, LeavingTable, PartChange};
use crate::trust::{AuditRecord, AuditSeq, JoinToken, TokenHash};
use plan::Plan;

const DAY_MS: u64 = 86_400_000;

/// Bounds that the state keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Changelog entries kept for each table shard; a reader older than that takes a snapshot.
    pub changes_kept: u64,
    /// DDL tasks kept.
    pub ddl_kept: usize,
    /// One encoded record. Below etcd's request limit, so that every record fits into some transaction.
    pub record_bytes: usize,
    /// Writes of one step of removing a dropped table: half of what etcd takes in one transaction, so that a group commit
    /// that it joins stays one.
    pub drop_step: usize,
    /// Sets of file names that the parts of a table share; further ones stand in the parts themselves.
    pub layouts_a_table: u32,
    /// How long an object outlives its last reference.
    pub delete_grace_ms: u64,
    /// How long an object may lie in the bucket before anything refers to it: see [`crate::minted`].
    pub orphan_grace_ms: u64,
    /// Join tokens kept, used and expired ones included.
    pub tokens: usize,
    /// How long a token is kept after it has expired: so long its node's name is not given to another.
    pub token_kept_ms: u64,
    /// Audit records kept, and how long.
    pub audit_kept: usize,
    pub audit_kept_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            changes_kept: 128,
            ddl_kept: 1_000,
            record_bytes: 1 << 20,
            drop_step: 56,
            layouts_a_table: 64,
            delete_grace_ms: 3_600_000,
            orphan_grace_ms: 7_200_000,
            tokens: 10_000,
            token_kept_ms: 30 * DAY_MS,
            audit_kept: 10_000,
            audit_kept_ms: 90 * DAY_MS,
        }
    }
}

/// A reader asked for changes that are no longer, or not yet, there: it must take a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the changelog does not reach back to this version: take a snapshot")]
pub struct SnapshotRequired;

/// What a command did.
#[derive(Debug)]
pub struct Applied {
    pub reply: Reply,
    /// Must become durable before anybody hears of `reply` or `changes`.
    pub writes: Vec<Write>,
    /// New changelog entries, for those who watch.
    pub changes: Vec<(TableShard, Version, Arc<PartChange>)>,
    /// What [`Catalog::undo`] takes if the writes are certain not to have happened.
    pub undo: Undo,
}

/// How the state was before some commands.
#[derive(Debug, Default)]
pub struct Undo(Vec<Entry>);

impl Undo {
    /// Takes in that of a later command.
    pub fn extend(&mut self, later: Undo) {
        self.0.extend(later.0);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    limits: Limits,
    directory: Arc<Directory>,
    ddl: BTreeMap<DdlSeq, DdlTask>,
    /// Tables that are dropped and not yet removed.
    leaving: BTreeMap<TableId, LeavingTable>,
    layouts: Layouts,
    shards: BTreeMap<TableShard, Shard>,
    doomed: BTreeMap<ObjectKey, DoomedObject>,
    tokens: BTreeMap<TokenHash, JoinToken>,
    audit: BTreeMap<AuditSeq, AuditRecord>,
    /// Every version that is kept; the newest stand in the directory.
    documents: BTreeMap<(DocumentKey, DocumentVersion), Document>,
    /// `None`: of an older build.
    form: Option<StoreForm>,
    links: Links,
    /// The parts that have each staged blob, of whatever table: tables of a shard share blobs after REPLACE PARTITION and its
    /// like. Not stored: gathered while loading.
    staged: BTreeMap<BlobId, BTreeSet<(TableShard, PartPath)>>,
    /// Of all part lists, about, and parts in those that are loaded. Not stored.
    memory_bytes: usize,
    loaded_parts: usize,
}

impl Catalog {
    pub fn empty(limits: Limits) -> Self {
        Self {
            limits,
            directory: Arc::new(Directory::empty()),
            ddl: BTreeMap::new(),
            leaving: BTreeMap::new(),
            layouts: Layouts::default(),
            shards: BTreeMap::new(),
            doomed: BTreeMap::new(),
            tokens: BTreeMap::new(),
            audit: BTreeMap::new(),
            documents: BTreeMap::new(),
            form: None,
            links: Links::default(),
            staged: BTreeMap::new(),
            memory_bytes: 0,
            loaded_parts: 0,
        }
    }

    /// Validates completely before it changes anything.
    pub fn apply(&mut self, command: Command, now_ms: u64) -> Result<Applied, CatalogError> {
        let Plan { reply, entries, changes, .. } = self.plan(command, now_ms)?;
        let after = entries.clone();
        let before: Vec<Entry> = entries.into_iter().map(|entry| self.set(entry)).collect();
        let writes: Vec<Write> = after.iter().zip(&before).flat_map(|(after, before)| after.writes(before)).collect();
        let checked = self.check_sizes(&writes);
        let checked = checked.and_then(|()| Ok(invariants::check_touched(self, &before, &after)?));
        match checked {
            Ok(()) => Ok(Applied { reply, writes, changes, undo: Undo(before) }),
            Err(error) => {
                self.undo(Undo(before));
                Err(error)
            }
        }
    }

    /// Takes back the newest commands: none may have come after them.
    pub fn undo(&mut self, undo: Undo) {
        undo.0.into_iter().rev().for_each(|entry| drop(self.set(entry)));
    }

    fn plan(&self, command: Command, now_ms: u64) -> Result<Plan<'_>, CatalogError> {
        let plan = Plan::new(self, now_ms);
        if self.directory.warehouse.is_none() && !matches!(command, Command::CreateWarehouse(_)) {
            return Err(CatalogError::NoWarehouse);
        }
        match command {
            Command::CreateWarehouse(warehouse) => plan.create_warehouse(warehouse),
            Command::CreateGroup(group) => plan.create_group(group),
            Command::RegisterNode(node) => plan.register_node(node),
            Command::SetDraining { node, draining } => plan.set_draining(node, draining),
            Command::RemoveNode(node) => plan.remove_node(node),
            Command::SubmitDdl { statement, token, audit } => plan.submit_ddl(statement, token, audit),
            Command::ChangeByDdl { seq, change } => plan.change_by_ddl(seq, *change),
            Command::NoteDdl { seq, nodes } => plan.note_ddl(seq, nodes),
            Command::FinishDdl { seq, outcome, nodes } => plan.finish_ddl(seq, outcome, nodes),
            Command::CreateDatabase { database, if_not_exists } => plan.create_database(database, if_not_exists),
            Command::DropDatabase { database, if_exists } => plan.drop_database(database, if_exists),
            Command::CreateTable { table, if_not_exists } => plan.create_table(*table, if_not_exists),
            Command::ActivateTable(table) => plan.activate_table(table),
            Command::ClearLeaving => plan.clear_leaving(),
            Command::DropTable { database, name, if_exists } => plan.drop_table(database, name, if_exists),
            Command::SetTableStorage { database, name, settings } => plan.set_table_storage(database, name, &settings),
            Command::CommitParts(commit) => plan.commit_parts(commit),
            Command::BeginMove { group, shard, to } => plan.begin_move(group, shard, to),
            Command::CancelMove { group, shard } => plan.cancel_move(group, shard),
            Command::CompleteMove(complete) => plan.complete_move(complete),
            Command::ForgetDoomed(objects) => plan.forget_doomed(objects),
            Command::CreateJoinToken { hash, group, expires_ms } => plan.create_join_token(hash, group, expires_ms),
            Command::UseJoinToken { hash, node, group, request_sha256 } => {
                plan.use_join_token(hash, node, group, request_sha256)
            }
            Command::RevokeJoinToken(hash) => plan.revoke_join_token(hash),
            Command::PutDocuments { changes, by } => plan.put_documents(changes, &by),
            Command::BeginAudit(deed) => plan.begin_audit(deed),
            Command::FinishAudit { seq, outcome } => plan.finish_audit(seq, outcome),
        }
    }

    fn check_sizes(&self, writes: &[Write]) -> Result<(), CatalogError> {
        for write in writes {
            if let Write::Put { key, value } = write
                && key.len() + value.len() > self.limits.record_bytes
            {
                return Err(CatalogError::Invalid(format!(
                    "record {:?} takes {} bytes, more than the {} that a record may have: commit fewer or smaller parts at once",
                    String::from_utf8_lossy(key),
                    value.len(),
                    self.limits.record_bytes
                )));
            }
        }
        Ok(())
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, new: Option<V>) -> Option<V> {
    match new {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}
