//! Bytes: where an open file's are, and how to get at them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use moorhouse_catalog::{BlobId, Location, ObjectKey};

use super::error::FsError;
use super::ops::Attributes;
use super::tree::{Blob, Body, Ino, Sealed, TreeError};
use super::{ShardFs, tree};
use crate::blobs::key;
use crate::limits;

/// Where an opened file's bytes are.
pub enum Opened {
    /// In memory: served by inode.
    Small,
    /// Complete on this node's SSD: fit for kernel passthrough.
    Local(File),
    /// Too large for the cache's free room: served range by range.
    Remote(RemoteBlob),
}

#[derive(Debug, Clone)]
pub struct RemoteBlob {
    pub blob: BlobId,
    pub bytes: u64,
    pub location: Location,
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
    /// Other absent files at the head of the same object: the engine opens a part's small files one after another.
    pub companions: Vec<RemoteBlob>,
}

impl ShardFs {
    pub(super) fn new_blob(&self) -> Result<Blob, FsError> {
        let id = BlobId::fresh();
        drop(self.cache.create_staged(key(id))?);
        Ok(Blob { id, sealed: None })
    }

    /// Makes a file, or opens the one that is there.
    pub fn create(&self, parent: Ino, name: &str, mode: u32) -> Result<(Attributes, Opening), FsError> {
        let ino = {
            let mut tree = self.tree.write().expect("lock");
            let ino = match tree.child(parent, name) {
                Ok(ino) => ino,
                Err(TreeError::NotFound) => {
                    self.check_writable(&tree, parent, name)?;
                    let body = self.new_body(&tree, parent, name)?;
                    tree.make_file(parent, name, mode, self.now(), body)?
                }
                Err(error) => return Err(error.into()),
            };
            tree.looked_up(ino);
            ino
        };
        Ok((self.attributes(ino)?, self.open(ino, true)?))
    }

    pub fn open(&self, ino: Ino, write: bool) -> Result<Opening, FsError> {
        let blob = {
            let tree = self.tree.read().expect("lock");
            match &tree.get(ino)?.body {
                Body::Dir(_) => return Err(TreeError::IsDirectory.into()),
                Body::Small(_) => return Ok(Opening::Ready(Opened::Small)),
                Body::Blob(blob) => blob.clone(),
            }
        };
        if write && blob.sealed.is_some() {
            return Err(FsError::Immutable);
        }
        if let Some(file) = self.cache.open_file(key(blob.id), write)? {
            return Ok(Opening::Ready(Opened::Local(file)));
        }
        match blob.sealed {
            None => Err(FsError::Lost(blob.id)),
            Some(Sealed { bytes, location }) => {
                let blob = RemoteBlob { blob: blob.id, bytes, location };
                let companions = self.companions(ino, &blob)?;
                Ok(Opening::Fetch(Wanted { blob, companions }))
            }
        }
    }

    /// Brings a blob here, whole where the cache has room.
    pub async fn fetch(&self, wanted: Wanted) -> Result<Opened, FsError> {
        self.source.fetch(wanted).await
    }

    fn companions(&self, ino: Ino, wanted: &RemoteBlob) -> Result<Vec<RemoteBlob>, FsError> {
        let Some(object) = head_object(wanted) else { return Ok(Vec::new()) };
        let tree = self.tree.read().expect("lock");
        let mut companions = Vec::new();
        for (_, file) in tree.files_below(tree.get(ino)?.home)? {
            let Body::Blob(Blob { id, sealed: Some(Sealed { bytes, location }) }) = &tree.get(file)?.body else {
                continue;
            };
            let blob = RemoteBlob { blob: *id, bytes: *bytes, location: location.clone() };
            let absent = *id != wanted.blob && self.cache.tenant(key(*id)).is_none();
            if absent && head_object(&blob) == Some(object) {
                companions.push(blob);
            }
        }
        Ok(companions)
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

/// The object at whose head the blob lies, if it does.
fn head_object(blob: &RemoteBlob) -> Option<&ObjectKey> {
    match &blob.location {
        Location::Stored { object, offset, .. } if offset + blob.bytes <= limits::OBJECT_HEAD_BYTES => Some(object),
        Location::Stored { .. } | Location::Staged { .. } => None,
    }
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
