//! Blobs that are read without being here as a whole.

mod common;

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::{Disk, content, filling_count, key, stage};
use futures::future::join_all;
use moorhouse_cache::limits::{BLOCK_BYTES, FETCH_BYTES};
use moorhouse_cache::{BlobCache, CacheError, FetchRange, RangedReader, Tenant};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use tokio::sync::Semaphore;

const PIECE: u64 = 128 << 10;

/// An object store of one blob, that writes down what is asked of it.
struct Store {
    blob: Bytes,
    asked: Mutex<Vec<Range<u64>>>,
    /// Requests wait for a permit each.
    gate: Semaphore,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    is_away: AtomicBool,
    /// Requests whose answer is wrong.
    damaged: AtomicUsize,
}

impl Store {
    fn new(number: u128, bytes: u64) -> Arc<Self> {
        let store = Self::shut(number, bytes);
        store.open();
        store
    }

    fn shut(number: u128, bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            blob: content(number, bytes as usize).into(),
            asked: Mutex::default(),
            gate: Semaphore::new(0),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            is_away: AtomicBool::new(false),
            damaged: AtomicUsize::new(0),
        })
    }

    fn open(&self) {
        self.gate.add_permits(100_000);
    }

    fn fetch(self: &Arc<Self>) -> FetchRange {
        let store = Arc::clone(self);
        Arc::new(move |range| {
            let store = Arc::clone(&store);
            Box::pin(async move {
                store.asked.lock().expect("lock").push(range.clone());
                let now = store.under_way.fetch_add(1, Ordering::SeqCst) + 1;
                store.most_under_way.fetch_max(now, Ordering::SeqCst);
                store.gate.acquire().await.expect("stays open").forget();
                tokio::task::yield_now().await;
                store.under_way.fetch_sub(1, Ordering::SeqCst);
                if store.is_away.load(Ordering::SeqCst) {
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into());
                }
                let data = store.blob.slice(range.start as usize..range.end as usize);
                let is_damaged =
                    store.damaged.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
                Ok(if is_damaged { vec![0xee; data.len()].into() } else { data })
            })
        })
    }

    fn asked(&self) -> Vec<Range<u64>> {
        self.asked.lock().expect("lock").clone()
    }

    fn asked_bytes(&self) -> u64 {
        self.asked().iter().map(|range| range.end - range.start).sum()
    }

    fn reader(self: &Arc<Self>, cache: &BlobCache, number: u128) -> RangedReader {
        cache.open_ranged(key(number), self.blob.len() as u64, crc32c::crc32c(&self.blob), self.fetch())
    }
}

/// A cache of so many MiB, where the disk's usage is exact.
fn open(mib: u64) -> (TempDir, BlobCache) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let cache = BlobCache::open(dir.path(), mib << 20).expect("opens");
    (dir, cache)
}

/// Reads all of it in the engine's pieces.
async fn scan(reader: &RangedReader, store: &Store) {
    for at in (0..reader.bytes()).step_by(PIECE as usize) {
        let read = reader.read(at, PIECE).await.expect("reads");
        assert_eq!(read, store.blob.slice(at as usize..at as usize + read.len()), "at {at}");
    }
}

fn disk_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_query_fetches_its_block_alone() {
    let (_dir, cache) = open(64);
    let store = Store::new(1, 40 << 20);
    let reader = store.reader(&cache, 1);
    let at = 9 * BLOCK_BYTES + 300_000;
    for _ in 0..2 {
        assert_eq!(reader.read(at, PIECE).await.expect("reads"), store.blob.slice(at as usize..(at + PIECE) as usize));
    }
    assert_eq!((store.asked().len(), store.asked()[0].clone()), (1, 9 * BLOCK_BYTES..10 * BLOCK_BYTES));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.blocks, stats.partial_blobs), (1, 1, 1, 1));
    assert_eq!((stats.used_bytes, cache.tenant(key(1))), (BLOCK_BYTES, None));
    assert_eq!(reader.read(40 << 20, 1).await.expect("reads"), Bytes::new(), "behind the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_fetches_each_byte_once_in_parallel_and_completes_the_blob() {
    let (_dir, cache) = open(128);
    let bytes = (60 << 20) + 12_345;
    let store = Store::new(1, bytes);
    let reader = store.reader(&cache, 1);
    scan(&reader, &store).await;
    assert_eq!((store.asked_bytes(), cache.stats().fetched_bytes), (bytes, bytes));
    assert!(store.asked().iter().all(|range| range.end - range.start <= FETCH_BYTES));
    assert!(store.asked().len() < 40, "{} requests", store.asked().len());
    assert!(store.most_under_way.load(Ordering::SeqCst) >= 2);
    assert_eq!(cache.tenant(key(1)), Some(Tenant::Cached));
    let mut whole = Vec::new();
    cache.open_file(key(1), false).expect("opens").expect("is whole").read_to_end(&mut whole).expect("reads");
    assert_eq!(whole, store.blob);
    let stats = cache.stats();
    assert_eq!((stats.blocks, stats.partial_blobs, stats.cached_blobs), (0, 0, 1));
    scan(&reader, &store).await;
    assert_eq!(store.asked_bytes(), bytes, "the open reader reads the file too");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_a_block_share_one_request() {
    let (_dir, cache) = open(64);
    let store = Store::shut(1, 20 << 20);
    let readers: Vec<_> = (0..20).map(|_| store.reader(&cache, 1)).collect();
    let mut reads: Vec<_> = readers.iter().map(|reader| Box::pin(reader.read(5 * BLOCK_BYTES, PIECE))).collect();
    for read in &mut reads {
        assert!(futures::poll!(read).is_pending());
    }
    store.open();
    for read in join_all(reads).await {
        assert_eq!(read.expect("reads"), store.blob.slice(5 << 20..(5 << 20) + PIECE as usize));
    }
    assert_eq!((store.asked().len(), cache.stats().coalesced), (1, 19));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_in_the_cache_though_its_reader_has_gone() {
    let (_dir, cache) = open(64);
    let store = Store::shut(1, 20 << 20);
    let reader = store.reader(&cache, 1);
    {
        let mut read = Box::pin(reader.read(0, PIECE));
        assert!(futures::poll!(&mut read).is_pending());
    }
    let mut second = Box::pin(reader.read(0, PIECE));
    assert!(futures::poll!(&mut second).is_pending());
    store.open();
    second.await.expect("reads");
    assert_eq!(store.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_told_to_all_and_the_next_read_asks_again() {
    let (_dir, cache) = open(64);
    let store = Store::new(1, 20 << 20);
    store.is_away.store(true, Ordering::SeqCst);
    let reader = store.reader(&cache, 1);
    let failed = reader.read(0, PIECE).await;
    assert!(matches!(failed, Err(CacheError::Fetch { .. })), "{failed:?}");
    assert_eq!((cache.stats().used_bytes, cache.stats().partial_blobs), (0, 0));
    store.is_away.store(false, Ordering::SeqCst);
    scan(&reader, &store).await;
    assert_eq!(cache.tenant(key(1)), Some(Tenant::Cached));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_found_when_the_blob_completes_and_fetched_again() {
    let (_dir, cache) = open(64);
    let store = Store::new(1, 6 << 20);
    store.damaged.store(1, Ordering::SeqCst);
    let reader = store.reader(&cache, 1);
    // The last read completes the blob, finds the damage of the first, and fetches its own block again.
    for block in [0, 3, 1, 4, 2, 5] {
        reader.read(block * BLOCK_BYTES, PIECE).await.expect("reads");
    }
    let stats = cache.stats();
    assert_eq!((stats.checksum_failures, stats.cached_blobs, stats.blocks), (1, 0, 1));
    scan(&reader, &store).await;
    assert_eq!((cache.tenant(key(1)), cache.stats().checksum_failures), (Some(Tenant::Cached), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_reads_go_past_the_cache() {
    let (dir, cache) = open(4);
    stage(&cache, 9, 4 << 20);
    let store = Store::new(1, 12 << 20);
    scan(&store.reader(&cache, 1), &store).await;
    assert_eq!(store.asked_bytes(), 12 << 20, "a piece of it is kept in memory for the next read");
    assert_eq!((cache.stats().blocks, cache.stats().evictions), (0, 0));
    assert_eq!(cache.tenant(key(9)), Some(Tenant::Staged));
    assert!(disk_bytes(dir.path()) <= 4 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn staged_bytes_push_blocks_out() {
    let (dir, cache) = open(8);
    let store = Store::new(1, 7 << 20);
    let reader = store.reader(&cache, 1);
    for block in [0, 3, 1, 4, 2, 5] {
        reader.read(block * BLOCK_BYTES, PIECE).await.expect("reads");
    }
    stage(&cache, 9, 6 << 20);
    let stats = cache.stats();
    assert_eq!((stats.blocks, stats.used_bytes), (2, 8 << 20));
    assert!(disk_bytes(dir.path()) <= 8 << 20, "{}", disk_bytes(dir.path()));
    scan(&reader, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_drops_blocks_and_keeps_wholes() {
    let (dir, cache) = open(64);
    let (part, whole) = (Store::new(1, 20 << 20), Store::new(2, 6 << 20));
    part.reader(&cache, 1).read(0, PIECE).await.expect("reads");
    scan(&whole.reader(&cache, 2), &whole).await;
    drop(cache);
    // The task of the last request lets go of the cache a moment after it has told its reader.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let cache = loop {
        match BlobCache::open(dir.path(), 64 << 20) {
            Err(CacheError::InUse { .. }) if std::time::Instant::now() < deadline => tokio::task::yield_now().await,
            opened => break opened.expect("opens"),
        }
    };
    let stats = cache.stats();
    assert_eq!((stats.partial_blobs, stats.blocks, stats.cached_blobs), (0, 0, 1));
    assert_eq!(stats.used_bytes, 6 << 20);
    let opened = cache.open_checked(key(2), 6 << 20, Some(crc32c::crc32c(&whole.blob))).await.expect("looks");
    assert!(opened.is_some());
}

/// The hard limit, as the file system sees it, while readers evict under each other's hands and staged files come and go.
/// (The blobs are larger than the cache, so that none becomes whole: an open file of an evicted whole one keeps its bytes.)
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_disk_never_holds_more_than_the_budget() {
    const BUDGET: u64 = 24 << 20;
    let disk = Arc::new(Disk::new("size=128m"));
    let empty = disk.used_bytes();
    let cache = BlobCache::open(disk.path(), BUDGET).expect("opens");
    let stores: Vec<_> = (0..2).map(|number| Store::new(number, (30 << 20) + number as u64 * 777)).collect();
    let done = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (disk, done, cache) = (Arc::clone(&disk), Arc::clone(&done), cache.clone());
        std::thread::spawn(move || {
            let (mut most, mut looks) = (0, 0);
            while !done.load(Ordering::SeqCst) {
                most = (disk.used_bytes() - empty).max(most);
                assert!(cache.stats().used_bytes <= BUDGET, "{:?}", cache.stats());
                looks += 1;
            }
            (most, looks)
        })
    };
    let readers = (0..6).map(|seed| {
        let (cache, stores) = (cache.clone(), stores.clone());
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            for round in 0..60 {
                let number = random.random_range(0..2_usize);
                let reader = stores[number].reader(&cache, number as u128);
                let start = random.random_range(0..reader.bytes());
                for at in (start..reader.bytes()).step_by(PIECE as usize).take(random.random_range(1..20)) {
                    let read = reader.read(at, PIECE).await.expect("reads");
                    assert_eq!(read, stores[number].blob.slice(at as usize..at as usize + read.len()), "seed {seed}");
                }
                if seed == 0 && round % 10 == 0 {
                    // Reserved before it is written, as a copy from a peer is.
                    let len = 2 << 20;
                    let staged = key(100 + round);
                    if let Ok(mut fill) = cache.fill_staged(staged, len) {
                        fill.write_at(&content(1, len as usize), 0).expect("writes");
                        fill.complete(None).expect("completes");
                        cache.remove(staged).expect("removes");
                    }
                }
            }
        })
    });
    for reader in join_all(readers).await {
        reader.expect("reads right bytes");
    }
    done.store(true, Ordering::SeqCst);
    let (most, looks) = watcher.join().expect("the budget is kept");
    assert!(most <= BUDGET && most > BUDGET / 2 && looks > 3, "{most} of {BUDGET} in {looks} looks");
    assert!(cache.stats().evictions > 20, "{:?}", cache.stats());
    assert_eq!((cache.stats().checksum_failures, filling_count(disk.path())), (0, 0));
}
