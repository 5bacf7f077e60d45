//! What a reader fetches, and what it does not, through the kernel.

use std::fs;
use std::os::unix::fs::FileExt;

use moorhouse_catalog::*;
use moorhouse_node_agent::blobs::warm::Warmed;

use crate::scripted::Rig;

const MIB: usize = 1 << 20;

fn content(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + seed * 7 + at / 251) as u8).collect()
}

/// An object that holds these files of these parts in this order, and the parts' manifests.
fn store(rig: &Rig, object: &str, files: &[(String, &str, Vec<u8>)]) {
    let key = ObjectKey::new(object).unwrap();
    let mut body = Vec::new();
    let mut content = rig.script.content.lock().unwrap();
    let snapshot = content.entry(rig.table).or_insert_with(|| TableShardSnapshot {
        version: Version(1),
        parts: vec![],
        inodes: vec![],
    });
    for (part, path, bytes) in files {
        let part = PartPath::new(part.as_str()).unwrap();
        let location =
            Location::Stored { object: key.clone(), offset: body.len() as u64, crc32c: crc32c::crc32c(bytes) };
        let path = FilePath::new(*path).unwrap();
        let file = FileEntry { path, blob: BlobId::random(), bytes: bytes.len() as u64, location };
        body.extend_from_slice(bytes);
        match snapshot.parts.iter_mut().find(|manifest| manifest.part == part) {
            Some(manifest) => manifest.files.push(file),
            None => snapshot.parts.push(Manifest { part, rows: 1, committed_ms: 1, files: vec![file], copies: vec![] }),
        }
    }
    let at = rig.objects().join(object);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(at, body).unwrap();
}

/// A reader of parts that share an object as uploads lay it out: small files of all, marks of all, data of all.
fn reader_of_packed_parts(parts: usize, data_bytes: usize) -> Rig {
    let reader = Rig::new("bi");
    let mut files = Vec::new();
    for (path, bytes) in [("checksums.txt", 300), ("count.txt", 3), ("a.cmrk2", 90), ("a.bin", data_bytes)] {
        files.extend((1..=parts).map(|n| (format!("all_{n}_{n}_0"), path, content(n, bytes))));
    }
    store(&reader, "parts/packed", &files);
    reader
}

#[test]
fn one_request_brings_the_small_files_of_many_parts() {
    let parts = 200;
    let reader = reader_of_packed_parts(parts, 50_000);
    let part = |n: usize| reader.dir().join(format!("all_{n}_{n}_0"));
    assert_eq!(fs::read(part(77).join("count.txt")).unwrap(), content(77, 3));
    let stats = reader.fs.cache_stats();
    assert_eq!(stats.cached_blobs, 3 * parts as u64, "small files and marks of all, data of none");
    for n in 1..=parts {
        assert_eq!(fs::read(part(n).join("checksums.txt")).unwrap(), content(n, 300));
        assert_eq!(fs::read(part(n).join("a.cmrk2")).unwrap(), content(n, 90));
    }
    assert_eq!(reader.fs.cache_stats().fetched_bytes, stats.fetched_bytes, "nothing more was asked for");
    assert_eq!(fs::read(part(5).join("a.bin")).unwrap(), content(5, 50_000));
    assert!(reader.fs.cache_stats().cached_blobs <= 3 * parts as u64 + 1, "data brings no other part's data");
}

#[test]
fn a_large_file_is_read_by_range_until_it_is_whole() {
    let reader = Rig::new("bi");
    let data = content(1, 12 * MIB + 5);
    let part = "all_1_1_0".to_string();
    store(&reader, "parts/one", &[(part.clone(), "count.txt", b"7".to_vec()), (part, "a.bin", data.clone())]);
    let path = reader.dir().join("all_1_1_0/a.bin");
    let open = fs::File::open(&path).unwrap();
    let mut piece = vec![0; 100_000];
    open.read_exact_at(&mut piece, 5 * MIB as u64 + 77).unwrap();
    assert_eq!(piece, data[5 * MIB + 77..][..100_000]);
    let stats = reader.fs.cache_stats();
    assert_eq!((stats.blocks, stats.block_bytes), (1, MIB as u64), "a point query brings its block alone");

    assert_eq!(fs::read(&path).unwrap(), data);
    let stats = reader.fs.cache_stats();
    assert_eq!((stats.blocks, stats.cached_bytes), (0, data.len() as u64), "whole now");
    assert_eq!(stats.fetched_bytes, data.len() as u64, "each byte once");
    // A new open is a local file's, beside the one from before.
    assert_eq!(fs::read(&path).unwrap(), data);
    open.read_exact_at(&mut piece, 9 * MIB as u64).unwrap();
    assert_eq!(piece, data[9 * MIB..][..100_000]);
    assert_eq!(reader.fs.cache_stats().fetched_bytes, data.len() as u64);
}

/// The kernel mixes no ways of reading one inode.
#[test]
fn a_file_that_is_dropped_while_it_is_open_can_be_opened_again() {
    let reader = Rig::new("bi");
    let data = content(1, 3 * MIB);
    store(&reader, "parts/one", &[("all_1_1_0".to_string(), "a.bin", data.clone())]);
    let path = reader.dir().join("all_1_1_0/a.bin");
    assert_eq!(fs::read(&path).unwrap(), data);
    let piece = |open: &fs::File| {
        let mut piece = vec![0; 100_000];
        open.read_exact_at(&mut piece, MIB as u64).unwrap();
        piece
    };
    let first = fs::File::open(&path).unwrap();
    assert_eq!(reader.fs.drop_cached(), (1, data.len() as u64));
    let second = fs::File::open(&path).unwrap();
    assert_eq!((piece(&first), piece(&second)), (data[MIB..][..100_000].to_vec(), data[MIB..][..100_000].to_vec()));
    drop((first, second));
    assert_eq!(fs::read(&path).unwrap(), data);
    assert!(reader.fs.cache_stats().fetched_bytes >= 2 * data.len() as u64, "it was gone, and came again");
}

/// The engine reads the columns of a part one after another; what statements read together comes together of the next part.
#[test]
fn columns_that_are_read_together_come_together() {
    let reader = Rig::new("bi");
    let columns = [("a.bin", 8 * MIB), ("b.bin", 4 * MIB), ("c.bin", 4 * MIB)];
    let of = |n: usize| columns.map(|(name, bytes)| (format!("all_{n}_{n}_0"), name, content(n + bytes, bytes)));
    store(&reader, "parts/cold", &[of(1), of(2)].concat());
    let read = |n: usize, name: &str, at: usize| {
        let open = fs::File::open(reader.dir().join(format!("all_{n}_{n}_0")).join(name)).unwrap();
        let mut piece = vec![0; 100_000];
        open.read_exact_at(&mut piece, at as u64).unwrap();
        let (_, _, whole) = of(n).into_iter().find(|(_, column, _)| *column == name).unwrap();
        assert_eq!(piece, whole[at..][..100_000]);
    };
    let until = |what: &str, is_so: &dyn Fn(&moorhouse_cache::CacheStats) -> bool| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !is_so(&reader.fs.cache_stats()) {
            assert!(std::time::Instant::now() < deadline, "{what}: {:?}", reader.fs.cache_stats());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    read(1, "a.bin", 0);
    read(1, "b.bin", 0);
    assert_eq!(reader.fs.cache_stats().blocks, 2, "nobody knew that they belong together");
    read(2, "a.bin", 4 * MIB + 77);
    until("the same place of the other column", &|stats| stats.blocks == 4);
    read(2, "b.bin", 2 * MIB + 38);
    assert_eq!(reader.fs.cache_stats().blocks, 4, "it was there, and nothing of the third was fetched");
    assert_eq!(fs::read(reader.dir().join("all_2_2_0/a.bin")).unwrap(), content(2 + 8 * MIB, 8 * MIB));
    until("a scan of one leads the other", &|stats| stats.cached_bytes == 12 * MIB as u64);
}

#[test]
fn warming_brings_active_parts_and_dropping_leaves_what_is_staged() {
    let writer = Rig::new("etl");
    store(
        &writer,
        "parts/one",
        &[("all_1_1_0".to_string(), "count.txt", content(1, 10)), ("all_1_1_0".to_string(), "a.bin", content(1, MIB))],
    );
    writer.insert("all_2_2_0", b"staged").unwrap();
    let warm = || {
        let wanted = writer.fs.stored_blobs(writer.table).unwrap();
        writer.runtime.block_on(async { tokio::spawn(writer.fs.clone().warm(wanted)).await.unwrap() }).unwrap()
    };
    let bytes = (MIB + 10) as u64;
    assert_eq!(warm(), Warmed { fetched_blobs: 2, fetched_bytes: bytes, ..Warmed::default() });
    assert_eq!(warm(), Warmed { present_blobs: 2, present_bytes: bytes, ..Warmed::default() });
    assert_eq!(writer.fs.drop_cached(), (2, bytes));
    assert_eq!(fs::read(writer.dir().join("all_2_2_0/data.bin")).unwrap(), b"staged");
    assert_eq!(fs::read(writer.dir().join("all_1_1_0/a.bin")).unwrap(), content(1, MIB));
}
