//! Sets one record: the only way in which the state changes, while commands are carried out, undone, and loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::documents::{Document, DocumentKey, DocumentVersion};
use crate::entry::Entry;
use crate::ids::{BlobId, DdlSeq, PartPath, Revision, TableShard, Version};
use crate::packed::PackedPart;
use crate::state::shard::Shard;
use crate::state::{Catalog, put};

impl Catalog {
    /// Sets one record and returns the entry that undoes it.
    pub(super) fn set(&mut self, entry: Entry) -> Entry {
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
            Entry::Document(key, version, new) => self.set_document(key, version, new),
            Entry::Form(new) => Entry::Form(std::mem::replace(&mut self.form, new)),
            Entry::Link(link, there) => Entry::Link(link, self.links.set(link, there)),
            Entry::Version(..) | Entry::Part(..) | Entry::Inode(..) | Entry::Change(..) => self.set_in_shard(entry),
        }
    }

    /// The newest version is what the directory shows.
    fn set_document(&mut self, key: DocumentKey, version: DocumentVersion, new: Option<Document>) -> Entry {
        let old = put(&mut self.documents, (key.clone(), version), new);
        let newest = self.document_history(&key).next_back().map(|(_, document)| document.clone());
        put(&mut Arc::make_mut(&mut self.directory).documents, key.clone(), newest);
        Entry::Document(key, version, old)
    }

    fn set_in_shard(&mut self, entry: Entry) -> Entry {
        let (Entry::Version(at, _) | Entry::Part(at, ..) | Entry::Inode(at, ..) | Entry::Change(at, ..)) = entry else {
            return entry;
        };
        let shard = self.shards.entry(at).or_insert(Shard::EMPTY);
        let (bytes, parts) = (shard.memory_bytes(), shard.parts.len());
        let undo = match entry {
            Entry::Version(at, new) => {
                let old = std::mem::replace(&mut shard.version, new.unwrap_or(Version(0)));
                Entry::Version(at, (old != Version(0)).then_some(old))
            }
            Entry::Part(at, path, new) => {
                let old = shard.set_part(at, &path, new);
                index_staged(&mut self.staged, (at, &path), old.as_ref(), false);
                index_staged(&mut self.staged, (at, &path), shard.parts.get(&path), true);
                Entry::Part(at, path, old)
            }
            Entry::Inode(at, path, new) => {
                let old = shard.set_inode(&path, new);
                Entry::Inode(at, path, old)
            }
            Entry::Change(at, version, new) => Entry::Change(at, version, shard.set_change(version, new)),
            other => other,
        };
        self.memory_bytes = self.memory_bytes + shard.memory_bytes() - bytes;
        if shard.is_loaded() {
            self.loaded_parts = self.loaded_parts + shard.parts.len() - parts;
        }
        if shard.is_empty() {
            self.shards.remove(&at);
        }
        undo
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
