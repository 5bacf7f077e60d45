//! The agent's side of the controller: one connection, retried with back-off, errors sorted by what to do about them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use moorhouse_catalog::ids::InvalidId;
use moorhouse_catalog::{
    BlobId, CommitToken, Epoch, Incarnation, Location, Node, NodeName, NodeView, PartChange, TableShard,
    TableShardSnapshot, Version, codec,
};
use moorhouse_proto as wire;
use moorhouse_proto::controller_client::ControllerClient as Grpc;
use moorhouse_security::{Dialer, LeaderChannel, controller_urls};
use rand::RngExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use crate::fs::error::FsError;
use crate::fs::io::RemoteBlob;
use crate::limits;
use crate::metrics;
use crate::pieces;

#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    #[error("--controller {url:?} is not a URL: say http://host:port or https://host:port")]
    BadUrl { url: String },
    #[error("the controller at {url} refused this node: {message}")]
    Refused { url: String, message: String },
    #[error("the controller sent what this build cannot read: {0}")]
    Unreadable(#[from] codec::CodecError),
}

/// Cheap to clone; all clones speak as the same node.
#[derive(Clone)]
pub struct ControllerClient {
    url: String,
    node: NodeName,
    grpc: Grpc<LeaderChannel>,
    incarnation: Arc<AtomicU64>,
    in_step: Arc<InStep>,
}

/// What a node's disk must have, by the catalog's word.
#[derive(Debug, Default)]
pub struct StagedHere {
    /// Staged on this node.
    pub own: Vec<BlobId>,
    /// Kept here for the nodes that they are staged on.
    pub copies: Vec<BlobId>,
    /// Of `own`: what other nodes keep, as it can be had there.
    pub copied: Vec<(RemoteBlob, NodeName)>,
}

/// Whether this node's readers have taken in the whole changelog. What was removed since they last had is still read here.
#[derive(Debug)]
pub struct InStep(Mutex<Option<Instant>>);

impl Default for InStep {
    /// What is loaded from now on is at least as new as this moment.
    fn default() -> Self {
        Self(Mutex::new(Some(Instant::now())))
    }
}

impl InStep {
    pub fn reached(&self) {
        *self.0.lock().expect("lock") = None;
    }

    pub fn lost(&self) {
        self.0.lock().expect("lock").get_or_insert_with(Instant::now);
    }

    /// For how long they may have missed something.
    pub fn behind(&self) -> Duration {
        self.0.lock().expect("lock").map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl ControllerClient {
    /// Makes no connection yet.
    pub fn new(url: &str, node: NodeName, dialer: &Dialer) -> Result<Self, ControllerError> {
        let bad_url = || ControllerError::BadUrl { url: url.to_string() };
        for url in controller_urls(url) {
            let has_scheme = url.starts_with("http://") || url.starts_with("https://");
            let whole = |e: &Endpoint| has_scheme && e.uri().host().is_some() && e.uri().port().is_some();
            dialer.endpoint(url).ok().filter(whole).ok_or_else(bad_url)?;
        }
        let tune = |endpoint: Endpoint| watched(endpoint.connect_timeout(limits::CONTROLLER_CONNECT));
        let channel = LeaderChannel::new(dialer.clone(), controller_urls(url), tune).map_err(|_| bad_url())?;
        let grpc = Grpc::new(channel)
            .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES)
            .max_encoding_message_size(limits::GRPC_MESSAGE_BYTES);
        Ok(Self { url: url.to_string(), node, grpc, incarnation: Arc::default(), in_step: Arc::default() })
    }

    pub fn in_step(&self) -> &InStep {
        &self.in_step
    }

    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.load(Ordering::SeqCst))
    }

    /// Says who this node is; waits for a controller that is not there yet.
    pub async fn register(&self, node: &Node) -> Result<NodeView, ControllerError> {
        let mut pause = Backoff::new(limits::RECONNECT_FIRST, limits::RECONNECT_LONGEST);
        loop {
            let request = wire::RegisterRequest { node_record: codec::encode(node).into() };
            match self.grpc.clone().register(request).await {
                Ok(reply) => {
                    let reply = reply.into_inner();
                    self.incarnation.store(reply.incarnation, Ordering::SeqCst);
                    return Ok(codec::decode(&reply.view_record)?);
                }
                Err(status) if is_passing(&status) => {
                    tracing::warn!(url = self.url, error = status.message(), "no controller yet");
                    pause.wait().await;
                }
                Err(status) => {
                    return Err(ControllerError::Refused {
                        url: self.url.clone(),
                        message: status.message().to_string(),
                    });
                }
            }
        }
    }

    /// Opens the heartbeat stream. Its answers are views.
    pub async fn session(&self, beats: mpsc::Receiver<wire::Heartbeat>) -> Result<Streaming<wire::ViewUpdate>, Status> {
        Ok(self.grpc.clone().session(ReceiverStream::new(beats)).await?.into_inner())
    }

    pub async fn watch_changelog(&self) -> Result<Streaming<wire::ChangelogUpdate>, Status> {
        let request = wire::WatchChangelogRequest { node: self.node.to_string() };
        Ok(self.grpc.clone().watch_changelog(request).await?.into_inner())
    }

    /// What the catalog believes to be staged here.
    pub async fn staged(&self) -> Result<StagedHere, Status> {
        let request = wire::ListStagedRequest { node: self.node.to_string() };
        let mut stream = self.grpc.clone().list_staged(request).await?.into_inner();
        let mut staged = StagedHere::default();
        let unreadable = |error: InvalidId| Status::data_loss(error.to_string());
        while let Some(wire::ListStagedReply { blobs, copies, copied }) = stream.message().await? {
            for blob in blobs {
                staged.own.push(BlobId::from_wire(&blob).map_err(unreadable)?);
            }
            for blob in copies {
                staged.copies.push(BlobId::from_wire(&blob).map_err(unreadable)?);
            }
            for wire::CopiedBlob { blob, bytes, node } in copied {
                let blob = BlobId::from_wire(&blob).map_err(unreadable)?;
                let node = NodeName::new(node).map_err(unreadable)?;
                let location = Location::Staged { node: node.clone() };
                staged.copied.push((RemoteBlob { blob, bytes, location }, node));
            }
        }
        Ok(staged)
    }

    /// Everything a table shard holds. Tries for as long as a commit would.
    pub async fn snapshot(&self, ts: TableShard) -> Result<TableShardSnapshot, FsError> {
        let request = || wire::SnapshotRequest { table: ts.table.to_wire().into(), shard: u32::from(ts.shard.0) };
        let pages = patiently(|| {
            let mut grpc = self.grpc.clone();
            async move {
                let mut stream = grpc.stream_snapshot(request()).await?.into_inner();
                let mut pages = Vec::new();
                while let Some(page) = stream.message().await? {
                    pages.push(page.snapshot_record);
                }
                Ok(pages)
            }
        })
        .await?;
        let unreadable = |error: codec::CodecError| FsError::Unavailable(error.to_string());
        let mut whole: Option<TableShardSnapshot> = None;
        for page in pages {
            let page: TableShardSnapshot = codec::decode(&page).map_err(unreadable)?;
            match &mut whole {
                None => whole = Some(page),
                Some(whole) => {
                    whole.parts.extend(page.parts);
                    whole.inodes.extend(page.inodes);
                }
            }
        }
        whole.ok_or_else(|| FsError::Unavailable("the controller sent a snapshot without pages".to_string()))
    }

    /// One change from `version` to the newest, which is named; `None` if the changelog does not reach back so far.
    pub async fn changes_since(
        &self,
        ts: TableShard,
        version: Version,
    ) -> Result<Option<(Version, PartChange)>, FsError> {
        let request = || wire::ChangesRequest {
            table: ts.table.to_wire().into(),
            shard: u32::from(ts.shard.0),
            version: version.0,
        };
        let reply = patiently(|| {
            let mut grpc = self.grpc.clone();
            async move {
                match grpc.get_changes(request()).await {
                    Ok(reply) => Ok(Some(reply.into_inner())),
                    Err(status) if status.code() == Code::OutOfRange => Ok(None),
                    Err(status) => Err(status),
                }
            }
        })
        .await?;
        let Some(wire::ChangesReply { version, change_record }) = reply else { return Ok(None) };
        let change = codec::decode(&change_record).map_err(|error| FsError::Unavailable(error.to_string()))?;
        Ok(Some((Version(version), change)))
    }

    /// Commits. Very many removals go in several commits, those that stand for nothing new first. After an error it may have
    /// happened all the same, in part or whole; repeating it is harmless.
    pub async fn commit(&self, ts: TableShard, epoch: Epoch, change: &PartChange) -> Result<(), FsError> {
        if change.removed.len() <= limits::REMOVALS_A_COMMIT {
            return self.commit_one(ts, epoch, change).await;
        }
        for piece in pieces::split(change.clone(), limits::REMOVALS_A_COMMIT) {
            self.commit_one(ts, epoch, &piece).await?;
        }
        Ok(())
    }

    /// Commits. After an error it may have happened all the same, unless the first answer was `Fenced`; repeating it is
    /// harmless.
    async fn commit_one(&self, ts: TableShard, epoch: Epoch, change: &PartChange) -> Result<(), FsError> {
        let record: bytes::Bytes = codec::encode(change).into();
        let token: bytes::Bytes = CommitToken::random().to_wire().into();
        let request = || wire::CommitPartsRequest {
            node: self.node.to_string(),
            incarnation: self.incarnation().0,
            table: ts.table.to_wire().into(),
            shard: u32::from(ts.shard.0),
            epoch: epoch.0,
            change_record: record.clone(),
            token: token.clone(),
        };
        let outcome = patiently(|| {
            let mut grpc = self.grpc.clone();
            let request = request();
            async move { grpc.commit_parts(request).await }
        })
        .await;
        match outcome {
            Ok(_) => {
                metrics::COMMITS.inc();
                Ok(())
            }
            Err(error) => {
                if matches!(error, FsError::Fenced(_)) {
                    metrics::COMMITS_REFUSED.inc();
                }
                Err(error)
            }
        }
    }
}

/// Repeats a call while the controller is away, up to the commit's patience.
async fn patiently<T, F, Fut>(mut call: F) -> Result<T, FsError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Status>>,
{
    let deadline = tokio::time::Instant::now() + limits::COMMIT_PATIENCE;
    let mut pause = Backoff::new(limits::COMMIT_RETRY_FIRST, limits::COMMIT_RETRY_LONGEST);
    loop {
        let attempt = tokio::time::timeout(limits::CALL_LONGEST, call()).await;
        match attempt.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
            Ok(reply) => return Ok(reply),
            Err(status) if is_passing(&status) && tokio::time::Instant::now() < deadline => {
                tracing::warn!(error = status.message(), "the controller is away: trying again");
                pause.wait().await;
            }
            Err(status) => return Err(translate(&status)),
        }
    }
}

/// A connection whose other end has silently gone is noticed within seconds, not when TCP gives up.
pub fn watched(endpoint: Endpoint) -> Endpoint {
    endpoint
        .tcp_nodelay(true)
        .http2_keep_alive_interval(limits::KEEP_ALIVE)
        .keep_alive_timeout(limits::KEEP_ALIVE)
        .keep_alive_while_idle(true)
}

/// Whether the same call may succeed later.
pub fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled | Code::Unknown => true,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

fn translate(status: &Status) -> FsError {
    match status.code() {
        Code::FailedPrecondition | Code::PermissionDenied => FsError::Fenced(status.message().to_string()),
        Code::InvalidArgument => FsError::Refused(status.message().to_string()),
        _ => FsError::Unavailable(format!("{:?}: {}", status.code(), status.message())),
    }
}

/// Growing pauses with jitter, so that a hundred agents do not come back in one moment.
pub struct Backoff {
    first: Duration,
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, next: first, longest }
    }

    pub async fn wait(&mut self) {
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(self.next.mul_f64(jitter)).await;
        self.next = (self.next * 2).min(self.longest);
    }

    pub fn reset(&mut self) {
        self.next = self.first;
    }
}
