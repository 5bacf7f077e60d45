//! A real moorhouse-controller, and nodes that speak the agents' protocol to it: they register, heartbeat, and take part in moves.
//! They have no data: what is tested is who waits for whom.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use moorhouse_base::ports::free;
use moorhouse_catalog::{GroupName, Incarnation, Node, NodeName, codec};
use moorhouse_proto::admin_client::AdminClient;
use moorhouse_proto::agent_server::{Agent, AgentServer};
use moorhouse_proto::controller_client::ControllerClient;
use moorhouse_proto::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::cluster::Process;
use crate::support::until;

const BEAT: Duration = Duration::from_millis(150);

pub struct MoorhouseController {
    _process: Process,
    pub url: String,
}

impl MoorhouseController {
    /// With an empty catalog in a file, and a directory for objects.
    pub fn start(dir: &Path, shards: u32) -> Self {
        let [listen, metrics] = free().expect("free ports");
        let program = Path::new(env!("CARGO_BIN_EXE_moorhouse-operator")).with_file_name("moorhouse-controller");
        assert!(program.is_file(), "{} is not built: run `make build`", program.display());
        let mut command = Command::new(program);
        command.args(["--listen", &format!("127.0.0.1:{listen}"), "--metrics", &format!("127.0.0.1:{metrics}")]);
        command.arg("--store").arg(format!("embedded:{}", dir.join("catalog.redb").display()));
        command.arg("--objects").arg(format!("file://{}", dir.join("objects").display()));
        command.args(["--shards", &shards.to_string(), "--lease-ttl-ms", "2000"]);
        let process = Process::start(&mut command, &dir.join("controller.log"));
        until("the controller listens", || {
            std::net::TcpStream::connect(("127.0.0.1", listen)).map(|_| ()).map_err(|error| error.to_string())
        });
        Self { _process: process, url: format!("http://127.0.0.1:{listen}") }
    }
}

impl MoorhouseController {
    /// Until it has heard of so many staged parts from this node.
    pub fn until_staged(&self, node: &str, parts: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        until("the controller hears of staged parts", || {
            let nodes = runtime.block_on(async {
                let channel =
                    Channel::from_shared(self.url.clone()).expect("an address").connect().await.expect("it answers");
                let request = ListNodesRequest { group: String::new() };
                AdminClient::new(channel).list_nodes(request).await.expect("it answers").into_inner().nodes
            });
            let found = nodes.iter().find(|known| known.node == node).and_then(|known| known.load);
            if found.is_some_and(|load| load.staged_parts == parts) { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }
}

/// What a node says and does.
#[derive(Clone, Copy, Default)]
pub struct Script {
    pub staged_parts: u64,
    /// A shard cannot leave.
    pub holds_fast: bool,
}

/// Ends with this value, as a crashed process.
pub struct TestNode {
    script: Arc<Mutex<Script>>,
    _runtime: tokio::runtime::Runtime,
}

impl TestNode {
    pub fn start(url: &str, group: &str, name: &str) -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (shared, url) = (Arc::clone(&script), url.to_owned());
        let names = (GroupName::new(group).expect("valid"), NodeName::new(name).expect("valid"));
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let record = Node {
                group: names.0,
                agent_address: listener.local_addr().expect("bound").to_string(),
                engine_http: format!("{}:8123", names.1),
                engine_native: format!("{}:9000", names.1),
                name: names.1,
                incarnation: Incarnation(0),
                draining: false,
            };
            let service = AgentServer::new(Scripted(Arc::clone(&shared)));
            let server = tonic::transport::Server::builder().add_service(service);
            tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
            let channel =
                Channel::from_shared(url).expect("an address").connect().await.expect("the controller answers");
            let mut controller = ControllerClient::new(channel);
            let request = RegisterRequest { node_record: codec::encode(&record).into() };
            let incarnation = controller.register(request).await.expect("registers").into_inner().incarnation;
            tokio::spawn(attend(controller, record.name.as_str().to_owned(), incarnation, shared));
        });
        Self { script, _runtime: runtime }
    }

    pub fn set(&self, script: Script) {
        *self.script.lock().expect("no panic") = script;
    }
}

/// Says at once that each view is in force.
async fn attend(mut controller: ControllerClient<Channel>, node: String, incarnation: u64, script: Arc<Mutex<Script>>) {
    let (heartbeats, receiver) = mpsc::channel(8);
    let mut revision = 0;
    let beat = |view_revision| {
        let staged_parts = script.lock().expect("no panic").staged_parts;
        let load = Some(NodeLoad { staged_parts, ..NodeLoad::default() });
        Heartbeat {
            node: node.clone(),
            incarnation,
            view_revision,
            failures: Vec::new(),
            config_error: String::new(),
            load,
        }
    };
    heartbeats.send(beat(revision)).await.expect("room");
    let Ok(views) = controller.session(ReceiverStream::new(receiver)).await else { return };
    let mut views = views.into_inner();
    loop {
        tokio::select! {
            view = views.next() => match view {
                Some(Ok(view)) => revision = view.revision,
                // Taken off the books, or the controller has ended.
                Some(Err(_)) | None => return,
            },
            () = tokio::time::sleep(BEAT) => {}
        }
        if heartbeats.send(beat(revision)).await.is_err() {
            return;
        }
    }
}

struct Scripted(Arc<Mutex<Script>>);

#[tonic::async_trait]
impl Agent for Scripted {
    type ReadBlobStream = ReceiverStream<Result<BlobChunk, Status>>;
    type ReadBlobsStream = ReceiverStream<Result<BlobContent, Status>>;

    async fn read_blob(&self, _: Request<ReadBlobRequest>) -> Result<Response<Self::ReadBlobStream>, Status> {
        Err(Status::not_found("no blobs here"))
    }
    async fn read_blobs(&self, _: Request<ReadBlobsRequest>) -> Result<Response<Self::ReadBlobsStream>, Status> {
        Err(Status::not_found("no blobs here"))
    }
    async fn keep_copies(&self, _: Request<KeepCopiesRequest>) -> Result<Response<KeepCopiesReply>, Status> {
        Err(Status::unavailable("keeps nothing"))
    }
    async fn check_staged(&self, _: Request<CheckStagedRequest>) -> Result<Response<CheckStagedReply>, Status> {
        Ok(Response::new(CheckStagedReply::default()))
    }
    async fn describe_table(&self, _: Request<DescribeTableRequest>) -> Result<Response<DescribeTableReply>, Status> {
        Err(Status::unavailable("no engine here"))
    }
    async fn pre_copy(&self, _: Request<PreCopyRequest>) -> Result<Response<PreCopyReply>, Status> {
        Ok(Response::new(PreCopyReply::default()))
    }
    async fn hold(&self, _: Request<HoldRequest>) -> Result<Response<HoldReply>, Status> {
        Ok(Response::new(HoldReply::default()))
    }
    async fn detach(&self, _: Request<ShardRequest>) -> Result<Response<ShardReply>, Status> {
        if self.0.lock().expect("no panic").holds_fast {
            return Err(Status::failed_precondition("a table cannot be detached: the test says so"));
        }
        Ok(Response::new(ShardReply::default()))
    }
    async fn attach(&self, _: Request<AttachRequest>) -> Result<Response<ShardReply>, Status> {
        Ok(Response::new(ShardReply::default()))
    }
    async fn release(&self, _: Request<ReleaseRequest>) -> Result<Response<ShardReply>, Status> {
        Ok(Response::new(ShardReply::default()))
    }
}
