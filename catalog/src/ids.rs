//! Names and numbers of the catalog, one type each, so that none is mistaken for another.
//!
//! Constructors check; deserialising goes through the same check.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a name or number was refused; the text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct InvalidId {
    pub what: &'static str,
    pub value: String,
    pub rule: &'static str,
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidId> {
                let value = value.into();
                let check: fn(&str) -> bool = $check;
                if check(&value) { Ok(Self(value)) } else { Err(InvalidId { what: $what, value, rule: $rule }) }
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number after this one.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// From the wire's 16 bytes.
            pub fn from_wire(bytes: &[u8]) -> Result<Self, InvalidId> {
                Uuid::from_slice(bytes).map(Self).map_err(|_| InvalidId {
                    what: $what,
                    value: format!("{bytes:02x?}"),
                    rule: "it takes the 16 bytes of a UUID",
                })
            }
            pub fn to_wire(self) -> Vec<u8> {
                self.0.as_bytes().to_vec()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

fn is_dns_label(value: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !value.is_empty()
        && value.len() <= 63
        && value.bytes().all(inner)
        && !value.starts_with('-')
        && !value.ends_with('-')
}

fn is_relative_path(value: &str) -> bool {
    !value.is_empty()
        && value.len() <= 4096
        && value.split('/').all(|p| !matches!(p, "" | "." | "..") && !p.contains('\0'))
}

name_id!(
    /// A compute group's name; also the host name of its endpoint.
    GroupName, "group name", is_dns_label, "1 to 63 of a-z, 0-9 and '-', not at the ends");
name_id!(
    /// A node's name, unique in the warehouse and kept over restarts.
    NodeName, "node name", is_dns_label, "1 to 63 of a-z, 0-9 and '-', not at the ends");
name_id!(
    /// A part directory's path below its table shard: `all_1_4_1`, or `detached/all_1_4_1`.
    PartPath, "part path", is_relative_path, "a relative path without '.' and '..'");
name_id!(
    /// A file's path below its part, or a non-part file's path below its table shard.
    FilePath, "file path", is_relative_path, "a relative path without '.' and '..'");
name_id!(
    /// Key of one object below the warehouse's bucket prefix.
    ObjectKey, "object key", is_relative_path, "a relative path without '.' and '..'");
name_id!(
    /// A user-visible database or table name, as ClickHouse allows it (any text without NUL, up to 206 bytes).
    SqlName, "SQL name", |v| !v.is_empty() && v.len() <= 206 && !v.contains('\0'), "1 to 206 bytes without NUL");

number_id!(
    /// A shard's index, `0..ShardCount`.
    ShardId, u16);
number_id!(
    /// Grows at every change of an assignment; fences the writer of before.
    Epoch, u64);
number_id!(
    /// Changelog number of a table shard: the n-th change, without gaps, 0 before the first.
    Version, u64);
number_id!(
    /// Position in the distributed DDL queue.
    DdlSeq, u64);
number_id!(
    /// Counts changes of what the views show: nodes, assignments, databases, tables. Not the parts.
    Revision, u64);
number_id!(
    /// One run of a node agent; the newest one counts.
    Incarnation, u64);

uuid_id!(
    /// A table, for ever: renaming does not change it.
    TableId, "table id");
uuid_id!(
    /// The identity of one file's immutable content, wherever its bytes are: on the writer's SSD, in the object store, in
    /// a cache. Hard links share it.
    BlobId, "blob id");
uuid_id!(
    /// Names one request of DDL: its repetition gets the outcome of the same task.
    DdlToken, "DDL token");
uuid_id!(
    /// A warehouse, for ever.
    WarehouseId, "warehouse id");

impl TableId {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}
impl BlobId {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Like no other, in this process or any: a random half for each start of a process, then counted from a random number.
    /// Ids of files that were made one after the other lie close together, which manifests are packed by.
    pub fn fresh() -> Self {
        static START: LazyLock<(u64, AtomicU64)> = LazyLock::new(|| {
            let (head, low) = Uuid::new_v4().as_u64_pair();
            // Without the bits that say which kind of UUID it is, and with room to count.
            (head, AtomicU64::new(low & (u64::MAX >> 2)))
        });
        let (head, next) = &*START;
        Self(Uuid::from_u64_pair(*head, next.fetch_add(1, Ordering::Relaxed)))
    }
}
impl DdlToken {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}
impl WarehouseId {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

/// How many shards a warehouse has; fixed when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct ShardCount(u16);

impl ShardCount {
    /// The design's bound: a static cluster of more shards makes every Distributed query slow.
    pub const MAX: u16 = 1024;

    pub fn new(count: u16) -> Result<Self, InvalidId> {
        if (1..=Self::MAX).contains(&count) {
            Ok(Self(count))
        } else {
            Err(InvalidId { what: "shard count", value: count.to_string(), rule: "1 to 1024" })
        }
    }
    pub fn get(self) -> u16 {
        self.0
    }
    pub fn contains(self, shard: ShardId) -> bool {
        shard.0 < self.0
    }
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        (0..self.0).map(ShardId)
    }
}
impl TryFrom<u16> for ShardCount {
    type Error = InvalidId;
    fn try_from(count: u16) -> Result<Self, InvalidId> {
        Self::new(count)
    }
}
impl From<ShardCount> for u16 {
    fn from(count: ShardCount) -> u16 {
        count.0
    }
}

/// One MergeTree table on one node of the owner group, with read-only twins elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableShard {
    pub table: TableId,
    pub shard: ShardId,
}

impl TableShard {
    /// The UUID that an engine knows this table shard by: one server may hold many shards of one table, and each must differ.
    pub fn engine_uuid(self) -> Uuid {
        Uuid::from_u128(self.table.0.as_u128() ^ u128::from(self.shard.0))
    }

    /// The reverse of [`Self::engine_uuid`].
    pub fn from_engine_uuid(shard: ShardId, uuid: Uuid) -> Self {
        Self { table: TableId(Uuid::from_u128(uuid.as_u128() ^ u128::from(shard.0))), shard }
    }
}

impl fmt::Display for TableShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.table, self.shard)
    }
}
