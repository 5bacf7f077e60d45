//! What the catalog hears of beside the engine's renames, and the order in which it hears.
//!
//! Three things wait here, for the next commit of their table shard or for [`ShardFs::flush_letting`], whichever comes first:
//! * names that the engine has let go of, and then their bytes: a name whose bytes are gone would be a broken part;
//! * *loose* parts (`detached/…`, `shadow/…`), which the engine makes and removes name by name: as they are at that moment;
//! * detached parts on their way back, which the catalog knows by their old name until it has the new one.

use std::collections::{BTreeSet, HashSet};

use moorhouse_base::failpoint;
use moorhouse_catalog::{BlobId, FilePath, PartChange, PartPath, ShardId, TableShard};

use super::error::FsError;
use super::place;
use super::rename::{Added, Sealing};
use super::tree::{Ino, ROOT, Tree};
use super::{Role, ShardFs, table_path};
use crate::limits;

/// What waits in one table shard.
#[derive(Default)]
pub(crate) struct Letting {
    pub parts: Vec<PartPath>,
    pub inodes: Vec<FilePath>,
    pub blobs: Vec<BlobId>,
    /// Loose parts that are no longer as they were committed.
    pub loose: BTreeSet<PartPath>,
}

impl Letting {
    fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.inodes.is_empty() && self.blobs.is_empty() && self.loose.is_empty()
    }
}

/// A directory `detached/attaching_…`.
pub(crate) struct Attaching {
    shard: TableShard,
    /// What the catalog calls it.
    part: PartPath,
    /// Files that have gone from it: their bytes are the catalog's until it forgets the part.
    unlinked: Vec<BlobId>,
}

/// The names that go along with a commit.
struct Names {
    parts: Vec<PartPath>,
    inodes: Vec<FilePath>,
}

impl ShardFs {
    /// Notes a change of the entry, if it belongs to a loose part.
    pub(super) fn note_loose(&self, tree: &Tree, (parent, name): (Ino, &str)) -> Result<(), FsError> {
        let Some((ts, below)) = tree.place(parent)?.entry(name) else { return Ok(()) };
        if let Some(part) = place::loose_part(&below)
            && self.role(ts) == Some(Role::Writer)
        {
            self.let_go(ts, |letting| letting.loose.extend([part]));
        }
        Ok(())
    }

    pub(super) fn begin_attaching(&self, dir: Ino, shard: TableShard, part: PartPath) {
        let attaching = Attaching { shard, part, unlinked: Vec::new() };
        self.attaching.lock().expect("lock").insert(dir, attaching);
    }

    /// The name by which the catalog knows the directory, if it is being attached.
    pub(super) fn attached_from(&self, dir: Ino) -> Option<PartPath> {
        self.attaching.lock().expect("lock").get(&dir).map(|attaching| attaching.part.clone())
    }

    /// The directory has its new name in the catalog; answers with what can be let go of now.
    pub(super) fn end_attaching(&self, dir: Ino) -> Vec<BlobId> {
        self.attaching.lock().expect("lock").remove(&dir).map(|attaching| attaching.unlinked).unwrap_or_default()
    }

    /// The directory is gone: the catalog is to forget the part.
    pub(super) fn drop_attaching(&self, dir: Ino) {
        let Some(Attaching { shard, part, unlinked }) = self.attaching.lock().expect("lock").remove(&dir) else {
            return;
        };
        self.let_go(shard, |letting| {
            letting.parts.push(part);
            letting.blobs.extend(unlinked);
        });
    }

    /// Keeps a blob that lost its last name in `parent`, if that lies in a part that is being attached.
    pub(super) fn keep_for_attaching(&self, tree: &Tree, parent: Ino, blob: BlobId) -> Result<bool, FsError> {
        let mut attaching = self.attaching.lock().expect("lock");
        let mut at = parent;
        while at != ROOT && !attaching.is_empty() {
            if let Some(attaching) = attaching.get_mut(&at) {
                attaching.unlinked.push(blob);
                return Ok(true);
            }
            at = tree.parent(at)?;
        }
        Ok(false)
    }

    /// Commits a change together with what waits for it: that must never be heard of later than what came after it. `added`
    /// may have been committed although the answer is an error: then it is let go of, too.
    pub(super) async fn commit_in_order(
        &self,
        ts: TableShard,
        mut change: PartChange,
        added: Option<PartPath>,
    ) -> Result<(), FsError> {
        let sync = self.sync_of(ts);
        let _order = sync.lock().await;
        self.commit_loose(ts, &change).await?;
        let Names { parts, inodes } = self.take_names(ts);
        change.removed.extend(parts.iter().cloned());
        change.inodes_removed.extend(inodes.iter().cloned());
        if change == PartChange::default() {
            return Ok(());
        }
        let outcome = self.commit(ts, change).await;
        if outcome.is_err() {
            self.let_go(ts, |letting| {
                letting.parts.extend(parts.into_iter().chain(added));
                letting.inodes.extend(inodes);
            });
        }
        outcome
    }

    fn take_names(&self, ts: TableShard) -> Names {
        let mut letting = self.letting.lock().expect("lock");
        let (parts, inodes) = letting
            .get_mut(&ts)
            .map(|l| (std::mem::take(&mut l.parts), std::mem::take(&mut l.inodes)))
            .unwrap_or_default();
        Names { parts, inodes }
    }

    /// Commits the loose parts that have changed, but for those that `next` speaks of itself.
    async fn commit_loose(&self, ts: TableShard, next: &PartChange) -> Result<(), FsError> {
        let loose = match self.letting.lock().expect("lock").get_mut(&ts) {
            Some(letting) => std::mem::take(&mut letting.loose),
            None => return Ok(()),
        };
        let spoken_of: HashSet<&PartPath> = next.removed.iter().chain(next.added.iter().map(|m| &m.part)).collect();
        let due: Vec<&PartPath> = loose.iter().filter(|part| !spoken_of.contains(part)).collect();
        let outcome = self.commit_as_they_are(ts, &due).await;
        if outcome.is_err() {
            self.let_go(ts, |letting| letting.loose.extend(loose));
        }
        outcome
    }

    /// In several commits where there are many: one change is one record.
    async fn commit_as_they_are(&self, ts: TableShard, parts: &[&PartPath]) -> Result<(), FsError> {
        let (mut removed, mut sealings, mut files) = (Vec::new(), Vec::new(), 0);
        for (at, part) in parts.iter().enumerate() {
            match self.loose_dir(ts, part) {
                None => removed.push((*part).clone()),
                Some(dir) => {
                    let sealing = self.seal(ts, &Added { part: (*part).clone(), dir }).await?;
                    files += sealing.manifest.files.len();
                    sealings.push(sealing);
                }
            }
            if files >= limits::LOOSE_FILES_A_COMMIT || at + 1 == parts.len() {
                self.commit_sealings(ts, std::mem::take(&mut removed), std::mem::take(&mut sealings)).await?;
                files = 0;
            }
        }
        Ok(())
    }

    /// The loose parts of a table shard, with their directories, that the catalog has as they are here.
    pub(super) fn lasting_loose(&self, tree: &Tree, ts: TableShard) -> Result<Vec<(PartPath, Ino)>, FsError> {
        let mut found = Vec::new();
        let mut look = |dir: Ino, above: &[&str]| -> Result<(), FsError> {
            for entry in tree.entries(dir)?.into_iter().filter(|entry| entry.is_dir) {
                let below: Vec<String> =
                    above.iter().copied().chain([entry.name.as_str()]).map(str::to_string).collect();
                found.extend(place::committed_part(&below).map(|part| (part, entry.ino)));
            }
            Ok(())
        };
        let table = table_path(ts);
        if let Ok(detached) = tree.resolve(ROOT, &table).and_then(|table| tree.child(table, place::DETACHED)) {
            look(detached, &[place::DETACHED])?;
        }
        let backups = tree.resolve(ROOT, &table[..1]).and_then(|shard| tree.entries(tree.child(shard, place::SHADOW)?));
        for backup in backups.unwrap_or_default() {
            if let Ok(frozen) = tree.resolve(backup.ino, &table[1..]) {
                look(frozen, &[place::SHADOW, &backup.name])?;
            }
        }
        let letting = self.letting.lock().expect("lock");
        if let Some(letting) = letting.get(&ts) {
            found.retain(|(part, _)| !letting.loose.contains(part));
        }
        Ok(found)
    }

    fn loose_dir(&self, ts: TableShard, part: &PartPath) -> Option<Ino> {
        let tree = self.tree.read().expect("lock");
        let found = tree.resolve(ROOT, &place::part_way(ts, part)).ok()?;
        tree.dir(found).is_ok().then_some(found)
    }

    async fn commit_sealings(
        &self,
        ts: TableShard,
        removed: Vec<PartPath>,
        sealings: Vec<Sealing>,
    ) -> Result<(), FsError> {
        let added = sealings.iter().map(|sealing| sealing.manifest.clone()).collect();
        self.commit(ts, PartChange { removed, added, ..PartChange::default() }).await?;
        let mut tree = self.tree.write().expect("lock");
        sealings.iter().try_for_each(|sealing| self.mark_sealed(&mut tree, sealing))
    }

    /// Reports all that waits: first the names of every table shard, then, when the catalog has heard, the bytes. Tables of a
    /// shard share bytes, so one table's silence keeps those of the whole shard.
    pub async fn flush_letting(&self) -> Result<(), FsError> {
        let mut outcome = Ok(());
        let waiting: BTreeSet<ShardId> = self.letting.lock().expect("lock").keys().map(|ts| ts.shard).collect();
        for shard in waiting {
            outcome = outcome.and(self.flush_shard(shard).await);
        }
        outcome
    }

    pub async fn flush_shard(&self, shard: ShardId) -> Result<(), FsError> {
        // Taken before the names go: what is let go of meanwhile waits for its own.
        let waiting: Vec<(TableShard, Vec<BlobId>)> = {
            let letting = self.letting.lock().expect("lock");
            letting.iter().filter(|(ts, _)| ts.shard == shard).map(|(ts, l)| (*ts, l.blobs.clone())).collect()
        };
        let mut outcome = Ok(());
        for (ts, _) in &waiting {
            // Not shown here at this moment: it comes back, or another node takes it over.
            if self.role(*ts) == Some(Role::Writer) {
                outcome = outcome.and(self.commit_in_order(*ts, PartChange::default(), None).await);
            }
        }
        outcome?;
        if !self.all_loaded(shard) {
            return Ok(());
        }
        failpoint::reach("letting.before_remove");
        for (ts, blobs) in waiting {
            if self.role(ts) == Some(Role::Writer) {
                self.remove_local(self.nameless(&blobs));
                self.forget_let_go(ts, &blobs);
            }
        }
        Ok(())
    }

    /// Whether every table of the shard that this node writes is loaded: one that is not may name a blob that nobody else does.
    pub(crate) fn all_loaded(&self, shard: ShardId) -> bool {
        let tables: Vec<TableShard> = {
            let mounted = self.mounted.read().expect("lock");
            let written = mounted.roles.iter().filter(|(_, role)| **role == Role::Writer);
            written.map(|(table, _)| TableShard { table: *table, shard }).collect()
        };
        tables.into_iter().all(|ts| self.is_loaded(ts))
    }

    /// Those of the blobs that no name has come to lead to again.
    fn nameless(&self, blobs: &[BlobId]) -> Vec<BlobId> {
        let tree = self.tree.read().expect("lock");
        blobs.iter().copied().filter(|blob| tree.by_blob(*blob).is_none()).collect()
    }

    fn forget_let_go(&self, ts: TableShard, blobs: &[BlobId]) {
        let done: HashSet<&BlobId> = blobs.iter().collect();
        let mut letting = self.letting.lock().expect("lock");
        if let Some(l) = letting.get_mut(&ts) {
            l.blobs.retain(|blob| !done.contains(blob));
            if l.is_empty() {
                letting.remove(&ts);
            }
        }
    }

    /// Forgets what was being attached in table shards that go.
    pub(super) fn forget_attaching(&self, goes: impl Fn(TableShard) -> bool) {
        self.attaching.lock().expect("lock").retain(|_, attaching| !goes(attaching.shard));
    }
}
