//! [`CacheError`]: variants by what the caller should do. Cloneable, because callers who waited for one fetch share it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::key::BlobKey;

#[derive(Clone, Debug, thiserror::Error)]
pub enum CacheError {
    /// The staged blobs alone use up the budget: back-pressure. Wait until some are stored, or refuse the write.
    #[error(
        "staged blobs use {staged_bytes} of {budget_bytes} bytes; wait for uploads, or give the node a larger --cache-bytes"
    )]
    Full { staged_bytes: u64, budget_bytes: u64 },

    /// Not even an eviction of everything makes room for this cached blob: read it past the cache.
    #[error("no room for a cached blob of {bytes} bytes beside the staged ones; read it past the cache")]
    NoRoom { bytes: u64 },

    /// The disk is out of use as a read cache: read past it.
    #[error("the cache's disk is out of use since it failed; read past it")]
    Sick,

    /// No blob of that key, or not in the tenant that the call is about.
    #[error("no such blob: {key}")]
    NoBlob { key: BlobKey },

    /// A blob of that key is already there; keys are never used twice for different bytes.
    #[error("the blob {key} exists already")]
    Exists { key: BlobKey },

    /// A cached blob was to be opened for writing.
    #[error("the blob {key} is cached, and so immutable")]
    Immutable { key: BlobKey },

    /// A fill had not exactly the announced length.
    #[error("the blob {key} came with {found} bytes instead of {expected}")]
    WrongLength { key: BlobKey, expected: u64, found: u64 },

    /// A fill's bytes are not the expected ones; fetch them again, from elsewhere if possible.
    #[error("the blob {key} came with the CRC-32C {found:08x} instead of {expected:08x}")]
    WrongChecksum { key: BlobKey, expected: u32, found: u32 },

    /// What the caller's own fetch failed with; `downcast_ref` gives it back.
    #[error("cannot fetch the blob {key}: {source}")]
    Fetch { key: BlobKey, source: Arc<dyn std::error::Error + Send + Sync> },

    /// Another process has the directory open. A start-up mistake.
    #[error("{} is in use by another process; stop it, or choose another --data", dir.display())]
    InUse { dir: PathBuf },

    /// The local disk failed.
    #[error("cannot {op} {}: {source}", path.display())]
    Io { op: &'static str, path: PathBuf, source: Arc<io::Error> },
}

impl CacheError {
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { op, path: path.to_owned(), source: Arc::new(source) }
    }
}
