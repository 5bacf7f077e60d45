//! `CommitParts`: the fence, and what a change of a table shard's parts really changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::entry::Entry;
use crate::ids::{BlobId, ObjectKey, PartPath, TableShard, Version};
use crate::packed::{ChangelogEntry, CommitToken};
use crate::parts::PartRef;
use crate::records::{FileEntry, Inode, Location, Manifest, PartChange, Relocation};
use crate::state::Shard;
use crate::state::command::{CatalogError, CommitParts, Fence, Reply};
use crate::state::plan::{Plan, Planned};

/// Non-part files are small by nature; a bigger one is a mistake of the agent. Their content takes up to four bytes a byte
/// in a record, which holds at most 1 MiB.
const INODE_BYTES: usize = 256 << 10;

/// Relocations of one changelog entry, so that an entry stays well below the record limit.
const RELOCATIONS_AN_ENTRY: usize = 4_096;

/// The parts that a change touches, as they will be; `None`: gone.
type Overlay = BTreeMap<PartPath, Option<Manifest>>;

impl<'a> Plan<'a> {
    pub fn commit_parts(mut self, commit: CommitParts) -> Planned<'a> {
        if self.directory().tables.contains_key(&commit.at.table) {
            // The changelog tells whether it is a repetition.
            self.catalog.need(commit.at)?;
        }
        if let Some(version) = self.answered_before(&commit) {
            return self.done(Reply::Committed(version));
        }
        self.check_fence(&commit)?;
        let upload = |r: &Relocation| matches!(r.location, Location::Stored { .. });
        if !commit.change.relocated.iter().all(upload) {
            let message = "a commit relocates to the object store only; staged bytes move with their shard";
            return Err(CatalogError::Invalid(message.to_owned()));
        }
        let version = self.change_shard(commit.at, &commit.change, commit.token)?;
        self.relocate_elsewhere(commit.at, &commit.change.relocated)?;
        self.done(Reply::Committed(version))
    }

    /// What one table's commit relocates is relocated in every table that shares it: the writer lets go of the staged bytes.
    fn relocate_elsewhere(&mut self, at: TableShard, relocated: &[Relocation]) -> Result<(), CatalogError> {
        let mut others: BTreeMap<TableShard, PartChange> = BTreeMap::new();
        for relocation in relocated {
            for other in self.catalog.shares_staged(relocation.blob, at) {
                others.entry(other).or_default().relocated.push(relocation.clone());
            }
        }
        for (other, change) in others {
            self.change_shard(other, &change, None)?;
        }
        Ok(())
    }

    pub fn forget_doomed(mut self, objects: Vec<ObjectKey>) -> Planned<'a> {
        let known: BTreeSet<ObjectKey> =
            objects.into_iter().filter(|object| self.catalog.doomed.contains_key(object)).collect();
        let changed = !known.is_empty();
        self.entries.extend(known.into_iter().map(|object| Entry::Doomed(object, None)));
        self.done(Reply::Changed(changed))
    }

    /// The version that a commit of this token has made, as far back as the changelog goes.
    fn answered_before(&self, commit: &CommitParts) -> Option<Version> {
        let token = commit.token?;
        let changes = &self.catalog.live_shard(commit.at)?.changes;
        changes.iter().rev().find(|(_, entry)| entry.token == Some(token)).map(|(version, _)| *version)
    }

    fn check_fence(&self, commit: &CommitParts) -> Result<(), CatalogError> {
        let directory = self.directory();
        let claimed = commit.node.clone();
        let Some(node) = directory.nodes.get(&claimed) else { return Err(CatalogError::UnknownNode(claimed)) };
        let table = commit.at.table;
        let shard = commit.at.shard;
        let Some(table) = directory.tables.get(&table) else { return Err(CatalogError::UnknownTable(table)) };
        if !self.warehouse()?.shards.contains(shard) {
            return Err(CatalogError::Invalid(format!("there is no shard {shard} in this warehouse")));
        }
        let group = table.owner.clone();
        let fence = if node.group != group {
            Some(Fence::Group { node: claimed, group: node.group.clone(), owner: group })
        } else if node.incarnation != commit.incarnation {
            Some(Fence::Incarnation { node: claimed, newest: node.incarnation, claimed: commit.incarnation })
        } else {
            match directory.assignment(&group, shard) {
                None => Some(Fence::Unassigned { group, shard }),
                Some(a) if a.node != claimed => Some(Fence::Holder { group, shard, holder: a.node.clone(), claimed }),
                Some(a) if a.epoch != commit.epoch => {
                    Some(Fence::Epoch { group, shard, newest: a.epoch, claimed: commit.epoch })
                }
                Some(_) => None,
            }
        };
        fence.map_or(Ok(()), |fence| Err(CatalogError::Fenced(fence)))
    }

    /// Plans `change` and its changelog entries; answers with the version after it.
    pub fn change_shard(
        &mut self,
        at: TableShard,
        change: &PartChange,
        token: Option<CommitToken>,
    ) -> Result<Version, CatalogError> {
        const EMPTY: &Shard = &Shard::EMPTY;
        self.catalog.need(at)?;
        objects_in(change).try_for_each(|object| self.catalog.need_of(object))?;
        let shard = self.catalog.shards.get(&at).unwrap_or(EMPTY);
        self.check_change(change)?;
        let mut overlay = Overlay::new();
        let mut effective = PartChange::default();
        remove(shard, change, &mut overlay);
        add(at, shard, change, &mut overlay)?;
        effective.relocated = relocate(at, shard, &change.relocated, &mut overlay);
        for object in objects_in(change) {
            self.mention(object);
        }
        let added: BTreeSet<&PartPath> = change.added.iter().map(|part| &part.part).collect();
        let mut entry = ChangelogEntry { token, ..ChangelogEntry::default() };
        for (path, after) in overlay {
            let before = shard.manifest(at, &path);
            if before == after {
                continue;
            }
            self.push_part(at, &path, after.as_ref());
            let replaced = match (&before, &after) {
                (Some(before), Some(after)) => !same_content(before, after),
                (Some(_), None) => true,
                (None, _) => false,
            };
            if replaced {
                effective.removed.push(path.clone());
            }
            match after {
                Some(part) if added.contains(&path) && (replaced || before.is_none()) => {
                    entry.added.push(path);
                    effective.added.push(part);
                }
                Some(_) if !replaced => entry.relocated.push(path),
                Some(_) | None => {}
            }
        }
        self.change_inodes(at, shard, change, &mut effective);
        entry.removed.clone_from(&effective.removed);
        entry.inodes_removed.clone_from(&effective.inodes_removed);
        entry.inodes_put = effective.inodes_put.iter().map(|inode| inode.path.clone()).collect();
        Ok(self.number_changes(at, shard, effective, entry))
    }

    fn check_change(&self, change: &PartChange) -> Result<(), CatalogError> {
        let invalid = |message| Err(CatalogError::Invalid(message));
        let mut names = BTreeSet::new();
        for part in &change.added {
            if !names.insert(&part.part) {
                return invalid(format!("part {} is added twice in one change", part.part));
            }
            let mut paths = BTreeSet::new();
            if let Some(file) = part.files.iter().find(|file| !paths.insert(&file.path)) {
                return invalid(format!("part {} lists the file {} twice", part.part, file.path));
            }
        }
        let added = change.added.iter().flat_map(|part| &part.files).map(|file| &file.location);
        for location in added.chain(change.relocated.iter().map(|r| &r.location)) {
            match location {
                Location::Staged { node } if !self.directory().nodes.contains_key(node) => {
                    return Err(CatalogError::UnknownNode(node.clone()));
                }
                Location::Stored { object, .. } if self.catalog.doomed.contains_key(object) => {
                    return invalid(format!("object {object} is to be deleted: upload under a new key"));
                }
                Location::Stored { object, .. } if !self.catalog.may_refer_to(object, self.now_ms) => {
                    return invalid(format!("object {object} was named too long ago: upload under a new key"));
                }
                Location::Staged { .. } | Location::Stored { .. } => {}
            }
        }
        match change.inodes_put.iter().find(|inode| inode.content.len() > INODE_BYTES) {
            Some(inode) => invalid(format!("file {} is larger than {INODE_BYTES} bytes", inode.path)),
            None => Ok(()),
        }
    }

    fn change_inodes(&mut self, at: TableShard, shard: &Shard, change: &PartChange, effective: &mut PartChange) {
        let mut next: BTreeMap<_, Option<&Inode>> = change.inodes_removed.iter().map(|path| (path, None)).collect();
        next.extend(change.inodes_put.iter().map(|inode| (&inode.path, Some(inode))));
        for (path, after) in next {
            if shard.inodes.get(path) == after {
                continue;
            }
            match after {
                Some(inode) => effective.inodes_put.push(inode.clone()),
                None => effective.inodes_removed.push(path.clone()),
            }
            self.push(Entry::Inode(at, path.clone(), after.cloned()));
        }
    }

    /// Gives the change its numbers, more than one if it has very many relocations; forgets entries that are too old.
    /// `change` is for those who watch, `entry` for those who come later.
    fn number_changes(
        &mut self,
        at: TableShard,
        shard: &Shard,
        mut change: PartChange,
        mut entry: ChangelogEntry,
    ) -> Version {
        let mut version = shard.version;
        let mut later = split_off(&mut change.relocated);
        let mut names_later = split_off(&mut entry.relocated);
        while change != PartChange::default() || !entry.relocated.is_empty() {
            version = version.next();
            self.push(Entry::Change(at, version, Some(Arc::new(std::mem::take(&mut entry)))));
            self.changes.push((at, version, Arc::new(std::mem::take(&mut change))));
            let rest = split_off(&mut later);
            change.relocated = std::mem::replace(&mut later, rest);
            let rest = split_off(&mut names_later);
            entry.relocated = std::mem::replace(&mut names_later, rest);
        }
        if version != shard.version {
            self.push(Entry::Version(at, Some(version)));
            let oldest_kept = Version((version.0 + 1).saturating_sub(self.catalog.limits.changes_kept));
            let old = shard.changes.range(..oldest_kept).map(|(version, _)| Entry::Change(at, *version, None));
            self.entries.extend(old);
        }
        version
    }
}

/// What is too much for one changelog entry.
fn split_off<T>(list: &mut Vec<T>) -> Vec<T> {
    list.split_off(list.len().min(RELOCATIONS_AN_ENTRY))
}

fn remove(shard: &Shard, change: &PartChange, overlay: &mut Overlay) {
    let known = change.removed.iter().filter(|path| shard.parts.contains_key(path));
    overlay.extend(known.map(|path| (path.clone(), None)));
}

fn add(at: TableShard, shard: &Shard, change: &PartChange, overlay: &mut Overlay) -> Result<(), CatalogError> {
    let stored = stored_blobs(at, shard, &change.added);
    for part in &change.added {
        if let Some(there) = shard.manifest(at, &part.part).filter(|there| same_content(there, part)) {
            // A repetition, or removed and added again in one change: it stays as it is.
            if overlay.contains_key(&part.part) {
                overlay.insert(part.part.clone(), Some(there));
            }
            continue;
        }
        check_not_covered(shard, overlay, &part.part)?;
        let mut part = part.clone();
        part.files.iter_mut().for_each(|file| {
            if let Some(location) = stored.get(&file.blob) {
                file.location = location.clone();
            }
        });
        overlay.insert(part.part.clone(), Some(part));
    }
    Ok(())
}

/// ClickHouse would silently ignore a part that another covers: its rows would be lost.
fn check_not_covered(shard: &Shard, overlay: &Overlay, added: &PartPath) -> Result<(), CatalogError> {
    let Some(new) = PartRef::parse(added.as_str()) else { return Ok(()) };
    for path in shard.parts_of(new.partition).filter(|path| *path != added && !overlay.contains_key(path)) {
        let Some(there) = PartRef::parse(path.as_str()) else { continue };
        if there.covers(&new) {
            return Err(CatalogError::Invalid(format!("part {added} is covered by {path}, which is there already")));
        }
    }
    Ok(())
}

/// The stored places of blobs that `added` believes to be staged: a hard link made while the upload ended.
fn stored_blobs(at: TableShard, shard: &Shard, added: &[Manifest]) -> HashMap<BlobId, Location> {
    let staged = |file: &FileEntry| matches!(file.location, Location::Staged { .. });
    let wanted: HashSet<BlobId> =
        added.iter().flat_map(|p| &p.files).filter(|file| staged(file)).map(|file| file.blob).collect();
    let having = shard.parts.iter().filter(|(_, part)| part.may_have(&wanted));
    let files = having.flat_map(|(path, part)| part.open(at, path).files);
    let stored = files.filter(|file| wanted.contains(&file.blob) && !staged(file));
    stored.map(|file| (file.blob, file.location)).collect()
}

/// Moves blobs in every part that has them; answers with the relocations that changed something. What is stored never goes
/// back to being staged.
fn relocate(at: TableShard, shard: &Shard, relocated: &[Relocation], overlay: &mut Overlay) -> Vec<Relocation> {
    let places: HashMap<BlobId, &Location> = relocated.iter().map(|r| (r.blob, &r.location)).collect();
    if places.is_empty() {
        return Vec::new();
    }
    let wanted: HashSet<BlobId> = places.keys().copied().collect();
    let new_place = |file: &FileEntry| {
        let place = *places.get(&file.blob).filter(|place| ***place != file.location)?;
        let back = matches!((&file.location, place), (Location::Stored { .. }, Location::Staged { .. }));
        (!back).then_some(place)
    };
    let mut effective = BTreeSet::new();
    let mut moved = Vec::new();
    let kept = shard.parts.iter().filter(|(path, part)| !overlay.contains_key(*path) && part.may_have(&wanted));
    let kept = kept.map(|(path, part)| part.open(at, path));
    let touched: Vec<Manifest> = overlay.values().flatten().cloned().collect();
    for mut part in kept.chain(touched) {
        let mut changed = false;
        for file in &mut part.files {
            if let Some(place) = new_place(file) {
                file.location = place.clone();
                effective.insert(file.blob);
                changed = true;
            }
        }
        if changed {
            moved.push((part.part.clone(), Some(part)));
        }
    }
    overlay.extend(moved);
    effective.into_iter().map(|blob| Relocation { blob, location: places[&blob].clone() }).collect()
}

/// The same rows in the same blobs; where the blobs are kept may differ.
fn same_content(a: &Manifest, b: &Manifest) -> bool {
    let files = |part: &Manifest| -> BTreeSet<_> {
        part.files.iter().map(|file| (file.path.clone(), file.blob, file.bytes)).collect()
    };
    a.rows == b.rows && files(a) == files(b)
}

pub(super) fn objects_in(change: &PartChange) -> impl Iterator<Item = &ObjectKey> {
    let added = change.added.iter().flat_map(|part| &part.files).map(|file| &file.location);
    added.chain(change.relocated.iter().map(|r| &r.location)).filter_map(|location| match location {
        Location::Stored { object, .. } => Some(object),
        Location::Staged { .. } => None,
    })
}
