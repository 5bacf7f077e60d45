//! [`RemoteFile`]: an open file whose bytes are not all on this SSD.

use std::sync::Arc;

use bytes::Bytes;
use moorhouse_cache::{FetchRange, RangedReader};

use super::{BlobSource, checksum, key};
use crate::fs::error::FsError;
use crate::fs::io::RemoteBlob;

/// Served range by range.
pub enum RemoteFile {
    /// Block by block through the cache; the kernel serves it once it is whole and opened again.
    Cached(RangedReader),
    /// From another node's staging, past the cache, which has no room for it: nothing could check its blocks.
    Past { source: BlobSource, blob: RemoteBlob },
}

impl RemoteFile {
    pub(crate) fn new(source: &BlobSource, blob: RemoteBlob) -> Self {
        let Some(crc32c) = checksum(&blob.location) else { return Self::Past { source: source.clone(), blob } };
        let (bytes, cache) = (blob.bytes, source.cache().clone());
        let (blob, source) = (Arc::new(blob), source.clone());
        let cache_key = key(blob.blob);
        let fetch: FetchRange = Arc::new(move |range| {
            let (source, blob) = (source.clone(), blob.clone());
            Box::pin(async move { Ok(source.read(&blob, range.start, range.end - range.start).await?) })
        });
        Self::Cached(cache.open_ranged(cache_key, bytes, crc32c, fetch))
    }

    /// Fewer bytes than asked for only at the end of the file.
    pub async fn read(&self, offset: u64, bytes: u64) -> Result<Bytes, FsError> {
        match self {
            Self::Cached(reader) => Ok(reader.read(offset, bytes).await?),
            Self::Past { source, blob } => source.read(blob, offset, bytes).await,
        }
    }
}
