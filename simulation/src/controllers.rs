//! The wire to the controllers, as every simulated client uses it: the only file that makes requests of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use moorhouse_catalog::{
    DdlSeq, DdlStatement, DdlToken, Epoch, Incarnation, Node, NodeName, NodeView, PartChange, TableShard,
    TableShardSnapshot, Version, codec,
};
use moorhouse_controller::agents::AgentChannel;
use moorhouse_proto as wire;
use moorhouse_proto::admin_client::AdminClient;
use moorhouse_proto::controller_client::ControllerClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::network::Network;

/// What an answer says about a request.
#[derive(Debug, Clone)]
pub enum Failure {
    /// It may have happened.
    Unknown(Status),
    /// It has not happened, and asking again will not help.
    Refused(Status),
}

/// What the user of a statement was told of its task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub seq: DdlSeq,
    pub result: Result<(), String>,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::FailedPrecondition | Code::InvalidArgument | Code::NotFound => Self::Refused(status),
            _ => Self::Unknown(status),
        }
    }
}

/// All controllers, of which one leads: the next is asked when one does not answer.
#[derive(Clone)]
pub struct Controllers {
    channels: Arc<Vec<AgentChannel>>,
    current: Arc<AtomicUsize>,
}

impl Controllers {
    pub fn new(network: &Network, from: &str, hosts: &[String]) -> Self {
        let channels = hosts.iter().map(|host| network.channel(from, host)).collect();
        Self { channels: Arc::new(channels), current: Arc::default() }
    }

    /// Ask another the next time.
    fn turn(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    fn channel(&self) -> AgentChannel {
        self.channels[self.current.load(Ordering::Relaxed) % self.channels.len()].clone()
    }

    fn client(&self) -> ControllerClient<AgentChannel> {
        ControllerClient::new(self.channel())
    }

    fn told<T>(&self, answer: Result<T, Status>) -> Result<T, Failure> {
        answer.map_err(|status| {
            let failure = Failure::from(status);
            if matches!(failure, Failure::Unknown(_)) {
                self.turn();
            }
            failure
        })
    }

    pub async fn register(&self, node: &Node) -> Result<(Incarnation, NodeView), Failure> {
        let request = wire::RegisterRequest { node_record: codec::encode(node).into() };
        let reply = self.told(self.client().register(request).await)?.into_inner();
        Ok((Incarnation(reply.incarnation), decode(&reply.view_record)?))
    }

    pub async fn session(
        &self,
        beats: mpsc::Receiver<wire::Heartbeat>,
    ) -> Result<Streaming<wire::ViewUpdate>, Failure> {
        Ok(self.told(self.client().session(ReceiverStream::new(beats)).await)?.into_inner())
    }

    /// The stream has ended: somebody else may lead.
    pub fn session_ended(&self, status: Status) -> Failure {
        match self.told::<()>(Err(status)) {
            Err(failure) => failure,
            Ok(()) => unreachable!("an error stays one"),
        }
    }

    pub async fn commit(
        &self,
        node: &NodeName,
        incarnation: Incarnation,
        epoch: Epoch,
        at: TableShard,
        change: &PartChange,
        token: u64,
    ) -> Result<Version, Failure> {
        let request = wire::CommitPartsRequest {
            node: node.to_string(),
            incarnation: incarnation.0,
            table: at.table.to_wire().into(),
            shard: u32::from(at.shard.0),
            epoch: epoch.0,
            change_record: codec::encode(change).into(),
            token: u128::from(token).to_be_bytes().to_vec().into(),
        };
        Ok(Version(self.told(self.client().commit_parts(request).await)?.into_inner().version))
    }

    pub async fn snapshot(&self, at: TableShard) -> Result<TableShardSnapshot, Failure> {
        let request = wire::SnapshotRequest { table: at.table.to_wire().into(), shard: u32::from(at.shard.0) };
        let reply = self.told(self.client().get_snapshot(request).await)?.into_inner();
        decode(&reply.snapshot_record)
    }

    pub async fn watch_changelog(&self, node: &NodeName) -> Result<Streaming<wire::ChangelogUpdate>, Failure> {
        let request = wire::WatchChangelogRequest { node: node.to_string() };
        Ok(self.told(self.client().watch_changelog(request).await)?.into_inner())
    }

    /// To the end of the statement, which is the one task of this token; the error inside is the user's.
    pub async fn ddl(&self, statement: &DdlStatement, token: DdlToken) -> Result<Told, Failure> {
        let (statement_record, token) = (codec::encode(statement).into(), token.to_wire().into());
        let request = wire::SubmitDdlRequest { statement_record, token };
        let mut progress = self.told(self.client().submit_ddl(request).await)?.into_inner();
        while let Some(step) = self.told(progress.message().await)? {
            if step.finished {
                let result = if step.error.is_empty() { Ok(()) } else { Err(step.error) };
                return Ok(Told { seq: DdlSeq(step.ddl_seq), result });
            }
        }
        Err(Status::unavailable("the progress ended without an end").into())
    }

    /// Moves every shard away from a node; answers when the controller has begun to.
    pub async fn drain(&self, node: &NodeName) -> Result<(), Failure> {
        let request = wire::DrainNodeRequest { node: node.to_string() };
        self.told(AdminClient::new(self.channel()).drain_node(request).await).map(drop)
    }
}

fn decode<T: codec::Record>(record: &[u8]) -> Result<T, Failure> {
    codec::decode(record).map_err(|error| Failure::Refused(Status::internal(error.to_string())))
}

/// An entry of the changelog, read.
pub fn read_update(update: &wire::ChangelogUpdate) -> Result<(TableShard, Version, PartChange), Failure> {
    let bad = |error: &dyn std::fmt::Display| Failure::Refused(Status::internal(error.to_string()));
    let table = moorhouse_catalog::TableId::from_wire(&update.table).map_err(|error| bad(&error))?;
    let shard = u16::try_from(update.shard).map_err(|error| bad(&error))?;
    let at = TableShard { table, shard: moorhouse_catalog::ShardId(shard) };
    Ok((at, Version(update.version), decode(&update.change_record)?))
}
