//! Names and attributes: what the kernel asks that needs neither bytes nor the controller.

use std::time::{Duration, SystemTime};

use moorhouse_catalog::{BlobId, parts};

use super::error::FsError;
use super::place::{self, Place};
use super::tree::{Body, Entry, Ino, Tree, TreeError};
use super::{Role, ShardFs};
use crate::blobs::key;

/// Names and sealed content change only through the kernel or with an invalidation, so it may remember them.
pub const LONG_TTL: Duration = Duration::from_secs(3600);
/// For the size of a file that is being written.
pub const SHORT_TTL: Duration = Duration::from_millis(500);

/// What stat(2) tells of an inode.
#[derive(Debug, Clone)]
pub struct Attributes {
    pub ino: Ino,
    pub is_dir: bool,
    pub bytes: u64,
    pub mode: u32,
    pub nlink: u32,
    pub mtime: SystemTime,
    pub ttl: Duration,
}

/// What a caller must do before it may look into a directory.
pub enum Ready {
    Yes,
    /// The table shard's content must be fetched first.
    Load(moorhouse_catalog::TableShard),
}

impl ShardFs {
    /// Whether the names in `dir` are known.
    pub fn readiness(&self, dir: Ino) -> Result<Ready, FsError> {
        let tree = self.tree.read().expect("lock");
        if tree.dir(dir)?.loaded {
            return Ok(Ready::Yes);
        }
        match tree.place(dir)? {
            Place::Table { shard, .. } => Ok(Ready::Load(shard)),
            Place::Fixed | Place::Scratch => Ok(Ready::Yes),
        }
    }

    /// The entry's attributes; counts as a look-up by the kernel.
    pub fn lookup(&self, parent: Ino, name: &str) -> Result<Attributes, FsError> {
        let seen = {
            let tree = self.tree.read().expect("lock");
            // Most look-ups of the engine are for names that it is about to make.
            tree.child(parent, name)?;
            drop(tree);
            let mut tree = self.tree.write().expect("lock");
            let ino = tree.child(parent, name)?;
            tree.looked_up(ino);
            Seen::of(&tree, ino)?
        };
        Ok(self.complete(seen))
    }

    pub fn attributes(&self, ino: Ino) -> Result<Attributes, FsError> {
        let seen = Seen::of(&self.tree.read().expect("lock"), ino)?;
        Ok(self.complete(seen))
    }

    /// Adds the size of a file that is being written, which the kernel does past us. Asks the disk: not under a lock.
    fn complete(&self, seen: Seen) -> Attributes {
        let Seen { mut attributes, growing } = seen;
        if let Some(blob) = growing {
            attributes.bytes = self.cache.written_bytes(key(blob)).unwrap_or(0);
        }
        attributes
    }

    pub fn forget(&self, ino: Ino, count: u64) {
        self.tree.write().expect("lock").forget(ino, count);
    }

    /// The names to list. A reader's table shows active parts alone: a refresh costs the engine time for each part it sees.
    pub fn list(&self, dir: Ino) -> Result<Vec<Entry>, FsError> {
        let tree = self.tree.read().expect("lock");
        let mut entries = tree.entries(dir)?;
        if let Place::Table { shard, below } = tree.place(dir)?
            && below.is_empty()
            && self.role(shard) == Some(Role::Reader)
        {
            let retired = self.retired.lock().expect("lock");
            entries.retain(|e| {
                place::committed_part(std::slice::from_ref(&e.name))
                    .is_none_or(|part| !retired.contains_key(&(shard, part)))
            });
            let active: std::collections::HashSet<String> =
                parts::active(entries.iter().map(|e| e.name.as_str())).into_iter().map(str::to_string).collect();
            entries.retain(|e| !e.is_dir || active.contains(&e.name));
        }
        Ok(entries)
    }

    pub fn make_dir(&self, parent: Ino, name: &str, mode: u32) -> Result<Attributes, FsError> {
        let mut tree = self.tree.write().expect("lock");
        self.check_writable(&tree, parent, name)?;
        let ino = tree.make_dir(parent, name, mode, self.now())?;
        tree.looked_up(ino);
        self.note_loose(&tree, (parent, name))?;
        Ok(Seen::of(&tree, ino)?.attributes)
    }

    pub fn remove_dir(&self, parent: Ino, name: &str) -> Result<(), FsError> {
        let mut tree = self.tree.write().expect("lock");
        self.check_writable(&tree, parent, name)?;
        let ino = tree.child(parent, name)?;
        tree.remove_dir(parent, name, self.now())?;
        self.drop_attaching(ino);
        self.note_loose(&tree, (parent, name))
    }

    pub fn link(&self, ino: Ino, parent: Ino, name: &str) -> Result<Attributes, FsError> {
        let seen = {
            let mut tree = self.tree.write().expect("lock");
            self.check_writable(&tree, parent, name)?;
            self.check_linkable(&tree, ino)?;
            tree.link(ino, parent, name, self.now())?;
            tree.looked_up(ino);
            self.note_loose(&tree, (parent, name))?;
            Seen::of(&tree, ino)?
        };
        Ok(self.complete(seen))
    }

    /// Takes a name away. Bytes that lose their last name here are let go of after the catalog has heard of it.
    pub fn unlink(&self, parent: Ino, name: &str) -> Result<(), FsError> {
        let mut tree = self.tree.write().expect("lock");
        self.check_writable(&tree, parent, name)?;
        let entry = tree.place(parent)?.entry(name);
        let orphan = tree.unlink(parent, name, self.now())?.map(|blob| blob.id);
        let kept = match orphan {
            Some(blob) => self.keep_for_attaching(&tree, parent, blob)?,
            None => false,
        };
        self.note_loose(&tree, (parent, name))?;
        if let Some((ts, below)) = entry {
            self.let_go(ts, |letting| {
                letting.blobs.extend(orphan.filter(|_| !kept));
                letting.inodes.extend(place::committed_inode(&below));
            });
        }
        Ok(())
    }

    pub fn set_mode(&self, ino: Ino, mode: u32) -> Result<(), FsError> {
        self.tree.write().expect("lock").get_mut(ino)?.mode = mode & 0o7777;
        Ok(())
    }

    pub fn set_mtime(&self, ino: Ino, mtime: SystemTime) -> Result<(), FsError> {
        self.tree.write().expect("lock").get_mut(ino)?.mtime = mtime;
        Ok(())
    }

    pub fn truncate(&self, ino: Ino, bytes: u64) -> Result<(), FsError> {
        let blob = {
            let mut tree = self.tree.write().expect("lock");
            match &mut tree.get_mut(ino)?.body {
                Body::Dir(_) => return Err(TreeError::IsDirectory.into()),
                Body::Small(small) => return Ok(small.truncate(bytes)?),
                Body::Blob(blob) if blob.sealed.is_some() => return Err(FsError::Immutable),
                Body::Blob(blob) => blob.id,
            }
        };
        let file = self.cache.open_file(key(blob), true)?.ok_or(FsError::Lost(blob))?;
        Ok(file.set_len(bytes)?)
    }

    /// Refuses what would change a table of another group, or a committed part.
    pub(super) fn check_writable(&self, tree: &Tree, parent: Ino, name: &str) -> Result<(), FsError> {
        match tree.place(parent)? {
            Place::Scratch => Ok(()),
            // The engine proves at start that it may write to a disk's root.
            Place::Fixed if name == "store" => Err(FsError::Immutable),
            Place::Fixed => Ok(()),
            Place::Table { shard, below } => match self.role(shard) {
                Some(Role::Reader) => Err(FsError::ReadOnly),
                // A dropped table: the engine clears what the catalog has already forgotten.
                None => Ok(()),
                Some(Role::Writer) => {
                    let mut path = below;
                    path.push(name.to_string());
                    match place::enclosing_part(&path) {
                        Some(part) if place::is_loose(&part) => Ok(()),
                        Some(_) => Err(FsError::Immutable),
                        None => Ok(()),
                    }
                }
            },
        }
    }

    /// Refuses a name for a file of a table that another group writes: that group's node decides where its bytes are.
    fn check_linkable(&self, tree: &Tree, ino: Ino) -> Result<(), FsError> {
        // A directory that is gone since was this node's.
        match tree.place(tree.get(ino)?.home) {
            Ok(Place::Table { shard, .. }) if self.role(shard) == Some(Role::Reader) => Err(FsError::OtherDevice),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// What the tree says of an inode.
struct Seen {
    attributes: Attributes,
    /// Its size is that of the file on the SSD.
    growing: Option<BlobId>,
}

impl Seen {
    fn of(tree: &Tree, ino: Ino) -> Result<Self, FsError> {
        let node = tree.get(ino)?;
        let (is_dir, bytes, ttl, growing) = match &node.body {
            Body::Dir(_) => (true, 4096, LONG_TTL, None),
            Body::Small(small) => (false, small.content.len() as u64, SHORT_TTL, None),
            Body::Blob(blob) => match &blob.sealed {
                Some(sealed) => (false, sealed.bytes, LONG_TTL, None),
                None => (false, 0, SHORT_TTL, Some(blob.id)),
            },
        };
        let nlink = if is_dir { 2 } else { node.nlink };
        let attributes = Attributes { ino, is_dir, bytes, mode: node.mode, nlink, mtime: node.mtime, ttl };
        Ok(Self { attributes, growing })
    }
}

/// Where a new file's bytes go: those of parts into a blob on the SSD, all else stays in memory.
pub(super) fn new_file_is_blob(tree: &Tree, parent: Ino, name: &str) -> Result<bool, FsError> {
    match tree.place(parent)?.entry(name) {
        // Nothing would say when the file is complete: such parts are made of links.
        Some((_, below)) if place::loose_part(&below).is_some() => Err(FsError::Immutable),
        Some((_, below)) => Ok(place::holds_part_bytes(&below)),
        None => Ok(false),
    }
}
