//! A controller on a free port, and agents that do as they are told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use moorhouse_base::clock::{Clock, SystemClock};
use moorhouse_catalog::store::memory::MemoryStore;
use moorhouse_catalog::store::{Store, StoreAccess};
use moorhouse_catalog::*;
use moorhouse_controller::config::Config;
use moorhouse_controller::server::{self, Running};
use moorhouse_proto::admin_client::AdminClient;
use moorhouse_proto::agent_server::{Agent, AgentServer};
use moorhouse_proto::controller_client::ControllerClient;
use moorhouse_proto::*;
use moorhouse_security::{Lifetime, TlsFlags};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

pub const WAIT: Duration = Duration::from_secs(10);

pub struct Cluster {
    pub running: Running,
    pub store: Arc<dyn Store>,
    pub memory: MemoryStore,
    pub config: Config,
    _objects: tempfile::TempDir,
}

impl Cluster {
    /// On a memory store: four shards, groups `etl` and `bi`.
    pub async fn start() -> Self {
        let memory = MemoryStore::new();
        Self::start_on(Arc::new(memory.clone()), memory).await
    }

    pub async fn start_on(store: Arc<dyn Store>, memory: MemoryStore) -> Self {
        Self::start_with(store, memory, |_| {}).await
    }

    pub async fn start_with(store: Arc<dyn Store>, memory: MemoryStore, set: impl FnOnce(&mut Config)) -> Self {
        let objects = tempfile::tempdir().expect("a directory");
        let url = format!("file://{}", objects.path().display());
        let mut config = Config {
            listen: "127.0.0.1:0".parse().expect("an address"),
            metrics: "127.0.0.1:0".parse().expect("an address"),
            store: "memory:".parse().expect("a store"),
            store_access: StoreAccess::default(),
            objects: url.parse().expect("a place"),
            objects_text: url,
            shards: ShardCount::new(4).ok(),
            users: Vec::new(),
            groups: vec![group("etl"), group("bi")],
            lease: Duration::from_millis(1_500),
            delete_grace_ms: 0,
            orphan_grace_ms: 7_200_000,
            lists_bytes: 1 << 30,
            advertise: None,
            leader_ttl: Duration::from_secs(2),
            restore: None,
            tls: TlsFlags::default(),
            issuer: None,
            issue_for: Lifetime::LEAF,
        };
        set(&mut config);
        let running = server::start_on(&config, Arc::clone(&store), Arc::new(SystemClock)).await.expect("starts");
        Self { running, store, memory, config, _objects: objects }
    }

    /// Ends the controller, and starts another on the same store and port.
    pub async fn restart(self) -> Self {
        let Self { running, store, memory, mut config, _objects } = self;
        config.listen = running.address;
        assert!(running.stop().await, "stops in time");
        let running = server::start_on(&config, Arc::clone(&store), Arc::new(SystemClock)).await.expect("starts again");
        Self { running, store, memory, config, _objects }
    }

    fn url(&self) -> String {
        format!("http://{}", self.running.address)
    }

    pub async fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::connect(self.url()).await.expect("connects")
    }

    pub async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::connect(self.url()).await.expect("connects")
    }

    pub async fn node(&self, name: &str, of: &str) -> TestNode {
        TestNode::start(self, name, of).await
    }

    /// Runs a statement to its end; the error is the user's.
    pub async fn ddl(&self, statement: DdlStatement) -> Result<u64, String> {
        self.ddl_under(statement, DdlToken::random()).await
    }

    /// The same, under a token of the test's.
    pub async fn ddl_under(&self, statement: DdlStatement, token: DdlToken) -> Result<u64, String> {
        let (statement_record, token) = (codec::encode(&statement).into(), token.to_wire().into());
        let request = SubmitDdlRequest { statement_record, token };
        let mut progress = self.controller().await.submit_ddl(request).await.expect("admitted").into_inner();
        while let Some(step) = progress.message().await.expect("progress") {
            if step.finished {
                return if step.error.is_empty() { Ok(step.ddl_seq) } else { Err(step.error) };
            }
        }
        panic!("the progress ended without an end");
    }

    pub async fn create_table(&self, name: &str) -> Result<u64, String> {
        self.ddl(create_table(name, false)).await
    }

    pub async fn shards(&self) -> Vec<ShardInfo> {
        let request = ListShardsRequest { group: "etl".to_owned() };
        self.admin().await.list_shards(request).await.expect("lists").into_inner().shards
    }

    pub async fn held_by(&self, node: &str) -> usize {
        self.shards().await.iter().filter(|shard| shard.node == node).count()
    }

    pub async fn moves(&self) -> Vec<MoveInfo> {
        self.admin().await.list_moves(ListMovesRequest {}).await.expect("lists").into_inner().moves
    }

    pub async fn snapshot(&self, at: TableShard) -> TableShardSnapshot {
        let request = SnapshotRequest { table: at.table.to_wire().into(), shard: at.shard.0.into() };
        let reply = self.controller().await.get_snapshot(request).await.expect("is there").into_inner();
        codec::decode(&reply.snapshot_record).expect("a snapshot")
    }
}

/// Until `holds` says so, or the test fails.
pub async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let deadline = tokio::time::Instant::now() + WAIT;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn now_ms() -> u64 {
    SystemClock.now_ms()
}
pub fn group(name: &str) -> GroupName {
    GroupName::new(name).expect("valid")
}
pub fn sql(name: &str) -> SqlName {
    SqlName::new(name).expect("valid")
}

pub fn create_table(name: &str, if_not_exists: bool) -> DdlStatement {
    DdlStatement::CreateTable {
        group: group("etl"),
        database: sql("default"),
        name: sql(name),
        if_not_exists,
        create_tail: "(a UInt64) ENGINE = MergeTree ORDER BY a".to_owned(),
        session_database: sql("default"),
        sharding_key: None,
    }
}

pub fn staged_part(name: &str, blob: BlobId, node: &str) -> Manifest {
    Manifest {
        part: PartPath::new(name).expect("valid"),
        rows: 1,
        committed_ms: 0,
        files: vec![FileEntry {
            path: FilePath::new("data.bin").expect("valid"),
            blob,
            bytes: 5,
            location: Location::Staged { node: NodeName::new(node).expect("valid") },
        }],
        copies: vec![],
    }
}

/// What a scripted agent does and has done.
#[derive(Default)]
pub struct Script {
    /// The steps asked of it, in order: `detach 3`.
    pub calls: Vec<String>,
    /// What a step fails with, for ever, by its first word.
    pub fails: HashMap<&'static str, Status>,
    /// What it says to have on its disk.
    pub blobs: Vec<BlobId>,
    /// Of these it has other bytes than everybody else.
    pub spoilt: Vec<BlobId>,
    /// Error of the engine for any table of this name.
    pub cannot_make: Option<(&'static str, &'static str)>,
    /// On which shards; none: the error is not about one.
    pub failing_shards: Vec<u32>,
    /// Views are received and not applied.
    pub stuck: bool,
    pub views: Vec<NodeView>,
}

pub type SharedScript = Arc<Mutex<Script>>;

pub struct TestNode {
    pub name: NodeName,
    pub record: Node,
    pub incarnation: u64,
    pub script: SharedScript,
    pub newest: watch::Receiver<u64>,
    pub controller_address: std::net::SocketAddr,
    session: JoinHandle<Status>,
    serving: JoinHandle<()>,
}

impl TestNode {
    async fn start(cluster: &Cluster, name: &str, of: &str) -> Self {
        let script = SharedScript::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let service = AgentServer::new(ScriptedAgent(Arc::clone(&script)));
        let server = tonic::transport::Server::builder().add_service(service);
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serves");
        });
        let record = Node {
            name: NodeName::new(name).expect("valid"),
            group: group(of),
            agent_address: address,
            engine_http: format!("{name}:8123"),
            engine_native: format!("{name}:9000"),
            incarnation: Incarnation(0),
            draining: false,
        };
        let incarnation = register(cluster, &record).await;
        let (applied, newest) = watch::channel(0);
        let session = tokio::spawn(attend(
            cluster.controller().await,
            record.name.clone(),
            incarnation,
            Arc::clone(&script),
            applied,
        ));
        let controller_address = cluster.running.address;
        let name = record.name.clone();
        let node = Self { name, record, incarnation, script, newest, controller_address, session, serving };
        node.applied(1).await;
        node
    }

    /// Waits until it has received a view of at least this revision.
    pub async fn applied(&self, revision: u64) {
        let mut newest = self.newest.clone();
        let reached = newest.wait_for(|r| *r >= revision);
        tokio::time::timeout(WAIT, reached).await.expect("a view comes").expect("the session goes on");
    }

    pub fn calls(&self) -> Vec<String> {
        self.script.lock().expect("no panic").calls.clone()
    }

    pub fn fail(&self, step: &'static str, with: Option<Status>) {
        let mut script = self.script.lock().expect("no panic");
        match with {
            Some(status) => drop(script.fails.insert(step, status)),
            None => drop(script.fails.remove(step)),
        }
    }

    pub fn view(&self) -> NodeView {
        self.script.lock().expect("no panic").views.last().expect("a view came").clone()
    }

    pub fn epoch(&self, shard: u16) -> u64 {
        self.view().assignments[usize::from(shard)].epoch.0
    }

    pub async fn commit(
        &self,
        cluster: &Cluster,
        at: TableShard,
        epoch: u64,
        change: PartChange,
    ) -> Result<u64, Status> {
        let request = CommitPartsRequest {
            node: self.name.as_str().to_owned(),
            incarnation: self.incarnation,
            table: at.table.to_wire().into(),
            shard: at.shard.0.into(),
            epoch,
            change_record: codec::encode(&change).into(),
            token: CommitToken::random().to_wire().into(),
        };
        cluster.controller().await.commit_parts(request).await.map(|reply| reply.into_inner().version)
    }

    pub async fn add(&self, cluster: &Cluster, at: TableShard, part: Manifest) -> Result<u64, Status> {
        let change = PartChange { added: vec![part], ..PartChange::default() };
        self.commit(cluster, at, self.epoch(at.shard.0), change).await
    }

    /// As a killed process: the session breaks and nobody answers.
    pub fn kill(&self) {
        self.session.abort();
        self.serving.abort();
    }

    /// Why the controller ended the session.
    pub async fn session_end(mut self) -> Status {
        tokio::time::timeout(WAIT, &mut self.session).await.expect("the session ends").expect("no panic")
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.kill();
    }
}

pub async fn register(cluster: &Cluster, record: &Node) -> u64 {
    let request = RegisterRequest { node_record: codec::encode(record).into() };
    cluster.controller().await.register(request).await.expect("registers").into_inner().incarnation
}

/// Heartbeats, and "applies" each view at once. Reconnects while the controller is away, as an agent does.
async fn attend(
    mut controller: ControllerClient<Channel>,
    node: NodeName,
    incarnation: u64,
    script: SharedScript,
    applied: watch::Sender<u64>,
) -> Status {
    loop {
        let (heartbeats, receiver) = mpsc::channel(8);
        let beat = |revision| beat(&node, incarnation, revision, &script);
        let first = beat(*applied.borrow());
        heartbeats.send(first).await.expect("room");
        let ended = match controller.session(ReceiverStream::new(receiver)).await {
            Ok(views) => {
                let mut views = views.into_inner();
                loop {
                    let update = tokio::select! {
                        update = views.next() => update,
                        () = tokio::time::sleep(Duration::from_millis(200)) => {
                            let revision = *applied.borrow();
                            let _ = heartbeats.send(beat(revision)).await;
                            continue;
                        }
                    };
                    match update {
                        Some(Ok(update)) => {
                            let view: NodeView = codec::decode(&update.view_record).expect("a view");
                            script.lock().expect("no panic").views.push(view);
                            applied.send_replace(update.revision);
                            let _ = heartbeats.send(beat(update.revision)).await;
                        }
                        Some(Err(status)) => break status,
                        None => break Status::unavailable("the stream ended"),
                    }
                }
            }
            Err(status) => status,
        };
        if matches!(ended.code(), tonic::Code::FailedPrecondition | tonic::Code::NotFound) {
            return ended;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn beat(node: &NodeName, incarnation: u64, revision: u64, script: &SharedScript) -> Heartbeat {
    let script = script.lock().expect("no panic");
    let failed = |(name, error): (&str, &str)| -> Vec<DdlFailure> {
        let tables = script.views.last().map_or(&[][..], |view| &view.tables);
        let Some(table) = tables.iter().find(|table| table.name.as_str() == name) else { return Vec::new() };
        let failure = |shard| DdlFailure { ddl_seq: table.ddl_seq.0, error: error.to_owned(), shard };
        if script.failing_shards.is_empty() {
            return vec![failure(None)];
        }
        script.failing_shards.iter().map(|shard| failure(Some(*shard))).collect()
    };
    Heartbeat {
        node: node.as_str().to_owned(),
        incarnation,
        view_revision: if script.stuck { 1 } else { revision },
        failures: script.cannot_make.map(failed).unwrap_or_default(),
        load: Some(NodeLoad { object_puts: 3, ..NodeLoad::default() }),
        config_error: String::new(),
    }
}

struct ScriptedAgent(SharedScript);

impl ScriptedAgent {
    fn step(&self, step: &'static str, what: String) -> Result<Vec<BlobId>, Status> {
        let mut script = self.0.lock().expect("no panic");
        script.calls.push(format!("{step} {what}"));
        match script.fails.get(step) {
            Some(status) => Err(status.clone()),
            None => Ok(script.blobs.clone()),
        }
    }
}

#[tonic::async_trait]
impl Agent for ScriptedAgent {
    type ReadBlobStream = ReceiverStream<Result<BlobChunk, Status>>;

    async fn read_blob(&self, _: Request<ReadBlobRequest>) -> Result<Response<Self::ReadBlobStream>, Status> {
        Err(Status::not_found("no blobs here"))
    }

    type ReadBlobsStream = ReceiverStream<Result<BlobContent, Status>>;

    async fn read_blobs(&self, _: Request<ReadBlobsRequest>) -> Result<Response<Self::ReadBlobsStream>, Status> {
        Err(Status::not_found("no blobs here"))
    }
    async fn keep_copies(&self, _: Request<KeepCopiesRequest>) -> Result<Response<KeepCopiesReply>, Status> {
        Err(Status::unavailable("keeps nothing"))
    }
    async fn check_staged(&self, request: Request<CheckStagedRequest>) -> Result<Response<CheckStagedReply>, Status> {
        let have = self.step("check", "staged".to_owned())?;
        let has = |blob: &bytes::Bytes| have.iter().any(|known| known.to_wire() == blob.as_ref());
        let CheckStagedRequest { blobs, with_checksums, .. } = request.into_inner();
        let spoilt = self.0.lock().expect("no panic").spoilt.clone();
        let is_spoilt = |blob: &bytes::Bytes| spoilt.iter().any(|known| known.to_wire() == blob.as_ref());
        let sums = blobs.iter().map(|blob| u32::from(is_spoilt(blob)));
        let crc32c = if with_checksums { sums.collect() } else { Vec::new() };
        let missing = blobs.into_iter().filter(|blob| !has(blob)).collect();
        Ok(Response::new(CheckStagedReply { missing, crc32c }))
    }
    async fn describe_table(
        &self,
        request: Request<DescribeTableRequest>,
    ) -> Result<Response<DescribeTableReply>, Status> {
        let tail = request.into_inner().create_tail;
        self.step("describe", tail)?;
        Ok(Response::new(DescribeTableReply {
            columns: "(`a` UInt64)".to_owned(),
            engine: "MergeTree".to_owned(),
            engine_full: "MergeTree ORDER BY a SETTINGS index_granularity = 8192".to_owned(),
            sorting_key: "a".to_owned(),
            comment: String::new(),
        }))
    }
    async fn pre_copy(&self, request: Request<PreCopyRequest>) -> Result<Response<PreCopyReply>, Status> {
        let blobs = self.step("pre-copy", request.into_inner().shard.to_string())?;
        let blobs = blobs.into_iter().map(|blob| blob.to_wire().into()).collect();
        Ok(Response::new(PreCopyReply { blobs, copied_bytes: 5 }))
    }
    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<HoldReply>, Status> {
        self.step("hold", request.into_inner().shard.to_string())?;
        Ok(Response::new(HoldReply { connections_closed: 0 }))
    }
    async fn detach(&self, request: Request<ShardRequest>) -> Result<Response<ShardReply>, Status> {
        let ShardRequest { shard, epoch } = request.into_inner();
        self.step("detach", format!("{shard} at {epoch}"))?;
        Ok(Response::new(ShardReply {}))
    }
    async fn attach(&self, request: Request<AttachRequest>) -> Result<Response<ShardReply>, Status> {
        let AttachRequest { view_record, shard, epoch } = request.into_inner();
        let view: NodeView = codec::decode(&view_record).expect("a view");
        let assignment = &view.assignments[shard as usize];
        assert_eq!((assignment.epoch.0, &assignment.node), (epoch, &view.node), "the view shows the new state");
        self.step("attach", format!("{shard} at {epoch}"))?;
        Ok(Response::new(ShardReply {}))
    }
    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ShardReply>, Status> {
        let ReleaseRequest { shard, native_address, epoch: _ } = request.into_inner();
        self.step("release", format!("{shard} to {native_address}"))?;
        Ok(Response::new(ShardReply {}))
    }
}
