//! The one encoding of catalog records, on disk and on the wire: a format byte, then the record.
//!
//! Format `1` is JSON: for what is small and few, an operator can read it with `etcdctl get`. Format `2` is protobuf: for
//! what grows with the data (parts, changes, snapshots, small files; see [`crate::packed`]). A field that is not known is
//! skipped in both, so that fields can be added with a default. A record of a newer format is refused, never guessed at.
//! What older builds wrote as JSON is still read.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ddl::DdlTask;
use crate::documents::Document;
use crate::ids::{Revision, Version};
use crate::links::{ObjectLink, StoreForm};
use crate::records::{Assignment, Database, DdlStatement, DoomedObject, Group, LeavingTable, Node, Table, Warehouse};
use crate::trust::{AuditRecord, JoinToken};
use crate::views::{ClusterView, NodeView};

/// JSON follows.
pub const JSON: u8 = b'1';
/// Protobuf follows; also the newest format that this build reads.
pub const PROTOBUF: u8 = b'2';

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("the record is empty")]
    Empty,
    #[error("the record has format {found:?}, newer than this build's {newest:?}: upgrade this process")]
    NewerFormat { found: char, newest: char },
    #[error("the record is damaged: {0}")]
    Damaged(String),
}

impl CodecError {
    pub(crate) fn damaged(error: impl std::fmt::Display) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// What can be stored and sent.
pub trait Record: Sized {
    fn to_record(&self) -> Vec<u8>;
    fn from_record(record: &[u8]) -> Result<Self, CodecError>;
}

pub fn encode<T: Record>(record: &T) -> Vec<u8> {
    record.to_record()
}

pub fn decode<T: Record>(bytes: &[u8]) -> Result<T, CodecError> {
    T::from_record(bytes)
}

macro_rules! json_records {
    ($($record:ty),* $(,)?) => {
        $(impl Record for $record {
            fn to_record(&self) -> Vec<u8> {
                to_json(self)
            }
            fn from_record(record: &[u8]) -> Result<Self, CodecError> {
                from_json(format_of(record, JSON)?.1)
            }
        })*
    };
}

json_records!(
    Warehouse,
    Group,
    Node,
    Assignment,
    Database,
    Table,
    DdlStatement,
    DdlTask,
    DoomedObject,
    LeavingTable,
    JoinToken,
    Document,
    AuditRecord,
    Version,
    Revision,
    StoreForm,
    ObjectLink,
    NodeView,
    ClusterView,
);

/// The format and what follows it; refuses a format after `newest`.
pub(crate) fn format_of(record: &[u8], newest: u8) -> Result<(u8, &[u8]), CodecError> {
    match record.split_first() {
        None => Err(CodecError::Empty),
        Some((&format, body)) if (JSON..=newest).contains(&format) => Ok((format, body)),
        Some((&found, _)) => Err(CodecError::NewerFormat { found: found as char, newest: newest as char }),
    }
}

fn to_json<T: Serialize>(record: &T) -> Vec<u8> {
    let mut bytes = vec![JSON];
    serde_json::to_writer(&mut bytes, record).expect("catalog records are plain data without maps of non-text keys");
    bytes
}

pub(crate) fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    serde_json::from_slice(body).map_err(CodecError::damaged)
}
