//! Staged bytes whose node cannot be reached, from the nodes that keep copies of them.
//!
//! A blob never changes once it is committed, so whoever has one under its number has its bytes. Who that is, the catalog knows
//! for whole parts only; here the other nodes are asked in turn, and the one that had something is asked first for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use moorhouse_catalog::{BlobId, NodeName};
use moorhouse_proto::ReadBlobRequest;
use tonic::{Code, Status};

use super::BlobSource;
use crate::fs::error::FsError;
use crate::limits;
use crate::metrics;

/// Which node has answered for one that is away, and since when.
#[derive(Clone, Default)]
pub(super) struct StandIns(Arc<Mutex<HashMap<NodeName, (NodeName, Instant)>>>);

impl StandIns {
    fn of(&self, away: &NodeName) -> Option<NodeName> {
        let known = self.0.lock().expect("lock");
        known.get(away).filter(|(_, since)| since.elapsed() < limits::STAND_IN_KEPT).map(|(name, _)| name.clone())
    }

    fn note(&self, away: &NodeName, has: &NodeName) {
        let mut known = self.0.lock().expect("lock");
        known.entry(away.clone()).or_insert_with(|| (has.clone(), Instant::now()));
    }

    fn forget(&self, away: &NodeName) {
        self.0.lock().expect("lock").remove(away);
    }
}

/// Why a peer did not give a blob's bytes.
#[derive(Debug)]
pub(crate) enum PeerError {
    /// It cannot be reached: others may have a copy.
    Away(String),
    /// It has them no longer, or something is wrong with them.
    Refused(String),
}

impl PeerError {
    pub fn of(node: &NodeName, status: &Status) -> Self {
        let message = format!("{node}: {}", status.message());
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => Self::Away(message),
            _ => Self::Refused(message),
        }
    }

    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away(_))
    }
}

impl From<PeerError> for FsError {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Away(message) | PeerError::Refused(message) => FsError::Unavailable(message),
        }
    }
}

impl BlobSource {
    /// Reads a range from the node on which the blob is staged, or, while that is away, from one that has a copy.
    pub(super) async fn read_staged(
        &self,
        node: &NodeName,
        blob: BlobId,
        offset: u64,
        bytes: u64,
    ) -> Result<Bytes, FsError> {
        if let Some(stand_in) = self.stand_ins.of(node) {
            match self.read_peer(&stand_in, blob, offset, bytes).await {
                Ok(content) => return Ok(content),
                Err(_) => self.stand_ins.forget(node),
            }
        }
        let error = match self.read_peer(node, blob, offset, bytes).await {
            Ok(content) => return Ok(content),
            Err(error) => error,
        };
        if error.is_away() {
            for other in self.others(node) {
                if let Ok(content) = self.read_peer(&other, blob, offset, bytes).await {
                    self.stand_ins.note(node, &other);
                    metrics::COPIES_READ_BYTES.inc_by(bytes);
                    return Ok(content);
                }
            }
        }
        Err(error.into())
    }

    /// The other nodes that this one knows, in the order of their names.
    pub(crate) fn others(&self, than: &NodeName) -> Vec<NodeName> {
        let mut others: Vec<NodeName> =
            self.peers.read().expect("lock").keys().filter(|name| *name != than).cloned().collect();
        others.sort_unstable();
        others
    }

    async fn read_peer(&self, node: &NodeName, blob: BlobId, offset: u64, bytes: u64) -> Result<Bytes, PeerError> {
        let request = ReadBlobRequest { blob: blob.to_wire().into(), offset, length: bytes };
        let failed = |status: Status| PeerError::of(node, &status);
        let mut peer = self.peer(node).map_err(|error| PeerError::Away(error.to_string()))?;
        let mut stream = peer.read_blob(request).await.map_err(failed)?.into_inner();
        let mut content = Vec::with_capacity(bytes as usize);
        while let Some(chunk) = stream.message().await.map_err(failed)? {
            content.extend_from_slice(&chunk.data);
        }
        if content.len() as u64 != bytes {
            let found = content.len();
            return Err(PeerError::Refused(format!("{node} sent {found} of {bytes} bytes of blob {blob}")));
        }
        metrics::PEER_READ_BYTES.inc_by(bytes);
        Ok(content.into())
    }
}
