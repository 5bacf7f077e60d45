//! One durable record and its key: the only place that knows how the catalog lies in a store.
//!
//! Keys are text, so that an operator can read them; the part that may hold any byte (a path, an SQL name) comes last.
//! Numbers are padded, so that a range scan gives them in order.

use std::sync::Arc;

use uuid::Uuid;

use crate::codec::{self, CodecError, Record};
use crate::ddl::DdlTask;
use crate::documents::{Document, DocumentKey, DocumentKind, DocumentVersion};
use crate::ids::{
    DdlSeq, FilePath, GroupName, InvalidId, NodeName, ObjectKey, PartPath, Revision, ShardId, SqlName, TableId,
    TableShard, Version,
};
use crate::links::{ObjectLink, StoreForm};
use crate::packed::{ChangelogEntry, Layout, LayoutNumber, Layouts, PackedPart};
use crate::records::{Assignment, Database, DoomedObject, Group, Inode, LeavingTable, Node, Table, Warehouse};
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
    Document(DocumentKey, DocumentVersion, Option<Document>),
    Form(Option<StoreForm>),
    /// There, or not.
    Link(ObjectLink, bool),
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
            // Staged parts are always in a leader's memory: apart, so that the others need not be read.
            Self::Part(at, path, Some(part)) if part.is_staged() => format!("staged/{}/{path}", place(at)),
            Self::Part(at, path, _) => format!("part/{}/{path}", place(at)),
            Self::Inode(at, path, _) => format!("inode/{}/{path}", place(at)),
            Self::Change(at, version, _) => format!("change/{}/{:020}", place(at), version.0),
            Self::Doomed(object, _) => format!("doomed/{object}"),
            Self::Token(hash, _) => format!("token/{hash}"),
            Self::Audit(seq, _) => format!("audit/{:020}", seq.0),
            Self::Document(key, version, _) => {
                format!("document/{}/{:020}/{}", key.kind.as_str(), version.0, key.name())
            }
            Self::Form(_) => "form".to_owned(),
            Self::Link(ObjectLink { home, user }, _) => {
                let home = home.map_or_else(|| "-".to_owned(), |home| place(&home));
                format!("link/{home}/{}", place(user))
            }
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
            Self::Document(_, _, record) => record.as_ref().map(codec::encode),
            Self::Form(form) => form.as_ref().map(codec::encode),
            Self::Link(link, there) => there.then(|| codec::encode(link)),
        }
    }

    /// What a store must do to have this instead of `before`. A part that is stored from now on lies elsewhere.
    pub fn writes(&self, before: &Self) -> Vec<Write> {
        let (key, old) = (self.key(), before.key());
        match self.value() {
            Some(value) if key == old || before.value().is_none() => vec![Write::Put { key, value }],
            Some(value) => vec![Write::Delete { key: old }, Write::Put { key, value }],
            None => vec![Write::Delete { key: old }],
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
            "part" | "staged" => {
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
            "form" => Self::Form(record(&text, value)?),
            "link" => {
                let link: Option<ObjectLink> = record(&text, value)?;
                let entry = Self::Link(link.ok_or_else(unknown)?, true);
                if entry.key() != key {
                    return Err(bad_record(CodecError::Damaged("it is of another key".to_owned())));
                }
                entry
            }
            "audit" => Self::Audit(AuditSeq(rest.parse().map_err(|_| unknown())?), record(&text, value)?),
            "document" => {
                let (key, version) = read_document(rest).ok_or_else(unknown)?;
                Self::Document(key, version, record(&text, value)?)
            }
            "doomed" => Self::Doomed(ObjectKey::new(rest).map_err(bad_key)?, record(&text, value)?),
            _ => return Err(unknown()),
        })
    }
}

fn place(at: &TableShard) -> String {
    format!("{}/{:04}", at.table, at.shard.0)
}

/// KIND/VERSION/NAME.
fn read_document(rest: &str) -> Option<(DocumentKey, DocumentVersion)> {
    let mut fields = rest.splitn(3, '/');
    let kind = DocumentKind::read(fields.next()?)?;
    let version = DocumentVersion(fields.next()?.parse().ok()?);
    Some((DocumentKey::new(kind, fields.next()?)?, version))
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
