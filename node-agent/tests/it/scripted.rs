//! A controller that keeps parts in memory and can be told to refuse or to be away, and a real mount that speaks to it.
//! (The real controller is exercised by the workspace's end-to-end tests; here its failures are produced at will.)

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use moorhouse_base::clock::SystemClock;
use moorhouse_base::secret::Secret;
use moorhouse_cache::BlobCache;
use moorhouse_catalog::*;
use moorhouse_node_agent::blobs::BlobSource;
use moorhouse_node_agent::controller::ControllerClient;
use moorhouse_node_agent::fs::ShardFs;
use moorhouse_node_agent::fs::fuse::Mount;
use moorhouse_objects::Objects;
use moorhouse_proto as wire;
use moorhouse_proto::controller_server::{Controller, ControllerServer};
use moorhouse_security::Dialer;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

#[derive(Default)]
pub struct Script {
    pub fenced: AtomicBool,
    pub away: AtomicBool,
    pub content: Mutex<HashMap<TableShard, TableShardSnapshot>>,
    asked: AtomicU64,
}

impl Script {
    fn empty() -> TableShardSnapshot {
        TableShardSnapshot { version: Version(0), parts: vec![], inodes: vec![] }
    }

    pub fn snapshot(&self, ts: TableShard) -> TableShardSnapshot {
        self.content.lock().unwrap().get(&ts).cloned().unwrap_or_else(Self::empty)
    }

    /// How many snapshots have been asked for over the wire.
    pub fn snapshots(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn check(&self) -> Result<(), Status> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Status::unavailable("told to be away"));
        }
        Ok(())
    }
}

pub struct Scripted(Arc<Script>);
type Never<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Controller for Scripted {
    type SessionStream = Never<wire::ViewUpdate>;
    type WatchChangelogStream = Never<wire::ChangelogUpdate>;
    type ListStagedStream = Never<wire::ListStagedReply>;
    type WatchClusterStream = Never<wire::ViewUpdate>;
    type SubmitDdlStream = Never<wire::DdlProgress>;

    async fn commit_parts(
        &self,
        request: Request<wire::CommitPartsRequest>,
    ) -> Result<Response<wire::CommitPartsReply>, Status> {
        self.0.check()?;
        if self.0.fenced.load(Ordering::SeqCst) {
            return Err(Status::failed_precondition("fenced: told so"));
        }
        let request = request.into_inner();
        let ts =
            TableShard { table: TableId::from_wire(&request.table).unwrap(), shard: ShardId(request.shard as u16) };
        let change: PartChange = codec::decode(&request.change_record).unwrap();
        let mut content = self.0.content.lock().unwrap();
        let shard = content.entry(ts).or_insert_with(Script::empty);
        let replaced = |m: &Manifest| change.added.iter().any(|added| added.part == m.part);
        shard.parts.retain(|m| !change.removed.contains(&m.part) && !replaced(m));
        shard.parts.extend(change.added);
        shard.inodes.retain(|i| {
            !change.inodes_removed.contains(&i.path) && !change.inodes_put.iter().any(|p| p.path == i.path)
        });
        shard.inodes.extend(change.inodes_put);
        for file in shard.parts.iter_mut().flat_map(|m| &mut m.files) {
            if let Some(relocation) = change.relocated.iter().find(|r| r.blob == file.blob) {
                file.location = relocation.location.clone();
            }
        }
        shard.version = shard.version.next();
        Ok(Response::new(wire::CommitPartsReply { version: shard.version.0 }))
    }

    type StreamSnapshotStream = ReceiverStream<Result<wire::SnapshotReply, Status>>;

    async fn stream_snapshot(
        &self,
        request: Request<wire::SnapshotRequest>,
    ) -> Result<Response<Self::StreamSnapshotStream>, Status> {
        let whole = self.get_snapshot(request).await?.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        sender.try_send(Ok(whole)).unwrap();
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_changes(&self, _: Request<wire::ChangesRequest>) -> Result<Response<wire::ChangesReply>, Status> {
        self.0.check()?;
        Err(Status::out_of_range("no changelog here: take a snapshot"))
    }

    async fn get_snapshot(
        &self,
        request: Request<wire::SnapshotRequest>,
    ) -> Result<Response<wire::SnapshotReply>, Status> {
        self.0.check()?;
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        let ts =
            TableShard { table: TableId::from_wire(&request.table).unwrap(), shard: ShardId(request.shard as u16) };
        Ok(Response::new(wire::SnapshotReply { snapshot_record: codec::encode(&self.0.snapshot(ts)).into() }))
    }

    async fn register(&self, _: Request<wire::RegisterRequest>) -> Result<Response<wire::RegisterReply>, Status> {
        Err(Status::unimplemented("not in this script"))
    }
    async fn session(&self, _: Request<Streaming<wire::Heartbeat>>) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("not in this script"))
    }
    async fn watch_changelog(
        &self,
        _: Request<wire::WatchChangelogRequest>,
    ) -> Result<Response<Self::WatchChangelogStream>, Status> {
        Err(Status::unimplemented("not in this script"))
    }
    async fn list_staged(
        &self,
        _: Request<wire::ListStagedRequest>,
    ) -> Result<Response<Self::ListStagedStream>, Status> {
        Err(Status::unimplemented("not in this script"))
    }
    async fn watch_cluster(
        &self,
        _: Request<wire::WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        Err(Status::unimplemented("not in this script"))
    }
    async fn submit_ddl(&self, _: Request<wire::SubmitDdlRequest>) -> Result<Response<Self::SubmitDdlStream>, Status> {
        Err(Status::unimplemented("not in this script"))
    }
}

/// A budget that no test fills.
const ROOMY: u64 = 1 << 30;

/// One node's file system, mounted for real. Dropping it unmounts.
pub struct Rig {
    pub script: Arc<Script>,
    pub fs: Arc<ShardFs>,
    pub runtime: Runtime,
    /// The first of `tables`.
    pub table: TableShard,
    pub tables: Vec<TableShard>,
    dir: TempDir,
    mount: Option<Mount>,
}

impl Rig {
    /// A node of group `etl`, the owner of the one table, or of `bi`.
    pub fn new(group: &str) -> Self {
        Self::with(group, Arc::default(), TableShard { table: TableId::random(), shard: ShardId(0) })
    }

    /// A node with this script; what it stores is its own.
    pub fn with(group: &str, script: Arc<Script>, table: TableShard) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let objects = dir.path().join("objects");
        Self::make(group, script, vec![table], dir, objects, ROOMY)
    }

    /// A node whose SSD has so many bytes for all that is staged and cached.
    pub fn with_budget(group: &str, bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let objects = dir.path().join("objects");
        let table = TableShard { table: TableId::random(), shard: ShardId(0) };
        Self::make(group, Arc::default(), vec![table], dir, objects, bytes)
    }

    /// A node with several tables in its one shard.
    pub fn with_tables(group: &str, count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let objects = dir.path().join("objects");
        let table = |_| TableShard { table: TableId::random(), shard: ShardId(0) };
        Self::make(group, Arc::default(), (0..count).map(table).collect(), dir, objects, ROOMY)
    }

    /// A node with another's script and objects.
    pub fn beside(other: &Rig, group: &str) -> Self {
        let objects = other.dir.path().join("objects");
        Self::make(group, other.script.clone(), other.tables.clone(), tempfile::tempdir().unwrap(), objects, ROOMY)
    }

    /// A node of the owner's group with this cache.
    pub fn on_cache(script: Arc<Script>, table: TableShard, cache: BlobCache) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let objects = dir.path().join("objects");
        Self::make_on(cache, "etl", script, vec![table], dir, objects)
    }

    fn make(
        group: &str,
        script: Arc<Script>,
        tables: Vec<TableShard>,
        dir: TempDir,
        objects: PathBuf,
        budget_bytes: u64,
    ) -> Self {
        let cache = BlobCache::open(&dir.path().join("blobs"), budget_bytes).unwrap();
        Self::make_on(cache, group, script, tables, dir, objects)
    }

    fn make_on(
        cache: BlobCache,
        group: &str,
        script: Arc<Script>,
        tables: Vec<TableShard>,
        dir: TempDir,
        objects: PathBuf,
    ) -> Self {
        let runtime = Runtime::new().unwrap();
        let node = NodeName::new(format!("{group}-0")).unwrap();
        let served = script.clone();
        let (fs, mount) = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let server = tonic::transport::Server::builder().add_service(ControllerServer::new(Scripted(served)));
            tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
            let objects = format!("file://{}", objects.display()).parse().unwrap();
            let objects = Objects::open(&objects).await.unwrap();
            let controller = ControllerClient::new(&url, node.clone(), &Dialer::plaintext()).unwrap();
            let source = BlobSource::new(cache, objects, Dialer::plaintext());
            let fs = Arc::new(ShardFs::new(node.clone(), source, controller, Arc::new(SystemClock)));
            fs.apply_view(&view(&node, group, &tables)).unwrap();
            let at = dir.path().join("mount");
            std::fs::create_dir(&at).unwrap();
            let mount = Mount::new(fs.clone(), &at, "test", tokio::runtime::Handle::current()).unwrap();
            (fs, mount)
        });
        Self { script, fs, runtime, table: tables[0], tables, dir, mount: Some(mount) }
    }

    /// Whether the kernel reads local files without asking the agent.
    pub fn has_passthrough(&self) -> bool {
        self.mount.as_ref().is_some_and(Mount::has_passthrough)
    }

    /// Where its object store has its files.
    pub fn objects(&self) -> PathBuf {
        self.dir.path().join("objects")
    }

    /// The table shard's directory in the mount.
    pub fn dir(&self) -> PathBuf {
        self.dir_of(0)
    }

    /// The directory of the table with this index.
    pub fn dir_of(&self, table: usize) -> PathBuf {
        self.dir.path().join("mount").join(ShardFs::relative_path(self.tables[table]))
    }

    /// Writes `tmp_insert_<name>` and renames it to `name`, as an INSERT does.
    pub fn insert(&self, name: &str, content: &[u8]) -> std::io::Result<()> {
        let tmp = self.dir().join(format!("tmp_insert_{name}"));
        std::fs::create_dir(&tmp)?;
        std::fs::write(tmp.join("data.bin"), content)?;
        std::fs::write(tmp.join("count.txt"), b"7")?;
        std::fs::rename(&tmp, self.dir().join(name))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let Some(mount) = self.mount.take() else { return };
        if nix::unistd::geteuid().is_root() {
            mount.unmount().unwrap();
        } else {
            // In a mount namespace that ends with this process, and fusermount3 cannot unmount there.
            std::mem::forget(mount);
        }
    }
}

fn view(node: &NodeName, group: &str, tables: &[TableShard]) -> NodeView {
    let name = |name: &str| SqlName::new(name).unwrap();
    NodeView {
        revision: Revision(1),
        warehouse: WarehouseId::random(),
        shards: ShardCount::new(1).unwrap(),
        objects_url: String::new(),
        cluster_secret: Secret::new(""),
        engine_admin_password: Secret::new(""),
        users: vec![],
        node: node.clone(),
        group: GroupName::new(group).unwrap(),
        nodes: vec![],
        assignments: vec![AssignmentView { shard: tables[0].shard, node: node.clone(), epoch: Epoch(1) }],
        databases: vec![],
        tables: tables
            .iter()
            .map(|ts| Table {
                id: ts.table,
                database: name("db"),
                name: name("t"),
                physical: "t_1".into(),
                owner: GroupName::new("etl").unwrap(),
                columns: "(`a` UInt8)".into(),
                engine: "MergeTree".into(),
                engine_full: "MergeTree ORDER BY a".into(),
                comment: String::new(),
                sharding_key: "rand()".into(),
                state: TableState::Active,
                ddl_seq: DdlSeq(1),
                storage: TableStorage::default(),
            })
            .collect(),
        ddl_seq: DdlSeq(1),
        access: moorhouse_catalog::access::NodeAccess::default(),
    }
}
