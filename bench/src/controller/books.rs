//! The metadata that a controller is measured with: written to the store as a leader would, through the catalog itself.
//!
//! Each agent is a node and a group of its own and holds the one shard of its one table, so that all of them commit side by side.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moorhouse_base::secret::Secret;
use moorhouse_catalog::entry::Write;
use moorhouse_catalog::state::{Catalog, Command, CommitParts, Limits};
use moorhouse_catalog::store::{self, Leadership, Store, StoreUrl};
use moorhouse_catalog::{
    BlobId, DdlSeq, Epoch, FileEntry, FilePath, GroupName, Incarnation, Location, Manifest, Node, NodeName, ObjectKey,
    PartChange, PartPath, ShardCount, ShardId, SqlName, Table, TableId, TableShard, TableState, TableStorage,
    Warehouse, WarehouseId, minted,
};
use uuid::Uuid;

use crate::error::BenchError;

/// Parts of one commit while the books are filled.
const PARTS_A_COMMIT: u64 = 100;
/// As many parts as ClickHouse lets a partition have before it complains.
const PARTS_A_PARTITION: u64 = 500;
const LEADER_TTL: Duration = Duration::from_secs(10);

/// Where an agent may commit.
#[derive(Debug, Clone)]
pub struct Seat {
    pub node: NodeName,
    pub at: TableShard,
}

impl Seat {
    pub const INCARNATION: Incarnation = Incarnation(1);
    pub const EPOCH: Epoch = Epoch(1);

    fn new(number: usize) -> Result<Self, BenchError> {
        let table = TableId(Uuid::from_u128(0x6d6f_6f72 << 96 | number as u128));
        Ok(Self {
            node: NodeName::new(format!("n{number}")).map_err(invalid)?,
            at: TableShard { table, shard: ShardId(0) },
        })
    }

    fn group(&self) -> Result<GroupName, BenchError> {
        GroupName::new(format!("g-{}", self.node)).map_err(invalid)
    }
}

fn invalid(error: impl std::fmt::Display) -> BenchError {
    BenchError::Unexpected(error.to_string())
}

/// How ClickHouse writes a table of 20 columns: small parts are compact, larger ones wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Compact,
    Wide,
}

impl Form {
    fn names(self) -> Vec<String> {
        let mut names =
            ["checksums.txt", "columns.txt", "columns_substreams.txt", "count.txt"].map(str::to_owned).to_vec();
        names.extend(["default_compression_codec.txt", "metadata_version.txt", "minmax_day.idx"].map(str::to_owned));
        names.extend(["partition.dat", "primary.cidx", "serialization.json"].map(str::to_owned));
        match self {
            Self::Compact => names.extend(["data.bin", "data.cmrk4"].map(str::to_owned)),
            Self::Wide => {
                names.extend((0..20).flat_map(|c| [format!("column_{c}.bin"), format!("column_{c}.cmrk2")]));
            }
        }
        names.sort_unstable();
        names
    }
}

/// A part of 20 columns; stored in an object of its own, or staged on `staged`.
pub fn part(at: TableShard, block: u64, form: Form, staged: Option<&NodeName>) -> Result<Manifest, BenchError> {
    let object: ObjectKey = minted::mint(at, now_ms(), Uuid::new_v4()).map_err(invalid)?;
    let mut offset = 0;
    let mut files = Vec::new();
    for (index, name) in (0u32..).zip(form.names()) {
        let bytes = if name.ends_with(".bin") { 100_000 + block % 7_919 * 13 } else { 150 + block % 90 };
        let crc32c = (block as u32).wrapping_mul(2_654_435_761).wrapping_add(index.wrapping_mul(40_503));
        let location = match staged {
            Some(node) => Location::Staged { node: node.clone() },
            None => Location::Stored { object: object.clone(), offset, crc32c },
        };
        offset += bytes;
        files.push(FileEntry { path: FilePath::new(name).map_err(invalid)?, blob: BlobId::fresh(), bytes, location });
    }
    let partition = 202_401 + block / PARTS_A_PARTITION;
    let part = PartPath::new(format!("{partition}_{block}_{block}_0")).map_err(invalid)?;
    Ok(Manifest { part, rows: 8_192, committed_ms: now_ms(), files, copies: Vec::new() })
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Fills a store.
pub struct Books {
    catalog: Catalog,
    store: Arc<dyn Store>,
    leadership: Leadership,
    writes: Vec<Write>,
}

impl Books {
    /// `agents` seats in an empty store.
    pub async fn open(store_url: &str, objects_url: &str, agents: usize) -> Result<(Self, Vec<Seat>), BenchError> {
        let url: StoreUrl = store_url.parse().map_err(invalid)?;
        let store = store::open(&url).await.map_err(invalid)?;
        let leadership = store.acquire_leadership("bench", LEADER_TTL).await.map_err(invalid)?;
        let mut books = Self { catalog: Catalog::empty(Limits::default()), store, leadership, writes: Vec::new() };
        books.apply(Command::CreateWarehouse(Warehouse {
            id: WarehouseId::random(),
            shards: ShardCount::new(1).map_err(invalid)?,
            objects_url: objects_url.to_owned(),
            cluster_secret: Secret::new("bench"),
            engine_admin_password: Secret::new("bench"),
            users: Vec::new(),
        }))?;
        let seats = (0..agents).map(Seat::new).collect::<Result<Vec<_>, _>>()?;
        for seat in &seats {
            books.seat(seat)?;
            books.write().await?;
        }
        Ok((books, seats))
    }

    fn seat(&mut self, seat: &Seat) -> Result<(), BenchError> {
        let (group, name) = (seat.group()?, &seat.node);
        self.apply(Command::CreateGroup(group.clone()))?;
        self.apply(Command::RegisterNode(Node {
            name: name.clone(),
            group: group.clone(),
            agent_address: "127.0.0.1:1".to_owned(),
            engine_http: "127.0.0.1:1".to_owned(),
            engine_native: "127.0.0.1:1".to_owned(),
            incarnation: Seat::INCARNATION,
            draining: false,
        }))?;
        let sql = |name: String| SqlName::new(name).map_err(invalid);
        let table = Table {
            id: seat.at.table,
            database: sql("default".to_owned())?,
            name: sql(format!("t_{name}"))?,
            physical: format!("t_{name}_0"),
            owner: group,
            columns: "(`a` UInt64)".to_owned(),
            engine: "MergeTree".to_owned(),
            engine_full: "MergeTree ORDER BY a".to_owned(),
            comment: String::new(),
            sharding_key: "rand()".to_owned(),
            state: TableState::Creating,
            ddl_seq: DdlSeq(0),
            storage: TableStorage::default(),
        };
        self.apply(Command::CreateTable { table: Box::new(table), if_not_exists: false })?;
        self.apply(Command::ActivateTable(seat.at.table))
    }

    /// Stored parts of blocks 1 to `count`.
    pub async fn add_parts(&mut self, seat: &Seat, count: u64, form: Form) -> Result<(), BenchError> {
        let mut block = 1;
        while block <= count {
            let end = (block + PARTS_A_COMMIT).min(count + 1);
            let added = (block..end).map(|block| part(seat.at, block, form, None)).collect::<Result<_, _>>()?;
            self.apply(Command::CommitParts(CommitParts {
                node: seat.node.clone(),
                incarnation: Seat::INCARNATION,
                epoch: Seat::EPOCH,
                at: seat.at,
                change: PartChange { added, ..PartChange::default() },
                token: None,
            }))?;
            self.write().await?;
            block = end;
        }
        Ok(())
    }

    fn apply(&mut self, command: Command) -> Result<(), BenchError> {
        self.writes.extend(self.catalog.apply(command, now_ms()).map_err(invalid)?.writes);
        Ok(())
    }

    async fn write(&mut self) -> Result<(), BenchError> {
        // The newest write of each key is the one that counts.
        let newest: std::collections::BTreeMap<Vec<u8>, Write> =
            std::mem::take(&mut self.writes).into_iter().map(|write| (write.key().to_vec(), write)).collect();
        self.store.commit(&self.leadership, newest.into_values().collect()).await.map_err(invalid)
    }

    /// Key and value bytes of everything that has to do with parts, of these table shards.
    pub async fn stored_bytes(&self, seats: &[Seat]) -> Result<u64, BenchError> {
        let mut bytes = 0;
        for seat in seats {
            let place = format!("{}/{:04}", seat.at.table, seat.at.shard.0);
            for prefix in [
                format!("part/{place}/"),
                format!("change/{place}/"),
                format!("version/{place}"),
                format!("layout/{}/", seat.at.table),
            ] {
                let found = self.store.range(prefix.as_bytes()).await.map_err(invalid)?;
                bytes += found.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>();
            }
        }
        Ok(bytes)
    }

    /// Lets a controller lead.
    pub async fn close(self) {
        self.store.resign(self.leadership).await;
    }
}
