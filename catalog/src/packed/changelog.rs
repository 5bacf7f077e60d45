//! A changelog entry as it is kept: what a change touched, by name.
//!
//! The content is read from the parts as they are now: a reader that catches up gets one change that leads from its version
//! to the newest, so what came and went between never travels, and an entry takes some ten bytes a name.

use prost::Message;
use uuid::Uuid;

use crate::codec::{self, CodecError, PROTOBUF, Record};
use crate::ids::{FilePath, InvalidId, PartPath};
use crate::records::PartChange;

/// Names one commit of an agent. The entry that a commit made keeps it, so that whoever asks again, also after a change of
/// leaders, gets the answer of before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitToken(Uuid);

impl CommitToken {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Empty: the writer has given none.
    pub fn from_wire(bytes: &[u8]) -> Result<Option<Self>, InvalidId> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let invalid = |_| InvalidId { what: "commit token", value: format!("{bytes:02x?}"), rule: "it takes 16 bytes" };
        Uuid::from_slice(bytes).map(|token| Some(Self(token))).map_err(invalid)
    }

    pub fn to_wire(self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangelogEntry {
    pub token: Option<CommitToken>,
    /// Also of parts whose content was replaced: then in `added`, too.
    pub removed: Vec<PartPath>,
    pub added: Vec<PartPath>,
    /// Parts with a blob that is kept elsewhere now.
    pub relocated: Vec<PartPath>,
    pub inodes_removed: Vec<FilePath>,
    pub inodes_put: Vec<FilePath>,
    /// Written by an older build in a way that names not every part: readers of before take a snapshot.
    pub opaque: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EntryMessage {
    #[prost(bytes = "vec", tag = "1")]
    token: Vec<u8>,
    #[prost(string, repeated, tag = "2")]
    removed: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    added: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    relocated: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    inodes_removed: Vec<String>,
    #[prost(string, repeated, tag = "6")]
    inodes_put: Vec<String>,
}

impl Record for ChangelogEntry {
    /// An opaque entry is never written anew.
    fn to_record(&self) -> Vec<u8> {
        let Self { token, removed, added, relocated, inodes_removed, inodes_put, opaque: _ } = self;
        let parts = |names: &[PartPath]| names.iter().map(|name| name.as_str().to_owned()).collect();
        let files = |names: &[FilePath]| names.iter().map(|name| name.as_str().to_owned()).collect();
        let message = EntryMessage {
            token: token.map(CommitToken::to_wire).unwrap_or_default(),
            removed: parts(removed),
            added: parts(added),
            relocated: parts(relocated),
            inodes_removed: files(inodes_removed),
            inodes_put: files(inodes_put),
        };
        let mut record = vec![PROTOBUF];
        record.extend(message.encode_to_vec());
        record
    }

    fn from_record(record: &[u8]) -> Result<Self, CodecError> {
        let (format, body) = codec::format_of(record, PROTOBUF)?;
        if format == codec::JSON {
            return Ok(Self::of_older_build(&codec::from_json(body)?));
        }
        let message = EntryMessage::decode(body).map_err(CodecError::damaged)?;
        let parts = |names: Vec<String>| names.into_iter().map(PartPath::new).collect::<Result<Vec<_>, _>>();
        let files = |names: Vec<String>| names.into_iter().map(FilePath::new).collect::<Result<Vec<_>, _>>();
        let read = || -> Result<Self, InvalidId> {
            Ok(Self {
                token: CommitToken::from_wire(&message.token)?,
                removed: parts(message.removed)?,
                added: parts(message.added)?,
                relocated: parts(message.relocated)?,
                inodes_removed: files(message.inodes_removed)?,
                inodes_put: files(message.inodes_put)?,
                opaque: false,
            })
        };
        read().map_err(CodecError::damaged)
    }
}

impl ChangelogEntry {
    /// Those kept whole changes; a relocation did not say of which parts.
    fn of_older_build(change: &PartChange) -> Self {
        Self {
            token: None,
            removed: change.removed.clone(),
            added: change.added.iter().map(|part| part.part.clone()).collect(),
            relocated: Vec::new(),
            inodes_removed: change.inodes_removed.clone(),
            inodes_put: change.inodes_put.iter().map(|inode| inode.path.clone()).collect(),
            opaque: !change.relocated.is_empty(),
        }
    }
}
