//! A blob's bytes, wherever they are: this SSD, another agent's, the object store.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use moorhouse_cache::{BlobCache, BlobKey, CacheError, Fill};
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
}

#[derive(Clone)]
struct Peer {
    address: String,
    channel: Channel,
}

impl BlobSource {
    pub fn new(cache: BlobCache, objects: Objects, dialer: Dialer) -> Self {
        Self { cache, objects, peers: Arc::default(), dialer }
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

    /// Brings a blob into the cache, once for all who wait for it; serves it by range where the cache has no room.
    pub async fn fetch(&self, wanted: Wanted) -> Result<Opened, FsError> {
        let Wanted { blob, companions } = wanted;
        let fetched = self
            .cache
            .get_or_fetch(key(blob.blob), blob.bytes, checksum(&blob.location), |fill| async {
                if companions.is_empty() {
                    self.copy(&blob, fill).await
                } else {
                    self.copy_head(&blob, &companions, fill).await
                }
            })
            .await;
        match fetched {
            Ok(file) => Ok(Opened::Local(file)),
            Err(CacheError::NoRoom { .. }) => Ok(Opened::Remote(blob)),
            Err(error) => Err(error.into()),
        }
    }

    /// Copies a blob and its companions with one request to the object store.
    async fn copy_head(&self, wanted: &RemoteBlob, companions: &[RemoteBlob], mut fill: Fill) -> Result<Fill, FsError> {
        let spans = std::iter::once(wanted).chain(companions).filter_map(span);
        let (start, end) = spans.fold((u64::MAX, 0), |(start, end), span| (start.min(span.start), end.max(span.end)));
        let Location::Stored { object, .. } = &wanted.location else { return self.copy(wanted, fill).await };
        let head = self.get_object(object, start, end - start).await?;
        let part =
            |blob: &RemoteBlob| span(blob).map(|s| head.slice((s.start - start) as usize..(s.end - start) as usize));
        if let Some(content) = part(wanted) {
            fill.write_all(&content)?;
        }
        for companion in companions {
            let Some(content) = part(companion) else { continue };
            if let Err(error) = self.keep(companion, &content) {
                tracing::debug!(blob = %companion.blob, %error, "a companion is fetched when it is asked for");
            }
        }
        Ok(fill)
    }

    fn keep(&self, blob: &RemoteBlob, content: &[u8]) -> Result<(), FsError> {
        let mut fill = self.cache.fill(key(blob.blob), blob.bytes)?;
        fill.write_all(content)?;
        fill.complete(checksum(&blob.location))?;
        Ok(())
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

    /// Copies a blob's bytes, a bounded piece at a time.
    pub(crate) async fn copy<W: Write>(&self, remote: &RemoteBlob, mut to: W) -> Result<W, FsError> {
        let mut offset = 0;
        while offset < remote.bytes {
            let piece = self.read(remote, offset, limits::FETCH_PIECE_BYTES).await?;
            to.write_all(&piece)?;
            offset += piece.len() as u64;
        }
        Ok(to)
    }

    /// A local copy's descriptor, for a peer that asks.
    pub fn open_local(&self, blob: BlobId) -> Result<Option<File>, FsError> {
        Ok(self.cache.open_file(key(blob), false)?)
    }
}

/// Where in its object a stored blob lies.
fn span(blob: &RemoteBlob) -> Option<Range<u64>> {
    match &blob.location {
        Location::Stored { offset, .. } => Some(*offset..offset + blob.bytes),
        Location::Staged { .. } => None,
    }
}

fn checksum(location: &Location) -> Option<u32> {
    match location {
        Location::Stored { crc32c, .. } => Some(*crc32c),
        Location::Staged { .. } => None,
    }
}
