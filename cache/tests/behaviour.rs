//! The promises of the cache, one test each.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use common::{
    BLOCK, bucket, charge, content, copy_tree, fill, filling_count, key, on_disk, open, read, read_checked, stage,
};
use moorhouse_cache::{BlobCache, BlobKey, CacheError, Tenant};
use tempfile::tempdir;
use uuid::Uuid;

const LEN: usize = BLOCK as usize;

#[test]
fn a_staged_blob_is_written_accounted_synced_and_stored() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 8);
    stage(&cache, 1, 5000);
    assert_eq!(cache.lookup(key(1)).map(|blob| (blob.tenant, blob.bytes)), Some((Tenant::Staged, 5000)));
    cache.sync_staged(&[key(1)]).expect("syncs");
    cache.stored(key(1)).expect("is stored");
    cache.stored(key(1)).expect("twice is fine");
    assert_eq!(cache.lookup(key(1)).map(|blob| (blob.tenant, blob.bytes)), Some((Tenant::Cached, 5000)));
    assert_eq!(read(&cache, 1), Some(content(1, 5000)));
    assert!(cache.staged_keys().is_empty());
}

#[test]
fn many_blobs_are_synced_together() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 1000);
    (0..100).for_each(|number| stage(&cache, number, 10));
    let keys: Vec<_> = (0..100).map(key).collect();
    cache.sync_staged(&keys).expect("syncs");
    assert!(matches!(cache.sync_staged(&[key(3), key(200)]), Err(CacheError::NoBlob { key: k }) if k == key(200)));
}

#[test]
fn a_newcomer_goes_before_what_came_back() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 3);
    (1..=4).for_each(|number| fill(&cache, number, LEN));
    assert_eq!([1, 2, 3, 4].map(|number| cache.tenant(key(number)).is_some()), [false, true, true, true]);
    fill(&cache, 1, LEN);
    assert_eq!(cache.stats().ghost_hits, 1);
    (5..=9).for_each(|number| fill(&cache, number, LEN));
    assert_eq!([1, 5, 6, 7, 8, 9].map(|n| cache.tenant(key(n)).is_some()), [true, false, false, false, true, true]);
    let stats = cache.stats();
    assert_eq!((stats.evictions, stats.cached_blobs, stats.used_bytes), (7, 3, 3 * BLOCK));
    assert_eq!(on_disk(dir.path(), Tenant::Cached).len(), 3);
}

#[test]
fn staged_blobs_push_cached_ones_out_and_are_never_evicted() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 4);
    fill(&cache, 1, 2 * LEN);
    fill(&cache, 2, 2 * LEN);
    stage(&cache, 3, 3 * LEN);
    assert_eq!([1, 2, 3].map(|number| cache.tenant(key(number)).is_some()), [false, false, true]);
    assert!(matches!(cache.fill(key(4), 2 * BLOCK), Err(CacheError::NoRoom { .. })));
    fill(&cache, 5, LEN);
}

#[test]
fn a_refused_fill_evicts_nothing() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 4);
    stage(&cache, 1, LEN);
    fill(&cache, 2, LEN);
    assert!(matches!(cache.fill(key(3), 4 * BLOCK), Err(CacheError::NoRoom { .. })));
    assert_eq!(cache.tenant(key(2)), Some(Tenant::Cached));
}

#[test]
fn staging_pushes_back_when_it_alone_uses_up_the_budget() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 2);
    stage(&cache, 1, 5 * LEN);
    assert!(matches!(cache.create_staged(key(2)), Err(CacheError::Full { staged_bytes: 20480, .. })));
    assert!(matches!(cache.fill_staged(key(2), 1), Err(CacheError::Full { .. })));
    cache.stored(key(1)).expect("is stored");
    assert_eq!(cache.tenant(key(1)), None, "larger than the whole budget, so it cannot stay as a cached one");
    stage(&cache, 2, 10);
}

#[test]
fn a_fill_reserves_its_room_at_once_and_gives_it_back_when_dropped() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 2);
    let mut first = cache.fill(key(1), BLOCK + 1).expect("has room");
    first.write_all(b"some").expect("writes");
    assert!(matches!(cache.fill(key(2), 1), Err(CacheError::NoRoom { .. })));
    assert_eq!(cache.stats().used_bytes, 2 * BLOCK);
    assert_eq!(cache.tenant(key(1)), None, "nobody sees an incomplete blob");
    drop(first);
    assert_eq!((cache.stats().used_bytes, filling_count(dir.path())), (0, 0));
    fill(&cache, 2, 2 * LEN);
}

#[test]
fn a_fill_of_wrong_length_or_checksum_leaves_nothing() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 8);
    let mut short = cache.fill(key(1), 10).expect("has room");
    short.write_all(b"123456789").expect("writes");
    assert!(matches!(short.complete(None), Err(CacheError::WrongLength { expected: 10, found: 9, .. })));

    let mut long = cache.fill(key(1), 10).expect("has room");
    long.write_all(b"12345678901").expect_err("is more than announced");
    drop(long);

    let mut damaged = cache.fill(key(1), 10).expect("has room");
    damaged.write_all(b"123456789x").expect("writes");
    assert!(matches!(damaged.complete(Some(crc32c::crc32c(b"1234567890"))), Err(CacheError::WrongChecksum { .. })));
    assert_eq!((cache.stats().used_bytes, filling_count(dir.path())), (0, 0));
    assert_eq!(cache.tenant(key(1)), None);
}

#[test]
fn a_fill_may_be_written_out_of_order_and_is_still_checked() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 8);
    for (good, written) in [(true, b"world"), (false, b"w0rld")] {
        let mut fill = cache.fill(key(1), 10).expect("has room");
        fill.write_at(written, 5).expect("writes");
        fill.write_at(b"hello", 0).expect("writes");
        assert_eq!(fill.complete(Some(crc32c::crc32c(b"helloworld"))).is_ok(), good);
        cache.remove(key(1)).expect("removes");
    }
}

#[test]
fn a_staged_fill_takes_the_place_of_a_cached_copy_but_not_of_a_staged_one() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 8);
    fill(&cache, 1, 10);
    let stage_from_peer = || {
        let mut fill = cache.fill_staged(key(1), 10).expect("has room");
        fill.write_all(&content(1, 10)).expect("writes");
        fill.complete(None).expect("completes");
    };
    stage_from_peer();
    assert_eq!(cache.tenant(key(1)), Some(Tenant::Staged));
    stage_from_peer();
    fill(&cache, 1, 10);
    assert_eq!(cache.tenant(key(1)), Some(Tenant::Staged));
    assert_eq!((on_disk(dir.path(), Tenant::Staged).len(), on_disk(dir.path(), Tenant::Cached).len()), (1, 0));
    assert_eq!((cache.stats().used_bytes, filling_count(dir.path())), (BLOCK, 0));
}

#[test]
fn open_files_outlive_eviction_and_removal() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 2);
    fill(&cache, 1, LEN);
    fill(&cache, 2, LEN);
    let mut evicted = cache.open_file(key(1), false).expect("opens").expect("is there");
    let mut removed = cache.open_file(key(2), false).expect("opens").expect("is there");
    cache.remove(key(2)).expect("removes");
    cache.remove(key(2)).expect("twice is fine");
    fill(&cache, 3, 2 * LEN);
    assert_eq!((cache.tenant(key(1)), cache.tenant(key(2))), (None, None));
    for (number, file) in [(1, &mut evicted), (2, &mut removed)] {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("still reads");
        assert_eq!(bytes, content(number, LEN));
    }
}

#[test]
fn a_key_is_used_once_and_cached_blobs_are_not_written() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 8);
    stage(&cache, 1, 10);
    assert!(matches!(cache.create_staged(key(1)), Err(CacheError::Exists { .. })));
    let mut again = cache.open_file(key(1), true).expect("opens to write").expect("is there");
    again.write_all(b"X").expect("writes");
    cache.stored(key(1)).expect("is stored");
    assert!(matches!(cache.create_staged(key(1)), Err(CacheError::Exists { .. })));
    assert!(matches!(cache.open_file(key(1), true), Err(CacheError::Immutable { .. })));
    assert!(matches!(cache.account_staged(key(1)), Err(CacheError::NoBlob { .. })));
    assert!(matches!(cache.stored(key(2)), Err(CacheError::NoBlob { .. })));
    assert!(cache.open_file(key(2), true).expect("opens").is_none());
}

#[test]
fn hits_and_misses_are_counted_once_a_read() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 8);
    fill(&cache, 1, 10);
    cache.lookup(key(1));
    cache.open_file(key(1), false).expect("opens");
    cache.lookup(key(2));
    cache.tenant(key(1));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses), (2, 1));
}

#[test]
fn after_a_crash_blobs_are_back_and_incomplete_fills_are_not() {
    let (dir, crashed) = (tempdir().expect("a directory"), tempdir().expect("a directory"));
    let cache = open(dir.path(), 16);
    stage(&cache, 1, 100);
    fill(&cache, 2, 200);
    let mut incomplete = cache.fill(key(3), 300).expect("has room");
    incomplete.write_all(&content(3, 300)).expect("writes");
    copy_tree(dir.path(), crashed.path());
    fs::copy(
        crashed.path().join(format!("staged/{:02x}/{}", 37, key(1))),
        crashed.path().join(format!("cached/{:02x}/{}", 37, key(1))),
    )
    .expect("leaves a blob in both tenants");
    fs::write(crashed.path().join("staged/00/notes.txt"), "not a blob").expect("writes");

    let cache = open(crashed.path(), 16);
    assert_eq!(
        (read(&cache, 1), read(&cache, 2), read(&cache, 3)),
        (Some(content(1, 100)), None, None),
        "what is cached is not trusted before it is checked"
    );
    assert_eq!(read_checked(&cache, 2, 200), Some(content(2, 200)));
    assert_eq!(read(&cache, 2), Some(content(2, 200)));
    assert_eq!(cache.staged_keys(), [key(1)]);
    assert_eq!(cache.stats().used_bytes, charge(100) + charge(200));
    assert_eq!((filling_count(crashed.path()), on_disk(crashed.path(), Tenant::Cached).len()), (0, 1));
    assert!(crashed.path().join("staged/00/notes.txt").exists(), "what is not ours stays");
}

/// Earlier versions took another byte of the key for the bucket.
#[test]
fn what_an_earlier_version_left_in_another_bucket_is_found() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 64);
    let keys: Vec<_> = (0..20).map(|count| BlobKey((7 << 64) + 0x1f0 + count)).collect();
    for (at, key) in keys.iter().enumerate() {
        let mut file = cache.create_staged(*key).expect("stages");
        file.write_all(&content(at as u128, 100)).expect("writes");
    }
    assert_eq!(cache.sync_staged(&keys).expect("syncs"), [100; 20]);
    let buckets: BTreeSet<_> = keys.iter().map(|key| cache.lookup(*key).expect("is there").path).collect();
    let buckets: BTreeSet<_> = buckets.iter().filter_map(|path| path.parent()).collect();
    assert_eq!(buckets.len(), 2, "keys in a row lie together, until their 256 end");
    let staged = dir.path().join("staged");
    let new = keys.iter().map(|key| cache.lookup(*key).expect("is there").path);
    let old = keys.iter().map(|key| staged.join(format!("{:02x}", key.0 & 0xff)).join(key.to_string()));
    let moves: Vec<_> = new.zip(old).collect();
    drop(cache);
    moves.iter().for_each(|(new, old)| fs::rename(new, old).expect("moves"));
    let cache = open(dir.path(), 64);
    assert_eq!(cache.stats().staged_blobs, 20);
    for (at, key) in keys.iter().enumerate() {
        let path = cache.lookup(*key).expect("is there").path;
        assert_eq!(fs::read(path).expect("reads"), content(at as u128, 100));
    }
    assert!(moves.iter().all(|(new, old)| new == old || !old.exists()));
}

#[test]
fn who_keeps_files_open_hears_of_what_goes() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 3);
    let gone = Arc::new(Mutex::new(Vec::new()));
    let told = gone.clone();
    cache.on_gone(move |key| told.lock().expect("lock").push(key));
    fill(&cache, 1, LEN);
    stage(&cache, 2, LEN);
    assert_eq!([1, 2, 3].map(|number| cache.note_use(key(number))), [true, true, false]);
    fill(&cache, 3, LEN);
    assert_eq!(*gone.lock().expect("lock"), []);
    cache.stored(key(2)).expect("is stored");
    fill(&cache, 4, LEN);
    assert_eq!((gone.lock().expect("lock").len(), cache.stats().cached_blobs), (1, 3));
    let left = (1..=4).find(|number| cache.tenant(key(*number)).is_some()).expect("one is left");
    cache.remove(key(left)).expect("removes");
    assert_eq!((gone.lock().expect("lock").last(), cache.note_use(key(left))), (Some(&key(left)), false));
}

/// As a crash of the machine leaves files whose bytes had not reached the disk.
#[test]
fn what_an_earlier_process_left_is_checked_before_its_first_use() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 16);
    (1..=4).for_each(|number| fill(&cache, number, 200));
    drop(cache);
    let file = |number| bucket(dir.path(), Tenant::Cached, number).join(key(number).to_string());
    fs::write(file(2), vec![0; 200]).expect("damages");
    fs::write(file(3), &content(3, 200)[..100]).expect("shortens");
    let cache = open(dir.path(), 16);
    assert_eq!(read_checked(&cache, 1, 200), Some(content(1, 200)));
    assert_eq!((read_checked(&cache, 2, 200), read_checked(&cache, 3, 200)), (None, None));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let unknown = runtime.block_on(cache.open_checked(key(4), 200, None)).expect("looks");
    assert!(unknown.is_none(), "nothing to check it with");
    assert_eq!((cache.stats().checksum_failures, cache.stats().cached_blobs), (2, 1));
    assert_eq!(on_disk(dir.path(), Tenant::Cached).len(), 1);
    fill(&cache, 2, 200);
    assert_eq!(read(&cache, 2), Some(content(2, 200)));
}

#[test]
fn dropping_the_read_cache_leaves_what_is_staged() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 16);
    stage(&cache, 1, 100);
    fill(&cache, 2, 200);
    fill(&cache, 3, 300);
    assert_eq!(cache.drop_cached(), (2, 500));
    assert_eq!((cache.drop_cached(), cache.stats().used_bytes), ((0, 0), BLOCK));
    assert_eq!((read(&cache, 1), read(&cache, 2)), (Some(content(1, 100)), None));
}

#[test]
fn warming_evicts_nothing() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 3);
    fill(&cache, 1, 2 * LEN);
    assert!(matches!(cache.fill_free(key(2), 2 * BLOCK), Err(CacheError::NoRoom { .. })));
    let mut free = cache.fill_free(key(2), BLOCK).expect("fits beside the other");
    free.write_all(&content(2, LEN)).expect("writes");
    free.complete(None).expect("completes");
    assert_eq!((cache.stats().cached_blobs, cache.stats().evictions), (2, 0));
}

#[test]
fn a_smaller_budget_at_open_evicts_the_oldest() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 16);
    for number in 1..=3 {
        fill(&cache, number, LEN);
        let file = cache.open_file(key(number), false).expect("opens").expect("is there");
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 * number as u64);
        file.set_times(fs::FileTimes::new().set_accessed(long_ago).set_modified(long_ago)).expect("sets times");
    }
    drop(cache);
    let cache = open(dir.path(), 2);
    assert_eq!([1, 2, 3].map(|number| cache.tenant(key(number)).is_some()), [false, true, true]);
}

#[test]
fn a_directory_belongs_to_one_cache() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 16);
    let error = BlobCache::open(dir.path(), 1).expect_err("is in use");
    assert!(matches!(error, CacheError::InUse { .. }) && error.to_string().contains("--data"), "{error}");
    drop(cache);
    open(dir.path(), 16);
}

#[test]
fn a_lost_cached_file_is_a_miss() {
    let dir = tempdir().expect("a directory");
    let cache = open(dir.path(), 16);
    fill(&cache, 1, LEN);
    fs::remove_file(cache.lookup(key(1)).expect("is there").path).expect("somebody removes it");
    assert_eq!(read(&cache, 1), None);
    fill(&cache, 1, LEN);
    assert_eq!(read(&cache, 1), Some(content(1, LEN)));
}

#[test]
fn keys_are_uuids() {
    let uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
    let key = moorhouse_cache::BlobKey::from(uuid);
    assert_eq!((key.to_string(), Uuid::from(key)), (uuid.to_string(), uuid));
}
