//! What the catalog stores: plain data, one durable record a struct, no behaviour beyond reading itself.
//!
//! Written and sent through [`crate::codec`]. Liveness of nodes is *not* stored: it lives in the leader's memory and is
//! rebuilt from heartbeats.

use moorhouse_base::secret::Secret;
use serde::{Deserialize, Serialize};

use crate::ids::{
    BlobId, DdlSeq, Epoch, FilePath, GroupName, Incarnation, NodeName, ObjectKey, PartPath, ShardCount, ShardId,
    SqlName, TableId, Version, WarehouseId,
};
use crate::storage::TableStorage;

/// The root record; written once when the warehouse is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warehouse {
    pub id: WarehouseId,
    pub shards: ShardCount,
    /// Where the objects are; agents must be started with the same place (the bucket's own marker proves it).
    pub objects_url: String,
    /// Shared by all engines as the cluster's `<secret>`.
    pub cluster_secret: Secret,
    /// Password of the agents' own administrative user on every engine.
    pub engine_admin_password: Secret,
    pub users: Vec<User>,
}

/// A SQL user. Rights are fixed in this version: read and write data everywhere, no DDL on an engine itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    pub password_sha256_hex: Secret,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub name: GroupName,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub name: NodeName,
    pub group: GroupName,
    /// `host:port` of the agent's gRPC service.
    pub agent_address: String,
    /// `host:port` of the engine's HTTP interface.
    pub engine_http: String,
    /// `host:port` of the engine's native interface.
    pub engine_native: String,
    pub incarnation: Incarnation,
    /// Gets no shards; its own are moved away.
    pub draining: bool,
}

/// Which node of a group holds a shard. Only under `epoch` may it commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub group: GroupName,
    pub shard: ShardId,
    pub node: NodeName,
    pub epoch: Epoch,
    pub moving: Option<MoveIntent>,
}

/// A move that has begun and not yet changed the epoch. A leader that finds one it did not begin cancels it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveIntent {
    pub to: NodeName,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    pub name: SqlName,
}

/// A user-visible table and what every engine needs to make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub id: TableId,
    pub database: SqlName,
    pub name: SqlName,
    /// Its name in every `shard_k` database: `orders_6f1c2a`.
    pub physical: String,
    pub owner: GroupName,
    /// "(`a` UInt64, …)", as the engine prints it.
    pub columns: String,
    pub engine: String,
    /// "MergeTree ORDER BY a SETTINGS …", as the engine prints it.
    pub engine_full: String,
    pub comment: String,
    /// Third argument of the Distributed table.
    pub sharding_key: String,
    pub state: TableState,
    /// The task that brought it to this state.
    pub ddl_seq: DdlSeq,
    #[serde(default, skip_serializing_if = "TableStorage::is_default")]
    pub storage: TableStorage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    /// Being made on all nodes; not yet visible as done to the one who asked.
    Creating,
    Active,
}

/// What a user asked for, after the gateway has read it and the engine has described it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DdlStatement {
    CreateDatabase {
        database: SqlName,
        if_not_exists: bool,
    },
    DropDatabase {
        database: SqlName,
        if_exists: bool,
    },
    CreateTable {
        /// The group whose endpoint it came through: the owner.
        group: GroupName,
        database: SqlName,
        name: SqlName,
        if_not_exists: bool,
        /// All that follows the name in the statement.
        create_tail: String,
        /// The session's database, for unqualified names in `create_tail`.
        session_database: SqlName,
        /// `SHARD BY`, if said.
        sharding_key: Option<String>,
    },
    DropTable {
        database: SqlName,
        name: SqlName,
        if_exists: bool,
    },
}

/// A part directory as one sealed record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub part: PartPath,
    pub rows: u64,
    /// Unix time of the commit, milliseconds, by the writer's clock: for people and for the settling rule, not for order.
    pub committed_ms: u64,
    pub files: Vec<FileEntry>,
    /// Nodes that have every staged file of the part too, synced, besides the node that a file is staged on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<NodeName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// `data.bin`, or `p.proj/data.bin`.
    pub path: FilePath,
    pub blob: BlobId,
    pub bytes: u64,
    pub location: Location,
}

/// Where a blob's bytes are kept for good. Caches are not recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Location {
    Staged { node: NodeName },
    Stored { object: ObjectKey, offset: u64, crc32c: u32 },
}

/// A small file beside the parts (`format_version.txt`, `mutation_3.txt`), content inline, at most 256 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    pub path: FilePath,
    pub content: Vec<u8>,
}

/// One change of a table shard: what a commit asks for, and, once numbered, an entry of the changelog.
///
/// Applied in this order: removals, additions, relocations. Parts that are removed but not there, and parts that are added
/// with the very content that is there, change nothing: that makes a repeated commit harmless.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartChange {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<PartPath>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<Manifest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relocated: Vec<Relocation>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inodes_removed: Vec<FilePath>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inodes_put: Vec<Inode>,
}

/// The new place of one blob, in every part of the table shard that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relocation {
    pub blob: BlobId,
    pub location: Location,
}

/// A table shard, whole, at one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableShardSnapshot {
    pub version: Version,
    pub parts: Vec<Manifest>,
    pub inodes: Vec<Inode>,
}

/// A dropped table that still has records: they are removed in small steps, between the commits of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingTable {
    pub id: TableId,
}

/// Bytes that nothing refers to any more, to be deleted from the bucket once `not_before_ms` has passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoomedObject {
    pub object: ObjectKey,
    pub not_before_ms: u64,
}
