//! Packing loses nothing, whatever the parts look like; and it packs as tightly as it says.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::codec::Record;
use crate::ids::{FilePath, ShardId, TableId};
use crate::records::{FileEntry, PartChange, Relocation};

fn at() -> TableShard {
    TableShard { table: TableId(Uuid::from_u128(0x6f1c_2a00_0000_4000_8000_0000_0000_0001)), shard: ShardId(11) }
}

fn path(name: &str) -> PartPath {
    PartPath::new(name).expect("valid")
}

fn own_key(end: u128) -> ObjectKey {
    minted::mint(at(), 1_700_000_000_000, Uuid::from_u128(end)).expect("valid")
}

fn location() -> impl Strategy<Value = Location> {
    let stored = (0..4u8, 0..1_000u64, any::<u32>()).prop_map(|(object, offset, crc32c)| {
        let object = match object {
            0 => own_key(5),
            1 => own_key(6),
            n => ObjectKey::new(format!("other/{n}")).expect("valid"),
        };
        Location::Stored { object, offset, crc32c }
    });
    let staged = (0..3u8).prop_map(|n| Location::Staged { node: NodeName::new(format!("n{n}")).expect("valid") });
    prop_oneof![staged, stored]
}

fn blobs() -> impl Strategy<Value = Vec<u128>> {
    let dense =
        (any::<u64>(), any::<u64>(), proptest::collection::vec(0..40u64, 0..30)).prop_map(|(head, from, steps)| {
            steps.iter().map(|step| (u128::from(head) << 64) | u128::from(from.wrapping_add(*step))).collect()
        });
    prop_oneof![dense, proptest::collection::vec(any::<u128>(), 0..30)]
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let files = (blobs(), proptest::collection::vec((0..50u64, location()), 30), any::<bool>());
    (files, 0..3u8, any::<u64>(), any::<u64>()).prop_map(|((blobs, places, packed), copies, rows, committed_ms)| {
        let copies = (0..copies).map(|n| NodeName::new(format!("copy-{n}")).expect("valid")).collect();
        let mut end = 0;
        let file = |(index, (blob, (bytes, location))): (usize, (u128, (u64, Location)))| {
            let stored = Location::Stored { object: own_key(7), offset: end, crc32c: 9 };
            let location = if packed { stored } else { location };
            end += bytes;
            let path = FilePath::new(format!("f{index}.bin")).expect("valid");
            FileEntry { path, blob: BlobId(Uuid::from_u128(blob)), bytes, location }
        };
        let mut files: Vec<FileEntry> = blobs.into_iter().zip(places).enumerate().map(file).collect();
        // Names and the object's order have nothing to do with each other.
        files.sort_by_key(|file| file.path.as_str().len() as u64 * 7 % 5 + file.bytes % 3);
        Manifest { part: path("all_1_1_0"), rows, committed_ms, files, copies }
    })
}

proptest! {
    #[test]
    fn what_is_packed_comes_out_again(manifest in manifest()) {
        let number = LayoutNumber(3);
        let mut made = None;
        let packed = PackedPart::pack(at(), &manifest, |content| {
            let layout = Arc::new(Layout::new(number, content));
            made = Some(Arc::clone(&layout));
            Ok(layout)
        });
        prop_assert_eq!(packed.open(at(), &manifest.part), manifest.clone());
        let read = PackedPart::read(at(), &manifest.part, packed.record(), |_| made.clone()).expect("reads");
        prop_assert_eq!(&read, &packed);
        let layout = made.expect("made");
        prop_assert_eq!(Layout::from_record(number, &layout.to_record()).expect("reads"), (*layout).clone());
        let inline = PackedPart::pack(at(), &manifest, Err);
        prop_assert_eq!(inline.open(at(), &manifest.part), manifest.clone());
        for file in &manifest.files {
            prop_assert!(packed.may_have(&[file.blob].into()));
        }
        let staged = manifest.files.iter().filter(|file| matches!(file.location, Location::Staged { .. }));
        prop_assert_eq!(packed.staged_blobs(), staged.map(|file| file.blob).collect::<Vec<_>>());
        prop_assert_eq!(packed.has_copies(), !manifest.copies.is_empty());
        let change = PartChange {
            added: vec![manifest.clone()],
            relocated: manifest.files.iter().map(|f| Relocation { blob: f.blob, location: f.location.clone() }).collect(),
            ..PartChange::default()
        };
        prop_assert_eq!(PartChange::from_record(&change.to_record()).expect("reads"), change);
    }

    #[test]
    fn damage_is_an_error_and_no_panic(manifest in manifest(), at_byte in 1..400usize, with in any::<u8>(), cut in 0..400usize) {
        let packed = PackedPart::pack(at(), &manifest, Err);
        let mut record = packed.record().to_vec();
        if let Some(byte) = record.get_mut(at_byte) {
            *byte = with;
        }
        record.truncate(record.len().saturating_sub(cut).max(1));
        if let Ok(read) = PackedPart::read(at(), &manifest.part, &record, |_| None) {
            read.open(at(), &manifest.part);
            read.objects(at());
            read.staged_blobs();
        }
        let change = PartChange { added: vec![manifest], ..PartChange::default() }.to_record();
        drop(PartChange::from_record(&change[..change.len().saturating_sub(cut).max(1)]));
    }
}

/// As ClickHouse writes a table of 20 columns: small parts are compact, larger ones wide.
pub(crate) fn realistic(wide: bool, block: u64) -> Manifest {
    let mut names: Vec<String> =
        ["checksums.txt", "columns.txt", "columns_substreams.txt", "count.txt"].map(str::to_owned).into();
    names.extend(["default_compression_codec.txt", "metadata_version.txt", "minmax_day.idx"].map(str::to_owned));
    names.extend(["partition.dat", "primary.cidx", "serialization.json"].map(str::to_owned));
    if wide {
        names.extend((0..20).flat_map(|c| [format!("column_{c}.bin"), format!("column_{c}.cmrk2")]));
    } else {
        names.extend(["data.bin", "data.cmrk4"].map(str::to_owned));
    }
    names.sort_unstable();
    let part = path(&format!("202411_{block}_{block}_0"));
    let object = own_key(u128::from(block) << 64 | 0xfeed);
    let mut offset = 0;
    let files = names.iter().zip(0u64..).map(|(name, index)| {
        let bytes = if name.ends_with(".bin") { 100_000 + block % 7_919 * 13 } else { 150 + block % 90 };
        let crc32c = (block as u32).wrapping_mul(2_654_435_761).wrapping_add(index as u32);
        let location = Location::Stored { object: object.clone(), offset, crc32c };
        offset += bytes;
        let blob = BlobId(Uuid::from_u64_pair(0xabad_cafe, block * 60 + (index * 7) % names.len() as u64));
        FileEntry { path: FilePath::new(name.as_str()).expect("valid"), blob, bytes, location }
    });
    let files = files.collect();
    Manifest { part, rows: 8_192, committed_ms: 1_763_000_000_000 + block, files, copies: Vec::new() }
}

#[test]
fn a_part_of_twenty_columns_is_small() {
    for (wide, files, most) in [(false, 12, 170), (true, 50, 480)] {
        let manifest = realistic(wide, 4_711);
        assert_eq!(manifest.files.len(), files);
        let packed = PackedPart::pack(at(), &manifest, |content| Ok(Arc::new(Layout::new(LayoutNumber(1), content))));
        assert_eq!(packed.open(at(), &manifest.part), manifest);
        assert!(packed.record().len() <= most, "{} files take {} bytes", files, packed.record().len());
    }
}
