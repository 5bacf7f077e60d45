//! The catalog in memory: a pure state machine over durable records.
//!
//! A command is *planned* against the state (nothing changes), its entries are set, the [invariants]
//! are run over what it touched, and only then are the writes handed out. Loading sets the same entries: whatever was
//! written is what a later leader finds. The caller makes the writes of several commands durable together, and
//! reloads if that fails.

mod catch_up;
mod cluster;
mod command;
mod commit;
mod ddl;
mod moves;
pub mod orphans;
mod plan;
#[cfg(test)]
mod tests;
mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use command::{CatalogError, Command, CommitParts, CompleteMove, Fence, Reply};

use crate::directory::Directory;
use crate::entry::{Entry, LoadError, Write};
use crate::ids::{
    BlobId, DdlSeq, FilePath, NodeName, ObjectKey, PartPath, Revision, ShardId, TableId, TableShard, Version,
};
use crate::invariants;
use crate::packed::{self, ChangelogEntry, Layouts, PackedPart};
use crate::records::{DdlTask, DoomedObject, FileEntry, Inode, LeavingTable, Location, Manifest, PartChange};
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

/// The parts of one table shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub version: Version,
    pub parts: BTreeMap<PartPath, PackedPart>,
    pub inodes: BTreeMap<FilePath, Inode>,
    /// The newest changes, without gaps up to `version`.
    pub changes: BTreeMap<Version, Arc<ChangelogEntry>>,
}

impl Shard {
    const EMPTY: Self =
        Self { version: Version(0), parts: BTreeMap::new(), inodes: BTreeMap::new(), changes: BTreeMap::new() };

    fn is_empty(&self) -> bool {
        self.version == Version(0) && self.parts.is_empty() && self.inodes.is_empty() && self.changes.is_empty()
    }

    pub fn manifest(&self, at: TableShard, path: &PartPath) -> Option<Manifest> {
        Some(self.parts.get(path)?.open(at, path))
    }

    /// Every part, opened. `at` is this table shard.
    pub fn manifests(&self, at: TableShard) -> impl Iterator<Item = Manifest> {
        self.parts.iter().map(move |(path, part)| part.open(at, path))
    }

    /// Names that may be parts of a partition. The order of names keeps them together.
    pub fn parts_of(&self, partition: &str) -> impl Iterator<Item = &PartPath> {
        let prefix = format!("{partition}_");
        let from = PartPath::new(prefix.as_str()).ok();
        let range = from.map(|from| self.parts.range(from..));
        range.into_iter().flatten().map(|(path, _)| path).take_while(move |path| path.as_str().starts_with(&prefix))
    }

    /// Names of the parts that no other covers.
    pub fn active(&self) -> Vec<&str> {
        crate::parts::active(self.parts.keys().map(PartPath::as_str))
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
    /// References from parts to each object. Not stored: counted while loading.
    references: References,
    /// The parts that have each staged blob, of whatever table: tables of a shard share blobs after REPLACE PARTITION and its
    /// like. Not stored: gathered while loading.
    staged: BTreeMap<BlobId, BTreeSet<(TableShard, PartPath)>>,
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
            references: References::default(),
            staged: BTreeMap::new(),
        }
    }

    /// From everything that a store holds below its prefix.
    pub fn load<'a>(
        limits: Limits,
        records: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, LoadError> {
        let mut catalog = Self::empty(limits);
        // Parts are read with their layouts.
        let is_layout = |(key, _): &(&[u8], &[u8])| key.starts_with(b"layout/");
        let (layouts, others): (Vec<_>, Vec<_>) = records.into_iter().partition(is_layout);
        for (key, value) in layouts.into_iter().chain(others) {
            let entry = Entry::read(key, value, &catalog.layouts)?;
            catalog.set(entry);
        }
        Ok(catalog)
    }

    /// Validates completely before it changes anything.
    pub fn apply(&mut self, command: Command, now_ms: u64) -> Result<Applied, CatalogError> {
        let Plan { reply, entries, changes, .. } = self.plan(command, now_ms)?;
        let writes: Vec<Write> = entries.iter().map(Entry::write).collect();
        self.check_sizes(&writes)?;
        let after = entries.clone();
        let before: Vec<Entry> = entries.into_iter().map(|entry| self.set(entry)).collect();
        if let Err(violation) = invariants::check_touched(self, &before, &after) {
            before.into_iter().rev().for_each(|entry| drop(self.set(entry)));
            return Err(violation.into());
        }
        Ok(Applied { reply, writes, changes, undo: Undo(before) })
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
            Command::SubmitDdl(statement) => plan.submit_ddl(statement),
            Command::FinishDdl { seq, outcome } => plan.finish_ddl(seq, outcome),
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

    /// Sets one record and returns the entry that undoes it.
    fn set(&mut self, entry: Entry) -> Entry {
        match entry {
            Entry::Warehouse(new) => {
                Entry::Warehouse(std::mem::replace(&mut Arc::make_mut(&mut self.directory).warehouse, new))
            }
            Entry::Revision(new) => {
                let new = new.unwrap_or(Revision(0));
                let old = std::mem::replace(&mut Arc::make_mut(&mut self.directory).revision, new);
                Entry::Revision((old != Revision(0)).then_some(old))
            }
            Entry::Group(key, new) => {
                let old = put(&mut Arc::make_mut(&mut self.directory).groups, key.clone(), new);
                Entry::Group(key, old)
            }
            Entry::Node(key, new) => {
                let old = put(&mut Arc::make_mut(&mut self.directory).nodes, key.clone(), new);
                Entry::Node(key, old)
            }
            Entry::Assignment(group, shard, new) => {
                let old = put(&mut Arc::make_mut(&mut self.directory).assignments, (group.clone(), shard), new);
                Entry::Assignment(group, shard, old)
            }
            Entry::Database(key, new) => {
                let old = put(&mut Arc::make_mut(&mut self.directory).databases, key.clone(), new);
                Entry::Database(key, old)
            }
            Entry::Table(key, new) => {
                let old = put(&mut Arc::make_mut(&mut self.directory).tables, key, new);
                Entry::Table(key, old)
            }
            Entry::Ddl(seq, new) => {
                let old = put(&mut self.ddl, seq, new);
                let newest = self.ddl.keys().next_back().copied().unwrap_or(DdlSeq(0));
                Arc::make_mut(&mut self.directory).ddl_seq = newest;
                Entry::Ddl(seq, old)
            }
            Entry::Leaving(key, new) => {
                let old = put(&mut self.leaving, key, new);
                Entry::Leaving(key, old)
            }
            Entry::Layout(table, number, new) => Entry::Layout(table, number, self.layouts.set(table, number, new)),
            Entry::Doomed(key, new) => {
                let old = put(&mut self.doomed, key.clone(), new);
                Entry::Doomed(key, old)
            }
            Entry::Token(key, new) => {
                let old = put(&mut self.tokens, key.clone(), new);
                Entry::Token(key, old)
            }
            Entry::Audit(key, new) => {
                let old = put(&mut self.audit, key, new);
                Entry::Audit(key, old)
            }
            Entry::Version(..) | Entry::Part(..) | Entry::Inode(..) | Entry::Change(..) => self.set_in_shard(entry),
        }
    }

    fn set_in_shard(&mut self, entry: Entry) -> Entry {
        let (Entry::Version(at, _) | Entry::Part(at, ..) | Entry::Inode(at, ..) | Entry::Change(at, ..)) = entry else {
            return entry;
        };
        let shard = self.shards.entry(at).or_insert(Shard::EMPTY);
        let undo = match entry {
            Entry::Version(at, new) => {
                let old = std::mem::replace(&mut shard.version, new.unwrap_or(Version(0)));
                Entry::Version(at, (old != Version(0)).then_some(old))
            }
            Entry::Part(at, path, new) => {
                for object in new.iter().flat_map(|part| part.objects(at)) {
                    self.references.add(&object);
                }
                let old = put(&mut shard.parts, path.clone(), new);
                for object in old.iter().flat_map(|part| part.objects(at)) {
                    self.references.take(&object);
                }
                index_staged(&mut self.staged, (at, &path), old.as_ref(), false);
                index_staged(&mut self.staged, (at, &path), shard.parts.get(&path), true);
                Entry::Part(at, path, old)
            }
            Entry::Inode(at, path, new) => {
                let old = put(&mut shard.inodes, path.clone(), new);
                Entry::Inode(at, path, old)
            }
            Entry::Change(at, version, new) => Entry::Change(at, version, put(&mut shard.changes, version, new)),
            other => other,
        };
        if shard.is_empty() {
            self.shards.remove(&at);
        }
        undo
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, new: Option<V>) -> Option<V> {
    match new {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

/// How many parts refer to each object, by the first half of the SHA-256 of its key: keys are long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct References(BTreeMap<[u8; 16], u32>);

impl References {
    fn digest(object: &ObjectKey) -> [u8; 16] {
        let digest = Sha256::digest(object.as_str());
        std::array::from_fn(|i| digest[i])
    }

    fn add(&mut self, object: &ObjectKey) {
        *self.0.entry(Self::digest(object)).or_insert(0) += 1;
    }

    fn take(&mut self, object: &ObjectKey) {
        let digest = Self::digest(object);
        if let Some(count) = self.0.get_mut(&digest) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&digest);
            }
        }
    }

    fn count(&self, object: &ObjectKey) -> u64 {
        self.0.get(&Self::digest(object)).copied().unwrap_or(0).into()
    }
}

fn index_staged(
    staged: &mut BTreeMap<BlobId, BTreeSet<(TableShard, PartPath)>>,
    (at, path): (TableShard, &PartPath),
    part: Option<&PackedPart>,
    added: bool,
) {
    for blob in part.into_iter().flat_map(PackedPart::staged_blobs) {
        let places = staged.entry(blob).or_default();
        if added {
            places.insert((at, path.clone()));
        } else {
            places.remove(&(at, path.clone()));
        }
        if places.is_empty() {
            staged.remove(&blob);
        }
    }
}

/// Reading.
impl Catalog {
    /// Cheap to clone and to keep.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn shards(&self) -> &BTreeMap<TableShard, Shard> {
        &self.shards
    }

    pub fn doomed(&self) -> &BTreeMap<ObjectKey, DoomedObject> {
        &self.doomed
    }

    pub fn tokens(&self) -> &BTreeMap<TokenHash, JoinToken> {
        &self.tokens
    }

    /// What was changed, oldest first.
    pub fn audit(&self) -> &BTreeMap<AuditSeq, AuditRecord> {
        &self.audit
    }

    pub fn ddl(&self) -> &BTreeMap<DdlSeq, DdlTask> {
        &self.ddl
    }

    /// Empty at version 0 for a table shard that nobody has written yet; `None` for an unknown table or shard number.
    pub fn shard(&self, at: TableShard) -> Option<&Shard> {
        const EMPTY: &Shard = &Shard::EMPTY;
        let shards = self.directory.warehouse.as_ref()?.shards;
        if !self.directory.tables.contains_key(&at.table) || !shards.contains(at.shard) {
            return None;
        }
        Some(self.shards.get(&at).unwrap_or(EMPTY))
    }

    /// One change that leads from `version` to the newest, which is named; the change is empty at the newest.
    pub fn changes_since(&self, at: TableShard, version: Version) -> Result<(Version, PartChange), SnapshotRequired> {
        let shard = self.shard(at).ok_or(SnapshotRequired)?;
        let reaches_back = version == shard.version || shard.changes.contains_key(&version.next());
        if version > shard.version || !reaches_back {
            return Err(SnapshotRequired);
        }
        catch_up::since(shard, at, version).map(|change| (shard.version, change)).ok_or(SnapshotRequired)
    }

    /// A table shard whole, in pages of about so many bytes, each a record of a [`crate::TableShardSnapshot`] with some
    /// of the parts.
    pub fn snapshot_pages(&self, at: TableShard, page_bytes: usize) -> Option<Vec<Vec<u8>>> {
        let shard = self.shard(at)?;
        Some(packed::encode_snapshot(at, shard, self.layouts.of(at.table).cloned(), page_bytes))
    }

    /// Blobs whose only bytes are on `node`, each once.
    pub fn staged_on(&self, node: &NodeName) -> Vec<BlobId> {
        let mut blobs: Vec<BlobId> = Vec::new();
        for (at, shard) in self.live_shards() {
            for (path, part) in shard.parts.iter().filter(|(_, part)| part.may_be_staged_on(node)) {
                let staged = |location: &Location| matches!(location, Location::Staged { node: on } if on == node);
                blobs.extend(part.open(at, path).files.iter().filter(|f| staged(&f.location)).map(|file| file.blob));
            }
        }
        blobs.sort_unstable();
        blobs.dedup();
        blobs
    }

    /// Table shards of tables that are not dropped.
    pub fn live_shards(&self) -> impl Iterator<Item = (TableShard, &Shard)> {
        let live = |at: &TableShard| self.directory.tables.contains_key(&at.table);
        self.shards.iter().filter(move |(at, _)| live(at)).map(|(at, shard)| (*at, shard))
    }

    /// `None` also for what is left of a dropped table.
    pub(crate) fn live_shard(&self, at: TableShard) -> Option<&Shard> {
        self.shards.get(&at).filter(|_| self.directory.tables.contains_key(&at.table))
    }

    /// Dropped tables whose records are still being removed.
    pub fn leaving(&self) -> usize {
        self.leaving.len()
    }

    /// There, or dropped and being removed.
    pub(crate) fn is_known(&self, table: TableId) -> bool {
        self.directory.tables.contains_key(&table) || self.leaving.contains_key(&table)
    }

    pub(crate) fn is_referenced(&self, object: &ObjectKey) -> bool {
        self.references.count(object) > 0
    }

    /// Staged files that `node` keeps a copy of for the node that they are staged on.
    pub fn copies_on<'a>(&'a self, node: &'a NodeName) -> impl Iterator<Item = FileEntry> + 'a {
        let files = self.copied_parts().filter(|part| part.copies.contains(node)).flat_map(|part| part.files);
        files.filter(move |file| matches!(&file.location, Location::Staged { node: at } if at != node))
    }

    /// Files staged on `node` of which other nodes keep a copy, with those nodes.
    pub fn copies_of<'a>(&'a self, node: &'a NodeName) -> impl Iterator<Item = (FileEntry, Vec<NodeName>)> + 'a {
        let files = self.copied_parts().flat_map(|part| {
            let copies = part.copies;
            part.files.into_iter().map(move |file| (file, copies.clone()))
        });
        files.filter(move |(file, _)| matches!(&file.location, Location::Staged { node: at } if at == node))
    }

    /// Parts of tables that are not dropped, with copies of their staged files.
    fn copied_parts(&self) -> impl Iterator<Item = Manifest> + '_ {
        let copied = |at, shard: &'_ Shard| -> Vec<Manifest> {
            let parts = shard.parts.iter().filter(|(_, part)| part.has_copies());
            parts.map(|(path, part)| part.open(at, path)).collect()
        };
        self.live_shards().flat_map(move |(at, shard)| copied(at, shard))
    }

    /// The other table shards in which a part has this blob staged. What is left of dropped tables does not count.
    fn shares_staged(&self, blob: BlobId, at: TableShard) -> BTreeSet<TableShard> {
        let places = self.staged.get(&blob).into_iter().flatten();
        let others = places.map(|(other, _)| *other).filter(|other| *other != at);
        others.filter(|other| self.live_shard(*other).is_some()).collect()
    }

    fn table_shards(&self, table: TableId) -> impl Iterator<Item = (&TableShard, &Shard)> {
        let at = |shard| TableShard { table, shard: ShardId(shard) };
        self.shards.range(at(0)..=at(u16::MAX))
    }
}
