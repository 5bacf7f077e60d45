//! The names of a part's files, which most parts of a table have in common.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;

use crate::codec::{self, CodecError, PROTOBUF, Record};
use crate::ids::{FilePath, TableId};

/// Counts the layouts of a table, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayoutNumber(pub u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub number: LayoutNumber,
    pub(crate) content: Content,
}

/// The layouts of all tables. A table keeps its own for as long as it lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layouts(BTreeMap<TableId, BTreeMap<LayoutNumber, Arc<Layout>>>);

impl Layouts {
    pub fn get(&self, table: TableId, number: LayoutNumber) -> Option<Arc<Layout>> {
        self.0.get(&table)?.get(&number).cloned()
    }

    pub fn of(&self, table: TableId) -> impl Iterator<Item = &Arc<Layout>> {
        self.0.get(&table).into_iter().flat_map(BTreeMap::values)
    }

    /// Answers with what was there.
    pub(crate) fn set(
        &mut self,
        table: TableId,
        number: LayoutNumber,
        new: Option<Arc<Layout>>,
    ) -> Option<Arc<Layout>> {
        let layouts = self.0.entry(table).or_default();
        let old = match new {
            Some(layout) => layouts.insert(number, layout),
            None => layouts.remove(&number),
        };
        if layouts.is_empty() {
            self.0.remove(&table);
        }
        old
    }
}

/// Names in the manifest's order, and how the files lie in the part's object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub names: Vec<FilePath>,
    /// Indexes into `names`: the files in the order in which they lie in one object, back to back from its beginning.
    /// Empty if they do not: they are staged, or in several objects.
    pub order: Vec<u32>,
}

impl Content {
    pub fn is_one_object(&self) -> bool {
        !self.order.is_empty()
    }

    pub fn to_message(&self) -> NamesMessage {
        NamesMessage {
            names: self.names.iter().map(|name| name.as_str().to_owned()).collect(),
            order: self.order.clone(),
        }
    }

    pub fn from_message(message: NamesMessage) -> Result<Self, CodecError> {
        let names = message.names.into_iter().map(FilePath::new).collect::<Result<Vec<_>, _>>();
        let content = Self { names: names.map_err(CodecError::damaged)?, order: message.order };
        let mut seen = content.order.clone();
        seen.sort_unstable();
        if content.is_one_object() && !seen.iter().copied().eq(0..content.names.len() as u32) {
            return Err(CodecError::Damaged("the order of the files is no order".to_owned()));
        }
        Ok(content)
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NamesMessage {
    #[prost(string, repeated, tag = "1")]
    pub names: Vec<String>,
    #[prost(uint32, repeated, tag = "2")]
    pub order: Vec<u32>,
}

impl Layout {
    pub(crate) fn new(number: LayoutNumber, content: Content) -> Self {
        Self { number, content }
    }

    pub(crate) fn has(&self, content: &Content) -> bool {
        self.content == *content
    }

    pub(crate) fn to_record(&self) -> Vec<u8> {
        let mut record = vec![PROTOBUF];
        record.extend(self.content.to_message().encode_to_vec());
        record
    }

    pub(crate) fn from_record(number: LayoutNumber, record: &[u8]) -> Result<Self, CodecError> {
        match codec::format_of(record, PROTOBUF)? {
            (PROTOBUF, body) => {
                let message = NamesMessage::decode(body).map_err(CodecError::damaged)?;
                Ok(Self { number, content: Content::from_message(message)? })
            }
            (format, _) => Err(CodecError::Damaged(format!("a layout has no format {:?}", format as char))),
        }
    }
}

impl Record for crate::records::Inode {
    fn to_record(&self) -> Vec<u8> {
        let mut record = vec![PROTOBUF];
        record.extend(InodeMessage::of(self).encode_to_vec());
        record
    }

    fn from_record(record: &[u8]) -> Result<Self, CodecError> {
        match codec::format_of(record, PROTOBUF)? {
            (PROTOBUF, body) => InodeMessage::decode(body).map_err(CodecError::damaged)?.read(),
            (_, body) => codec::from_json(body),
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InodeMessage {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

impl InodeMessage {
    pub fn of(inode: &crate::records::Inode) -> Self {
        let crate::records::Inode { path, content } = inode;
        Self { path: path.as_str().to_owned(), content: content.clone() }
    }

    pub fn read(self) -> Result<crate::records::Inode, CodecError> {
        let path = FilePath::new(self.path).map_err(CodecError::damaged)?;
        Ok(crate::records::Inode { path, content: self.content })
    }
}
