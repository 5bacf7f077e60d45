//! Files without their names: blobs, sizes, places. What manifests and relocations have in common.
//!
//! A body lies behind the range of its blob ids ([`BlobRange`]), so that parts can be searched for blobs without being read.

use std::collections::HashSet;

use prost::Message;
use uuid::Uuid;

use super::distinct_places;
use super::layout::{Content, NamesMessage};
use crate::codec::CodecError;
use crate::ids::{BlobId, FilePath, NodeName, ObjectKey, PartPath};
use crate::minted;
use crate::records::{FileEntry, Location, Manifest};

/// Blob ids that have their first half in common and lie close together; or any ids (`span` is [`ANY`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobRange {
    head: u64,
    lowest: u64,
    span: u32,
}

const ANY: u32 = u32::MAX;
const RANGE_BYTES: usize = 20;

fn halves(blob: BlobId) -> (u64, u64) {
    blob.0.as_u64_pair()
}

impl BlobRange {
    fn of(blobs: &[BlobId]) -> Self {
        let any = Self { head: 0, lowest: 0, span: ANY };
        let Some(&first) = blobs.first() else { return any };
        let head = halves(first).0;
        let lows = || blobs.iter().map(|blob| halves(*blob).1);
        let (lowest, highest) = (lows().min().unwrap_or(0), lows().max().unwrap_or(0));
        match u32::try_from(highest - lowest) {
            Ok(span) if span != ANY && blobs.iter().all(|blob| halves(*blob).0 == head) => Self { head, lowest, span },
            _ => any,
        }
    }

    fn write(self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.head.to_be_bytes());
        to.extend_from_slice(&self.lowest.to_be_bytes());
        to.extend_from_slice(&self.span.to_be_bytes());
    }

    /// The range, and what follows it.
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), CodecError> {
        let short = || CodecError::Damaged("it is too short".to_owned());
        let (range, rest) = bytes.split_first_chunk::<RANGE_BYTES>().ok_or_else(short)?;
        let (head, range) = range.split_first_chunk::<8>().ok_or_else(short)?;
        let (lowest, range) = range.split_first_chunk::<8>().ok_or_else(short)?;
        let (span, _) = range.split_first_chunk::<4>().ok_or_else(short)?;
        let (head, lowest) = (u64::from_be_bytes(*head), u64::from_be_bytes(*lowest));
        Ok((Self { head, lowest, span: u32::from_be_bytes(*span) }, rest))
    }

    pub fn may_have(self, blobs: &HashSet<BlobId>) -> bool {
        self.span == ANY
            || blobs.iter().any(|blob| {
                let (head, low) = halves(*blob);
                head == self.head && low.checked_sub(self.lowest).is_some_and(|d| d <= u64::from(self.span))
            })
    }
}

/// A location without what differs between the files of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Staged(NodeName),
    Stored(ObjectKey),
}

impl Place {
    pub fn of(location: &Location) -> Self {
        match location {
            Location::Staged { node } => Self::Staged(node.clone()),
            Location::Stored { object, .. } => Self::Stored(object.clone()),
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct PlaceMessage {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(string, tag = "2")]
    object: String,
    /// What a minted key has behind its [`minted::prefix`]: see [`minted::Ending`].
    #[prost(bytes = "vec", tag = "3")]
    own_object: Vec<u8>,
}

impl PlaceMessage {
    fn of(place: &Place, prefix: &str) -> Self {
        match place {
            Place::Staged(node) => Self { node: node.as_str().to_owned(), ..Self::default() },
            Place::Stored(object) => match minted::ending(object, prefix) {
                Some(end) => Self { own_object: end.to_bytes().to_vec(), ..Self::default() },
                None => Self { object: object.as_str().to_owned(), ..Self::default() },
            },
        }
    }

    fn read(&self, prefix: &str) -> Result<Place, CodecError> {
        let key = |key: String| ObjectKey::new(key).map(Place::Stored).map_err(CodecError::damaged);
        match self {
            Self { node, object, own_object } if object.is_empty() && own_object.is_empty() => {
                NodeName::new(node.as_str()).map(Place::Staged).map_err(CodecError::damaged)
            }
            Self { object, own_object, .. } if own_object.is_empty() => key(object.clone()),
            Self { own_object, .. } => {
                let short = || CodecError::Damaged("the end of an object's key has another length".to_owned());
                let end = own_object.first_chunk().filter(|end| end.len() == own_object.len()).ok_or_else(short)?;
                key(format!("{prefix}{}", minted::Ending::from_bytes(end)))
            }
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Body {
    #[prost(uint64, tag = "1")]
    rows: u64,
    #[prost(uint64, tag = "2")]
    committed_ms: u64,
    /// 0: `names` has the names.
    #[prost(uint32, tag = "3")]
    pub layout: u32,
    #[prost(message, optional, tag = "4")]
    names: Option<NamesMessage>,
    #[prost(uint64, repeated, tag = "5")]
    sizes: Vec<u64>,
    /// Second halves of the blob ids, each as its difference to the one before it; the first to the range's lowest.
    #[prost(sint64, repeated, tag = "6")]
    blob_steps: Vec<i64>,
    /// Ids that have no range, 16 bytes each.
    #[prost(bytes = "vec", tag = "7")]
    blobs: Vec<u8>,
    #[prost(message, repeated, tag = "8")]
    places: Vec<PlaceMessage>,
    /// Empty if there is only one place.
    #[prost(uint32, repeated, tag = "9")]
    place_of: Vec<u32>,
    /// Of the stored files. Empty if they follow from the layout's order.
    #[prost(uint64, repeated, tag = "10")]
    offsets: Vec<u64>,
    /// Of the stored files.
    #[prost(fixed32, repeated, tag = "11")]
    crcs: Vec<u32>,
    /// Nodes that keep copies of the staged files.
    #[prost(string, repeated, tag = "12")]
    copies: Vec<String>,
}

/// Which names belong to a body.
pub enum Names {
    Shared(u32),
    Inline(Content),
    /// Relocations have none.
    None,
}

/// A body that is being made.
pub struct Seal {
    range: BlobRange,
    body: Body,
}

impl Seal {
    /// With the names, for which a layout is to be found.
    pub fn of_manifest(manifest: &Manifest, prefix: &str) -> (Self, Content) {
        let Manifest { part: _, rows, committed_ms, files, copies } = manifest;
        let order = order_in_object(files);
        let blobs: Vec<BlobId> = files.iter().map(|file| file.blob).collect();
        let mut seal = Self::of(&blobs, files.iter().map(|file| &file.location), prefix);
        seal.body.rows = *rows;
        seal.body.committed_ms = *committed_ms;
        seal.body.copies = copies.iter().map(|node| node.as_str().to_owned()).collect();
        seal.body.sizes = files.iter().map(|file| file.bytes).collect();
        if !order.is_empty() {
            seal.body.offsets.clear();
        }
        (seal, Content { names: files.iter().map(|file| file.path.clone()).collect(), order })
    }

    pub fn of<'a>(blobs: &[BlobId], locations: impl Iterator<Item = &'a Location> + Clone, prefix: &str) -> Self {
        let range = BlobRange::of(blobs);
        let mut body = Body::default();
        if range.span == ANY {
            body.blobs = blobs.iter().flat_map(|blob| blob.0.into_bytes()).collect();
        } else {
            let mut before = range.lowest;
            for blob in blobs {
                let low = halves(*blob).1;
                body.blob_steps.push(low.wrapping_sub(before) as i64);
                before = low;
            }
        }
        let (places, place_of) = distinct_places(locations.clone());
        body.places = places.iter().map(|place| PlaceMessage::of(place, prefix)).collect();
        if places.len() > 1 {
            body.place_of = place_of;
        }
        for location in locations {
            if let Location::Stored { offset, crc32c, .. } = location {
                body.offsets.push(*offset);
                body.crcs.push(*crc32c);
            }
        }
        Self { range, body }
    }

    pub fn write(mut self, names: Names, to: &mut Vec<u8>) {
        match names {
            Names::Shared(number) => self.body.layout = number,
            Names::Inline(content) => self.body.names = Some(content.to_message()),
            Names::None => {}
        }
        self.range.write(to);
        to.extend(self.body.encode_to_vec());
    }
}

/// The files as they lie in one object, if they do so back to back from its beginning. Empty files come before what
/// begins where they do.
fn order_in_object(files: &[FileEntry]) -> Vec<u32> {
    let mut found: Vec<(u64, u64, u32)> = Vec::with_capacity(files.len());
    let mut one: Option<&ObjectKey> = None;
    for (index, file) in (0..).zip(files) {
        let Location::Stored { object, offset, .. } = &file.location else { return Vec::new() };
        if *one.get_or_insert(object) != object {
            return Vec::new();
        }
        found.push((*offset, file.bytes, index));
    }
    found.sort_unstable();
    let mut end = 0;
    for (offset, bytes, _) in &found {
        if *offset != end {
            return Vec::new();
        }
        end += bytes;
    }
    found.into_iter().map(|(_, _, index)| index).collect()
}

impl Body {
    pub fn read(bytes: &[u8]) -> Result<(BlobRange, Self), CodecError> {
        let (range, rest) = BlobRange::read(bytes)?;
        Ok((range, Self::decode(rest).map_err(CodecError::damaged)?))
    }

    fn files(&self) -> usize {
        self.blob_steps.len() + self.blobs.len() / 16
    }

    /// What [`Body::open`] relies on, at the price of reading it.
    pub fn check(&self, layout: Option<&super::Layout>) -> Result<(), CodecError> {
        let damaged = |what: &str| Err(CodecError::Damaged(format!("the number of its {what} is wrong")));
        let inline = match &self.names {
            Some(names) if layout.is_none() => Some(Content::from_message(names.clone())?),
            _ => None,
        };
        let Some(content) = layout.map(|l| &l.content).or(inline.as_ref()) else {
            return if self.files() == 0 { Ok(()) } else { damaged("names") };
        };
        if content.names.len() != self.files() || self.sizes.len() != self.files() {
            return damaged("files");
        }
        for node in &self.copies {
            NodeName::new(node.as_str()).map_err(CodecError::damaged)?;
        }
        self.places("x").and_then(|places| self.check_places(&places, content.is_one_object()))
    }

    fn check_places(&self, places: &[Place], one_object: bool) -> Result<(), CodecError> {
        let files = self.files();
        let place_of = |file: usize| self.place_of.get(file).copied().unwrap_or(0) as usize;
        let listed = self.place_of.is_empty() || self.place_of.len() == files;
        if !listed || (0..files).any(|file| place_of(file) >= places.len()) {
            return Err(CodecError::Damaged("a file has no place".to_owned()));
        }
        let stored = (0..files).filter(|file| matches!(places[place_of(*file)], Place::Stored(_))).count();
        let offsets = if one_object { 0 } else { stored };
        if self.crcs.len() != stored || self.offsets.len() != offsets || (one_object && stored != files) {
            return Err(CodecError::Damaged("a stored file has no offset or no checksum".to_owned()));
        }
        Ok(())
    }

    pub fn places(&self, prefix: &str) -> Result<Vec<Place>, CodecError> {
        self.places.iter().map(|place| place.read(prefix)).collect()
    }

    pub fn is_staged(&self) -> bool {
        self.places.iter().any(|place| !place.node.is_empty())
    }

    pub fn is_staged_on(&self, node: &NodeName) -> bool {
        self.places.iter().any(|place| place.node == node.as_str())
    }

    pub fn blobs(&self, range: BlobRange) -> Vec<BlobId> {
        if range.span == ANY {
            return self.blobs.chunks_exact(16).filter_map(|id| Uuid::from_slice(id).ok()).map(BlobId).collect();
        }
        let mut low = range.lowest;
        let mut step = |step: &i64| {
            low = low.wrapping_add(*step as u64);
            BlobId(Uuid::from_u64_pair(range.head, low))
        };
        self.blob_steps.iter().map(&mut step).collect()
    }

    pub fn has_copies(&self) -> bool {
        !self.copies.is_empty()
    }

    /// The blobs in places that are nodes.
    pub fn staged_blobs(&self, range: BlobRange) -> Vec<BlobId> {
        let place_of = |file: usize| self.place_of.get(file).copied().unwrap_or(0) as usize;
        let staged = |file: usize| self.places.get(place_of(file)).is_some_and(|place| !place.node.is_empty());
        if !self.places.iter().any(|place| !place.node.is_empty()) {
            return Vec::new();
        }
        self.blobs(range).into_iter().enumerate().filter(|(file, _)| staged(*file)).map(|(_, blob)| blob).collect()
    }

    /// One for each blob; `offsets` where the body has none.
    pub fn locations(&self, prefix: &str, implied: Option<Vec<u64>>) -> Result<Vec<Location>, CodecError> {
        let places = self.places(prefix)?;
        self.check_places(&places, implied.is_some())?;
        let offsets = implied.as_ref().unwrap_or(&self.offsets);
        let mut stored = offsets.iter().zip(&self.crcs);
        let location = |file: usize| match &places[self.place_of.get(file).copied().unwrap_or(0) as usize] {
            Place::Staged(node) => Some(Location::Staged { node: node.clone() }),
            Place::Stored(object) => {
                let (&offset, &crc32c) = stored.next()?;
                Some(Location::Stored { object: object.clone(), offset, crc32c })
            }
        };
        let locations: Option<Vec<Location>> = (0..self.files()).map(location).collect();
        locations.ok_or_else(|| CodecError::Damaged("a stored file has no offset".to_owned()))
    }

    pub fn open(
        &self,
        range: BlobRange,
        shared: Option<&Content>,
        part: &PartPath,
        prefix: &str,
    ) -> Result<Manifest, CodecError> {
        let inline = match (&self.names, shared) {
            (Some(names), None) => Some(Content::from_message(names.clone())?),
            _ => None,
        };
        let none = Content { names: Vec::new(), order: Vec::new() };
        let content = shared.or(inline.as_ref()).unwrap_or(&none);
        let implied = content.is_one_object().then(|| self.offsets_in(&content.order));
        let locations = self.locations(prefix, implied)?;
        let blobs = self.blobs(range);
        if content.names.len() != blobs.len() || self.sizes.len() != blobs.len() {
            return Err(CodecError::Damaged("the number of its files is wrong".to_owned()));
        }
        let described = content.names.iter().zip(blobs).zip(&self.sizes).zip(locations);
        let files = described.map(|(((path, blob), bytes), location)| FileEntry {
            path: FilePath::clone(path),
            blob,
            bytes: *bytes,
            location,
        });
        let files = files.collect();
        let copies = self.copies.iter().map(|node| NodeName::new(node.as_str())).collect::<Result<_, _>>();
        let copies = copies.map_err(CodecError::damaged)?;
        Ok(Manifest { part: part.clone(), rows: self.rows, committed_ms: self.committed_ms, files, copies })
    }

    fn offsets_in(&self, order: &[u32]) -> Vec<u64> {
        let mut offsets = vec![0; self.sizes.len()];
        let mut end = 0u64;
        for &file in order {
            if let (Some(offset), Some(bytes)) = (offsets.get_mut(file as usize), self.sizes.get(file as usize)) {
                *offset = end;
                end = end.saturating_add(*bytes);
            }
        }
        offsets
    }
}
