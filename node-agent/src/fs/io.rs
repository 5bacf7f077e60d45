//! Bytes: where an open file's are, and how to get at them.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::convert::Infallible;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use moorhouse_cache::BlobKey;
use moorhouse_catalog::{BlobId, Location, ObjectKey, TableShard, parts};

use super::error::FsError;
use super::ops::{Attributes, SHORT_TTL, new_file_is_blob};
use super::place::Place;
use super::tree::{Blob, Body, Ino, ROOT, Sealed, Small, Tree, TreeError};
use super::{ShardFs, tree};
use crate::blobs::key;
use crate::blobs::remote::RemoteFile;
use crate::blobs::warm::Warmed;
use crate::limits;

/// Where an opened file's bytes are.
pub enum Opened {
    /// In memory: served by inode.
    Small,
    /// Complete on this node's SSD: fit for kernel passthrough.
    Local(File),
    /// Not whole on this node's SSD: served range by range.
    Remote(RemoteFile),
}

#[derive(Debug, Clone)]
pub struct RemoteBlob {
    pub blob: BlobId,
    pub bytes: u64,
    pub location: Location,
}

/// What an open by a caller that keeps files open came to.
pub enum OpeningKept<K> {
    Kept(K),
    Opening(Opening),
}

/// What an open needs before it can answer.
pub enum Opening {
    Ready(Opened),
    Fetch(Wanted),
}

/// A blob to fetch, and what one request may bring with it.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub blob: RemoteBlob,
    /// Other absent files near it in the same object, also of other parts: the engine opens a part's small files one after
    /// another, and one part after another.
    pub companions: Vec<RemoteBlob>,
    /// A stored blob of more bytes is read by range.
    pub whole_up_to: u64,
}

impl ShardFs {
    /// Makes a file, or opens the one that is there.
    pub fn create(&self, parent: Ino, name: &str, mode: u32) -> Result<(Attributes, Opening), FsError> {
        let is_blob = {
            let tree = self.tree.read().expect("lock");
            match tree.child(parent, name) {
                Ok(_) => None,
                Err(TreeError::NotFound) => {
                    self.check_writable(&tree, parent, name)?;
                    Some(new_file_is_blob(&tree, parent, name)?)
                }
                Err(error) => return Err(error.into()),
            }
        };
        let Some(is_blob) = is_blob else { return self.open_existing(parent, name) };
        // The disk makes the file while the tree is free for others.
        let id = BlobId::fresh();
        let file = if is_blob { Some(self.cache.create_staged(key(id))?) } else { None };
        let body = if is_blob { Body::Blob(Blob { id, sealed: None }) } else { Body::Small(Small::default()) };
        let made = self.name_new(parent, name, mode, body);
        if is_blob && made.is_err() {
            self.cache.remove(key(id))?;
        }
        match made {
            Ok(attributes) => Ok((attributes, Opening::Ready(file.map_or(Opened::Small, Opened::Local)))),
            Err(FsError::Tree(TreeError::Exists)) => self.open_existing(parent, name),
            Err(error) => Err(error),
        }
    }

    fn name_new(&self, parent: Ino, name: &str, mode: u32, body: Body) -> Result<Attributes, FsError> {
        let now = self.now();
        let mut tree = self.tree.write().expect("lock");
        // A view may have come since the look before.
        self.check_writable(&tree, parent, name)?;
        let ino = tree.make_file(parent, name, mode, now, body)?;
        tree.looked_up(ino);
        let mode = tree.get(ino)?.mode;
        Ok(Attributes { ino, is_dir: false, bytes: 0, mode, nlink: 1, mtime: now, ttl: SHORT_TTL })
    }

    fn open_existing(&self, parent: Ino, name: &str) -> Result<(Attributes, Opening), FsError> {
        let attributes = self.lookup(parent, name)?;
        let opening = self.open(attributes.ino, true)?;
        Ok((attributes, opening))
    }

    pub fn open(&self, ino: Ino, write: bool) -> Result<Opening, FsError> {
        match self.open_or_kept(ino, write, |_| None::<(Infallible, bool)>)? {
            OpeningKept::Kept(never) => match never {},
            OpeningKept::Opening(opening) => Ok(opening),
        }
    }

    /// [`ShardFs::open`] for a caller that keeps files open: `kept` is asked for the sealed blob before its file is opened, and
    /// what it gives is the answer if the blob is still here, or if it says that somebody has it open.
    pub fn open_or_kept<K>(
        &self,
        ino: Ino,
        write: bool,
        kept: impl FnOnce(BlobKey) -> Option<(K, bool)>,
    ) -> Result<OpeningKept<K>, FsError> {
        let blob = {
            let tree = self.tree.read().expect("lock");
            match &tree.get(ino)?.body {
                Body::Dir(_) => return Err(TreeError::IsDirectory.into()),
                Body::Small(_) => return Ok(OpeningKept::Opening(Opening::Ready(Opened::Small))),
                Body::Blob(blob) => blob.clone(),
            }
        };
        if write && blob.sealed.is_some() {
            return Err(FsError::Immutable);
        }
        if blob.sealed.is_some()
            && let Some((kept, is_open)) = kept(key(blob.id))
            && (self.cache.note_use(key(blob.id)) || is_open)
        {
            return Ok(OpeningKept::Kept(kept));
        }
        self.open_blob(ino, blob, write).map(OpeningKept::Opening)
    }

    /// A file's blob, and whether it is sealed.
    pub fn blob_of(&self, ino: Ino) -> Result<(BlobKey, bool), FsError> {
        match &self.tree.read().expect("lock").get(ino)?.body {
            Body::Blob(blob) => Ok((key(blob.id), blob.sealed.is_some())),
            Body::Dir(_) => Err(TreeError::IsDirectory.into()),
            Body::Small(_) => Err(FsError::BadHandle),
        }
    }

    fn open_blob(&self, ino: Ino, blob: Blob, write: bool) -> Result<Opening, FsError> {
        if let Some(file) = self.cache.open_file(key(blob.id), write)? {
            return Ok(Opening::Ready(Opened::Local(file)));
        }
        match blob.sealed {
            None => Err(FsError::Lost(blob.id)),
            Some(Sealed { bytes, location }) => {
                let blob = RemoteBlob { blob: blob.id, bytes, location };
                let companions = self.companions(ino, &blob)?;
                let is_data = self.note_cold_open(ino)?;
                let whole_up_to = if is_data { limits::WHOLE_DATA_BYTES } else { limits::WHOLE_BLOB_BYTES };
                Ok(Opening::Fetch(Wanted { blob, companions, whole_up_to }))
            }
        }
    }

    /// Makes a blob readable, from here or by range.
    pub async fn fetch(&self, wanted: Wanted) -> Result<Opened, FsError> {
        self.source.fetch(wanted).await
    }

    fn companions(&self, ino: Ino, wanted: &RemoteBlob) -> Result<Vec<RemoteBlob>, FsError> {
        let Location::Stored { object, offset, .. } = &wanted.location else { return Ok(Vec::new()) };
        if wanted.bytes > limits::WHOLE_BLOB_BYTES {
            return Ok(Vec::new());
        }
        let tree = self.tree.read().expect("lock");
        // The directory that a linked file was made in may be gone: then nothing tells what lies near it.
        let Ok(part) = part_of(&tree, tree.get(ino)?.home) else { return Ok(Vec::new()) };
        let own = tree.files_below(part)?;
        let wants_data = own.iter().any(|(path, file)| *file == ino && is_data(path));
        let mut found = Vec::new();
        // The part's own small files, and small parts whole.
        let head = |blob: &RemoteBlob, _: &str| is_within(blob, object, &(0..limits::OBJECT_HEAD_BYTES));
        if is_within(wanted, object, &(0..limits::OBJECT_HEAD_BYTES)) {
            stored_blobs(&tree, &own, head, &mut found)?;
        }
        if !wants_data {
            let start = offset - offset % limits::SHARED_HEAD_BYTES;
            let slice = start..start + limits::SHARED_HEAD_BYTES + wanted.bytes;
            let near = |blob: &RemoteBlob, path: &str| !is_data(path) && is_within(blob, object, &slice);
            stored_blobs(&tree, &own, near, &mut found)?;
            for neighbour in tree.siblings(part, limits::NEIGHBOURS)? {
                if begins_in(&tree, neighbour, object) {
                    stored_blobs(&tree, &tree.files_below(neighbour)?, near, &mut found)?;
                }
            }
        }
        drop(tree);
        let mut seen = HashSet::from([wanted.blob]);
        found.retain(|blob| seen.insert(blob.blob) && self.cache.tenant(key(blob.blob)).is_none());
        Ok(found)
    }

    /// What the active parts of a loaded table shard have in the object store: small files before data, the newest parts
    /// first.
    pub fn stored_blobs(&self, ts: TableShard) -> Result<Vec<RemoteBlob>, FsError> {
        let tree = self.tree.read().expect("lock");
        let table = tree.resolve(ROOT, &self.shown_path(ts))?;
        let entries = tree.entries(table)?;
        let active: HashSet<&str> =
            parts::active(entries.iter().filter(|entry| entry.is_dir).map(|entry| entry.name.as_str()))
                .into_iter()
                .collect();
        let mut newest: Vec<_> = entries.iter().filter(|entry| active.contains(entry.name.as_str())).collect();
        newest.sort_by_key(|entry| Reverse(tree.get(entry.ino).map(|node| node.mtime).ok()));
        let (mut small, mut data) = (Vec::new(), Vec::new());
        let is_stored = |blob: &RemoteBlob| matches!(blob.location, Location::Stored { .. });
        for part in newest {
            let files = tree.files_below(part.ino)?;
            stored_blobs(&tree, &files, |blob, path| is_stored(blob) && !is_data(path), &mut small)?;
            stored_blobs(&tree, &files, |blob, path| is_stored(blob) && is_data(path), &mut data)?;
        }
        small.append(&mut data);
        Ok(small)
    }

    /// Brings blobs here as far as room is free.
    pub async fn warm(self: Arc<Self>, blobs: Vec<RemoteBlob>) -> Result<Warmed, FsError> {
        self.source.warm(blobs).await
    }

    /// Removes what can be had again; gives blobs and bytes.
    pub fn drop_cached(&self) -> (u64, u64) {
        self.cache.drop_cached()
    }

    pub fn read_small(&self, ino: Ino, offset: u64, bytes: u32) -> Result<Vec<u8>, FsError> {
        let tree = self.tree.read().expect("lock");
        match &tree.get(ino)?.body {
            Body::Small(small) => {
                let start = (offset as usize).min(small.content.len());
                let end = (start + bytes as usize).min(small.content.len());
                Ok(small.content[start..end].to_vec())
            }
            Body::Blob(_) | Body::Dir(_) => Err(FsError::BadHandle),
        }
    }

    pub fn write_small(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<(), FsError> {
        let now = self.now();
        let mut tree = self.tree.write().expect("lock");
        let node = tree.get_mut(ino)?;
        node.mtime = now;
        match &mut node.body {
            tree::Body::Small(small) => Ok(small.write(offset, data)?),
            tree::Body::Blob(_) | tree::Body::Dir(_) => Err(FsError::BadHandle),
        }
    }
}

/// The directory of the part that a file's directory belongs to: itself, or above a projection's.
fn part_of(tree: &Tree, mut dir: Ino) -> Result<Ino, TreeError> {
    loop {
        let parent = tree.parent(dir)?;
        match tree.place(dir)? {
            Place::Table { below, .. } if below.last().is_some_and(|name| name.ends_with(".proj")) => dir = parent,
            Place::Table { .. } | Place::Fixed | Place::Scratch => return Ok(dir),
        }
    }
}

/// Column data comes last in an object, and is read by range or not at all.
pub(super) fn is_data(path: &str) -> bool {
    path.ends_with(".bin")
}

fn is_within(blob: &RemoteBlob, wanted: &ObjectKey, range: &Range<u64>) -> bool {
    match &blob.location {
        Location::Stored { object, offset, .. } => {
            object == wanted && *offset >= range.start && offset + blob.bytes <= range.end
        }
        Location::Staged { .. } => false,
    }
}

/// Whether a part's heads lie in the object, by one of them: they are packed together, or not at all.
fn begins_in(tree: &Tree, part: Ino, wanted: &ObjectKey) -> bool {
    // After a re-packing the heads lie elsewhere than the data, and a column may come first by name.
    let head = tree.child(part, "checksums.txt").ok();
    let first = head.or_else(|| tree.dir(part).ok().and_then(|dir| dir.first()));
    match first.and_then(|file| tree.get(file).ok()).map(|node| &node.body) {
        Some(Body::Blob(Blob { sealed: Some(Sealed { location: Location::Stored { object, .. }, .. }), .. })) => {
            object == wanted
        }
        _ => false,
    }
}

/// Adds those of a part's files that are asked for.
fn stored_blobs(
    tree: &Tree,
    files: &[(String, Ino)],
    is_asked_for: impl Fn(&RemoteBlob, &str) -> bool,
    found: &mut Vec<RemoteBlob>,
) -> Result<(), TreeError> {
    for (path, file) in files {
        if let Body::Blob(Blob { id, sealed: Some(Sealed { bytes, location }) }) = &tree.get(*file)?.body {
            let blob = RemoteBlob { blob: *id, bytes: *bytes, location: location.clone() };
            if is_asked_for(&blob, path) {
                found.push(blob);
            }
        }
    }
    Ok(())
}

/// Reads up to `bytes` at `offset`; fewer only at the end of the file.
pub fn read_local(file: &File, offset: u64, bytes: u32) -> Result<Vec<u8>, FsError> {
    let mut buffer = vec![0; bytes as usize];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}
