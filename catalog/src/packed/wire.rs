//! What travels alone and so brings its layouts along: a change, and a snapshot of a table shard.

use std::sync::Arc;

use prost::Message;

use super::LayoutNumber;
use super::body::{Body, Names, Seal};
use super::layout::{Content, InodeMessage, Layout, NamesMessage};
use crate::codec::{self, CodecError, PROTOBUF, Record};
use crate::ids::{BlobId, FilePath, PartPath, ShardId, TableId, TableShard, Version};
use crate::minted;
use crate::records::{Inode, Manifest, PartChange, Relocation, TableShardSnapshot};
use crate::state::Shard;

/// A manifest whose layout is one of the message's.
#[derive(Clone, PartialEq, prost::Message)]
struct PartMessage {
    #[prost(string, tag = "1")]
    part: String,
    #[prost(bytes = "vec", tag = "2")]
    body: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LayoutMessage {
    #[prost(uint32, tag = "1")]
    number: u32,
    #[prost(message, optional, tag = "2")]
    names: Option<NamesMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChangeMessage {
    #[prost(string, repeated, tag = "1")]
    removed: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    layouts: Vec<LayoutMessage>,
    #[prost(message, repeated, tag = "3")]
    added: Vec<PartMessage>,
    /// A body without names.
    #[prost(bytes = "vec", tag = "4")]
    relocated: Vec<u8>,
    #[prost(string, repeated, tag = "5")]
    inodes_removed: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    inodes_put: Vec<InodeMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SnapshotMessage {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(message, repeated, tag = "2")]
    layouts: Vec<LayoutMessage>,
    #[prost(message, repeated, tag = "3")]
    parts: Vec<PartMessage>,
    #[prost(message, repeated, tag = "4")]
    inodes: Vec<InodeMessage>,
    /// Where objects whose keys are shortened belong to. Absent if none is.
    #[prost(bytes = "vec", tag = "5")]
    table: Vec<u8>,
    #[prost(uint32, tag = "6")]
    shard: u32,
}

/// Carried of one message.
#[derive(Default)]
struct Carried(Vec<Arc<Layout>>);

impl Carried {
    fn pack(&mut self, manifest: &Manifest) -> PartMessage {
        let (seal, content) = Seal::of_manifest(manifest, "");
        let known = self.0.iter().find(|layout| layout.content == content).map(|layout| layout.number);
        let number = known.unwrap_or_else(|| {
            let number = LayoutNumber(self.0.len() as u32 + 1);
            self.0.push(Arc::new(Layout { number, content }));
            number
        });
        let mut body = Vec::new();
        seal.write(Names::Shared(number.0), &mut body);
        PartMessage { part: manifest.part.as_str().to_owned(), body }
    }

    fn to_messages(&self) -> Vec<LayoutMessage> {
        let message = |l: &Arc<Layout>| LayoutMessage { number: l.number.0, names: Some(l.content.to_message()) };
        self.0.iter().map(message).collect()
    }

    fn from_messages(messages: Vec<LayoutMessage>) -> Result<Self, CodecError> {
        let read = |message: LayoutMessage| {
            let content = Content::from_message(message.names.unwrap_or_default())?;
            Ok(Arc::new(Layout { number: LayoutNumber(message.number), content }))
        };
        messages.into_iter().map(read).collect::<Result<_, CodecError>>().map(Self)
    }

    fn open(&self, message: PartMessage, at: Option<TableShard>) -> Result<Manifest, CodecError> {
        let part = PartPath::new(message.part).map_err(CodecError::damaged)?;
        let (range, body) = Body::read(&message.body)?;
        let content = match body.layout {
            0 => None,
            number => Some(
                self.0
                    .iter()
                    .find(|layout| layout.number.0 == number)
                    .map(|layout| &layout.content)
                    .ok_or_else(|| CodecError::Damaged(format!("layout {number} is missing")))?,
            ),
        };
        let prefix = at.map(minted::prefix).unwrap_or_default();
        body.open(range, content, &part, &prefix)
    }
}

fn texts<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.map(str::to_owned).collect()
}

fn with_format(message: &impl Message) -> Vec<u8> {
    let mut record = vec![PROTOBUF];
    message.encode(&mut record).expect("a vector takes any length");
    record
}

fn read_all<T, N>(from: Vec<T>, read: impl Fn(T) -> Result<N, CodecError>) -> Result<Vec<N>, CodecError> {
    from.into_iter().map(read).collect()
}

impl Record for PartChange {
    fn to_record(&self) -> Vec<u8> {
        let Self { removed, added, relocated, inodes_removed, inodes_put } = self;
        let mut layouts = Carried::default();
        let added = added.iter().map(|manifest| layouts.pack(manifest)).collect();
        let mut places = Vec::new();
        if !relocated.is_empty() {
            let blobs: Vec<BlobId> = relocated.iter().map(|relocation| relocation.blob).collect();
            Seal::of(&blobs, relocated.iter().map(|r| &r.location), "").write(Names::None, &mut places);
        }
        with_format(&ChangeMessage {
            removed: texts(removed.iter().map(PartPath::as_str)),
            layouts: layouts.to_messages(),
            added,
            relocated: places,
            inodes_removed: texts(inodes_removed.iter().map(FilePath::as_str)),
            inodes_put: inodes_put.iter().map(InodeMessage::of).collect(),
        })
    }

    fn from_record(record: &[u8]) -> Result<Self, CodecError> {
        let (format, body) = codec::format_of(record, PROTOBUF)?;
        if format == codec::JSON {
            return codec::from_json(body);
        }
        let message = ChangeMessage::decode(body).map_err(CodecError::damaged)?;
        let layouts = Carried::from_messages(message.layouts)?;
        let mut relocated = Vec::new();
        if !message.relocated.is_empty() {
            let (range, body) = Body::read(&message.relocated)?;
            let moved = body.blobs(range).into_iter().zip(body.locations("", None)?);
            relocated.extend(moved.map(|(blob, location)| Relocation { blob, location }));
        }
        Ok(Self {
            removed: read_all(message.removed, |name| PartPath::new(name).map_err(CodecError::damaged))?,
            added: read_all(message.added, |part| layouts.open(part, None))?,
            relocated,
            inodes_removed: read_all(message.inodes_removed, |name| FilePath::new(name).map_err(CodecError::damaged))?,
            inodes_put: read_all(message.inodes_put, InodeMessage::read)?,
        })
    }
}

impl Record for TableShardSnapshot {
    fn to_record(&self) -> Vec<u8> {
        let Self { version, parts, inodes } = self;
        let mut layouts = Carried::default();
        let parts = parts.iter().map(|manifest| layouts.pack(manifest)).collect();
        with_format(&SnapshotMessage {
            version: version.0,
            layouts: layouts.to_messages(),
            parts,
            inodes: inodes.iter().map(InodeMessage::of).collect(),
            table: Vec::new(),
            shard: 0,
        })
    }

    fn from_record(record: &[u8]) -> Result<Self, CodecError> {
        let (format, body) = codec::format_of(record, PROTOBUF)?;
        if format == codec::JSON {
            return codec::from_json(body);
        }
        let message = SnapshotMessage::decode(body).map_err(CodecError::damaged)?;
        let at = match message.table.as_slice() {
            [] => None,
            table => Some(TableShard {
                table: TableId::from_wire(table).map_err(CodecError::damaged)?,
                shard: ShardId(u16::try_from(message.shard).map_err(CodecError::damaged)?),
            }),
        };
        let layouts = Carried::from_messages(message.layouts)?;
        Ok(Self {
            version: Version(message.version),
            parts: read_all(message.parts, |part| layouts.open(part, at))?,
            inodes: read_all(message.inodes, InodeMessage::read)?,
        })
    }
}

/// A snapshot of a table shard in pages of about `page_bytes`, each a record of a [`TableShardSnapshot`] with some of the
/// parts; the first has the inodes. Parts are copied as they lie in the catalog.
pub(crate) fn encode_snapshot(
    at: TableShard,
    shard: &Shard,
    layouts: impl Iterator<Item = Arc<Layout>>,
    page_bytes: usize,
) -> Vec<Vec<u8>> {
    let layouts = Carried(layouts.collect());
    let inodes: Vec<&Inode> = shard.inodes.values().collect();
    let empty = || SnapshotMessage {
        version: shard.version.0,
        layouts: layouts.to_messages(),
        parts: Vec::new(),
        inodes: Vec::new(),
        table: at.table.to_wire(),
        shard: u32::from(at.shard.0),
    };
    let mut page = empty();
    let mut bytes = 0;
    let mut pages = Vec::new();
    for inode in inodes {
        bytes += inode.content.len();
        page.inodes.push(InodeMessage::of(inode));
    }
    for (path, part) in &shard.parts {
        if bytes >= page_bytes {
            pages.push(with_format(&std::mem::replace(&mut page, empty())));
            bytes = 0;
        }
        bytes += path.as_str().len() + part.record().len();
        page.parts.push(PartMessage { part: path.as_str().to_owned(), body: part.record()[1..].to_vec() });
    }
    pages.push(with_format(&page));
    pages
}
