//! The agent's gRPC service: bytes for peers, steps of a move for the controller.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use moorhouse_catalog::ids::InvalidId;
use moorhouse_catalog::{BlobId, Epoch, Location, NodeName, NodeView, ShardId, TableShard, codec, parts};
use moorhouse_proto as wire;
use moorhouse_proto::agent_server::Agent;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::adopt::Adopted;
use crate::blobs::{BlobSource, key};
use crate::controller::ControllerClient;
use crate::copies::{self, Copies};
use crate::fs::Role;
use crate::fs::error::FsError;
use crate::fs::io::RemoteBlob;
use crate::limits;
use crate::owner::Command;
use crate::router::HoldError;
use crate::routes::Routes;

pub struct AgentService {
    pub source: BlobSource,
    pub controller: ControllerClient,
    pub commands: mpsc::Sender<Command>,
    pub views: watch::Receiver<Arc<NodeView>>,
    pub routes: Routes,
    /// Staged blobs copied for shards that are on their way here.
    pub arriving: Mutex<HashMap<ShardId, HashSet<BlobId>>>,
    /// One round of copying at a time.
    pub copying: tokio::sync::Mutex<()>,
    /// What this node keeps for others.
    pub copies: Arc<Copies>,
}

type BlobStream = ReceiverStream<Result<wire::BlobChunk, Status>>;

#[tonic::async_trait]
impl Agent for AgentService {
    type ReadBlobStream = BlobStream;

    async fn read_blob(&self, request: Request<wire::ReadBlobRequest>) -> Result<Response<BlobStream>, Status> {
        let request = request.into_inner();
        let blob = BlobId::from_wire(&request.blob).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let file = self.source.open_local(blob).map_err(internal)?;
        let file = file.ok_or_else(|| Status::not_found(format!("blob {blob} is not here")))?;
        let size = file.metadata().map_err(|error| Status::internal(error.to_string()))?.len();
        let end = if request.length == 0 { size } else { size.min(request.offset + request.length) };
        let (sender, receiver) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || send_range(&file, request.offset, end, &sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    type ReadBlobsStream = ReceiverStream<Result<wire::BlobContent, Status>>;

    async fn read_blobs(
        &self,
        request: Request<wire::ReadBlobsRequest>,
    ) -> Result<Response<Self::ReadBlobsStream>, Status> {
        let wanted = request.into_inner().blobs;
        let (sender, receiver) = mpsc::channel(16);
        let source = self.source.clone();
        tokio::task::spawn_blocking(move || send_blobs(&source, wanted, &sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn keep_copies(
        &self,
        request: Request<wire::KeepCopiesRequest>,
    ) -> Result<Response<wire::KeepCopiesReply>, Status> {
        let wire::KeepCopiesRequest { node, blobs, bytes } = request.into_inner();
        let invalid = |error: InvalidId| Status::invalid_argument(error.to_string());
        let location = Location::Staged { node: NodeName::new(node).map_err(invalid)? };
        if blobs.len() != bytes.len() {
            return Err(Status::invalid_argument("each blob comes with its length"));
        }
        let mut wanted = Vec::with_capacity(blobs.len());
        for (blob, bytes) in blobs.into_iter().zip(bytes) {
            let blob = BlobId::from_wire(&blob).map_err(invalid)?;
            wanted.push(RemoteBlob { blob, bytes, location: location.clone() });
        }
        let kept = self.copies.keep(&self.source, wanted).await.map_err(internal)?;
        Ok(Response::new(wire::KeepCopiesReply { kept: kept.into_iter().map(|b| b.to_wire().into()).collect() }))
    }

    async fn check_staged(
        &self,
        request: Request<wire::CheckStagedRequest>,
    ) -> Result<Response<wire::CheckStagedReply>, Status> {
        let wire::CheckStagedRequest { blobs, bytes, with_checksums } = request.into_inner();
        if blobs.len() != bytes.len() {
            return Err(Status::invalid_argument("each blob comes with its length"));
        }
        let source = self.source.clone();
        let asked = blobs.into_iter().zip(bytes).collect();
        let checked = tokio::task::spawn_blocking(move || copies::check(&source, asked, with_checksums)).await;
        checked.map_err(|error| Status::internal(error.to_string()))?.map(Response::new).map_err(internal)
    }

    async fn describe_table(
        &self,
        request: Request<wire::DescribeTableRequest>,
    ) -> Result<Response<wire::DescribeTableReply>, Status> {
        let wire::DescribeTableRequest { create_tail, database } = request.into_inner();
        let described = self.ask(|answer| Command::Describe { create_tail, database, answer }).await?;
        Ok(Response::new(described.map_err(Status::invalid_argument)?))
    }

    async fn pre_copy(&self, request: Request<wire::PreCopyRequest>) -> Result<Response<wire::PreCopyReply>, Status> {
        let shard = shard_id(request.into_inner().shard)?;
        let _alone = self.copying.lock().await;
        let view = self.views.borrow().clone();
        let staged = self.staged_elsewhere(shard, &view).await?;
        let durable = self.arriving.lock().expect("lock").get(&shard).cloned().unwrap_or_default();
        let Adopted { kept, copied_bytes } = self.source.adopt(staged, &durable).await.map_err(internal)?;
        self.replace_arriving(shard, &kept).await;
        let blobs = kept.into_iter().map(|blob| blob.to_wire().into()).collect();
        Ok(Response::new(wire::PreCopyReply { blobs, copied_bytes }))
    }

    async fn hold(&self, request: Request<wire::HoldRequest>) -> Result<Response<wire::HoldReply>, Status> {
        let request = request.into_inner();
        let shard = shard_id(request.shard)?;
        let drain = Duration::from_millis(u64::from(request.drain_timeout_ms));
        let hold = Duration::from_millis(u64::from(request.hold_timeout_ms));
        match self.routes.router().hold(shard, drain, hold).await {
            Ok(connections_closed) => Ok(Response::new(wire::HoldReply { connections_closed })),
            Err(error @ HoldError::NoSuchShard { .. }) => Err(Status::not_found(error.to_string())),
            Err(error @ HoldError::AlreadyHeld { .. }) => Err(Status::already_exists(error.to_string())),
            Err(error @ HoldError::StillBusy { .. }) => Err(Status::deadline_exceeded(error.to_string())),
            Err(error @ HoldError::Released { .. }) => Err(Status::aborted(error.to_string())),
        }
    }

    async fn detach(&self, request: Request<wire::ShardRequest>) -> Result<Response<wire::ShardReply>, Status> {
        let wire::ShardRequest { shard, epoch } = request.into_inner();
        let shard = shard_id(shard)?;
        let detached = self.ask(|answer| Command::Detach { shard, epoch: Epoch(epoch), answer }).await?;
        detached.map_err(Status::internal)?;
        Ok(Response::new(wire::ShardReply {}))
    }

    async fn attach(&self, request: Request<wire::AttachRequest>) -> Result<Response<wire::ShardReply>, Status> {
        let request = request.into_inner();
        let shard = shard_id(request.shard)?;
        let view: NodeView =
            codec::decode(&request.view_record).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let attached = self.ask(|answer| Command::Attach { view: Box::new(view), shard, answer }).await?;
        attached.map_err(Status::internal)?;
        self.arriving.lock().expect("lock").remove(&shard);
        Ok(Response::new(wire::ShardReply {}))
    }

    async fn release(&self, request: Request<wire::ReleaseRequest>) -> Result<Response<wire::ShardReply>, Status> {
        let request = request.into_inner();
        let shard = shard_id(request.shard)?;
        // A cancelled move: what had left comes back before work flows again.
        let epoch = Epoch(request.epoch);
        self.ask(|answer| Command::Resume { shard, epoch, answer }).await?.map_err(Status::internal)?;
        self.routes.release(shard, epoch, &request.native_address);
        self.replace_arriving(shard, &HashSet::new()).await;
        Ok(Response::new(wire::ShardReply {}))
    }
}

impl AgentService {
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Command,
    ) -> Result<Result<T, String>, Status> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| Status::unavailable("the engine is starting or stopping");
        self.commands.send(command(answer)).await.map_err(|_| gone(()))?;
        answered.await.map_err(|_| gone(()))
    }

    /// What the shard's active parts have staged on other nodes, of the tables that this group writes.
    async fn staged_elsewhere(&self, shard: ShardId, view: &NodeView) -> Result<Vec<RemoteBlob>, Status> {
        let mut staged: HashMap<BlobId, RemoteBlob> = HashMap::new();
        let written = view.tables.iter().filter(|table| Role::of(table, view) == Role::Writer);
        let tables: Vec<_> = written.map(|table| table.id).collect();
        let snapshots =
            futures::stream::iter(tables).map(|table| self.controller.snapshot(TableShard { table, shard }));
        for snapshot in snapshots.buffer_unordered(limits::PARALLEL_COPIES).collect::<Vec<_>>().await {
            let snapshot = snapshot.map_err(internal)?;
            let active: HashSet<&str> =
                parts::active(snapshot.parts.iter().map(|m| m.part.as_str())).into_iter().collect();
            let lasting =
                snapshot.parts.iter().filter(|m| active.contains(m.part.as_str()) || m.part.as_str().contains('/'));
            for file in lasting.flat_map(|m| &m.files) {
                if matches!(&file.location, Location::Staged { node } if *node != view.node) {
                    let remote = RemoteBlob { blob: file.blob, bytes: file.bytes, location: file.location.clone() };
                    staged.insert(file.blob, remote);
                }
            }
        }
        Ok(staged.into_values().collect())
    }

    /// Remembers what was copied for an arriving shard, and lets go of copies that the newest list no longer has, unless the
    /// catalog says that they are this node's to keep: the move may have ended without our hearing of it.
    async fn replace_arriving(&self, shard: ShardId, kept: &HashSet<BlobId>) {
        let before = {
            let mut arriving = self.arriving.lock().expect("lock");
            if kept.is_empty() { arriving.remove(&shard) } else { arriving.insert(shard, kept.clone()) }
        };
        let unwanted: Vec<BlobId> = before.unwrap_or_default().difference(kept).copied().collect();
        if unwanted.is_empty() {
            return;
        }
        let ours: HashSet<BlobId> = match self.controller.staged().await {
            Ok(staged) => staged.own.into_iter().chain(staged.copies).collect(),
            Err(status) => {
                tracing::info!(error = status.message(), "copies that may be unwanted stay until the next start");
                return;
            }
        };
        for blob in unwanted.into_iter().filter(|blob| !ours.contains(blob) && !self.copies.has(*blob)) {
            if let Err(error) = self.source.cache().remove(key(blob)) {
                tracing::warn!(%blob, %error, "a copy that is no longer needed stays until the next start");
            }
        }
    }
}

fn send_range(file: &std::fs::File, mut offset: u64, end: u64, to: &mpsc::Sender<Result<wire::BlobChunk, Status>>) {
    while offset < end {
        let mut buffer = vec![0; limits::BLOB_CHUNK_BYTES.min((end - offset) as usize)];
        let chunk = match file.read_at(&mut buffer, offset) {
            Ok(0) => Err(Status::data_loss("the file is shorter than it was")),
            Ok(read) => {
                offset += read as u64;
                buffer.truncate(read);
                Ok(wire::BlobChunk { data: buffer.into() })
            }
            Err(error) => Err(Status::internal(error.to_string())),
        };
        let failed = chunk.is_err();
        if to.blocking_send(chunk).is_err() || failed {
            return;
        }
    }
}

fn send_blobs(source: &BlobSource, wanted: Vec<bytes::Bytes>, to: &mpsc::Sender<Result<wire::BlobContent, Status>>) {
    for blob in wanted {
        let content = read_small(source, &blob);
        let content = match content {
            Ok(None) => continue,
            Ok(Some(data)) => Ok(wire::BlobContent { blob, data: data.into() }),
            Err(status) => Err(status),
        };
        let failed = content.is_err();
        if to.blocking_send(content).is_err() || failed {
            return;
        }
    }
}

fn read_small(source: &BlobSource, blob: &[u8]) -> Result<Option<Vec<u8>>, Status> {
    let blob = BlobId::from_wire(blob).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let Some(mut file) = source.open_local(blob).map_err(internal)? else { return Ok(None) };
    let broken = |error: std::io::Error| Status::internal(error.to_string());
    let bytes = file.metadata().map_err(broken)?.len();
    if bytes > limits::SMALL_BLOB_BYTES {
        return Ok(None);
    }
    let mut data = Vec::with_capacity(bytes as usize);
    std::io::Read::read_to_end(&mut file, &mut data).map_err(broken)?;
    Ok(Some(data))
}

fn shard_id(shard: u32) -> Result<ShardId, Status> {
    u16::try_from(shard).map(ShardId).map_err(|_| Status::invalid_argument(format!("{shard} is no shard")))
}

fn internal(error: FsError) -> Status {
    match error {
        FsError::Unavailable(message) => Status::unavailable(message),
        other => Status::internal(other.to_string()),
    }
}
