//! The committed content of a table shard: fetched on first use, then kept in step with the changelog where others write.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use moorhouse_catalog::{
    FileEntry, Manifest, PartChange, PartPath, Relocation, TableShard, TableShardSnapshot, Version, parts,
};

use super::error::FsError;
use super::place;
use super::stale::Look;
use super::tree::{Blob, Body, Ino, ROOT, Sealed, Small, Tree};
use super::{Role, ShardFs};

/// How long a reader still opens a part that the writer has removed: longer than the engine's `old_parts_lifetime` (480 s).
pub(super) const RETIRED_KEPT: Duration = Duration::from_secs(900);

/// How far this node's picture of a table shard goes.
#[derive(Debug, Default)]
pub struct ShardSync {
    loaded: bool,
    version: Option<Version>,
}

impl ShardFs {
    /// Fetches a table shard's content if that has not been done yet.
    pub async fn load(&self, ts: TableShard) -> Result<(), FsError> {
        let sync = self.sync_of(ts);
        let mut sync = sync.lock().await;
        if sync.loaded {
            return Ok(());
        }
        let snapshot = self.controller.snapshot(ts).await?;
        sync.version = Some(snapshot.version);
        self.fill(ts, snapshot)?;
        sync.loaded = true;
        Ok(())
    }

    fn fill(&self, ts: TableShard, snapshot: TableShardSnapshot) -> Result<(), FsError> {
        let made = self.fill_tree(ts, snapshot)?;
        self.forget_entries(made);
        Ok(())
    }

    /// Answers with names outside the table's directory that the kernel may remember as absent.
    fn fill_tree(&self, ts: TableShard, snapshot: TableShardSnapshot) -> Result<Vec<(Ino, String)>, FsError> {
        let mut made = Vec::new();
        let mut tree = self.tree.write().expect("lock");
        let table = tree.resolve(ROOT, &self.shown_path(ts))?;
        let links = if self.role(ts) == Some(Role::Reader) { Links::Newest } else { Links::First };
        for manifest in snapshot.parts {
            if !place::is_frozen(&manifest.part) {
                show_part(&mut tree, table, &manifest, links)?;
            } else if self.role(ts) == Some(Role::Writer) {
                let parent = way_to_frozen(&mut tree, ts, &manifest.part, &mut made)?;
                show_part_at(&mut tree, parent, &manifest, links)?;
            }
        }
        for inode in snapshot.inodes {
            let (dir, name) = make_way(&mut tree, table, inode.path.as_str())?;
            let small = Small { content: inode.content, ..Small::default() };
            tree.make_file(dir, &name, 0o644, SystemTime::UNIX_EPOCH, Body::Small(small))?;
        }
        tree.dir_mut(table)?.loaded = true;
        Ok(made)
    }

    /// Takes in one changelog entry of a table that another group writes. A gap is closed with one change to the newest
    /// version, or with a snapshot if the changelog does not reach back.
    pub async fn follow(&self, ts: TableShard, version: Version, change: &PartChange) -> Result<(), FsError> {
        if self.role(ts) != Some(Role::Reader) {
            return Ok(());
        }
        let sync = self.sync_of(ts);
        let mut sync = sync.lock().await;
        match sync.version {
            Some(known) if sync.loaded && version == known.next() => {
                self.apply(ts, change)?;
                sync.version = Some(version);
                Ok(())
            }
            Some(known) if sync.loaded && version > known => {
                tracing::info!(%ts, %known, %version, "a gap in the changelog: catching up");
                self.catch_up_locked(ts, &mut sync).await
            }
            _ => Ok(()),
        }
    }

    /// Compares a loaded reader with the catalog, whatever was missed.
    pub async fn catch_up(&self, ts: TableShard) -> Result<(), FsError> {
        let sync = self.sync_of(ts);
        let mut sync = sync.lock().await;
        if sync.loaded { self.catch_up_locked(ts, &mut sync).await } else { Ok(()) }
    }

    async fn catch_up_locked(&self, ts: TableShard, sync: &mut ShardSync) -> Result<(), FsError> {
        if let Some(known) = sync.version
            && let Some((version, change)) = self.controller.changes_since(ts, known).await?
        {
            if version != known {
                self.apply(ts, &change)?;
                sync.version = Some(version);
            }
            return Ok(());
        }
        self.take_snapshot(ts, sync).await
    }

    /// The changelog does not reach back so far.
    async fn take_snapshot(&self, ts: TableShard, sync: &mut ShardSync) -> Result<(), FsError> {
        let snapshot = self.controller.snapshot(ts).await?;
        if sync.version == Some(snapshot.version) {
            return Ok(());
        }
        let known = self.committed_parts(ts)?;
        let wanted: HashSet<&PartPath> = snapshot.parts.iter().map(|m| &m.part).collect();
        let (same, added): (Vec<_>, Vec<_>) = {
            let tree = self.tree.read().expect("lock");
            let table = tree.resolve(ROOT, &self.shown_path(ts))?;
            let is_same = |m: &&Manifest| known.contains(&m.part) && has_content(&tree, table, m);
            snapshot.parts.iter().partition(is_same)
        };
        let change = PartChange {
            removed: known.iter().filter(|part| !wanted.contains(part)).cloned().collect(),
            added: added.into_iter().cloned().collect(),
            relocated: same.into_iter().flat_map(relocations).collect(),
            ..PartChange::default()
        };
        self.apply(ts, &change)?;
        sync.version = Some(snapshot.version);
        Ok(())
    }

    /// Brings the reader's tree in line, then tells kernel and engine.
    fn apply(&self, ts: TableShard, change: &PartChange) -> Result<(), FsError> {
        let added: Vec<&Manifest> = change.added.iter().filter(|manifest| !place::is_loose(&manifest.part)).collect();
        let removed: Vec<&PartPath> = change.removed.iter().filter(|part| !place::is_loose(part)).collect();
        let (table, made, look) = {
            let mut tree = self.tree.write().expect("lock");
            let mut table = tree.resolve(ROOT, &self.shown_path(ts))?;
            let mut made = Vec::new();
            let is_other = |m: &&&Manifest| tree.child(table, m.part.as_str()).is_ok() && !has_content(&tree, table, m);
            let remade: HashSet<&str> = added.iter().filter(is_other).map(|m| m.part.as_str()).collect();
            if !remade.is_empty() {
                let (next, name) = self.begin_generation(&mut tree, ts, &remade)?;
                (table, made) = (next, vec![name]);
            }
            for manifest in &added {
                show_part(&mut tree, table, manifest, Links::Newest)?;
            }
            relocate(&mut tree, &change.relocated)?;
            self.note_retired(ts, &added, &removed);
            let afresh = !remade.is_empty() || self.leaves_a_gap(&tree, ts, table, &removed)?;
            (table, made, if afresh { Some(Look::Afresh) } else { (!added.is_empty()).then_some(Look::Again) })
        };
        if added.is_empty() && removed.is_empty() {
            return Ok(());
        }
        let shown = added.iter().map(|m| (table, m.part.as_str().to_string()));
        self.forget_entries(shown.chain(made).collect());
        self.tell_kernel(|kernel| kernel.forget_listing(table));
        if let Some(look) = look {
            self.stale.note(ts, look);
        }
        Ok(())
    }

    fn note_retired(&self, ts: TableShard, added: &[&Manifest], removed: &[&PartPath]) {
        let now = Instant::now();
        let mut retired = self.retired.lock().expect("lock");
        retired.extend(removed.iter().map(|part| ((ts, (*part).clone()), now)));
        for manifest in added {
            retired.remove(&(ts, manifest.part.clone()));
        }
    }

    /// Whether one of these parts has gone and no other stands for it: an engine keeps such a part until it attaches again.
    fn leaves_a_gap(&self, tree: &Tree, ts: TableShard, table: Ino, removed: &[&PartPath]) -> Result<bool, FsError> {
        if removed.is_empty() {
            return Ok(false);
        }
        let entries = tree.entries(table)?;
        let retired = self.retired.lock().expect("lock");
        let is_shown = |name: &str| match place::committed_part(&[name.to_string()]) {
            Some(part) => !retired.contains_key(&(ts, part)),
            None => false,
        };
        let shown = entries.iter().filter(|e| e.is_dir && is_shown(&e.name)).map(|e| e.name.as_str());
        let gone: HashSet<&str> = removed.iter().map(|part| part.as_str()).collect();
        let shown = shown.filter(|name| !gone.contains(name));
        let active = parts::active(shown.chain(gone.iter().copied()));
        Ok(active.into_iter().any(|name| gone.contains(name)))
    }

    /// Forgets parts that no reader of this node can still be using.
    pub fn prune_retired(&self) {
        if let Err(error) = self.prune_generations() {
            tracing::warn!(%error, "a directory that nobody reads stays");
        }
        let due: Vec<_> = {
            let mut retired = self.retired.lock().expect("lock");
            let due: Vec<_> =
                retired.iter().filter(|(_, at)| at.elapsed() > RETIRED_KEPT).map(|(k, _)| k.clone()).collect();
            for key in &due {
                retired.remove(key);
            }
            due
        };
        for (ts, part) in due {
            let mut tree = self.tree.write().expect("lock");
            let Ok(table) = tree.resolve(ROOT, &self.shown_path(ts)) else { continue };
            let _ = tree.remove_subtree(table, part.as_str());
            drop(tree);
            self.forget_entries(vec![(table, part.into())]);
        }
    }

    fn committed_parts(&self, ts: TableShard) -> Result<HashSet<PartPath>, FsError> {
        let tree = self.tree.read().expect("lock");
        let table = tree.resolve(ROOT, &self.shown_path(ts))?;
        let retired = self.retired.lock().expect("lock");
        let names = tree.entries(table)?.into_iter().filter(|e| e.is_dir).map(|e| [e.name]);
        let parts = names.filter_map(|name| place::committed_part(&name));
        Ok(parts.filter(|part| !retired.contains_key(&(ts, part.clone()))).collect())
    }

    /// Notes the new place of blobs.
    pub fn relocate(&self, relocations: &[Relocation]) -> Result<(), FsError> {
        relocate(&mut self.tree.write().expect("lock"), relocations)
    }
}

fn relocations(manifest: &Manifest) -> impl Iterator<Item = Relocation> + '_ {
    manifest.files.iter().map(|f| Relocation { blob: f.blob, location: f.location.clone() })
}

fn relocate(tree: &mut Tree, relocations: &[Relocation]) -> Result<(), FsError> {
    for relocation in relocations {
        let Some(ino) = tree.by_blob(relocation.blob) else { continue };
        if let Body::Blob(Blob { sealed: Some(sealed), .. }) = &mut tree.get_mut(ino)?.body {
            sealed.location = relocation.location.clone();
        }
    }
    Ok(())
}

/// Which directory a file of several parts is at home in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    /// The one that it was made in: what a writer asks to tell its tables' bytes apart.
    First,
    /// The one that came last, which is there for longest.
    Newest,
}

/// Whether the part of this name has just these files with just these blobs.
fn has_content(tree: &Tree, table: Ino, manifest: &Manifest) -> bool {
    let Ok(files) = tree.child(table, manifest.part.as_str()).and_then(|dir| tree.files_below(dir)) else {
        return false;
    };
    let blob = |ino: Ino| match tree.get(ino).map(|node| &node.body) {
        Ok(Body::Blob(blob)) => Some(blob.id),
        _ => None,
    };
    let there: HashSet<_> = files.into_iter().map(|(path, ino)| (path, blob(ino))).collect();
    let same = |file: &FileEntry| there.contains(&(file.path.to_string(), Some(file.blob)));
    manifest.files.len() == there.len() && manifest.files.iter().all(same)
}

/// Makes the directories in which a frozen part lies; answers with the last.
fn way_to_frozen(
    tree: &mut Tree,
    ts: TableShard,
    part: &PartPath,
    made: &mut Vec<(Ino, String)>,
) -> Result<Ino, FsError> {
    let mut names = place::part_way(ts, part);
    names.pop();
    names.iter().try_fold(ROOT, |at, name| super::show_dir(tree, at, name, made))
}

/// Makes a part's directory below its table's.
fn show_part(tree: &mut Tree, table: Ino, manifest: &Manifest, links: Links) -> Result<(), FsError> {
    let (parent, _) = make_way(tree, table, manifest.part.as_str())?;
    show_part_at(tree, parent, manifest, links)
}

/// Makes a part's directory from its manifest; a part that is there already stays as it is.
fn show_part_at(tree: &mut Tree, parent: Ino, manifest: &Manifest, links: Links) -> Result<(), FsError> {
    let committed = SystemTime::UNIX_EPOCH + Duration::from_millis(manifest.committed_ms);
    let name = manifest.part.as_str().rsplit('/').next().unwrap_or_default().to_string();
    if tree.child(parent, &name).is_ok() {
        return Ok(());
    }
    let part = tree.make_dir(parent, &name, 0o755, committed)?;
    for file in &manifest.files {
        let (dir, name) = make_way(tree, part, file.path.as_str())?;
        // Parts share files after a mutation: one inode, or the first part's end would take the bytes of both.
        if let Some(shared) = tree.by_blob(file.blob) {
            tree.link(shared, dir, &name, committed)?;
            if links == Links::Newest {
                tree.get_mut(shared)?.home = dir;
            }
            continue;
        }
        let sealed = Some(Sealed { bytes: file.bytes, location: file.location.clone() });
        tree.make_file(dir, &name, 0o644, committed, Body::Blob(Blob { id: file.blob, sealed }))?;
    }
    Ok(())
}

/// Makes the directories that lead to the last name of `path`; answers with the last directory and that name.
pub(super) fn make_way(tree: &mut Tree, from: Ino, path: &str) -> Result<(Ino, String), FsError> {
    let mut names: Vec<&str> = path.split('/').collect();
    let last = names.pop().unwrap_or_default().to_string();
    let mut dir = from;
    for name in names {
        dir = tree.ensure_dir(dir, name)?;
    }
    Ok((dir, last))
}
