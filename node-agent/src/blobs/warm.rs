//! Bringing blobs here before somebody asks for them, as far as room is free.

use futures::StreamExt;
use moorhouse_cache::CacheError;

use super::{BlobSource, checksum, key};
use crate::fs::error::FsError;
use crate::fs::io::RemoteBlob;
use crate::limits;

/// What came of warming.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Warmed {
    pub fetched_blobs: u64,
    pub fetched_bytes: u64,
    pub present_blobs: u64,
    pub present_bytes: u64,
    /// There was no free room for these: nothing is evicted for a guess.
    pub skipped_blobs: u64,
    pub skipped_bytes: u64,
}

enum Outcome {
    Fetched,
    Present,
    Skipped,
}

impl BlobSource {
    /// Fetches, in this order, what is not here. The first error ends it, with what was fetched staying.
    pub async fn warm(&self, blobs: Vec<RemoteBlob>) -> Result<Warmed, FsError> {
        let fetches = blobs.into_iter().map(|blob| async move { (self.warm_one(&blob).await, blob.bytes) });
        let mut fetches = futures::stream::iter(fetches).buffered(limits::PARALLEL_WARMS);
        let mut warmed = Warmed::default();
        while let Some((outcome, bytes)) = fetches.next().await {
            let (blobs, sum) = match outcome? {
                Outcome::Fetched => (&mut warmed.fetched_blobs, &mut warmed.fetched_bytes),
                Outcome::Present => (&mut warmed.present_blobs, &mut warmed.present_bytes),
                Outcome::Skipped => (&mut warmed.skipped_blobs, &mut warmed.skipped_bytes),
            };
            *blobs += 1;
            *sum += bytes;
        }
        Ok(warmed)
    }

    async fn warm_one(&self, blob: &RemoteBlob) -> Result<Outcome, FsError> {
        if self.cache().tenant(key(blob.blob)).is_some() {
            return Ok(Outcome::Present);
        }
        let fill = match self.cache().fill_free(key(blob.blob), blob.bytes) {
            Ok(fill) => fill,
            Err(CacheError::NoRoom { .. }) => return Ok(Outcome::Skipped),
            Err(error) => return Err(error.into()),
        };
        let filled = self.copy(blob, fill).await?;
        tokio::task::block_in_place(|| filled.complete(checksum(&blob.location)))?;
        Ok(Outcome::Fetched)
    }
}
