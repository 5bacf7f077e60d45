//! The catalog in memory: a pure state machine over durable records.
//!
//! A command is *planned* against the state (nothing changes), its entries are set, the [invariants]
//! are run over what it touched, and only then are the writes handed out. Loading sets the same entries: whatever was
//! written is what a later leader finds. The caller makes the writes of several commands durable together, and
//! reloads if that fails.

mod cluster;
mod command;
mod commit;
mod ddl;
mod moves;
pub mod orphans;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use command::{CatalogError, Command, CommitParts, CompleteMove, Fence, Reply};

use crate::directory::Directory;
use crate::entry::{Entry, LoadError, Write};
use crate::ids::{
    BlobId, DdlSeq, FilePath, NodeName, ObjectKey, PartPath, Revision, ShardId, TableId, TableShard, Version,
};
use crate::invariants;
use crate::records::{DdlTask, DoomedObject, FileEntry, Inode, Location, Manifest, PartChange};
use plan::Plan;

/// Bounds that the state keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Changelog entries kept for each table shard; a reader older than that takes a snapshot.
    pub changes_kept: u64,
    /// DDL tasks kept.
    pub ddl_kept: usize,
    /// One encoded record. Below etcd's request limit, so that every record fits into some transaction.
    pub record_bytes: usize,
    /// How long an object outlives its last reference.
    pub delete_grace_ms: u64,
    /// How long an object may lie in the bucket before anything refers to it: see [`crate::minted`].
    pub orphan_grace_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            changes_kept: 128,
            ddl_kept: 1_000,
            record_bytes: 1 << 20,
            delete_grace_ms: 3_600_000,
            orphan_grace_ms: 7_200_000,
        }
    }
}

/// The parts of one table shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub version: Version,
    pub parts: BTreeMap<PartPath, Arc<Manifest>>,
    pub inodes: BTreeMap<FilePath, Inode>,
    /// The newest changes, without gaps up to `version`.
    pub changes: BTreeMap<Version, Arc<PartChange>>,
}

impl Shard {
    const EMPTY: Self =
        Self { version: Version(0), parts: BTreeMap::new(), inodes: BTreeMap::new(), changes: BTreeMap::new() };

    fn is_empty(&self) -> bool {
        self.version == Version(0) && self.parts.is_empty() && self.inodes.is_empty() && self.changes.is_empty()
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
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    limits: Limits,
    directory: Arc<Directory>,
    ddl: BTreeMap<DdlSeq, DdlTask>,
    shards: BTreeMap<TableShard, Shard>,
    doomed: BTreeMap<ObjectKey, DoomedObject>,
    /// References from parts to each object. Not stored: counted while loading.
    references: BTreeMap<ObjectKey, u64>,
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
            shards: BTreeMap::new(),
            doomed: BTreeMap::new(),
            references: BTreeMap::new(),
            staged: BTreeMap::new(),
        }
    }

    /// From everything that a store holds below its prefix.
    pub fn load<'a>(
        limits: Limits,
        records: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, LoadError> {
        let mut catalog = Self::empty(limits);
        for (key, value) in records {
            catalog.set(Entry::read(key, value)?);
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
        Ok(Applied { reply, writes, changes })
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
            Command::DropTable { database, name, if_exists } => plan.drop_table(database, name, if_exists),
            Command::SetTableStorage { database, name, settings } => plan.set_table_storage(database, name, &settings),
            Command::CommitParts(commit) => plan.commit_parts(commit),
            Command::BeginMove { group, shard, to } => plan.begin_move(group, shard, to),
            Command::CancelMove { group, shard } => plan.cancel_move(group, shard),
            Command::CompleteMove(complete) => plan.complete_move(complete),
            Command::ForgetDoomed(objects) => plan.forget_doomed(objects),
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
            Entry::Doomed(key, new) => {
                let old = put(&mut self.doomed, key.clone(), new);
                Entry::Doomed(key, old)
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
                count_references(&mut self.references, new.as_deref(), true);
                let old = put(&mut shard.parts, path.clone(), new);
                count_references(&mut self.references, old.as_deref(), false);
                index_staged(&mut self.staged, (at, &path), old.as_deref(), false);
                index_staged(&mut self.staged, (at, &path), shard.parts.get(&path).map(|part| &**part), true);
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

fn count_references(references: &mut BTreeMap<ObjectKey, u64>, part: Option<&Manifest>, added: bool) {
    for object in part.into_iter().flat_map(objects_of) {
        if added {
            *references.entry(object.clone()).or_insert(0) += 1;
        } else if let Some(count) = references.get_mut(object) {
            *count -= 1;
            if *count == 0 {
                references.remove(object);
            }
        }
    }
}

fn index_staged(
    staged: &mut BTreeMap<BlobId, BTreeSet<(TableShard, PartPath)>>,
    (at, path): (TableShard, &PartPath),
    part: Option<&Manifest>,
    added: bool,
) {
    for file in part.into_iter().flat_map(|part| &part.files) {
        if !matches!(file.location, Location::Staged { .. }) {
            continue;
        }
        let places = staged.entry(file.blob).or_default();
        if added {
            places.insert((at, path.clone()));
        } else {
            places.remove(&(at, path.clone()));
        }
        if places.is_empty() {
            staged.remove(&file.blob);
        }
    }
}

/// One item for each file that is stored.
fn objects_of(part: &Manifest) -> impl Iterator<Item = &ObjectKey> {
    part.files.iter().filter_map(|file| match &file.location {
        Location::Stored { object, .. } => Some(object),
        Location::Staged { .. } => None,
    })
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

    /// What came after `version`, oldest first.
    pub fn changes_since(
        &self,
        at: TableShard,
        version: Version,
    ) -> Result<Vec<(Version, Arc<PartChange>)>, SnapshotRequired> {
        let shard = self.shard(at).ok_or(SnapshotRequired)?;
        let reaches_back = version == shard.version || shard.changes.contains_key(&version.next());
        if version > shard.version || !reaches_back {
            return Err(SnapshotRequired);
        }
        Ok(shard.changes.range(version.next()..).map(|(v, change)| (*v, Arc::clone(change))).collect())
    }

    /// Blobs whose only bytes are on `node`, each once.
    pub fn staged_on(&self, node: &NodeName) -> Vec<BlobId> {
        let files = self.shards.values().flat_map(|shard| shard.parts.values()).flat_map(|part| &part.files);
        let staged = |location: &Location| matches!(location, Location::Staged { node: at } if at == node);
        let mut blobs: Vec<BlobId> = files.filter(|file| staged(&file.location)).map(|file| file.blob).collect();
        blobs.sort_unstable();
        blobs.dedup();
        blobs
    }

    /// Staged files that `node` keeps a copy of for the node that they are staged on.
    pub fn copies_on<'a>(&'a self, node: &'a NodeName) -> impl Iterator<Item = &'a FileEntry> + 'a {
        let parts = self.shards.values().flat_map(|shard| shard.parts.values());
        let files = parts.filter(|part| part.copies.contains(node)).flat_map(|part| &part.files);
        files.filter(move |file| matches!(&file.location, Location::Staged { node: at } if at != node))
    }

    /// Files staged on `node` of which other nodes keep a copy, with those nodes.
    pub fn copies_of<'a>(&'a self, node: &'a NodeName) -> impl Iterator<Item = (&'a FileEntry, &'a [NodeName])> + 'a {
        let parts = self.shards.values().flat_map(|shard| shard.parts.values()).filter(|part| !part.copies.is_empty());
        let files = parts.flat_map(|part| part.files.iter().map(|file| (file, part.copies.as_slice())));
        files.filter(move |(file, _)| matches!(&file.location, Location::Staged { node: at } if at == node))
    }

    /// The other table shards in which a part has this blob staged.
    fn shares_staged(&self, blob: BlobId, at: TableShard) -> BTreeSet<TableShard> {
        let places = self.staged.get(&blob).into_iter().flatten();
        places.map(|(other, _)| *other).filter(|other| *other != at).collect()
    }

    pub(crate) fn references(&self) -> &BTreeMap<ObjectKey, u64> {
        &self.references
    }

    fn table_shards(&self, table: TableId) -> impl Iterator<Item = (&TableShard, &Shard)> {
        let at = |shard| TableShard { table, shard: ShardId(shard) };
        self.shards.range(at(0)..=at(u16::MAX))
    }
}
