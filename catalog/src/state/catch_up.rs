//! One change that leads a reader from an older version to the newest.

use std::collections::BTreeSet;

use crate::ids::{FilePath, PartPath, TableShard, Version};
use crate::records::{PartChange, Relocation};
use crate::state::Shard;

/// `None` if an entry does not say what it touched. The entries after `version` must be there.
pub fn since(shard: &Shard, at: TableShard, version: Version) -> Option<PartChange> {
    let mut removed: BTreeSet<&PartPath> = BTreeSet::new();
    let mut added: BTreeSet<&PartPath> = BTreeSet::new();
    let mut relocated: BTreeSet<&PartPath> = BTreeSet::new();
    let mut inodes: BTreeSet<&FilePath> = BTreeSet::new();
    for entry in shard.changes.range(version.next()..).map(|(_, entry)| entry) {
        if entry.opaque {
            return None;
        }
        removed.extend(&entry.removed);
        added.extend(&entry.added);
        relocated.extend(&entry.relocated);
        inodes.extend(entry.inodes_removed.iter().chain(&entry.inodes_put));
    }
    let mut change = PartChange::default();
    for path in removed.union(&added) {
        let there = shard.manifest(at, path);
        // What is there with other content than the reader's is removed, and added anew.
        if removed.contains(*path) {
            change.removed.push(PartPath::clone(path));
        }
        change.added.extend(there);
    }
    for manifest in relocated.difference(&added).filter_map(|path| shard.manifest(at, path)) {
        change.relocated.extend(manifest.files.into_iter().map(|f| Relocation { blob: f.blob, location: f.location }));
    }
    for path in inodes {
        match shard.inodes.get(path) {
            Some(inode) => change.inodes_put.push(inode.clone()),
            None => change.inodes_removed.push(path.clone()),
        }
    }
    Some(change)
}
