//! Which committed parts still wait for their upload, and what becomes of new rows while they fill staging.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use moorhouse_catalog::parts::PartInfo;
use moorhouse_catalog::{BlobId, Location, PartChange, PartPath, Relocation, TableShard, parts};

use super::error::FsError;
use super::tree::{Blob, Body, Ino, ROOT, Sealed, Tree};
use super::{ShardFs, place, table_path};
use crate::upload::pressure::Pressure;
use crate::upload::repack::{StoredFile, StoredPart};
use crate::{limits, metrics};

/// A part with bytes that only this node has.
#[derive(Debug, Clone)]
pub struct StagedPart {
    pub shard: TableShard,
    pub part: PartPath,
    pub age: Duration,
    /// The engine has written a part that replaces it, or is writing one.
    pub is_leaving: bool,
    /// The staged files alone, in name order: what shares an object already is not sent again.
    pub files: Vec<StagedFile>,
}

#[derive(Debug, Clone)]
pub struct StagedFile {
    pub path: String,
    pub blob: BlobId,
    pub bytes: u64,
}

impl StagedPart {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }
}

impl ShardFs {
    /// Parts that a newer one covers are left out, unless asked for: they will be gone before an upload would pay, but until then
    /// they take room. Loose parts (detached, frozen) are among them once the catalog has them as they are: a node can be emptied
    /// only when nothing lies there alone.
    pub fn staged_parts(&self, shard: TableShard, with_covered: bool) -> Result<Vec<StagedPart>, FsError> {
        let tree = self.tree.read().expect("lock");
        let table = tree.resolve(ROOT, &table_path(shard))?;
        let entries = tree.entries(table)?;
        let dirs = || entries.iter().filter(|e| e.is_dir).map(|e| e.name.as_str());
        let active: HashSet<&str> = parts::active(dirs()).into_iter().collect();
        let merges: Vec<PartInfo> =
            dirs().filter_map(|name| PartInfo::parse(name.strip_prefix("tmp_merge_")?)).collect();
        let mut staged = Vec::new();
        for entry in entries.iter().filter(|entry| entry.is_dir) {
            let name = entry.name.as_str();
            let is_covered = !active.contains(name);
            let Some(part) = place::committed_part(&[name.to_string()]).filter(|_| with_covered || !is_covered) else {
                continue;
            };
            let is_merging = |part: PartInfo| merges.iter().any(|merged| merged.covers(&part));
            let is_leaving = is_covered || PartInfo::parse(name).is_some_and(is_merging);
            staged.extend(self.staged_part(&tree, (shard, part), entry.ino, is_leaving)?);
        }
        for (part, dir) in self.lasting_loose(&tree, shard)? {
            staged.extend(self.staged_part(&tree, (shard, part), dir, false)?);
        }
        Ok(staged)
    }

    /// None for a part without bytes that only this node has.
    fn staged_part(
        &self,
        tree: &Tree,
        (shard, part): (TableShard, PartPath),
        dir: Ino,
        is_leaving: bool,
    ) -> Result<Option<StagedPart>, FsError> {
        let mut files = Vec::new();
        for (path, ino) in tree.files_below(dir)? {
            if let Body::Blob(Blob { id, sealed: Some(Sealed { bytes, location: Location::Staged { node } }) }) =
                &tree.get(ino)?.body
                && *node == self.node
            {
                files.push(StagedFile { path, blob: *id, bytes: *bytes });
            }
        }
        let age = self.age_of(tree.get(dir)?.mtime);
        Ok((!files.is_empty()).then_some(StagedPart { shard, part, age, is_leaving, files }))
    }

    /// Tells of a table shard's parts, loose and covered ones among them, as far as they are in the object store. The tree is free
    /// for others now and then: what is told may change before it is over.
    pub fn visit_stored(&self, shard: TableShard, mut visit: impl FnMut(StoredPart)) -> Result<(), FsError> {
        let dirs = self.part_dirs(&self.tree.read().expect("lock"), shard)?;
        let mut names = HashMap::new();
        for some in dirs.chunks(limits::PARTS_A_LOOK) {
            let tree = self.tree.read().expect("lock");
            some.iter().for_each(|(_, dir, _)| count_names(&tree, *dir, &mut names));
        }
        for some in dirs.chunks(limits::PARTS_A_LOOK) {
            let tree = self.tree.read().expect("lock");
            let stored: Vec<StoredPart> = some
                .iter()
                .map(|(part, dir, is_active)| StoredPart {
                    part: part.clone(),
                    age: tree.get(*dir).map_or(Duration::ZERO, |node| self.age_of(node.mtime)),
                    is_active: *is_active,
                    files: stored_files(&tree, *dir, &names),
                })
                .collect();
            drop(tree);
            stored.into_iter().filter(|part| !part.files.is_empty()).for_each(&mut visit);
        }
        Ok(())
    }

    fn age_of(&self, mtime: SystemTime) -> Duration {
        self.now().duration_since(mtime).unwrap_or_default()
    }

    /// The directories of a table shard's committed parts, and whether the engine opens each.
    fn part_dirs(&self, tree: &Tree, shard: TableShard) -> Result<Vec<(PartPath, Ino, bool)>, FsError> {
        let entries = tree.entries(tree.resolve(ROOT, &table_path(shard))?)?;
        let dirs = || entries.iter().filter(|e| e.is_dir);
        let active: HashSet<&str> = parts::active(dirs().map(|e| e.name.as_str())).into_iter().collect();
        let committed = dirs().filter_map(|entry| {
            let part = place::committed_part(std::slice::from_ref(&entry.name))?;
            Some((part, entry.ino, active.contains(entry.name.as_str())))
        });
        let mut found: Vec<_> = committed.collect();
        found.extend(self.lasting_loose(tree, shard)?.into_iter().map(|(part, dir)| (part, dir, false)));
        Ok(found)
    }

    /// Tells the catalog of new places of files that `parts` have in the object store, but for those that have other names too by
    /// now: another table may share them, and what that one commits names the old place. Answers with how many were told.
    pub(crate) async fn commit_moved(
        &self,
        ts: TableShard,
        parts: &[PartPath],
        moved: &[Relocation],
    ) -> Result<usize, FsError> {
        // Who shares a file commits it while this is not held.
        let _sharing = self.sharing.read().await;
        let relocated = {
            let tree = self.tree.read().expect("lock");
            let mut names = HashMap::new();
            for part in parts {
                if let Ok(dir) = tree.resolve(ROOT, &place::part_way(ts, part)) {
                    count_names(&tree, dir, &mut names);
                }
            }
            let is_own =
                |moved: &&Relocation| tree.by_blob(moved.blob).is_some_and(|ino| !is_shared(&tree, ino, &names));
            moved.iter().filter(is_own).cloned().collect::<Vec<_>>()
        };
        if relocated.is_empty() {
            return Ok(0);
        }
        let epoch =
            self.epoch(ts.shard).ok_or_else(|| FsError::Fenced(format!("shard {} is not mounted here", ts.shard)))?;
        let change = PartChange { relocated, ..PartChange::default() };
        self.controller.commit(ts, epoch, &change).await?;
        self.relocate(&change.relocated)?;
        Ok(change.relocated.len())
    }

    /// How full staging is, and what follows from it.
    pub fn pressure(&self) -> Pressure {
        let stats = self.cache.stats();
        Pressure::of(stats.staged_used_bytes, stats.budget_bytes)
    }

    /// Lets new rows wait as long as staging is too full for them, the longer the fuller; refuses them when there was no room
    /// for as long as the node's patience. Only for new rows: a merge makes room in the end, and must not wait for it.
    pub(super) async fn await_room(&self) -> Result<(), FsError> {
        let begun = tokio::time::Instant::now();
        let mut is_counted = false;
        loop {
            match self.pressure() {
                Pressure::Easy | Pressure::Hurried => return Ok(()),
                Pressure::Slowed(pause) if begun.elapsed() >= pause => return Ok(()),
                Pressure::Full if begun.elapsed() >= self.policy.staging_patience() => return Err(self.no_room()),
                Pressure::Slowed(_) | Pressure::Full => {}
            }
            if !std::mem::replace(&mut is_counted, true) {
                metrics::INSERTS_DELAYED.inc();
            }
            tokio::time::sleep(limits::STAGING_LOOK).await;
        }
    }

    fn no_room(&self) -> FsError {
        metrics::INSERTS_REFUSED.inc();
        let stats = self.cache.stats();
        FsError::NoSpace(format!(
            "{} of {} bytes wait for their upload: look whether the object store takes writes \
             (moorhouse_agent_uploads_unfinished), or give the node a larger --cache-bytes",
            stats.staged_used_bytes, stats.budget_bytes
        ))
    }
}

/// Counts, of files with several names, those in this part's directory.
fn count_names(tree: &Tree, dir: Ino, names: &mut HashMap<Ino, u32>) {
    // Gone since it was listed.
    let Ok(files) = tree.files_below(dir) else { return };
    for (_, ino) in files {
        if tree.get(ino).is_ok_and(|node| node.nlink > 1) {
            *names.entry(ino).or_default() += 1;
        }
    }
}

/// Whether a file has names besides the counted ones.
fn is_shared(tree: &Tree, ino: Ino, names: &HashMap<Ino, u32>) -> bool {
    tree.get(ino).is_ok_and(|node| node.nlink > names.get(&ino).copied().unwrap_or(1))
}

fn stored_files(tree: &Tree, dir: Ino, names: &HashMap<Ino, u32>) -> Vec<StoredFile> {
    let mut stored = Vec::new();
    for (path, ino) in tree.files_below(dir).unwrap_or_default() {
        let Ok(node) = tree.get(ino) else { continue };
        if let Body::Blob(Blob { id: blob, sealed: Some(Sealed { bytes, location }) }) = &node.body
            && let Location::Stored { object, offset, crc32c } = location.clone()
        {
            let (is_linked, is_shared) = (node.nlink > 1, is_shared(tree, ino, names));
            stored.push(StoredFile { path, blob: *blob, bytes: *bytes, object, offset, crc32c, is_linked, is_shared });
        }
    }
    stored
}
