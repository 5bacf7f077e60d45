//! Reading.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ddl::DdlTask;
use crate::directory::Directory;
use crate::documents::{Document, DocumentKey, DocumentVersion};
use crate::ids::{BlobId, DdlSeq, DdlToken, NodeName, ObjectKey, ShardId, TableId, TableShard, Version};
use crate::links::Links;
use crate::packed;
use crate::records::{DoomedObject, FileEntry, Location, Manifest, PartChange};
use crate::state::shard::Shard;
use crate::state::{Catalog, Limits, NotHere, SnapshotRequired, catch_up};
use crate::trust::{AuditRecord, AuditSeq, JoinToken, TokenHash};

impl Catalog {
    /// Cheap to clone and to keep.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Also those of dropped tables, and those whose lists are not loaded.
    pub fn shards(&self) -> &BTreeMap<TableShard, Shard> {
        &self.shards
    }

    pub fn links(&self) -> &Links {
        &self.links
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

    /// The versions of a document that are kept, oldest first.
    pub fn document_history(&self, key: &DocumentKey) -> impl DoubleEndedIterator<Item = (DocumentVersion, &Document)> {
        let range = (key.clone(), DocumentVersion(0))..=(key.clone(), DocumentVersion(u64::MAX));
        self.documents.range(range).map(|((_, version), document)| (*version, document))
    }

    /// The task of a request, if it is in the queue.
    pub fn ddl_of(&self, token: DdlToken) -> Option<&DdlTask> {
        self.ddl.values().rfind(|task| task.token == Some(token))
    }

    pub fn ddl(&self) -> &BTreeMap<DdlSeq, DdlTask> {
        &self.ddl
    }

    /// Empty at version 0 for a table shard that nobody has written yet.
    pub fn shard(&self, at: TableShard) -> Result<&Shard, NotHere> {
        const EMPTY: &Shard = &Shard::EMPTY;
        self.version(at).ok_or(NotHere::Unknown(at))?;
        self.need_all([at])?;
        Ok(self.shards.get(&at).unwrap_or(EMPTY))
    }

    /// Also of a list that is not loaded; `None` for an unknown table or shard number.
    pub fn version(&self, at: TableShard) -> Option<Version> {
        let shards = self.directory.warehouse.as_ref()?.shards;
        if !self.directory.tables.contains_key(&at.table) || !shards.contains(at.shard) {
            return None;
        }
        Some(self.shards.get(&at).map_or(Version(0), |shard| shard.version))
    }

    /// One change that leads from `version` to the newest, which is named; the change is empty at the newest. The list must
    /// be here.
    pub fn changes_since(&self, at: TableShard, version: Version) -> Result<(Version, PartChange), SnapshotRequired> {
        let shard = self.shard(at).map_err(|_| SnapshotRequired)?;
        let reaches_back = version == shard.version || shard.changes.contains_key(&version.next());
        if version > shard.version || !reaches_back {
            return Err(SnapshotRequired);
        }
        catch_up::since(shard, at, version).map(|change| (shard.version, change)).ok_or(SnapshotRequired)
    }

    /// A table shard whole, in pages of about so many bytes, each a record of a [`crate::TableShardSnapshot`] with some
    /// of the parts.
    pub fn snapshot_pages(&self, at: TableShard, page_bytes: usize) -> Result<Vec<Vec<u8>>, NotHere> {
        let shard = self.shard(at)?;
        Ok(packed::encode_snapshot(at, shard, self.layouts.of(at.table).cloned(), page_bytes))
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

    /// Table shards of tables that are not dropped, also those whose lists are not loaded.
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
        self.references_to(object) > 0
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
    pub(super) fn shares_staged(&self, blob: BlobId, at: TableShard) -> BTreeSet<TableShard> {
        let places = self.staged.get(&blob).into_iter().flatten();
        let others = places.map(|(other, _)| *other).filter(|other| *other != at);
        others.filter(|other| self.live_shard(*other).is_some()).collect()
    }

    pub(super) fn table_shards(&self, table: TableId) -> impl Iterator<Item = (&TableShard, &Shard)> {
        let at = |shard| TableShard { table, shard: ShardId(shard) };
        self.shards.range(at(0)..=at(u16::MAX))
    }
}
