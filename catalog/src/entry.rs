//! One durable record and its key: the only place that knows how the catalog lies in a store.
//!
//! Keys are text, so that an operator can read them; the part that may hold any byte (a path, an SQL name) comes last.
//! Numbers are padded, so that a range scan gives them in order.

use std::sync::Arc;

use uuid::Uuid;

use crate::codec::{self, CodecError, Record};
use crate::ids::{
    DdlSeq, FilePath, GroupName, InvalidId, NodeName, ObjectKey, PartPath, Revision, ShardId, SqlName, TableId,
    TableShard, Version,
};
use crate::packed::{ChangelogEntry, Layout, LayoutNumber, Layouts, PackedPart};
use crate::records::{Assignment, Database, DdlTask, DoomedObject, Group, Inode, LeavingTable, Node, Table, Warehouse};
use crate::trust::{AuditRecord, AuditSeq, JoinToken, TokenHash};

/// One write for a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put { key: Vec<u8>, value: Vec<u8> },
    Delete { key: Vec<u8> },
}

impl Write {
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// A record's key with the record, or with nothing where the record is (to be) absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Warehouse(Option<Warehouse>),
    Revision(Option<Revision>),
    Group(GroupName, Option<Group>),
    Node(NodeName, Option<Node>),
    Assignment(GroupName, ShardId, Option<Assignment>),
    Database(SqlName, Option<Database>),
    Table(TableId, Option<Table>),
    Ddl(DdlSeq, Option<DdlTask>),
    Leaving(TableId, Option<LeavingTable>),
    Layout(TableId, LayoutNumber, Option<Arc<Layout>>),
    Version(TableShard, Option<Version>),
    Part(TableShard, PartPath, Option<PackedPart>),
    Inode(TableShard, FilePath, Option<Inode>),
    Change(TableShard, Version, Option<Arc<ChangelogEntry>>),
    Doomed(ObjectKey, Option<DoomedObject>),
    Token(TokenHash, Option<JoinToken>),
    Audit(AuditSeq, Option<AuditRecord>),
}

/// Why a stored record cannot be read. The catalog is never loaded without it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the store has a key that this build does not know: {0:?}: upgrade this process")]
    UnknownKey(String),
    #[error("the store's key {key:?} is damaged: {source}")]
    BadKey { key: String, source: InvalidId },
    #[error("the store's record {key:?} cannot be read: {source}")]
    BadRecord { key: String, source: CodecError },
}

impl Entry {
    pub fn key(&self) -> Vec<u8> {
        match self {
            Self::Warehouse(_) => "warehouse".to_owned(),
            Self::Revision(_) => "revision".to_owned(),
            Self::Group(name, _) => format!("group/{name}"),
            Self::Node(name, _) => format!("node/{name}"),
            Self::Assignment(group, shard, _) => format!("assignment/{group}/{:04}", shard.0),
            Self::Database(name, _) => format!("database/{name}"),
            Self::Table(id, _) => format!("table/{id}"),
            Self::Leaving(id, _) => format!("leaving/{id}"),
            Self::Layout(table, number, _) => format!("layout/{table}/{:04}", number.0),
            Self::Ddl(seq, _) => format!("ddl/{:020}", seq.0),
            Self::Version(at, _) => format!("version/{}", place(at)),
            Self::Part(at, path, _) => format!("part/{}/{path}", place(at)),
            Self::Inode(at, path, _) => format!("inode/{}/{path}", place(at)),
            Self::Change(at, version, _) => format!("change/{}/{:020}", place(at), version.0),
            Self::Doomed(object, _) => format!("doomed/{object}"),
            Self::Token(hash, _) => format!("token/{hash}"),
            Self::Audit(seq, _) => format!("audit/{:020}", seq.0),
        }
        .into_bytes()
    }

    /// The encoded record; `None` where it is absent.
    pub fn value(&self) -> Option<Vec<u8>> {
        match self {
            Self::Warehouse(record) => record.as_ref().map(codec::encode),
            Self::Revision(record) => record.as_ref().map(codec::encode),
            Self::Group(_, record) => record.as_ref().map(codec::encode),
            Self::Node(_, record) => record.as_ref().map(codec::encode),
            Self::Assignment(_, _, record) => record.as_ref().map(codec::encode),
            Self::Database(_, record) => record.as_ref().map(codec::encode),
            Self::Table(_, record) => record.as_ref().map(codec::encode),
            Self::Leaving(_, record) => record.as_ref().map(codec::encode),
            Self::Layout(_, _, layout) => layout.as_ref().map(|layout| layout.to_record()),
            Self::Ddl(_, record) => record.as_ref().map(codec::encode),
            Self::Version(_, record) => record.as_ref().map(codec::encode),
            Self::Part(_, _, part) => part.as_ref().map(|part| part.record().to_vec()),
            Self::Inode(_, _, record) => record.as_ref().map(codec::encode),
            Self::Change(_, _, record) => record.as_deref().map(codec::encode),
            Self::Doomed(_, record) => record.as_ref().map(codec::encode),
            Self::Token(_, record) => record.as_ref().map(codec::encode),
            Self::Audit(_, record) => record.as_ref().map(codec::encode),
        }
    }

    pub fn write(&self) -> Write {
        let key = self.key();
        match self.value() {
            Some(value) => Write::Put { key, value },
            None => Write::Delete { key },
        }
    }

    /// Reads what [`Entry::key`] and [`Entry::value`] gave. A part's layout must be among `layouts`.
    pub fn read(key: &[u8], value: &[u8], layouts: &Layouts) -> Result<Self, LoadError> {
        let text = String::from_utf8_lossy(key).into_owned();
        let unknown = || LoadError::UnknownKey(text.clone());
        let bad_record = |source| LoadError::BadRecord { key: text.clone(), source };
        let bad_key = |source| LoadError::BadKey { key: text.clone(), source };
        let (kind, rest) = text.split_once('/').unwrap_or((&text, ""));
        Ok(match kind {
            "warehouse" => Self::Warehouse(record(&text, value)?),
            "revision" => Self::Revision(record(&text, value)?),
            "group" => Self::Group(GroupName::new(rest).map_err(bad_key)?, record(&text, value)?),
            "node" => Self::Node(NodeName::new(rest).map_err(bad_key)?, record(&text, value)?),
            "assignment" => {
                let (group, shard) = rest.split_once('/').ok_or_else(unknown)?;
                let shard = ShardId(shard.parse().map_err(|_| unknown())?);
                Self::Assignment(GroupName::new(group).map_err(bad_key)?, shard, record(&text, value)?)
            }
            "database" => Self::Database(SqlName::new(rest).map_err(bad_key)?, record(&text, value)?),
            "table" => Self::Table(TableId(Uuid::try_parse(rest).map_err(|_| unknown())?), record(&text, value)?),
            "leaving" => Self::Leaving(TableId(Uuid::try_parse(rest).map_err(|_| unknown())?), record(&text, value)?),
            "layout" => {
                let (table, number) = rest.split_once('/').ok_or_else(unknown)?;
                let table = TableId(Uuid::try_parse(table).map_err(|_| unknown())?);
                let number = LayoutNumber(number.parse().map_err(|_| unknown())?);
                let layout = Layout::from_record(number, value).map_err(bad_record)?;
                Self::Layout(table, number, Some(Arc::new(layout)))
            }
            "ddl" => Self::Ddl(DdlSeq(rest.parse().map_err(|_| unknown())?), record(&text, value)?),
            "version" => Self::Version(read_place(rest).ok_or_else(unknown)?.0, record(&text, value)?),
            "part" => {
                let (at, path) = read_place(rest).ok_or_else(unknown)?;
                let path = PartPath::new(path).map_err(bad_key)?;
                let part = PackedPart::read(at, &path, value, |number| layouts.get(at.table, number));
                Self::Part(at, path, Some(part.map_err(bad_record)?))
            }
            "inode" => {
                let (at, path) = read_place(rest).ok_or_else(unknown)?;
                Self::Inode(at, FilePath::new(path).map_err(bad_key)?, record(&text, value)?)
            }
            "change" => {
                let (at, version) = read_place(rest).ok_or_else(unknown)?;
                let version = Version(version.parse().map_err(|_| unknown())?);
                Self::Change(at, version, record(&text, value)?.map(Arc::new))
            }
            "token" => Self::Token(TokenHash::new(rest).ok_or_else(unknown)?, record(&text, value)?),
            "audit" => Self::Audit(AuditSeq(rest.parse().map_err(|_| unknown())?), record(&text, value)?),
            "doomed" => Self::Doomed(ObjectKey::new(rest).map_err(bad_key)?, record(&text, value)?),
            _ => return Err(unknown()),
        })
    }
}

fn place(at: &TableShard) -> String {
    format!("{}/{:04}", at.table, at.shard.0)
}

/// The table shard at the start of a key, and what follows it.
fn read_place(rest: &str) -> Option<(TableShard, &str)> {
    let mut fields = rest.splitn(3, '/');
    let table = TableId(Uuid::try_parse(fields.next()?).ok()?);
    let shard = ShardId(fields.next()?.parse().ok()?);
    Some((TableShard { table, shard }, fields.next().unwrap_or("")))
}

fn record<T: Record>(key: &str, value: &[u8]) -> Result<Option<T>, LoadError> {
    codec::decode(value).map(Some).map_err(|source| LoadError::BadRecord { key: key.to_owned(), source })
}
