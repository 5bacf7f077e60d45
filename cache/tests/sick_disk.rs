//! A disk that fails, for real: file systems that are full or turn read-only. Needs root, for mounting.

mod common;

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use common::{Disk, content, fill, key, read, stage};
use moorhouse_cache::{BlobCache, CacheError, FetchRange};

fn from_store(number: u128, bytes: usize) -> FetchRange {
    let blob: Bytes = content(number, bytes).into();
    Arc::new(move |range| {
        let data = blob.slice(range.start as usize..range.end as usize);
        Box::pin(std::future::ready(Ok(data)))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_taken_out_of_use_and_in_again() {
    let disk = Disk::new("size=64m");
    let cache = BlobCache::open(disk.path(), 32 << 20).expect("opens");
    fill(&cache, 1, 1000);
    stage(&cache, 2, 1000);
    let bytes = 8 << 20;
    let reader = cache.open_ranged(key(3), bytes as u64, crc32c::crc32c(&content(3, bytes)), from_store(3, bytes));
    disk.remount("ro");

    let read_now = reader.read(0, 1000).await.expect("comes from the store");
    assert_eq!(read_now, content(3, 1000));
    assert!(cache.is_sick());
    assert!(matches!(cache.fill(key(4), 10), Err(CacheError::Sick)));
    assert_eq!(read(&cache, 1), None, "read past the cache");
    assert_eq!(read(&cache, 2), Some(content(2, 1000)), "the only copy is read as long as it can be");
    assert!(matches!(cache.create_staged(key(5)), Err(CacheError::Io { .. })), "a writer hears of it");
    assert!(!cache.probe());
    assert!(cache.stats().is_sick && cache.stats().disk_errors >= 2, "{:?}", cache.stats());

    disk.remount("rw");
    assert!(cache.probe() && !cache.is_sick());
    assert_eq!(read(&cache, 1), Some(content(1, 1000)));
    reader.read(0, 1000).await.expect("reads");
    assert_eq!(cache.stats().blocks, 1);
    stage(&cache, 5, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_smaller_than_the_budget_is_taken_out_of_use() {
    let disk = Disk::new("size=5m");
    let cache = BlobCache::open(disk.path(), 32 << 20).expect("opens");
    let bytes = 20 << 20;
    let reader = cache.open_ranged(key(1), bytes as u64, crc32c::crc32c(&content(1, bytes)), from_store(1, bytes));
    let mut whole = Vec::new();
    for at in (0..bytes as u64).step_by(1 << 20) {
        whole.extend_from_slice(&reader.read(at, 1 << 20).await.expect("reads"));
    }
    assert!(whole == content(1, bytes) && cache.is_sick());
    let mut staged = cache.create_staged(key(2)).expect("a name still fits");
    let full = staged.write_all(&content(2, 8 << 20)).expect_err("no room");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}
