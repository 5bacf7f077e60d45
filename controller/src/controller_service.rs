//! The gRPC service for agents and gateways: reads requests, asks the owner, writes answers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::Stream;
use moorhouse_base::tasks::TaskGroup;
use moorhouse_catalog::state::{Catalog, Command, CommitParts, Reply};
use moorhouse_catalog::{
    CommitToken, DdlSeq, DdlStatement, DdlToken, Epoch, Incarnation, Node, NodeName, PartChange, Revision, ShardId,
    TableId, TableShard, Version, codec,
};
use moorhouse_proto::controller_server::Controller;
use moorhouse_proto::{
    ChangelogUpdate, ChangesReply, ChangesRequest, CommitPartsReply, CommitPartsRequest, CopiedBlob, DdlProgress,
    Heartbeat, ListStagedReply, ListStagedRequest, RegisterReply, RegisterRequest, SnapshotReply, SnapshotRequest,
    SubmitDdlRequest, ViewUpdate, WatchChangelogRequest, WatchClusterRequest,
};
use moorhouse_security::{Caller, Callers, Who};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::ddl::Ddl;
use crate::error::{ControllerError, OrBadRequest};
use crate::liveness::{Beat, DdlFailure};
use crate::owner::{ChangelogEvent, Owner};
use crate::published::Published;
use crate::{limits, metrics};

/// Blobs in one message of `ListStaged`.
const STAGED_A_MESSAGE: usize = 10_000;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub struct ControllerService {
    pub owner: Owner,
    pub ddl: Arc<Ddl>,
    pub tasks: TaskGroup,
    pub lease: Duration,
    pub sessions: AtomicU64,
    pub callers: Callers,
}

impl ControllerService {
    /// A stream of answers and the task that fills it; it ends with the stream, or with the controller.
    fn stream<T, F>(&self, name: &'static str, fill: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F) -> Answers<T>
    where
        T: Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(limits::STREAM_BACKLOG);
        self.tasks.spawn(name, fill(sender));
        Box::pin(ReceiverStream::new(receiver))
    }
}

#[tonic::async_trait]
impl Controller for ControllerService {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterReply>, Status> {
        let caller = self.callers.of(&request)?;
        let node: Node = codec::decode(&request.into_inner().node_record).or_bad_request()?;
        caller.must_be_node(node.name.as_str())?;
        let name = node.name.clone();
        let reply = self.owner.apply(Command::RegisterNode(node)).await?;
        let Reply::Registered { incarnation, took_shards } = reply else {
            return Err(Status::internal("a registration was answered with something else"));
        };
        let view = self.owner.shown().directory.node_view(&name);
        let view = view.ok_or_else(|| Status::unavailable("the node was removed just now: register again"))?;
        tracing::info!(node = %name, incarnation = incarnation.0, took_shards, "node registered");
        Ok(Response::new(RegisterReply {
            incarnation: incarnation.0,
            view_record: codec::encode(&view).into(),
            lease_ttl_ms: self.lease.as_millis() as u32,
        }))
    }

    type SessionStream = Answers<ViewUpdate>;

    async fn session(&self, request: Request<Streaming<Heartbeat>>) -> Result<Response<Self::SessionStream>, Status> {
        let caller = self.callers.of(&request)?;
        let heartbeats = request.into_inner();
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        let owner = self.owner.clone();
        // The answer does not wait for the first heartbeat: the agent may send it only after the answer's headers.
        Ok(Response::new(self.stream("session", move |views| async move {
            let ended = attend(&owner, caller, heartbeats, session, &views).await;
            // The agent may be gone: then nobody reads why.
            let _ = views.send(Err(ended)).await;
        })))
    }

    async fn commit_parts(&self, request: Request<CommitPartsRequest>) -> Result<Response<CommitPartsReply>, Status> {
        let caller = self.callers.of(&request)?;
        let CommitPartsRequest { node, incarnation, table, shard, epoch, change_record, token } = request.into_inner();
        caller.must_be_node(&node)?;
        let change: PartChange = codec::decode(&change_record).or_bad_request()?;
        let commit = CommitParts {
            node: NodeName::new(node).or_bad_request()?,
            incarnation: Incarnation(incarnation),
            epoch: Epoch(epoch),
            at: read_place(&table, shard)?,
            change,
            token: CommitToken::from_wire(&token).or_bad_request()?,
        };
        match self.owner.apply(Command::CommitParts(commit)).await? {
            Reply::Committed(version) => Ok(Response::new(CommitPartsReply { version: version.0 })),
            other => Err(Status::internal(format!("a commit was answered with {other:?}"))),
        }
    }

    async fn get_snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<SnapshotReply>, Status> {
        let SnapshotRequest { table, shard } = request.into_inner();
        let at = read_place(&table, shard)?;
        let pages = self.owner.read_shard(at, move |catalog, _| catalog.snapshot_pages(at, usize::MAX)).await?;
        let page = pages.and_then(Result::ok).and_then(|mut pages| pages.pop());
        let page = page.ok_or_else(|| Status::not_found(format!("there is no table shard {at}")))?;
        Ok(Response::new(SnapshotReply { snapshot_record: page.into() }))
    }

    type StreamSnapshotStream = Answers<SnapshotReply>;

    async fn stream_snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::StreamSnapshotStream>, Status> {
        let SnapshotRequest { table, shard } = request.into_inner();
        let at = read_place(&table, shard)?;
        let pages = self.owner.read_shard(at, move |catalog, _| catalog.snapshot_pages(at, limits::PAGE_BYTES)).await?;
        let pages =
            pages.and_then(Result::ok).ok_or_else(|| Status::not_found(format!("there is no table shard {at}")))?;
        let pages = pages.into_iter().map(|page| Ok(SnapshotReply { snapshot_record: page.into() }));
        Ok(Response::new(Box::pin(tokio_stream::iter(pages))))
    }

    async fn get_changes(&self, request: Request<ChangesRequest>) -> Result<Response<ChangesReply>, Status> {
        let ChangesRequest { table, shard, version } = request.into_inner();
        let at = read_place(&table, shard)?;
        let since = Version(version);
        // A reader that has everything needs no list.
        if self.owner.read(move |catalog| catalog.version(at)).await? == Some(since) {
            let nothing = codec::encode(&PartChange::default());
            return Ok(Response::new(ChangesReply { version, change_record: nothing.into() }));
        }
        let changes = self.owner.read_shard(at, move |catalog, _| catalog.changes_since(at, since)).await?;
        let changes = changes.ok_or_else(|| Status::not_found(format!("there is no table shard {at}")))?;
        let (version, change) = changes.map_err(|error| Status::out_of_range(error.to_string()))?;
        Ok(Response::new(ChangesReply { version: version.0, change_record: codec::encode(&change).into() }))
    }

    type WatchChangelogStream = Answers<ChangelogUpdate>;

    async fn watch_changelog(
        &self,
        request: Request<WatchChangelogRequest>,
    ) -> Result<Response<Self::WatchChangelogStream>, Status> {
        self.callers.of(&request)?.must_be_node(&request.get_ref().node)?;
        let mut events = self.owner.watch_changelog();
        Ok(Response::new(self.stream("changelog", move |updates| async move {
            loop {
                let update = match events.recv().await {
                    Ok(ChangelogEvent::Change(at, version, change)) => Ok(ChangelogUpdate {
                        table: at.table.to_wire().into(),
                        shard: u32::from(at.shard.0),
                        version: version.0,
                        change_record: codec::encode(&*change).into(),
                    }),
                    Ok(ChangelogEvent::Broken) => Err(Status::data_loss("changes may be missing: take snapshots")),
                    Err(RecvError::Lagged(missed)) => {
                        Err(Status::data_loss(format!("the reader is {missed} changes too slow: take snapshots")))
                    }
                    Err(RecvError::Closed) => Err(ControllerError::Stopping.into()),
                };
                let ends = update.is_err();
                if updates.send(update).await.is_err() || ends {
                    return;
                }
            }
        })))
    }

    type ListStagedStream = Answers<ListStagedReply>;

    async fn list_staged(
        &self,
        request: Request<ListStagedRequest>,
    ) -> Result<Response<Self::ListStagedStream>, Status> {
        let caller = self.callers.of(&request)?;
        let node = NodeName::new(request.into_inner().node).or_bad_request()?;
        caller.must_be_node(node.as_str())?;
        let messages = self.owner.read(move |catalog| staged_messages(catalog, &node)).await?;
        let messages: Vec<_> = messages.into_iter().map(Ok).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    type WatchClusterStream = Answers<ViewUpdate>;

    async fn watch_cluster(
        &self,
        _request: Request<WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        let published = self.owner.published();
        Ok(Response::new(self.stream("cluster", move |views| show_cluster(published, views))))
    }

    type SubmitDdlStream = Answers<DdlProgress>;

    async fn submit_ddl(&self, request: Request<SubmitDdlRequest>) -> Result<Response<Self::SubmitDdlStream>, Status> {
        let caller = self.callers.of(&request)?;
        if matches!(caller.who, Who::Known(_)) && caller.on_behalf_of.is_none() {
            return Err(Status::invalid_argument("a gateway says on whose behalf it asks: upgrade it"));
        }
        let SubmitDdlRequest { statement_record, token } = request.into_inner();
        let statement: DdlStatement = codec::decode(&statement_record).or_bad_request()?;
        // Without one the outcome cannot be asked for again.
        let token = if token.is_empty() { DdlToken::random() } else { DdlToken::from_wire(&token).or_bad_request()? };
        let progress = self.ddl.submit(statement, token, &caller, &self.tasks).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(progress))))
    }
}

/// A whole session; answers why it ended.
async fn attend(
    owner: &Owner,
    caller: Caller,
    mut heartbeats: Streaming<Heartbeat>,
    session: u64,
    views: &mpsc::Sender<Result<ViewUpdate, Status>>,
) -> Status {
    let first = match heartbeats.message().await {
        Ok(Some(heartbeat)) => read_beat(heartbeat, session, &caller),
        Ok(None) => return Status::invalid_argument("no heartbeat came"),
        Err(status) => return status,
    };
    let (node, incarnation) = match first {
        Ok(beat) => {
            let who = (beat.node.clone(), beat.incarnation);
            if let Err(error) = owner.heartbeat(beat).await {
                return error.into();
            }
            who
        }
        Err(status) => return status,
    };
    let ended = tokio::select! {
        status = hear(owner, &caller, heartbeats, session) => status,
        status = show_node(owner.published(), &node, incarnation, views) => status,
    };
    owner.disconnected(node, session).await;
    ended
}

/// Until the agent's side of the session ends; answers why.
async fn hear(owner: &Owner, caller: &Caller, mut heartbeats: Streaming<Heartbeat>, session: u64) -> Status {
    loop {
        let heard = match heartbeats.message().await {
            Ok(Some(heartbeat)) => match read_beat(heartbeat, session, caller) {
                Ok(beat) => owner.heartbeat(beat).await.map_err(Status::from),
                Err(status) => Err(status),
            },
            Ok(None) => Err(Status::cancelled("the agent has ended the session")),
            Err(status) => Err(status),
        };
        if let Err(status) = heard {
            return status;
        }
    }
}

/// Until this process of the node is not its newest any more, or the stream ends; answers why. Slow readers skip views.
async fn show_node(
    mut published: watch::Receiver<Published>,
    node: &NodeName,
    incarnation: Incarnation,
    views: &mpsc::Sender<Result<ViewUpdate, Status>>,
) -> Status {
    let mut sent = None;
    loop {
        let directory = Arc::clone(&published.borrow_and_update().directory);
        match directory.nodes.get(node) {
            Some(known) if known.incarnation == incarnation => {}
            Some(known) => {
                let newest = known.incarnation;
                return Status::failed_precondition(format!("fenced: node {node} runs as incarnation {newest} now"));
            }
            None => return Status::not_found(format!("node {node} was removed")),
        }
        if sent != Some(directory.revision)
            && let Some(view) = directory.node_view(node)
        {
            sent = Some(directory.revision);
            let update = ViewUpdate { revision: view.revision.0, view_record: codec::encode(&view).into() };
            if views.send(Ok(update)).await.is_err() {
                return Status::cancelled("the agent has left");
            }
            metrics::VIEWS_PUBLISHED.inc();
        }
        if published.changed().await.is_err() {
            return ControllerError::Stopping.into();
        }
    }
}

async fn show_cluster(mut published: watch::Receiver<Published>, views: mpsc::Sender<Result<ViewUpdate, Status>>) {
    let mut sent = None;
    loop {
        let view = published.borrow_and_update().cluster_view();
        if view != sent
            && let Some(view) = view
        {
            let update = ViewUpdate { revision: view.revision.0, view_record: codec::encode(&view).into() };
            if views.send(Ok(update)).await.is_err() {
                return;
            }
            metrics::VIEWS_PUBLISHED.inc();
            sent = Some(view);
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = views.closed() => return,
        }
    }
}

/// What a node has staged, in messages of bounded size.
fn staged_messages(catalog: &Catalog, node: &NodeName) -> Vec<ListStagedReply> {
    let staged: Vec<_> = catalog.staged_on(node).iter().map(|blob| blob.to_wire().into()).collect();
    let copies: Vec<_> = catalog.copies_on(node).map(|file| file.blob.to_wire().into()).collect();
    let copied: Vec<_> = catalog
        .copies_of(node)
        .flat_map(|(file, nodes)| {
            nodes.into_iter().map(move |node| CopiedBlob {
                blob: file.blob.to_wire().into(),
                bytes: file.bytes,
                node: node.to_string(),
            })
        })
        .collect();
    let blobs = staged.chunks(STAGED_A_MESSAGE);
    let blobs = blobs.map(|blobs| ListStagedReply { blobs: blobs.to_vec(), ..ListStagedReply::default() });
    let copies = copies.chunks(STAGED_A_MESSAGE);
    let copies = copies.map(|copies| ListStagedReply { copies: copies.to_vec(), ..ListStagedReply::default() });
    let copied = copied.chunks(STAGED_A_MESSAGE);
    let copied = copied.map(|copied| ListStagedReply { copied: copied.to_vec(), ..ListStagedReply::default() });
    blobs.chain(copies).chain(copied).collect()
}

fn read_beat(heartbeat: Heartbeat, session: u64, caller: &Caller) -> Result<Beat, Status> {
    let Heartbeat { node, incarnation, view_revision, failures, load, config_error } = heartbeat;
    caller.must_be_node(&node)?;
    Ok(Beat {
        node: NodeName::new(node).or_bad_request()?,
        incarnation: Incarnation(incarnation),
        session,
        view_revision: Revision(view_revision),
        failures: failures.into_iter().map(read_failure).collect(),
        load: load.unwrap_or_default(),
        config_error,
    })
}

fn read_failure(failure: moorhouse_proto::DdlFailure) -> DdlFailure {
    let moorhouse_proto::DdlFailure { ddl_seq, error, shard } = failure;
    let shard = shard.and_then(|shard| u16::try_from(shard).ok()).map(ShardId);
    DdlFailure { seq: DdlSeq(ddl_seq), shard, error }
}

fn read_place(table: &[u8], shard: u32) -> Result<TableShard, ControllerError> {
    let table = TableId::from_wire(table).or_bad_request()?;
    let shard = u16::try_from(shard).map(ShardId).or_bad_request()?;
    Ok(TableShard { table, shard })
}
