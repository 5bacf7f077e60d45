//! Taking over staged blobs: a shard that is about to arrive brings its bytes along.
//!
//! A shard's delta is many small files, and it is copied while statements wait: so small blobs come many to a request, and one
//! sync makes all copies durable.

use std::collections::{HashMap, HashSet};
use std::io::Write;

use futures::StreamExt;
use moorhouse_cache::Tenant;
use moorhouse_catalog::{BlobId, Location, NodeName};
use moorhouse_proto::ReadBlobsRequest;

use crate::blobs::copies::PeerError;
use crate::blobs::{BlobSource, key};
use crate::fs::error::FsError;
use crate::fs::io::RemoteBlob;
use crate::limits;
use crate::metrics;

/// What came of taking blobs over.
#[derive(Debug, Default)]
pub struct Adopted {
    /// Durably staged here now, whether copied or there before.
    pub kept: HashSet<BlobId>,
    pub copied_bytes: u64,
}

/// Why a batch did not come whole.
enum BatchError {
    Peer(PeerError),
    /// This node's own disk.
    Here(FsError),
}

impl BlobSource {
    /// Copies staged blobs of other nodes into this node's staging; `durable` are known to be whole and synced here. What could
    /// not be had is not in the answer: it was merged away meanwhile, or its node is out of reach.
    pub async fn adopt(&self, wanted: Vec<RemoteBlob>, durable: &HashSet<BlobId>) -> Result<Adopted, FsError> {
        let (mut there, mut small, mut large) = (Vec::new(), Vec::new(), Vec::new());
        for blob in wanted {
            match blob.bytes {
                _ if self.is_whole(&blob)? => there.push(blob),
                0..=limits::SMALL_BLOB_BYTES => small.push(blob),
                _ => large.push(blob),
            }
        }
        let mut copied = self.copy_small(small).await;
        let copies = futures::stream::iter(large).map(|blob| async move { (self.copy_large(&blob).await, blob) });
        for (outcome, blob) in copies.buffer_unordered(limits::PARALLEL_COPIES).collect::<Vec<_>>().await {
            match outcome {
                Ok(()) => copied.push(blob),
                Err(error) => tracing::info!(blob = %blob.blob, %error, "not copied"),
            }
        }
        let copied_bytes = copied.iter().map(|blob| blob.bytes).sum();
        let kept: HashSet<BlobId> = there.iter().chain(&copied).map(|blob| blob.blob).collect();
        self.make_durable(kept.difference(durable)).await?;
        Ok(Adopted { kept, copied_bytes })
    }

    /// Whether all of a blob is staged here: an earlier copy may have been broken off.
    fn is_whole(&self, blob: &RemoteBlob) -> Result<bool, FsError> {
        let staged = self.cache().tenant(key(blob.blob)) == Some(Tenant::Staged);
        Ok(staged && self.cache().account_staged(key(blob.blob))? == blob.bytes)
    }

    async fn make_durable(&self, blobs: impl Iterator<Item = &BlobId>) -> Result<(), FsError> {
        let cache = self.cache().clone();
        let keys: Vec<_> = blobs.map(|blob| key(*blob)).collect();
        let synced = tokio::task::spawn_blocking(move || cache.sync_staged(&keys)).await;
        synced.map_err(|error| FsError::Unavailable(error.to_string()))??;
        Ok(())
    }

    /// Those that could be had: from their nodes, or, where a node is away, from the others that have a copy.
    async fn copy_small(&self, blobs: Vec<RemoteBlob>) -> Vec<RemoteBlob> {
        let mut by_node: HashMap<NodeName, Vec<RemoteBlob>> = HashMap::new();
        for blob in blobs {
            if let Location::Staged { node } = &blob.location {
                by_node.entry(node.clone()).or_default().push(blob);
            }
        }
        let mut copied = Vec::new();
        for (node, mut left) in by_node {
            let is_away = self.copy_batches(&node, &mut left, &mut copied).await;
            if is_away {
                for other in self.others(&node) {
                    self.copy_batches(&other, &mut left, &mut copied).await;
                }
            }
        }
        copied
    }

    /// Moves what the node has from `left` to `copied`; true if the node could not be reached.
    async fn copy_batches(&self, node: &NodeName, left: &mut Vec<RemoteBlob>, copied: &mut Vec<RemoteBlob>) -> bool {
        let (mut got, mut is_away) = (Vec::new(), false);
        for batch in left.chunks(limits::BLOBS_A_REQUEST) {
            match self.copy_batch(node, batch, &mut got).await {
                Ok(()) => {}
                Err(BatchError::Peer(error)) => {
                    is_away |= error.is_away();
                    tracing::info!(%node, ?error, "a batch of blobs was not copied whole");
                }
                Err(BatchError::Here(error)) => {
                    tracing::warn!(%node, %error, "a batch of blobs was not copied whole");
                }
            }
        }
        let here: HashSet<BlobId> = got.iter().map(|blob| blob.blob).collect();
        left.retain(|blob| !here.contains(&blob.blob));
        copied.append(&mut got);
        is_away
    }

    async fn copy_batch(
        &self,
        node: &NodeName,
        batch: &[RemoteBlob],
        copied: &mut Vec<RemoteBlob>,
    ) -> Result<(), BatchError> {
        let failed = |status: tonic::Status| BatchError::Peer(PeerError::of(node, &status));
        let by_id: HashMap<Vec<u8>, &RemoteBlob> = batch.iter().map(|blob| (blob.blob.to_wire(), blob)).collect();
        let request = ReadBlobsRequest { blobs: by_id.keys().map(|id| id.clone().into()).collect() };
        let mut peer = self.peer(node).map_err(|error| BatchError::Peer(PeerError::Away(error.to_string())))?;
        let mut stream = peer.read_blobs(request).await.map_err(failed)?.into_inner();
        while let Some(content) = stream.message().await.map_err(failed)? {
            let Some(blob) = by_id.get(content.blob.as_ref()) else { continue };
            if content.data.len() as u64 == blob.bytes {
                self.stage(blob, &content.data).map_err(BatchError::Here)?;
                metrics::PEER_READ_BYTES.inc_by(blob.bytes);
                copied.push((*blob).clone());
            }
        }
        Ok(())
    }

    fn stage(&self, blob: &RemoteBlob, content: &[u8]) -> Result<(), FsError> {
        let mut file = self.create_adopted(blob)?;
        let written = file.write_all(content);
        self.settle_adopted(blob, written.map_err(FsError::from))
    }

    async fn copy_large(&self, blob: &RemoteBlob) -> Result<(), FsError> {
        let file = self.create_adopted(blob)?;
        let copied = self.copy(blob, file).await.map(drop);
        self.settle_adopted(blob, copied)
    }

    fn create_adopted(&self, blob: &RemoteBlob) -> Result<std::fs::File, FsError> {
        let key = key(blob.blob);
        if self.cache().tenant(key).is_some() {
            // A copy that may be evicted is no keeper's copy; a part of one is none either.
            self.cache().remove(key)?;
        }
        Ok(self.cache().create_staged(key)?)
    }

    /// Counts a finished copy, or takes an unfinished one away.
    fn settle_adopted(&self, blob: &RemoteBlob, copied: Result<(), FsError>) -> Result<(), FsError> {
        let key = key(blob.blob);
        if copied.is_err() {
            self.cache().remove(key)?;
            return copied;
        }
        self.cache().account_staged(key)?;
        Ok(())
    }
}
