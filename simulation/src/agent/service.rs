//! What the controller asks of an agent: describing tables, and the steps of a move.

use moorhouse_catalog::{Location, NodeView, ShardId, TableShard, codec};
use moorhouse_proto::agent_server::Agent as AgentService;
use moorhouse_proto::*;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::agent::Agent;

fn shard(number: u32) -> Result<ShardId, Status> {
    u16::try_from(number).map(ShardId).map_err(|error| Status::invalid_argument(error.to_string()))
}

#[tonic::async_trait]
impl AgentService for Agent {
    type ReadBlobStream = ReceiverStream<Result<BlobChunk, Status>>;

    async fn read_blob(&self, _: Request<ReadBlobRequest>) -> Result<Response<Self::ReadBlobStream>, Status> {
        Err(Status::unimplemented("simulated agents copy between their disks"))
    }

    type ReadBlobsStream = ReceiverStream<Result<BlobContent, Status>>;

    async fn read_blobs(&self, _: Request<ReadBlobsRequest>) -> Result<Response<Self::ReadBlobsStream>, Status> {
        Err(Status::unimplemented("simulated agents copy between their disks"))
    }

    async fn keep_copies(&self, _: Request<KeepCopiesRequest>) -> Result<Response<KeepCopiesReply>, Status> {
        Err(Status::unimplemented("simulated agents commit with local durability"))
    }

    async fn check_staged(&self, _: Request<CheckStagedRequest>) -> Result<Response<CheckStagedReply>, Status> {
        Err(Status::unimplemented("a simulated warehouse is checked by its history"))
    }

    async fn describe_table(&self, _: Request<DescribeTableRequest>) -> Result<Response<DescribeTableReply>, Status> {
        Ok(Response::new(DescribeTableReply {
            columns: "(`a` UInt64)".to_owned(),
            engine: "MergeTree".to_owned(),
            engine_full: "MergeTree ORDER BY a".to_owned(),
            sorting_key: "a".to_owned(),
            comment: String::new(),
        }))
    }

    /// Copies from the nodes that can be reached; says what it really has.
    async fn pre_copy(&self, request: Request<PreCopyRequest>) -> Result<Response<PreCopyReply>, Status> {
        let shard = shard(request.into_inner().shard)?;
        let (mut blobs, mut copied_bytes) = (Vec::new(), 0);
        for table in self.tables(|table| table.owner == self.group) {
            let snapshot = self.controllers.snapshot(TableShard { table, shard }).await;
            let snapshot = snapshot.map_err(|_| Status::unavailable("no snapshot of the shard"))?;
            for file in snapshot.parts.iter().flat_map(|part| &part.files) {
                let Location::Staged { node } = &file.location else { continue };
                let reached = !self.around.network.is_cut(self.name.as_str(), node.as_str());
                if !self.around.disks.has(&self.name, file.blob) && reached && self.around.disks.has(node, file.blob) {
                    self.around.disks.write(&self.name, file.blob);
                    copied_bytes += file.bytes;
                }
                if self.around.disks.has(&self.name, file.blob) {
                    blobs.push(file.blob.to_wire().into());
                }
            }
        }
        Ok(Response::new(PreCopyReply { blobs, copied_bytes }))
    }

    async fn hold(&self, _: Request<HoldRequest>) -> Result<Response<HoldReply>, Status> {
        Ok(Response::new(HoldReply { connections_closed: 0 }))
    }

    /// When it answers, nothing of this process commits under the epoch any more.
    async fn detach(&self, request: Request<ShardRequest>) -> Result<Response<ShardReply>, Status> {
        let shard = shard(request.into_inner().shard)?;
        self.state().detached.insert(shard, tokio::time::Instant::now());
        let locals: Vec<_> = {
            let locals = self.locals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            locals.iter().filter(|(at, _)| at.shard == shard).map(|(_, local)| std::sync::Arc::clone(local)).collect()
        };
        for local in locals {
            drop(local.lock().await);
        }
        Ok(Response::new(ShardReply {}))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Result<Response<ShardReply>, Status> {
        let AttachRequest { view_record, shard: number, .. } = request.into_inner();
        let view: NodeView =
            codec::decode(&view_record).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let shard = shard(number)?;
        let mut state = self.state();
        if state.view.as_ref().is_none_or(|known| known.revision < view.revision) {
            state.view = Some(view);
        }
        state.detached.remove(&shard);
        Ok(Response::new(ShardReply {}))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ShardReply>, Status> {
        let shard = shard(request.into_inner().shard)?;
        self.state().detached.remove(&shard);
        Ok(Response::new(ShardReply {}))
    }
}
