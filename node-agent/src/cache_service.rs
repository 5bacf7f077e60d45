//! The gRPC service for `moorctl cache`: what is on this node's SSD, brought there or dropped from it.

use std::sync::Arc;

use moorhouse_cache::{BlobCache, CacheStats};
use moorhouse_catalog::{NodeView, TableShard};
use moorhouse_proto as wire;
use moorhouse_proto::node_cache_server::NodeCache;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::fs::ShardFs;
use crate::fs::error::FsError;
use crate::limits;
use crate::metrics;

pub struct CacheService {
    pub fs: Arc<ShardFs>,
    pub views: watch::Receiver<Arc<NodeView>>,
}

#[tonic::async_trait]
impl NodeCache for CacheService {
    async fn stat(&self, _: Request<wire::CacheStatRequest>) -> Result<Response<wire::CacheStatReply>, Status> {
        let cache = to_wire(self.fs.cache_stats());
        Ok(Response::new(wire::CacheStatReply {
            uploads_unfinished: metrics::UPLOADS_UNFINISHED.get().max(0) as u64,
            upload_limit_bytes_per_second: self.fs.uploads.limit_bytes_per_second(),
            ..cache
        }))
    }

    async fn warm(&self, request: Request<wire::CacheWarmRequest>) -> Result<Response<wire::CacheWarmReply>, Status> {
        let wire::CacheWarmRequest { database, table } = request.into_inner();
        let shards = self.shards_of(&database, &table)?;
        let mut wanted = Vec::new();
        for ts in shards {
            self.fs.load(ts).await.map_err(status)?;
            wanted.extend(self.fs.stored_blobs(ts).map_err(status)?);
        }
        let warmed = self.fs.clone().warm(wanted).await.map_err(status)?;
        Ok(Response::new(wire::CacheWarmReply {
            fetched_blobs: warmed.fetched_blobs,
            fetched_bytes: warmed.fetched_bytes,
            present_blobs: warmed.present_blobs,
            present_bytes: warmed.present_bytes,
            skipped_blobs: warmed.skipped_blobs,
            skipped_bytes: warmed.skipped_bytes,
        }))
    }

    async fn drop(&self, _: Request<wire::CacheDropRequest>) -> Result<Response<wire::CacheDropReply>, Status> {
        let fs = self.fs.clone();
        let dropped = tokio::task::spawn_blocking(move || fs.drop_cached()).await;
        let (blobs, bytes) = dropped.map_err(|error| Status::internal(error.to_string()))?;
        tracing::info!(blobs, bytes, "the read cache was dropped, as asked");
        Ok(Response::new(wire::CacheDropReply { blobs, bytes }))
    }
}

impl CacheService {
    /// The table's shards that this node shows.
    fn shards_of(&self, database: &str, name: &str) -> Result<Vec<TableShard>, Status> {
        let view = self.views.borrow().clone();
        let is_it =
            |table: &&moorhouse_catalog::Table| (table.database.as_str(), table.name.as_str()) == (database, name);
        let table = view.tables.iter().find(is_it);
        let table = table.ok_or_else(|| Status::not_found(format!("there is no table {database}.{name}")))?;
        let here = view.assignments.iter().filter(|assignment| assignment.node == view.node);
        let shards = here.map(|assignment| TableShard { table: table.id, shard: assignment.shard });
        Ok(shards.filter(|ts| self.fs.role(*ts).is_some()).collect())
    }
}

/// Tries the disk now and then, so that a sick one is taken out of use, and in again, without a reader having to suffer.
pub async fn watch_disk(cache: BlobCache) {
    let mut ticks = tokio::time::interval(limits::DISK_PROBE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let cache = cache.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || cache.probe()).await {
            tracing::error!(%error, "the disk's probe broke");
        }
    }
}

fn to_wire(stats: CacheStats) -> wire::CacheStatReply {
    let CacheStats {
        staged_blobs,
        staged_bytes,
        staged_used_bytes,
        cached_blobs,
        cached_bytes,
        partial_blobs,
        blocks: _,
        block_bytes,
        used_bytes,
        budget_bytes,
        hits,
        misses,
        evictions,
        ghost_hits,
        fetched_bytes,
        coalesced,
        checksum_failures,
        disk_errors,
        is_sick,
    } = stats;
    wire::CacheStatReply {
        budget_bytes,
        used_bytes,
        staged_blobs,
        staged_bytes,
        cached_blobs,
        cached_bytes,
        partial_blobs,
        block_bytes,
        hits,
        misses,
        evictions,
        ghost_hits,
        fetched_bytes,
        coalesced,
        checksum_failures,
        disk_errors,
        is_sick,
        staged_used_bytes,
        // Not the cache's to tell.
        uploads_unfinished: 0,
        upload_limit_bytes_per_second: 0,
    }
}

fn status(error: FsError) -> Status {
    match error {
        FsError::Unavailable(message) => Status::unavailable(message),
        other => Status::internal(other.to_string()),
    }
}
