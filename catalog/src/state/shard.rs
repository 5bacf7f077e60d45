//! A table shard: its version, which is always here, and its part list, which may be left in the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::ids::{FilePath, ObjectKey, PartPath, TableShard, Version};
use crate::packed::{ChangelogEntry, PackedPart};
use crate::records::{Inode, Manifest};

/// What a part takes in memory beside its name and its record, about: nodes of maps, counts, the allocator's rounding.
const PART_BYTES: usize = 110;
const OBJECT_BYTES: usize = 36;
const ENTRY_BYTES: usize = 160;

/// The parts of one table shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub version: Version,
    /// All of them; while the list is not loaded, those with staged bytes alone.
    pub parts: BTreeMap<PartPath, PackedPart>,
    pub inodes: BTreeMap<FilePath, Inode>,
    /// The newest changes, without gaps up to `version`.
    pub changes: BTreeMap<Version, Arc<ChangelogEntry>>,
    is_loaded: bool,
    /// Not stored: counted from the parts.
    references: References,
    /// Of memory, about.
    bytes: usize,
}

impl Shard {
    pub(super) const EMPTY: Self = Self {
        version: Version(0),
        parts: BTreeMap::new(),
        inodes: BTreeMap::new(),
        changes: BTreeMap::new(),
        is_loaded: true,
        references: References(BTreeMap::new()),
        bytes: 0,
    };

    pub(super) fn is_empty(&self) -> bool {
        self.version == Version(0) && self.parts.is_empty() && self.inodes.is_empty() && self.changes.is_empty()
    }

    /// False: it has its version and its staged parts, and nothing else.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// Memory that it takes, about.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    pub fn manifest(&self, at: TableShard, path: &PartPath) -> Option<Manifest> {
        Some(self.parts.get(path)?.open(at, path))
    }

    /// Every part, opened. `at` is this table shard.
    pub fn manifests(&self, at: TableShard) -> impl Iterator<Item = Manifest> {
        self.parts.iter().map(move |(path, part)| part.open(at, path))
    }

    /// Names that may be parts of a partition. The order of names keeps them together.
    pub fn parts_of(&self, partition: &str) -> impl Iterator<Item = &PartPath> {
        let prefix = format!("{partition}_");
        let from = PartPath::new(prefix.as_str()).ok();
        let range = from.map(|from| self.parts.range(from..));
        range.into_iter().flatten().map(|(path, _)| path).take_while(move |path| path.as_str().starts_with(&prefix))
    }

    /// Names of the parts that no other covers.
    pub fn active(&self) -> Vec<&str> {
        crate::parts::active(self.parts.keys().map(PartPath::as_str))
    }

    /// How many of its parts refer to the object.
    pub(super) fn references_to(&self, object: &ObjectDigest) -> u64 {
        self.references.0.get(object).copied().unwrap_or(0).into()
    }

    /// Answers with what was there.
    pub(super) fn set_part(&mut self, at: TableShard, path: &PartPath, new: Option<PackedPart>) -> Option<PackedPart> {
        if let Some(part) = &new {
            self.bytes += part_bytes(path, part);
            for object in part.objects(at) {
                self.bytes += OBJECT_BYTES;
                *self.references.0.entry(ObjectDigest::of(&object)).or_insert(0) += 1;
            }
        }
        let old = super::put(&mut self.parts, path.clone(), new);
        if let Some(part) = &old {
            self.bytes -= part_bytes(path, part);
            for object in part.objects(at) {
                self.bytes -= OBJECT_BYTES;
                self.references.take(&ObjectDigest::of(&object));
            }
        }
        old
    }

    pub(super) fn set_inode(&mut self, path: &FilePath, new: Option<Inode>) -> Option<Inode> {
        let bytes = |inode: &Option<Inode>| inode.as_ref().map_or(0, |inode| inode.content.len() + PART_BYTES);
        self.bytes += bytes(&new);
        let old = super::put(&mut self.inodes, path.clone(), new);
        self.bytes -= bytes(&old);
        old
    }

    pub(super) fn set_change(
        &mut self,
        version: Version,
        new: Option<Arc<ChangelogEntry>>,
    ) -> Option<Arc<ChangelogEntry>> {
        self.bytes += usize::from(new.is_some()) * ENTRY_BYTES;
        let old = super::put(&mut self.changes, version, new);
        self.bytes -= usize::from(old.is_some()) * ENTRY_BYTES;
        old
    }

    /// Keeps the version and the staged parts.
    pub(super) fn without_list(&self, at: TableShard) -> Self {
        let mut kept = Self { version: self.version, is_loaded: false, ..Self::EMPTY };
        for (path, part) in self.parts.iter().filter(|(_, part)| part.is_staged()) {
            kept.set_part(at, path, Some(part.clone()));
        }
        kept
    }

    pub(super) fn loaded(self) -> Self {
        Self { is_loaded: true, ..self }
    }
}

fn part_bytes(path: &PartPath, part: &PackedPart) -> usize {
    PART_BYTES + path.as_str().len() + part.record().len()
}

/// The first half of the SHA-256 of an object's key: keys are long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectDigest([u8; 16]);

impl ObjectDigest {
    pub fn of(object: &ObjectKey) -> Self {
        let digest = Sha256::digest(object.as_str());
        Self(std::array::from_fn(|i| digest[i]))
    }
}

/// How many parts of the table shard refer to each object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct References(BTreeMap<ObjectDigest, u32>);

impl References {
    fn take(&mut self, object: &ObjectDigest) {
        if let Some(count) = self.0.get_mut(object) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(object);
            }
        }
    }
}
