//! Reads that any controller answers, also one that does not lead: from the store.
//!
//! A part list that was read is kept for as long as the store has its version. Asking for the version is one small read, and the
//! store answers with what is confirmed: so an answer is no older than its request, although nobody need lead. The floor
//! guards against a store that is itself behind (another prefix, a backup put back).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use moorhouse_catalog::state::{Catalog, LISTS, Limits};
use moorhouse_catalog::store::Store;
use moorhouse_catalog::{ShardId, TableId, TableShard, Version, codec};
use moorhouse_proto::reads_server::Reads;
use moorhouse_proto::{ChangesReply, SnapshotReply, StaleChangesRequest, StaleSnapshotRequest};
use tonic::{Request, Response, Status};

use crate::error::OrBadRequest;
use crate::limits;

/// A catalog of one table shard alone.
struct Kept {
    at: TableShard,
    version: Version,
    catalog: Arc<Catalog>,
}

pub struct StoreReads {
    store: Arc<dyn Store>,
    /// The one used last comes last.
    kept: Mutex<VecDeque<Kept>>,
    budget_bytes: usize,
}

impl StoreReads {
    pub fn new(store: Arc<dyn Store>, budget_bytes: usize) -> Self {
        Self { store, kept: Mutex::default(), budget_bytes }
    }

    /// The table shard as the store has it, at `floor` or later.
    async fn read(&self, table: &[u8], shard: u32, floor: u64) -> Result<(TableShard, Arc<Catalog>), Status> {
        let shard = ShardId(u16::try_from(shard).or_bad_request()?);
        let at = TableShard { table: TableId::from_wire(table).or_bad_request()?, shard };
        for _ in 0..limits::STORE_READS {
            let version = self.version(at).await?;
            if version < Version(floor) {
                let text = format!("{at} is at version {version} in the store, which is before {floor}: ask again");
                return Err(Status::unavailable(text));
            }
            let kept = self.take(at, version);
            let catalog = match kept {
                Some(catalog) => catalog,
                None => Arc::new(self.load(at).await?),
            };
            match catalog.version(at) {
                None => return Err(Status::not_found(format!("there is no table shard {at}"))),
                // What was read belongs to it: the version was read before the list, and after.
                Some(found) if found == version => {
                    self.keep(at, version, &catalog);
                    return Ok((at, catalog));
                }
                Some(_) => {}
            }
        }
        Err(Status::unavailable(format!("{at} changes faster than it can be read: ask the leader")))
    }

    async fn version(&self, at: TableShard) -> Result<Version, Status> {
        let records = self.range(format!("version/{}", place(at))).await?;
        let version = records.first().map(|(_, value)| codec::decode(value)).transpose();
        Ok(version.map_err(|error| Status::data_loss(error.to_string()))?.unwrap_or(Version(0)))
    }

    /// The version last.
    async fn load(&self, at: TableShard) -> Result<Catalog, Status> {
        let mut records = Vec::new();
        for prefix in ["warehouse".to_owned(), format!("table/{}", at.table), format!("layout/{}/", at.table)] {
            records.extend(self.range(prefix).await?);
        }
        for list in LISTS.into_iter().chain([&b"staged/"[..]]) {
            records.extend(self.range(format!("{}{}/", String::from_utf8_lossy(list), place(at))).await?);
        }
        records.extend(self.range(format!("version/{}", place(at))).await?);
        let records = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
        Catalog::load(Limits::default(), records).map_err(|error| Status::data_loss(error.to_string()))
    }

    async fn range(&self, prefix: String) -> Result<Vec<moorhouse_catalog::store::KeyValue>, Status> {
        let found = self.store.range(prefix.as_bytes()).await;
        found.map_err(|error| Status::unavailable(format!("the store cannot be read ({error}): ask again")))
    }

    fn take(&self, at: TableShard, version: Version) -> Option<Arc<Catalog>> {
        let mut kept = self.lock();
        let index = kept.iter().position(|kept| kept.at == at)?;
        kept.remove(index).filter(|kept| kept.version == version).map(|kept| kept.catalog)
    }

    fn keep(&self, at: TableShard, version: Version, catalog: &Arc<Catalog>) {
        let mut kept = self.lock();
        kept.retain(|kept| kept.at != at);
        kept.push_back(Kept { at, version, catalog: Arc::clone(catalog) });
        let mut bytes: usize = kept.iter().map(|kept| kept.catalog.memory_bytes()).sum();
        while bytes > self.budget_bytes
            && let Some(oldest) = kept.pop_front()
        {
            bytes -= oldest.catalog.memory_bytes();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(at: TableShard) -> String {
    format!("{}/{:04}", at.table, at.shard.0)
}

#[tonic::async_trait]
impl Reads for StoreReads {
    type StreamSnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotReply, Status>> + Send>>;

    async fn stream_snapshot(
        &self,
        request: Request<StaleSnapshotRequest>,
    ) -> Result<Response<Self::StreamSnapshotStream>, Status> {
        let StaleSnapshotRequest { table, shard, floor } = request.into_inner();
        let (at, catalog) = self.read(&table, shard, floor).await?;
        let pages = catalog.snapshot_pages(at, limits::PAGE_BYTES);
        let pages = pages.map_err(|error| Status::not_found(error.to_string()))?;
        let pages = pages.into_iter().map(|page| Ok(SnapshotReply { snapshot_record: page.into() }));
        Ok(Response::new(Box::pin(tokio_stream::iter(pages))))
    }

    async fn get_changes(&self, request: Request<StaleChangesRequest>) -> Result<Response<ChangesReply>, Status> {
        let StaleChangesRequest { table, shard, version, floor } = request.into_inner();
        let (at, catalog) = self.read(&table, shard, floor).await?;
        let changes = catalog.changes_since(at, Version(version));
        let (version, change) = changes.map_err(|error| Status::out_of_range(error.to_string()))?;
        Ok(Response::new(ChangesReply { version: version.0, change_record: codec::encode(&change).into() }))
    }
}
