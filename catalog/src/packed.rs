//! The small form of what grows with the data: a part's manifest, a change, a snapshot, a file beside the parts.
//!
//! A manifest in the store takes about 10 bytes a file: the names of its files are those of most parts of its table, so they
//! stand once in a [`Layout`] that manifests refer to by number; blob ids are issued densely, so each is a small difference
//! to the one before; files of one object lie back to back, so their offsets follow from their sizes; the object's key is
//! said once, and only its random end where the rest follows from the part's place. Checksums are the bulk of what is
//! left, and random: compressing does not pay.
//!
//! The same bytes are the catalog's form in memory ([`PackedPart`]), opened when they are used. What travels alone
//! (a change, a snapshot) brings its layouts along.

mod body;
mod changelog;
mod layout;
mod wire;

use std::collections::HashSet;
use std::sync::Arc;

use crate::codec::{self, CodecError, PROTOBUF};
use crate::ids::{BlobId, NodeName, ObjectKey, PartPath, TableShard};
use crate::minted;
use crate::records::{Location, Manifest};
use body::{BlobRange, Body, Seal};
pub use changelog::{ChangelogEntry, CommitToken};
pub use layout::{Layout, LayoutNumber, Layouts};
pub(crate) use wire::encode_snapshot;

/// A manifest as it is stored, known to be whole. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedPart {
    record: Arc<[u8]>,
    /// Of the table; `None` if the record has the names itself.
    layout: Option<Arc<Layout>>,
}

impl PackedPart {
    /// `shared` finds or makes the table's layout for the given names, or has no room for one more.
    pub(crate) fn pack(
        at: TableShard,
        manifest: &Manifest,
        shared: impl FnOnce(layout::Content) -> Result<Arc<Layout>, layout::Content>,
    ) -> Self {
        let (seal, content) = Seal::of_manifest(manifest, &minted::prefix(at));
        let (names, layout) = match shared(content) {
            Ok(layout) => (body::Names::Shared(layout.number.0), Some(layout)),
            Err(content) => (body::Names::Inline(content), None),
        };
        let mut record = vec![PROTOBUF];
        seal.write(names, &mut record);
        Self { record: record.into(), layout }
    }

    /// Reads a record of this or an older build. `layout` finds the table's layout of a number.
    pub(crate) fn read(
        at: TableShard,
        path: &PartPath,
        record: &[u8],
        layout: impl FnOnce(LayoutNumber) -> Option<Arc<Layout>>,
    ) -> Result<Self, CodecError> {
        let (format, rest) = codec::format_of(record, PROTOBUF)?;
        if format == codec::JSON {
            let manifest: Manifest = codec::from_json(rest)?;
            if manifest.part != *path {
                return Err(CodecError::Damaged(format!("it is of part {}", manifest.part)));
            }
            return Ok(Self::pack(at, &manifest, Err));
        }
        let (_, body) = Body::read(rest)?;
        let layout = match body.layout {
            0 => None,
            number => Some(layout(LayoutNumber(number)).ok_or_else(|| {
                CodecError::Damaged(format!("it has file names of layout {number}, which the table does not have"))
            })?),
        };
        body.check(layout.as_deref())?;
        Ok(Self { record: record.into(), layout })
    }

    /// As it lies in the store.
    pub fn record(&self) -> &[u8] {
        &self.record
    }

    /// `at` is the place under which it was packed.
    pub fn open(&self, at: TableShard, path: &PartPath) -> Manifest {
        let (range, body) = self.parse();
        let content = self.layout.as_deref().map(|layout| &layout.content);
        body.open(range, content, path, &minted::prefix(at)).expect("a packed part was checked when it was made")
    }

    /// The objects that it refers to, each once.
    pub fn objects(&self, at: TableShard) -> Vec<ObjectKey> {
        let locations = self.parse().1.places(&minted::prefix(at)).expect("checked when it was made");
        let objects = locations.into_iter().filter_map(|place| match place {
            body::Place::Stored(object) => Some(object),
            body::Place::Staged(_) => None,
        });
        objects.collect()
    }

    /// True if it may have bytes that are on that node alone.
    pub fn may_be_staged_on(&self, node: &NodeName) -> bool {
        !self.is_one_object() && self.parse().1.is_staged_on(node)
    }

    /// True if it has bytes that are on a node alone.
    pub fn is_staged(&self) -> bool {
        !self.is_one_object() && self.parse().1.is_staged()
    }

    /// Blobs whose bytes are on nodes alone.
    pub fn staged_blobs(&self) -> Vec<BlobId> {
        if self.is_one_object() {
            return Vec::new();
        }
        let (range, body) = self.parse();
        body.staged_blobs(range)
    }

    /// True if other nodes keep copies of its staged files.
    pub fn has_copies(&self) -> bool {
        self.parse().1.has_copies()
    }

    /// False if it certainly has none of the blobs. Quick: it does not open the part.
    pub fn may_have(&self, blobs: &HashSet<BlobId>) -> bool {
        BlobRange::read(&self.record[1..]).is_ok_and(|(range, _)| range.may_have(blobs))
    }

    /// Every file is in one object: the layout says how.
    pub fn is_one_object(&self) -> bool {
        self.layout.as_ref().is_some_and(|layout| layout.content.is_one_object())
    }

    fn parse(&self) -> (BlobRange, Body) {
        Body::read(&self.record[1..]).expect("a packed part was checked when it was made")
    }
}

/// The distinct places of locations, in order of appearance.
fn distinct_places<'a>(locations: impl Iterator<Item = &'a Location>) -> (Vec<body::Place>, Vec<u32>) {
    let mut places: Vec<body::Place> = Vec::new();
    let mut place_of = Vec::new();
    for location in locations {
        let place = body::Place::of(location);
        let index = places.iter().rposition(|known| *known == place).unwrap_or_else(|| {
            places.push(place);
            places.len() - 1
        });
        place_of.push(index as u32);
    }
    (places, place_of)
}

#[cfg(test)]
mod tests;
