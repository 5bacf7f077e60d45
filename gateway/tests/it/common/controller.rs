//! The controller's side of the protocol, played by the test: shows a view, carries definitions out on the test's engines.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt};
use moorhouse_catalog::{ClusterView, DdlStatement, codec};
use moorhouse_engine::SqlClient;
use moorhouse_proto::controller_server::{Controller, ControllerServer};
use moorhouse_proto::*;
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{Node, table};

pub struct PlayedController {
    pub address: String,
    view: watch::Sender<ClusterView>,
    submitted: Arc<Mutex<Vec<DdlStatement>>>,
    stop: CancellationToken,
}

impl PlayedController {
    pub async fn start(view: ClusterView, nodes: &[Node]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (view, submitted, stop) = (watch::Sender::new(view), Arc::default(), CancellationToken::new());
        let engines = nodes.iter().map(|node| node.engine.sql().clone()).collect();
        let service = Service { view: view.clone(), submitted: Arc::clone(&submitted), engines, stop: stop.clone() };
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(ControllerServer::new(service))
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped),
        );
        Self { address, view, submitted, stop }
    }

    pub fn change(&self, change: impl FnOnce(&mut ClusterView)) {
        self.view.send_modify(|view| {
            view.revision = view.revision.next();
            change(view);
        });
    }

    pub fn submitted(&self) -> Vec<DdlStatement> {
        self.submitted.lock().expect("no holder panics").clone()
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }
}

struct Service {
    view: watch::Sender<ClusterView>,
    submitted: Arc<Mutex<Vec<DdlStatement>>>,
    engines: Vec<SqlClient>,
    stop: CancellationToken,
}

impl Service {
    async fn carry_out(&self, statement: &DdlStatement) -> Result<(), String> {
        let sql = match statement {
            DdlStatement::CreateDatabase { database, .. } => format!("CREATE DATABASE `{database}`"),
            DdlStatement::DropDatabase { database, .. } => format!("DROP DATABASE `{database}`"),
            DdlStatement::CreateTable { database, name, create_tail, .. } => {
                format!("CREATE TABLE `{database}`.`{name}` {create_tail}")
            }
            DdlStatement::DropTable { database, name, .. } => format!("DROP TABLE `{database}`.`{name}`"),
        };
        for engine in &self.engines {
            engine.execute(&sql).await.map_err(|error| match error {
                moorhouse_engine::SqlError::Engine { code, message } => {
                    format!("Code: {code}. DB::Exception: {message}")
                }
                other => other.to_string(),
            })?;
        }
        match statement {
            DdlStatement::CreateTable { group, database, name, .. } => {
                let made = table(database.as_str(), name.as_str(), group.as_str());
                self.view.send_modify(|view| view.tables.push(made));
            }
            DdlStatement::DropTable { database, name, .. } => {
                self.view.send_modify(|view| view.tables.retain(|t| (&t.database, &t.name) != (database, name)));
            }
            DdlStatement::CreateDatabase { .. } | DdlStatement::DropDatabase { .. } => {}
        }
        Ok(())
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_played<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not part of this play"))
}

#[tonic::async_trait]
impl Controller for Service {
    type SessionStream = Answers<ViewUpdate>;
    type WatchChangelogStream = Answers<ChangelogUpdate>;
    type ListStagedStream = Answers<ListStagedReply>;
    type WatchClusterStream = Answers<ViewUpdate>;
    type SubmitDdlStream = Answers<DdlProgress>;

    async fn watch_cluster(
        &self,
        _: Request<WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        let updates = WatchStream::new(self.view.subscribe())
            .map(|view| Ok(ViewUpdate { revision: view.revision.0, view_record: codec::encode(&view).into() }));
        Ok(Response::new(Box::pin(updates.take_until(self.stop.clone().cancelled_owned()))))
    }

    async fn submit_ddl(&self, request: Request<SubmitDdlRequest>) -> Result<Response<Self::SubmitDdlStream>, Status> {
        let statement: DdlStatement = codec::decode(&request.into_inner().statement_record)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.submitted.lock().expect("no holder panics").push(statement.clone());
        let error = self.carry_out(&statement).await.err().unwrap_or_default();
        let begun = DdlProgress { ddl_seq: 1, nodes_total: 2, ..Default::default() };
        let ended = DdlProgress { ddl_seq: 1, nodes_total: 2, nodes_done: 2, finished: true, error };
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(begun), Ok(ended)]))))
    }

    async fn register(&self, _: Request<RegisterRequest>) -> Result<Response<RegisterReply>, Status> {
        not_played()
    }
    async fn session(&self, _: Request<Streaming<Heartbeat>>) -> Result<Response<Self::SessionStream>, Status> {
        not_played()
    }
    async fn commit_parts(&self, _: Request<CommitPartsRequest>) -> Result<Response<CommitPartsReply>, Status> {
        not_played()
    }
    type StreamSnapshotStream = tokio_stream::wrappers::ReceiverStream<Result<SnapshotReply, Status>>;
    async fn stream_snapshot(
        &self,
        _: Request<SnapshotRequest>,
    ) -> Result<Response<Self::StreamSnapshotStream>, Status> {
        not_played()
    }
    async fn get_changes(&self, _: Request<ChangesRequest>) -> Result<Response<ChangesReply>, Status> {
        not_played()
    }
    async fn get_snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<SnapshotReply>, Status> {
        not_played()
    }
    async fn watch_changelog(
        &self,
        _: Request<WatchChangelogRequest>,
    ) -> Result<Response<Self::WatchChangelogStream>, Status> {
        not_played()
    }
    async fn list_staged(&self, _: Request<ListStagedRequest>) -> Result<Response<Self::ListStagedStream>, Status> {
        not_played()
    }
}
