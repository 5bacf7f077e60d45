//! The namespace of one mount: directories, files, hard links. Pure: no I/O, no FUSE, no clock.
//!
//! Committed names and the overlay of names in progress live in the same tree; what is committed is known by its place
//! ([`super::place`]). The tree is rebuilt from the catalog at every start and stores nothing.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use moorhouse_catalog::{BlobId, Location};

use super::place::Place;

/// An inode number; never used twice in a mount's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

pub const ROOT: Ino = Ino(1);

/// Largest content of a file that is not part of a part: it is kept in memory and committed inline.
/// (A record holds at most 1 MiB, and content takes up to four bytes a byte there.)
pub const SMALL_FILE_MAX_BYTES: u64 = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("no such name")]
    NotFound,
    #[error("the name is taken")]
    Exists,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("not a directory")]
    NotDirectory,
    #[error("a directory")]
    IsDirectory,
    #[error("file too large to live outside a part")]
    TooLarge,
    #[error("a directory cannot move into itself")]
    IntoItself,
}

#[derive(Debug)]
pub struct Node {
    /// Permission bits alone.
    pub mode: u32,
    pub mtime: SystemTime,
    /// Names that point here; 0 once unlinked.
    pub nlink: u32,
    /// The directory that it was made in or last renamed into; hard links elsewhere do not count.
    pub home: Ino,
    /// How often the kernel was told of this inode and has not forgotten.
    lookups: u64,
    pub body: Body,
}

#[derive(Debug)]
pub enum Body {
    Dir(Dir),
    /// A part's file: bytes in the cache directory or elsewhere, found by blob id.
    Blob(Blob),
    /// Everything else: bytes right here.
    Small(Small),
}

#[derive(Debug)]
pub struct Dir {
    parent: Ino,
    name: String,
    children: BTreeMap<String, Ino>,
    /// False for a table shard's directory whose content has not been fetched yet.
    pub loaded: bool,
}

#[derive(Debug, Clone)]
pub struct Blob {
    pub id: BlobId,
    /// None while it can still be written; its size is then that of the local file.
    pub sealed: Option<Sealed>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub bytes: u64,
    pub location: Location,
}

#[derive(Debug, Default)]
pub struct Small {
    pub content: Vec<u8>,
    /// Grows at every change of the content.
    pub changes: u64,
    /// `changes` at the last commit.
    pub committed: u64,
}

impl Dir {
    /// Looks at every entry.
    pub fn name_of(&self, ino: Ino) -> Option<&str> {
        self.children.iter().find(|(_, child)| **child == ino).map(|(name, _)| name.as_str())
    }

    /// The entry whose name is the first.
    pub fn first(&self) -> Option<Ino> {
        self.children.values().next().copied()
    }
}

/// One directory entry, as readdir wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub ino: Ino,
    pub is_dir: bool,
}

pub struct Tree {
    nodes: HashMap<Ino, Node>,
    /// The one inode of each blob that still has a name.
    blobs: HashMap<BlobId, Ino>,
    next: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    pub fn new() -> Self {
        let root = Dir { parent: ROOT, name: String::new(), children: BTreeMap::new(), loaded: true };
        let node = Node {
            mode: 0o755,
            mtime: SystemTime::UNIX_EPOCH,
            nlink: 1,
            home: ROOT,
            lookups: 1,
            body: Body::Dir(root),
        };
        Self { nodes: HashMap::from([(ROOT, node)]), blobs: HashMap::new(), next: ROOT.0 + 1 }
    }

    pub fn get(&self, ino: Ino) -> Result<&Node, TreeError> {
        self.nodes.get(&ino).ok_or(TreeError::NotFound)
    }

    pub fn get_mut(&mut self, ino: Ino) -> Result<&mut Node, TreeError> {
        self.nodes.get_mut(&ino).ok_or(TreeError::NotFound)
    }

    pub fn dir(&self, ino: Ino) -> Result<&Dir, TreeError> {
        match &self.get(ino)?.body {
            Body::Dir(dir) => Ok(dir),
            Body::Blob(_) | Body::Small(_) => Err(TreeError::NotDirectory),
        }
    }

    pub fn dir_mut(&mut self, ino: Ino) -> Result<&mut Dir, TreeError> {
        match &mut self.get_mut(ino)?.body {
            Body::Dir(dir) => Ok(dir),
            Body::Blob(_) | Body::Small(_) => Err(TreeError::NotDirectory),
        }
    }

    pub fn child(&self, parent: Ino, name: &str) -> Result<Ino, TreeError> {
        self.dir(parent)?.children.get(name).copied().ok_or(TreeError::NotFound)
    }

    /// Follows `path` from `from`.
    pub fn resolve(&self, from: Ino, path: &[String]) -> Result<Ino, TreeError> {
        path.iter().try_fold(from, |dir, name| self.child(dir, name))
    }

    pub fn parent(&self, dir: Ino) -> Result<Ino, TreeError> {
        Ok(self.dir(dir)?.parent)
    }

    pub fn entries(&self, dir: Ino) -> Result<Vec<Entry>, TreeError> {
        let entry = |(name, ino): (&String, &Ino)| Entry {
            name: name.clone(),
            ino: *ino,
            is_dir: matches!(self.nodes.get(ino).map(|n| &n.body), Some(Body::Dir(_))),
        };
        Ok(self.dir(dir)?.children.iter().map(entry).collect())
    }

    /// Directories beside `dir`, by name, at most `most` before it and as many behind it.
    pub fn siblings(&self, dir: Ino, most: usize) -> Result<Vec<Ino>, TreeError> {
        let own = self.dir(dir)?;
        let beside = &self.dir(own.parent)?.children;
        let before = beside.range(..own.name.clone()).rev().take(most);
        let behind = beside.range(own.name.clone()..).skip(1).take(most);
        let is_dir = |ino: &Ino| matches!(self.nodes.get(ino).map(|node| &node.body), Some(Body::Dir(_)));
        Ok(before.chain(behind).map(|(_, ino)| *ino).filter(is_dir).collect())
    }

    /// What the directory's path means.
    pub fn place(&self, dir: Ino) -> Result<Place, TreeError> {
        let mut names = Vec::new();
        let mut at = dir;
        while at != ROOT {
            let dir = self.dir(at)?;
            names.push(dir.name.as_str());
            at = dir.parent;
        }
        names.reverse();
        Ok(Place::of(&names))
    }

    pub fn make_dir(&mut self, parent: Ino, name: &str, mode: u32, now: SystemTime) -> Result<Ino, TreeError> {
        let dir = Dir { parent, name: name.to_string(), children: BTreeMap::new(), loaded: true };
        self.attach_new(parent, name, mode, now, Body::Dir(dir))
    }

    pub fn make_file(
        &mut self,
        parent: Ino,
        name: &str,
        mode: u32,
        now: SystemTime,
        body: Body,
    ) -> Result<Ino, TreeError> {
        debug_assert!(!matches!(body, Body::Dir(_)), "directories are made by make_dir");
        self.attach_new(parent, name, mode, now, body)
    }

    fn attach_new(
        &mut self,
        parent: Ino,
        name: &str,
        mode: u32,
        now: SystemTime,
        body: Body,
    ) -> Result<Ino, TreeError> {
        let ino = Ino(self.next);
        let dir = self.dir_mut(parent)?;
        if dir.children.contains_key(name) {
            return Err(TreeError::Exists);
        }
        dir.children.insert(name.to_string(), ino);
        self.next += 1;
        if let Body::Blob(blob) = &body {
            self.blobs.insert(blob.id, ino);
        }
        self.nodes.insert(ino, Node { mode: mode & 0o7777, mtime: now, nlink: 1, home: parent, lookups: 0, body });
        self.touch(parent, now);
        Ok(ino)
    }

    /// The directory `name`, made if absent.
    pub fn ensure_dir(&mut self, parent: Ino, name: &str) -> Result<Ino, TreeError> {
        match self.child(parent, name) {
            Ok(ino) => self.dir(ino).map(|_| ino),
            Err(TreeError::NotFound) => self.make_dir(parent, name, 0o755, SystemTime::UNIX_EPOCH),
            Err(error) => Err(error),
        }
    }

    /// A second name for a file.
    pub fn link(&mut self, ino: Ino, parent: Ino, name: &str, now: SystemTime) -> Result<(), TreeError> {
        if matches!(self.get(ino)?.body, Body::Dir(_)) {
            return Err(TreeError::IsDirectory);
        }
        let dir = self.dir_mut(parent)?;
        if dir.children.contains_key(name) {
            return Err(TreeError::Exists);
        }
        dir.children.insert(name.to_string(), ino);
        self.get_mut(ino)?.nlink += 1;
        self.touch(parent, now);
        Ok(())
    }

    /// Takes a file's name away; answers with the blob that has lost its last name, if one has.
    pub fn unlink(&mut self, parent: Ino, name: &str, now: SystemTime) -> Result<Option<Blob>, TreeError> {
        let ino = self.child(parent, name)?;
        if matches!(self.get(ino)?.body, Body::Dir(_)) {
            return Err(TreeError::IsDirectory);
        }
        self.dir_mut(parent)?.children.remove(name);
        self.touch(parent, now);
        Ok(self.drop_name(ino))
    }

    pub fn remove_dir(&mut self, parent: Ino, name: &str, now: SystemTime) -> Result<(), TreeError> {
        let ino = self.child(parent, name)?;
        if !self.dir(ino)?.children.is_empty() {
            return Err(TreeError::NotEmpty);
        }
        self.dir_mut(parent)?.children.remove(name);
        self.touch(parent, now);
        self.drop_name(ino);
        Ok(())
    }

    /// Takes a whole subtree away; answers with the blobs that have lost their last name.
    pub fn remove_subtree(&mut self, parent: Ino, name: &str) -> Result<Vec<Blob>, TreeError> {
        let ino = self.child(parent, name)?;
        let mut orphans = Vec::new();
        if let Ok(entries) = self.entries(ino) {
            for entry in entries {
                orphans.extend(self.remove_subtree(ino, &entry.name)?);
            }
        }
        self.dir_mut(parent)?.children.remove(name);
        orphans.extend(self.drop_name(ino));
        Ok(orphans)
    }

    fn drop_name(&mut self, ino: Ino) -> Option<Blob> {
        let node = self.nodes.get_mut(&ino)?;
        node.nlink -= 1;
        if node.nlink > 0 {
            return None;
        }
        let blob = match &node.body {
            Body::Blob(blob) => Some(blob.clone()),
            Body::Dir(_) | Body::Small(_) => None,
        };
        if node.lookups == 0 {
            self.nodes.remove(&ino);
        }
        if let Some(blob) = &blob {
            self.blobs.remove(&blob.id);
        }
        blob
    }

    /// The inode that has this blob, if one with a name does.
    pub fn by_blob(&self, blob: BlobId) -> Option<Ino> {
        self.blobs.get(&blob).copied()
    }

    /// rename(2): replaces a file or an empty directory at the target. Answers with a blob that lost its last name.
    pub fn rename(&mut self, from: (Ino, &str), to: (Ino, &str), now: SystemTime) -> Result<Option<Blob>, TreeError> {
        let ino = self.child(from.0, from.1)?;
        if from == to {
            return Ok(None);
        }
        let moving_dir = matches!(self.get(ino)?.body, Body::Dir(_));
        if moving_dir && self.is_within(to.0, ino)? {
            return Err(TreeError::IntoItself);
        }
        let mut orphan = None;
        match self.child(to.0, to.1) {
            Err(TreeError::NotFound) => {}
            Err(error) => return Err(error),
            Ok(target) if target == ino => return Ok(None),
            Ok(target) => match (&self.get(target)?.body, moving_dir) {
                (Body::Dir(dir), true) if dir.children.is_empty() => self.remove_dir(to.0, to.1, now)?,
                (Body::Dir(_), true) => return Err(TreeError::NotEmpty),
                (Body::Dir(_), false) => return Err(TreeError::IsDirectory),
                (_, true) => return Err(TreeError::NotDirectory),
                (_, false) => orphan = self.unlink(to.0, to.1, now)?,
            },
        }
        self.dir_mut(from.0)?.children.remove(from.1);
        self.place_at(ino, to)?;
        self.touch(from.0, now);
        self.touch(to.0, now);
        Ok(orphan)
    }

    /// RENAME_EXCHANGE: two names swap what they point to.
    pub fn exchange(&mut self, a: (Ino, &str), b: (Ino, &str), now: SystemTime) -> Result<(), TreeError> {
        let (first, second) = (self.child(a.0, a.1)?, self.child(b.0, b.1)?);
        self.place_at(first, b)?;
        self.place_at(second, a)?;
        self.touch(a.0, now);
        self.touch(b.0, now);
        Ok(())
    }

    fn place_at(&mut self, ino: Ino, (parent, name): (Ino, &str)) -> Result<(), TreeError> {
        self.dir_mut(parent)?.children.insert(name.to_string(), ino);
        let node = self.get_mut(ino)?;
        node.home = parent;
        if let Body::Dir(dir) = &mut node.body {
            dir.parent = parent;
            dir.name = name.to_string();
        }
        Ok(())
    }

    fn is_within(&self, mut at: Ino, ancestor: Ino) -> Result<bool, TreeError> {
        while at != ROOT {
            if at == ancestor {
                return Ok(true);
            }
            at = self.parent(at)?;
        }
        Ok(false)
    }

    fn touch(&mut self, dir: Ino, now: SystemTime) {
        if let Some(node) = self.nodes.get_mut(&dir) {
            node.mtime = now;
        }
    }

    /// The kernel was given this inode once more.
    pub fn looked_up(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups += 1;
        }
    }

    /// The kernel let go of `count` of its look-ups; an inode without names goes with the last one.
    pub fn forget(&mut self, ino: Ino, count: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(count);
            if node.lookups == 0 && node.nlink == 0 {
                self.nodes.remove(&ino);
            }
        }
    }

    /// Every file below `dir`, with its path relative to it.
    pub fn files_below(&self, dir: Ino) -> Result<Vec<(String, Ino)>, TreeError> {
        let mut files = Vec::new();
        for entry in self.entries(dir)? {
            if entry.is_dir {
                let below = self.files_below(entry.ino)?;
                files.extend(below.into_iter().map(|(path, ino)| (format!("{}/{path}", entry.name), ino)));
            } else {
                files.push((entry.name, entry.ino));
            }
        }
        Ok(files)
    }
}

impl Small {
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), TreeError> {
        let end = offset + data.len() as u64;
        if end > SMALL_FILE_MAX_BYTES {
            return Err(TreeError::TooLarge);
        }
        if self.content.len() < end as usize {
            self.content.resize(end as usize, 0);
        }
        self.content[offset as usize..end as usize].copy_from_slice(data);
        self.changes += 1;
        Ok(())
    }

    pub fn truncate(&mut self, bytes: u64) -> Result<(), TreeError> {
        if bytes > SMALL_FILE_MAX_BYTES {
            return Err(TreeError::TooLarge);
        }
        self.content.resize(bytes as usize, 0);
        self.changes += 1;
        Ok(())
    }

    pub fn is_dirty(&self) -> bool {
        self.changes != self.committed
    }
}

#[cfg(test)]
mod tests;
