//! A blob's bytes, wherever they are: this SSD, another agent's, the object store.
//!
//! Small blobs come whole, with what lies beside them ([`heads`]); large stored ones by the ranges that are read ([`remote`]);
//! those of a node that is away from whoever keeps a copy ([`copies`]).

pub(crate) mod copies;
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
use moorhouse_proto::agent_client::AgentClient;
use moorhouse_security::{Dialer, Expected};
use tonic::transport::Channel;

use crate::controller::watched;
use crate::fs::error::FsError;
use crate::fs::io::{Opened, RemoteBlob, Wanted};
use crate::limits;
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
    stand_ins: copies::StandIns,
}

#[derive(Clone)]
struct Peer {
    address: String,
    channel: Channel,
}

impl BlobSource {
    pub fn new(cache: BlobCache, objects: Objects, dialer: Dialer) -> Self {
        Self {
            cache,
            objects,
            peers: Arc::default(),
            dialer,
            heads: heads::Heads::default(),
            stand_ins: copies::StandIns::default(),
        }
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
        let Wanted { blob, companions, whole_up_to } = wanted;
        let crc32c = checksum(&blob.location);
        if let Some(file) = self.cache.open_checked(key(blob.blob), blob.bytes, crc32c).await? {
            return Ok(Opened::Local(file));
        }
        if blob.bytes > whole_up_to && crc32c.is_some() {
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

    /// Brings a blob here whole, whatever its size, and checked. The file stays good when the blob is evicted.
    pub(crate) async fn fetch_whole(&self, blob: &RemoteBlob) -> Result<File, FsError> {
        let crc32c = checksum(&blob.location);
        if let Some(file) = self.cache.open_checked(key(blob.blob), blob.bytes, crc32c).await? {
            return Ok(file);
        }
        let copy = |fill| async { self.copy(blob, fill).await };
        Ok(self.cache.get_or_fetch(key(blob.blob), blob.bytes, crc32c, copy).await?)
    }

    /// Brings blobs of one object here with one request; what the cache has no room for is not kept.
    pub(crate) async fn fetch_together(&self, first: &RemoteBlob, others: Vec<RemoteBlob>) -> Result<(), FsError> {
        Ok(self.fetch_head(first, others).await.map(drop)?)
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
            Location::Staged { node } => self.read_staged(node, remote.blob, offset, bytes).await,
        }
    }

    /// Another node's agent.
    pub(crate) fn peer(&self, node: &NodeName) -> Result<AgentClient<Channel>, FsError> {
        let channel = self.peers.read().expect("lock").get(node).map(|peer| peer.channel.clone());
        let channel = channel.ok_or_else(|| FsError::Unavailable(format!("node {node} is unknown")))?;
        Ok(AgentClient::new(channel).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES))
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
