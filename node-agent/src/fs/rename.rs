//! rename(2), and with it the commit of parts.
//!
//! A directory that is renamed to a part's name becomes a part: its bytes are made durable, its manifest is committed under
//! the shard's epoch, and only then does the rename answer. Anything that prevents that fails the rename with EIO, and the
//! engine fails the statement cleanly. A part that the engine puts away after another part has covered it is reported in
//! the background: should that be lost, the part merely comes back covered.

use moorhouse_base::failpoint;
use moorhouse_cache::BlobKey;
use moorhouse_catalog::parts::PartInfo;
use moorhouse_catalog::{BlobId, FileEntry, FilePath, Inode, Location, Manifest, PartChange, PartPath, TableShard};

use super::error::FsError;
use super::io::{Opened, Opening};
use super::place::{self, Place};
use super::tree::{Blob, Body, Ino, ROOT, Sealed, Tree, TreeError};
use super::{Role, ShardFs, table_path};
use crate::blobs::key;
use crate::metrics;

/// The engine's name for the directory of rows that a statement brings.
const INSERTING: &str = "tmp_insert_";

/// What a rename turned out to be.
#[derive(Debug)]
pub enum Renaming {
    /// Done: nothing that the catalog must hear of at once.
    Done,
    /// To be finished by [`ShardFs::commit_rename`].
    Commit(Box<Commit>),
}

#[derive(Debug)]
pub struct Commit {
    shard: TableShard,
    from: (Ino, String),
    to: (Ino, String),
    removed: Option<PartPath>,
    added: Option<Added>,
    inode_removed: Option<FilePath>,
    inode_put: Option<FilePath>,
}

#[derive(Debug)]
pub(super) struct Added {
    pub part: PartPath,
    pub dir: Ino,
}

/// A directory's files as a manifest, all their bytes on the disk.
pub(super) struct Sealing {
    pub manifest: Manifest,
    /// Files that were not sealed before.
    fresh: Vec<(Ino, u64)>,
}

/// Lasting small files that changed since their last commit.
#[derive(Default)]
struct Dirty {
    inodes: Vec<Inode>,
    /// Which state of each was taken.
    marks: Vec<(Ino, u64)>,
}

impl Dirty {
    fn mark_committed(&self, tree: &mut Tree) {
        for (ino, changes) in &self.marks {
            if let Ok(node) = tree.get_mut(*ino)
                && let Body::Small(small) = &mut node.body
            {
                small.committed = *changes;
            }
        }
    }
}

impl ShardFs {
    /// Does a rename of names in progress at once; hands back what needs the catalog.
    pub fn begin_rename(&self, from: (Ino, &str), to: (Ino, &str), no_replace: bool) -> Result<Renaming, FsError> {
        let mut tree = self.tree.write().expect("lock");
        let ino = tree.child(from.0, from.1)?;
        if no_replace && tree.child(to.0, to.1).is_ok() {
            return Err(TreeError::Exists.into());
        }
        self.check_writable(&tree, to.0, to.1)?;
        self.check_writable(&tree, from.0, from.1)?;
        let commit = self.classify(&tree, ino, from, to)?;
        let Some(commit) = commit else {
            let entry = tree.place(to.0)?.entry(to.1);
            let orphan = tree.rename(from, to, self.now())?;
            self.note_loose(&tree, from)?;
            self.note_loose(&tree, to)?;
            if let (Some((ts, _)), Some(blob)) = (entry, orphan) {
                self.let_go(ts, |letting| letting.blobs.push(blob.id));
            }
            return Ok(Renaming::Done);
        };
        if let Ok(target) = tree.child(to.0, to.1)
            && tree.entries(target).is_ok_and(|entries| !entries.is_empty())
        {
            return Err(TreeError::NotEmpty.into());
        }
        if let (Some(part), None) = (&commit.removed, &commit.added)
            && is_attaching(&tree, to)?
        {
            tree.rename(from, to, self.now())?;
            self.begin_attaching(ino, commit.shard, part.clone());
            return Ok(Renaming::Done);
        }
        if let (Some(part), None) = (&commit.removed, &commit.added)
            && self.is_covered(&tree, from.0, part)?
        {
            tree.rename(from, to, self.now())?;
            self.let_go(commit.shard, |letting| letting.parts.push(part.clone()));
            return Ok(Renaming::Done);
        }
        Ok(Renaming::Commit(Box::new(commit)))
    }

    /// RENAME_EXCHANGE, for names in progress alone.
    pub fn exchange(&self, from: (Ino, &str), to: (Ino, &str)) -> Result<(), FsError> {
        let mut tree = self.tree.write().expect("lock");
        let (first, second) = (tree.child(from.0, from.1)?, tree.child(to.0, to.1)?);
        let lasting =
            self.classify(&tree, first, from, to)?.is_some() || self.classify(&tree, second, to, from)?.is_some();
        if lasting {
            return Err(FsError::Unsupported("exchanging committed names"));
        }
        tree.exchange(from, to, self.now())?;
        self.note_loose(&tree, from)?;
        self.note_loose(&tree, to)
    }

    fn classify(&self, tree: &Tree, ino: Ino, from: (Ino, &str), to: (Ino, &str)) -> Result<Option<Commit>, FsError> {
        let source = tree.place(from.0)?.entry(from.1);
        let target = tree.place(to.0)?.entry(to.1);
        let shard = match (&source, &target) {
            (Some((a, _)), Some((b, _))) if a != b => return Err(FsError::Unsupported("moving between tables")),
            (Some((shard, _)), _) | (None, Some((shard, _))) => *shard,
            (None, None) => return Ok(None),
        };
        if self.role(shard) != Some(Role::Writer) {
            return Ok(None);
        }
        let is_dir = matches!(tree.get(ino)?.body, Body::Dir(_));
        let part =
            |at: &Option<(TableShard, Vec<String>)>| at.as_ref().and_then(|(_, below)| place::committed_part(below));
        let inode =
            |at: &Option<(TableShard, Vec<String>)>| at.as_ref().and_then(|(_, below)| place::committed_inode(below));
        let commit = Commit {
            shard,
            from: (from.0, from.1.to_string()),
            to: (to.0, to.1.to_string()),
            removed: part(&source).filter(|_| is_dir),
            added: part(&target).filter(|_| is_dir).map(|part| Added { part, dir: ino }),
            inode_removed: inode(&source).filter(|_| !is_dir),
            inode_put: inode(&target).filter(|_| !is_dir),
        };
        let nothing = commit.removed.is_none()
            && commit.added.is_none()
            && commit.inode_removed.is_none()
            && commit.inode_put.is_none();
        Ok((!nothing).then_some(commit))
    }

    fn is_covered(&self, tree: &Tree, table: Ino, part: &PartPath) -> Result<bool, FsError> {
        let Some(info) = PartInfo::parse(part.as_str()) else { return Ok(false) };
        let covering =
            |name: &str| name != part.as_str() && PartInfo::parse(name).is_some_and(|other| other.covers(&info));
        Ok(tree.entries(table)?.iter().any(|entry| entry.is_dir && covering(&entry.name)))
    }

    /// Makes the bytes durable, commits, and lets the name change. On an error nothing has changed.
    pub async fn commit_rename(&self, commit: Commit) -> Result<(), FsError> {
        let started = std::time::Instant::now();
        if commit.added.is_some() && commit.from.1.starts_with(INSERTING) {
            self.await_room().await?;
        }
        let _alone = match &commit.added {
            Some(added) if self.shares_bytes(commit.shard, added.dir)? => Some(self.sharing.write().await),
            _ => None,
        };
        let mut sealing = match &commit.added {
            Some(added) => Some(self.seal(commit.shard, added).await?),
            None => None,
        };
        let relocated = match &mut sealing {
            Some(sealing) => self.secure(commit.shard, &mut sealing.manifest).await?,
            None => Vec::new(),
        };
        let mut dirty = self.dirty_inodes(commit.shard)?;
        let mut inodes_put = std::mem::take(&mut dirty.inodes);
        if let Some(path) = &commit.inode_put {
            inodes_put.push(Inode { path: path.clone(), content: self.small_content(commit.from.0, &commit.from.1)? });
        }
        let added = commit.added.as_ref();
        let attached = added.and_then(|a| self.attached_from(a.dir).filter(|old| *old != a.part));
        let change = PartChange {
            removed: commit.removed.iter().cloned().chain(attached).collect(),
            added: sealing.iter().map(|s| s.manifest.clone()).collect(),
            inodes_removed: commit.inode_removed.iter().cloned().collect(),
            inodes_put,
            relocated: relocated.clone(),
        };
        let added = added.map(|added| added.part.clone());
        failpoint::reach("commit.before");
        self.commit_in_order(commit.shard, change, added).await?;
        failpoint::reach("commit.after");
        let mut tree = self.tree.write().expect("lock");
        if let Some(sealing) = &sealing {
            self.mark_sealed(&mut tree, sealing)?;
        }
        dirty.mark_committed(&mut tree);
        let from = (commit.from.0, commit.from.1.as_str());
        let orphan = tree.rename(from, (commit.to.0, commit.to.1.as_str()), self.now())?;
        let unlinked: Vec<BlobId> = commit.added.iter().flat_map(|added| self.end_attaching(added.dir)).collect();
        self.let_go(commit.shard, |letting| {
            letting.blobs.extend(orphan.map(|blob| blob.id));
            letting.blobs.extend(unlinked);
        });
        drop(tree);
        self.note_stored(&relocated)?;
        metrics::COMMIT_SECONDS.observe(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Sends one change under the shard's present epoch. Blobs that it only relocates are relocated here too when it returns.
    pub(crate) async fn commit(&self, ts: TableShard, change: PartChange) -> Result<(), FsError> {
        let epoch =
            self.epoch(ts.shard).ok_or_else(|| FsError::Fenced(format!("shard {} is not mounted here", ts.shard)))?;
        if change.relocated.is_empty() || !change.added.is_empty() {
            return self.controller.commit(ts, epoch, &change).await;
        }
        let _sharing = self.sharing.read().await;
        self.controller.commit(ts, epoch, &change).await?;
        self.relocate(&change.relocated)
    }

    /// Whether a directory has links to bytes of another table, which that table's upload may be about to relocate: the
    /// catalog does so for the parts that it has by then.
    fn shares_bytes(&self, ts: TableShard, dir: Ino) -> Result<bool, FsError> {
        let tree = self.tree.read().expect("lock");
        for (_, file) in tree.files_below(dir)? {
            let node = tree.get(file)?;
            let is_sealed = matches!(&node.body, Body::Blob(blob) if blob.sealed.is_some());
            // The directory of the first name may be gone since: then nobody can say whose it was.
            let is_own = matches!(tree.place(node.home), Ok(Place::Table { shard, .. }) if shard == ts);
            if is_sealed && !is_own {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A directory's files as a manifest, their bytes on the disk.
    pub(super) async fn seal(&self, ts: TableShard, added: &Added) -> Result<Sealing, FsError> {
        failpoint::reach("seal.before_sync");
        let rows = self.count_rows(added.dir).await?;
        let files = self.files_of(added.dir)?;
        let unsynced = files.iter().filter(|(_, _, blob)| blob.sealed.is_none());
        let keys: Vec<_> = unsynced.map(|(_, _, blob)| key(blob.id)).collect();
        let lengths = if keys.is_empty() { Vec::new() } else { self.sync(keys).await? };
        let sealing = self.describe(added, rows, files, lengths)?;
        tracing::debug!(%ts, part = %added.part, files = sealing.manifest.files.len(), "sealed");
        Ok(sealing)
    }

    async fn sync(&self, keys: Vec<BlobKey>) -> Result<Vec<u64>, FsError> {
        let cache = self.cache.clone();
        let synced = tokio::task::spawn_blocking(move || cache.sync_staged(&keys)).await;
        Ok(synced.map_err(|error| FsError::Unavailable(error.to_string()))??)
    }

    /// The bytes of a sealing are committed: they do not change any more.
    pub(super) fn mark_sealed(&self, tree: &mut Tree, sealing: &Sealing) -> Result<(), FsError> {
        for (ino, bytes) in &sealing.fresh {
            if let Body::Blob(blob) = &mut tree.get_mut(*ino)?.body {
                blob.sealed = Some(Sealed { bytes: *bytes, location: Location::Staged { node: self.node.clone() } });
            }
        }
        Ok(())
    }

    fn files_of(&self, dir: Ino) -> Result<Vec<(String, Ino, Blob)>, FsError> {
        let tree = self.tree.read().expect("lock");
        let mut files = Vec::new();
        for (path, ino) in tree.files_below(dir)? {
            match &tree.get(ino)?.body {
                Body::Blob(blob) => files.push((path, ino, blob.clone())),
                Body::Small(_) | Body::Dir(_) => return Err(FsError::Unsupported("a small file inside a part")),
            }
        }
        Ok(files)
    }

    /// `lengths`: of the files that are not sealed yet, in their order.
    fn describe(
        &self,
        added: &Added,
        rows: u64,
        files: Vec<(String, Ino, Blob)>,
        lengths: Vec<u64>,
    ) -> Result<Sealing, FsError> {
        let mut lengths = lengths.into_iter();
        let mut sealing = Sealing {
            manifest: Manifest {
                part: added.part.clone(),
                rows,
                committed_ms: self.clock.now_ms(),
                files: Vec::with_capacity(files.len()),
                copies: Vec::new(),
            },
            fresh: Vec::new(),
        };
        for (path, ino, blob) in files {
            let (bytes, location) = match blob.sealed {
                Some(sealed) => (sealed.bytes, sealed.location),
                None => {
                    let bytes = lengths.next().ok_or(FsError::Lost(blob.id))?;
                    sealing.fresh.push((ino, bytes));
                    (bytes, Location::Staged { node: self.node.clone() })
                }
            };
            let path = FilePath::new(path).map_err(|_| FsError::BadName)?;
            sealing.manifest.files.push(FileEntry { path, blob: blob.id, bytes, location });
        }
        Ok(sealing)
    }

    /// What the engine wrote into `count.txt`. Small tables in progress may lack it: then 0.
    async fn count_rows(&self, dir: Ino) -> Result<u64, FsError> {
        let found = self.tree.read().expect("lock").child(dir, "count.txt");
        let Ok(ino) = found else { return Ok(0) };
        let opened = match self.open(ino, false)? {
            Opening::Ready(opened) => opened,
            Opening::Fetch(wanted) => self.fetch(wanted).await?,
        };
        let Opened::Local(file) = opened else { return Ok(0) };
        let text = std::io::read_to_string(file)?;
        Ok(text.trim().parse().unwrap_or(0))
    }

    /// What must be committed no later than the next part.
    fn dirty_inodes(&self, ts: TableShard) -> Result<Dirty, FsError> {
        let tree = self.tree.read().expect("lock");
        let table = tree.resolve(ROOT, &table_path(ts))?;
        let mut dirty = Dirty::default();
        let logs = tree.child(table, place::DEDUPLICATION_LOGS).ok();
        for dir in [Some(table), logs].into_iter().flatten() {
            for entry in tree.entries(dir)? {
                let Body::Small(small) = &tree.get(entry.ino)?.body else { continue };
                let below = tree.place(dir)?.entry(&entry.name).map(|(_, below)| below).unwrap_or_default();
                if let Some(path) = place::committed_inode(&below)
                    && small.is_dirty()
                {
                    dirty.inodes.push(Inode { path, content: small.content.clone() });
                    dirty.marks.push((entry.ino, small.changes));
                }
            }
        }
        Ok(dirty)
    }

    fn small_content(&self, parent: Ino, name: &str) -> Result<Vec<u8>, FsError> {
        let tree = self.tree.read().expect("lock");
        match &tree.get(tree.child(parent, name)?)?.body {
            Body::Small(small) => Ok(small.content.clone()),
            Body::Blob(_) | Body::Dir(_) => Err(FsError::Unsupported("this file as a lasting one")),
        }
    }

    /// Commits a lasting small file when the engine closes it. Files in progress and clean ones need nothing.
    pub async fn commit_small(&self, ino: Ino) -> Result<(), FsError> {
        let Some(ts) = self.dirty_small(ino) else { return Ok(()) };
        let mut dirty = self.dirty_inodes(ts)?;
        let inodes_put = std::mem::take(&mut dirty.inodes);
        if inodes_put.is_empty() {
            return Ok(());
        }
        self.commit_in_order(ts, PartChange { inodes_put, ..PartChange::default() }, None).await?;
        let mut tree = self.tree.write().expect("lock");
        dirty.mark_committed(&mut tree);
        Ok(())
    }

    fn dirty_small(&self, ino: Ino) -> Option<TableShard> {
        let tree = self.tree.read().expect("lock");
        let node = tree.get(ino).ok()?;
        match (&node.body, tree.place(node.home).ok()?) {
            (Body::Small(small), Place::Table { shard, .. }) if small.is_dirty() => {
                (self.role(shard) == Some(Role::Writer)).then_some(shard)
            }
            _ => None,
        }
    }
}

/// Whether a directory of this name is a detached part on its way back.
fn is_attaching(tree: &Tree, to: (Ino, &str)) -> Result<bool, FsError> {
    let entry = tree.place(to.0)?.entry(to.1);
    Ok(entry.is_some_and(|(_, below)| place::is_attaching(&below)))
}
