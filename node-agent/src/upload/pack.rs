//! Which files lie in which object, and where. Pure.
//!
//! Parts of one table shard that are uploaded together share objects:
//! `[small files of all the parts, part after part][their marks][the data of the small parts]`.
//! So one PUT carries many parts, and one short GET brings what opening many parts needs. The data of a large part is an
//! object of its own: it is read by itself, and would outlive its neighbours or die before them.

use std::collections::HashSet;

use moorhouse_catalog::BlobId;

use crate::fs::settle::{StagedFile, StagedPart};
use crate::limits;

/// One object to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// In the order of their offsets, without gaps.
    pub files: Vec<PackedFile>,
    /// Of how many parts it holds the first file: each part is counted in one object.
    pub parts_begun: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFile {
    /// Its part's number in the given list.
    pub part: usize,
    pub blob: BlobId,
    pub bytes: u64,
    pub offset: u64,
}

impl Packed {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// A file's place in the order of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Read when a part is opened.
    Small,
    Marks,
    Data,
}

/// One part's files that nobody before it has.
struct Shape<'a> {
    part: usize,
    files: Vec<(Rank, &'a StagedFile)>,
}

/// Packs the staged files of parts of one table shard. Every blob comes once; files of one part keep the order rank, then
/// path. Shared objects stay within [`limits::PACKED_BYTES`] unless one part's small files and marks alone are larger.
pub fn pack(parts: &[StagedPart]) -> Vec<Packed> {
    let mut objects = Vec::new();
    let mut group: Vec<Shape> = Vec::new();
    let mut group_bytes = 0;
    for shape in shapes(parts) {
        let bytes = shape.shared_bytes();
        if !group.is_empty() && group_bytes + bytes > limits::PACKED_BYTES {
            close(std::mem::take(&mut group), &mut objects);
            group_bytes = 0;
        }
        group_bytes += bytes;
        group.push(shape);
    }
    close(group, &mut objects);
    objects
}

fn shapes(parts: &[StagedPart]) -> impl Iterator<Item = Shape<'_>> {
    let mut seen = HashSet::new();
    parts.iter().enumerate().filter_map(move |(part, staged)| {
        // Parts share blobs after a mutation.
        let mut files: Vec<_> =
            staged.files.iter().filter(|file| seen.insert(file.blob)).map(|file| (rank(&file.path), file)).collect();
        files.sort_by(|(a, x), (b, y)| (a, &x.path).cmp(&(b, &y.path)));
        (!files.is_empty()).then_some(Shape { part, files })
    })
}

impl Shape<'_> {
    fn data_bytes(&self) -> u64 {
        self.files.iter().filter(|(rank, _)| *rank == Rank::Data).map(|(_, file)| file.bytes).sum()
    }

    fn is_large(&self) -> bool {
        self.data_bytes() >= limits::LARGE_DATA_BYTES
    }

    fn shared_bytes(&self) -> u64 {
        let all: u64 = self.files.iter().map(|(_, file)| file.bytes).sum();
        if self.is_large() { all - self.data_bytes() } else { all }
    }
}

/// Makes the objects of parts that share one.
fn close(group: Vec<Shape>, objects: &mut Vec<Packed>) {
    let alone = group.len() == 1;
    let apart = |shape: &Shape, rank| rank == Rank::Data && shape.is_large() && !alone;
    let of_rank = |shared: bool, wanted: Rank| {
        let files =
            group.iter().flat_map(move |shape| shape.files.iter().map(move |(rank, file)| (shape, *rank, *file)));
        files
            .filter(move |(shape, rank, _)| *rank == wanted && apart(shape, *rank) != shared)
            .map(|(shape, _, file)| (shape.part, file))
            .collect::<Vec<_>>()
    };
    let shared = [Rank::Small, Rank::Marks, Rank::Data].map(|rank| of_rank(true, rank)).concat();
    let mut counted = HashSet::new();
    let mut add = |files: Vec<(usize, &StagedFile)>| {
        let parts_begun = files.iter().filter(|(part, _)| counted.insert(*part)).count();
        objects.push(Packed { files: lay_out(files), parts_begun });
    };
    if !shared.is_empty() {
        add(shared);
    }
    let apart = of_rank(false, Rank::Data);
    for large in apart.chunk_by(|(a, _), (b, _)| a == b) {
        add(large.to_vec());
    }
}

fn lay_out(files: Vec<(usize, &StagedFile)>) -> Vec<PackedFile> {
    let mut offset = 0;
    let place = |(part, file): (usize, &StagedFile)| {
        let placed = PackedFile { part, blob: file.blob, bytes: file.bytes, offset };
        offset += file.bytes;
        placed
    };
    files.into_iter().map(place).collect()
}

/// Whether the file is one of those that come first in an object: read when a part is opened, or before its data.
pub fn is_head(path: &str) -> bool {
    rank(path) != Rank::Data
}

fn rank(path: &str) -> Rank {
    if path.ends_with(".bin") {
        Rank::Data
    } else if path.contains(".cmrk") || path.contains(".mrk") {
        Rank::Marks
    } else {
        Rank::Small
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use moorhouse_catalog::{PartPath, ShardId, TableId, TableShard};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    /// A part of these files; a blob's number is its name, so that parts can share it.
    fn part(name: &str, files: &[(&str, u128, u64)]) -> StagedPart {
        let file = |(path, blob, bytes): &(&str, u128, u64)| StagedFile {
            path: path.to_string(),
            blob: BlobId(Uuid::from_u128(*blob)),
            bytes: *bytes,
        };
        StagedPart {
            shard: TableShard { table: TableId(Uuid::from_u128(1)), shard: ShardId(0) },
            part: PartPath::new(name).expect("valid"),
            age: Duration::ZERO,
            is_leaving: false,
            files: files.iter().map(file).collect(),
        }
    }

    fn blobs(object: &Packed) -> Vec<u128> {
        object.files.iter().map(|file| file.blob.0.as_u128()).collect()
    }

    #[test]
    fn heads_of_all_parts_come_first_then_marks_then_data() {
        let files = |at: u128| {
            [("data.bin", at, 10), ("data.cmrk4", at + 1, 3), ("count.txt", at + 2, 1), ("columns.txt", at + 3, 2)]
        };
        let objects = pack(&[part("all_1_1_0", &files(10)), part("all_2_2_0", &files(20))]);
        assert_eq!(objects.len(), 1);
        assert_eq!(blobs(&objects[0]), [13, 12, 23, 22, 11, 21, 10, 20]);
        assert_eq!(objects[0].files.iter().map(|f| f.offset).collect::<Vec<_>>(), [0, 2, 3, 5, 6, 9, 12, 22]);
        assert_eq!(objects[0].parts_begun, 2);
    }

    #[test]
    fn the_data_of_a_large_part_lies_apart_unless_it_is_alone() {
        let large = part("all_1_9_2", &[("data.bin", 1, limits::LARGE_DATA_BYTES), ("count.txt", 2, 1)]);
        let alone = pack(std::slice::from_ref(&large));
        assert_eq!((alone.len(), blobs(&alone[0])), (1, vec![2, 1]), "one PUT for one part");
        let objects = pack(&[part("all_10_10_0", &[("count.txt", 3, 1)]), large]);
        assert_eq!(objects.iter().map(blobs).collect::<Vec<_>>(), [vec![3, 2], vec![1]]);
        assert_eq!(objects.iter().map(|object| object.parts_begun).collect::<Vec<_>>(), [2, 0]);
    }

    #[test]
    fn a_thousand_small_parts_take_one_object() {
        let parts: Vec<_> = (0..1_000)
            .map(|n| part(&format!("all_{n}_{n}_0"), &[("data.bin", n * 2, 20_000), ("count.txt", n * 2 + 1, 3)]))
            .collect();
        assert_eq!(pack(&parts).len(), 1);
    }

    const PATHS: [&str; 5] = ["a.bin", "b.bin", "a.cmrk2", "checksums.txt", "p.proj/data.bin"];

    fn any_part() -> impl Strategy<Value = Vec<(usize, u128, u64)>> {
        let size = prop_oneof![Just(0), 1..5_000_u64, 1..40_u64.pow(5), Just(limits::PACKED_BYTES + 7)];
        prop::collection::vec((0..PATHS.len(), 0..60_u128, size), 0..6)
    }

    proptest! {
        /// Whatever the parts: each blob lies in one object at one place, no two overlap, heads come first, and no shared
        /// object is too large.
        #[test]
        fn every_blob_has_one_place(shapes in prop::collection::vec(any_part(), 0..12)) {
            let mut bytes_of: HashMap<u128, u64> = HashMap::new();
            let parts: Vec<StagedPart> = shapes.iter().enumerate().map(|(n, files)| {
                let files: Vec<_> = files.iter().map(|(path, blob, bytes)| {
                    // One blob has one length, whoever names it.
                    (PATHS[*path], *blob, *bytes_of.entry(*blob).or_insert(*bytes))
                }).collect();
                part(&format!("all_{n}_{n}_0"), &files)
            }).collect();
            let objects = pack(&parts);
            let mut placed: Vec<u128> = objects.iter().flat_map(blobs).collect();
            placed.sort_unstable();
            let mut wanted: Vec<u128> = bytes_of.keys().copied().collect();
            wanted.sort_unstable();
            prop_assert_eq!(placed, wanted);
            for object in &objects {
                let mut end = 0;
                let mut last = Rank::Small;
                for file in &object.files {
                    prop_assert_eq!(file.offset, end);
                    end += file.bytes;
                    let staged = parts[file.part].files.iter().find(|f| f.blob == file.blob).expect("its part has it");
                    let rank = rank(&staged.path);
                    prop_assert!(rank >= last);
                    last = rank;
                }
                let sharers: HashSet<usize> = object.files.iter().map(|file| file.part).collect();
                prop_assert!(sharers.len() == 1 || object.bytes() <= limits::PACKED_BYTES);
            }
            let begun: usize = objects.iter().map(|object| object.parts_begun).sum();
            prop_assert!(begun <= parts.len());
        }
    }
}
