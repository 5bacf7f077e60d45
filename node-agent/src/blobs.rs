//! A blob's bytes, wherever they are: this SSD, another agent's, the object store.
//!
//! Small blobs come whole, with what lies beside them ([`heads`]); large stored ones by the ranges that are read ([`remote`]).

pub mod heads;
pub mod remote;
pub mod warm;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use moorhouse_cache::{BlobCache, BlobKey, CacheError};
use moorhouse_catalog::{BlobId, Location, NodeName, NodeView, ObjectKey};
use moorhouse_objects::Objects;
use moorhouse_proto::ReadBlobRequest;
use moorhouse_proto::agent_client::AgentClient;
use moorhouse_security::{Dialer, Expected};
use tonic::transport::Channel;

use crate::controller::watched;
use crate::fs::error::FsError;
use crate::fs::io::{Opened, RemoteBlob, Wanted};
use crate::limits;
use crate::metrics;
use remote::RemoteFile;

/// The cache knows blobs by number alone.
pub fn key(blob: BlobId) -> BlobKey {
    BlobKey::from(blob.0)
}

#[derive(Clone)]
pub struct BlobSource {
    cache: BlobCache,
    objects: Objects,
    peers: Arc<RwLock<HashMap<NodeName, Peer>>>,
    dialer: Dialer,
    heads: heads::Heads,
}

#[derive(Clone)]
struct Peer {
    address: String,
    channel: Channel,
}

impl BlobSource {
    pub fn new(cache: BlobCache, objects: Objects, dialer: Dialer) -> Self {
        Self { cache, objects, peers: Arc::default(), dialer, heads: heads::Heads::default() }
    }

    pub fn cache(&self) -> &BlobCache {
        &self.cache
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Learns where the other nodes are. Connections are made on first use.
    pub fn apply_view(&self, view: &NodeView) {
        let mut peers = self.peers.write().expect("lock");
        peers.retain(|name, _| view.nodes.iter().any(|node| node.name == *name));
        for node in &view.nodes {
            if peers.get(&node.name).is_some_and(|peer| peer.address == node.agent_address) {
                continue;
            }
            match self.dialer.endpoint(&node.agent_address) {
                Ok(endpoint) => {
                    let endpoint = watched(endpoint.connect_timeout(limits::PEER_CONNECT));
                    let channel = self.dialer.channel(&endpoint, Expected::Agent(node.name.to_string()));
                    let peer = Peer { address: node.agent_address.clone(), channel };
                    peers.insert(node.name.clone(), peer);
                }
                Err(error) => {
                    tracing::error!(node = %node.name, address = node.agent_address, %error, "not an address")
                }
            }
        }
    }

    /// Makes a blob readable: brings a small one into the cache, once for all who wait for it; answers for a large one, or
    /// where the cache has no room or its disk is sick, with a reader of ranges.
    pub async fn fetch(&self, wanted: Wanted) -> Result<Opened, FsError> {
        let Wanted { blob, companions } = wanted;
        let crc32c = checksum(&blob.location);
        if let Some(file) = self.cache.open_checked(key(blob.blob), blob.bytes, crc32c).await? {
            return Ok(Opened::Local(file));
        }
        if blob.bytes > limits::WHOLE_BLOB_BYTES && crc32c.is_some() {
            return Ok(Opened::Remote(RemoteFile::new(self, blob)));
        }
        let fetched = if companions.is_empty() {
            let copy = |fill| async { self.copy(&blob, fill).await };
            self.cache.get_or_fetch(key(blob.blob), blob.bytes, crc32c, copy).await
        } else {
            self.fetch_head(&blob, companions).await
        };
        match fetched {
            Ok(file) => Ok(Opened::Local(file)),
            Err(CacheError::NoRoom { .. } | CacheError::Sick) => Ok(Opened::Remote(RemoteFile::new(self, blob))),
            // The disk failed under this very blob.
            Err(_) if self.cache.is_sick() => Ok(Opened::Remote(RemoteFile::new(self, blob))),
            Err(error) => Err(error.into()),
        }
    }

    async fn get_object(&self, object: &ObjectKey, offset: u64, bytes: u64) -> Result<Bytes, FsError> {
        let got = self.objects.get_range(object.as_str(), offset, bytes).await;
        got.map_err(|error| FsError::Unavailable(error.to_string()))
    }

    /// Reads a range from where the blob is kept for good.
    pub async fn read(&self, remote: &RemoteBlob, offset: u64, bytes: u64) -> Result<Bytes, FsError> {
        let bytes = bytes.min(remote.bytes.saturating_sub(offset));
        if bytes == 0 {
            return Ok(Bytes::new());
        }
        match &remote.location {
            Location::Stored { object, offset: base, .. } => self.get_object(object, base + offset, bytes).await,
            Location::Staged { node } => self.read_peer(node, remote.blob, offset, bytes).await,
        }
    }

    /// Another node's agent.
    pub(crate) fn peer(&self, node: &NodeName) -> Result<AgentClient<Channel>, FsError> {
        let channel = self.peers.read().expect("lock").get(node).map(|peer| peer.channel.clone());
        let channel = channel.ok_or_else(|| FsError::Unavailable(format!("node {node} is unknown")))?;
        Ok(AgentClient::new(channel).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES))
    }

    async fn read_peer(&self, node: &NodeName, blob: BlobId, offset: u64, bytes: u64) -> Result<Bytes, FsError> {
        let request = ReadBlobRequest { blob: blob.to_wire().into(), offset, length: bytes };
        let unavailable = |status: tonic::Status| FsError::Unavailable(format!("{node}: {}", status.message()));
        let mut stream = self.peer(node)?.read_blob(request).await.map_err(unavailable)?.into_inner();
        let mut content = Vec::with_capacity(bytes as usize);
        while let Some(chunk) = stream.message().await.map_err(unavailable)? {
            content.extend_from_slice(&chunk.data);
        }
        if content.len() as u64 != bytes {
            return Err(FsError::Unavailable(format!("{node} sent {} of {bytes} bytes of blob {blob}", content.len())));
        }
        metrics::PEER_READ_BYTES.inc_by(bytes);
        Ok(content.into())
    }

    /// Copies a blob's bytes in order, some bounded pieces at a time.
    pub(crate) async fn copy<W: Write>(&self, remote: &RemoteBlob, mut to: W) -> Result<W, FsError> {
        let offsets = (0..remote.bytes).step_by(limits::FETCH_PIECE_BYTES as usize);
        let pieces = offsets.map(|offset| self.read(remote, offset, limits::FETCH_PIECE_BYTES));
        let mut pieces = futures::stream::iter(pieces).buffered(limits::PARALLEL_PIECES);
        while let Some(piece) = pieces.try_next().await? {
            to.write_all(&piece)?;
        }
        Ok(to)
    }

    /// A local copy's descriptor, for a peer that asks.
    pub fn open_local(&self, blob: BlobId) -> Result<Option<File>, FsError> {
        Ok(self.cache.open_file(key(blob), false)?)
    }
}

fn checksum(location: &Location) -> Option<u32> {
    match location {
        Location::Stored { crc32c, .. } => Some(*crc32c),
        Location::Staged { .. } => None,
    }
}
