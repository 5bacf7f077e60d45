//! Many threads and tasks on one cache.

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{BLOCK, charge, content, filling_count, key, on_disk, open, read};
use futures::future::join_all;
use moorhouse_cache::{BlobCache, CacheError, Fill, Tenant};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;

const LEN: usize = 10_000;

fn number_of(bytes: &[u8]) -> Option<u128> {
    (0..32).find(|number| *bytes == content(*number, bytes.len()))
}

fn random_step(cache: &BlobCache, random: &mut StdRng) -> Result<(), CacheError> {
    let number = random.random_range(0..32_u128);
    let key = key(number);
    match random.random_range(0..8) {
        0 => drop(cache.create_staged(key)?.write_all(&content(number, LEN))),
        1 => drop(cache.account_staged(key)?),
        2 => cache.stored(key)?,
        3 => cache.remove(key)?,
        4 => drop(cache.sync_staged(&[key])?),
        5 | 6 => {
            let staged = random.random_bool(0.3);
            let mut fill = if staged { cache.fill_staged(key, LEN as u64)? } else { cache.fill(key, LEN as u64)? };
            fill.write_all(&content(number, LEN)).expect("writes");
            if random.random_bool(0.9) {
                fill.complete(Some(crc32c::crc32c(&content(number, LEN))))?;
            }
        }
        _ => {
            if let Some(mut file) = cache.open_file(key, false)? {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).expect("reads");
                assert!(bytes.len() < LEN || number_of(&bytes) == Some(number), "foreign bytes in {key}");
            }
        }
    }
    Ok(())
}

#[test]
fn threads_leave_ledger_and_disk_in_agreement() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = open(dir.path(), 40);
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let cache = cache.clone();
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed);
                for _ in 0..400 {
                    match random_step(&cache, &mut random) {
                        Ok(())
                        | Err(CacheError::Full { .. } | CacheError::NoRoom { .. })
                        | Err(CacheError::NoBlob { .. } | CacheError::Exists { .. }) => {}
                        Err(error) => panic!("seed {seed}: {error}"),
                    }
                }
            });
        }
    });
    for key in cache.staged_keys() {
        cache.account_staged(key).expect("accounts");
    }
    let stats = cache.stats();
    let (staged, cached) = (on_disk(dir.path(), Tenant::Staged), on_disk(dir.path(), Tenant::Cached));
    assert_eq!((stats.staged_blobs, stats.cached_blobs), (staged.len() as u64, cached.len() as u64));
    assert_eq!(stats.used_bytes, staged.values().chain(cached.values()).map(|len| charge(*len)).sum::<u64>());
    assert!(stats.used_bytes <= stats.budget_bytes || stats.cached_blobs == 0);
    assert_eq!(filling_count(dir.path()), 0);
}

async fn write_all(mut fill: Fill) -> Result<Fill, std::io::Error> {
    fill.write_all(&content(1, LEN))?;
    Ok(fill)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_share_one_fetch() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = open(dir.path(), 40);
    let fetches = Arc::new(AtomicUsize::new(0));
    let crc = crc32c::crc32c(&content(1, LEN));
    let callers = (0..50).map(|_| {
        let (cache, fetches) = (cache.clone(), Arc::clone(&fetches));
        tokio::spawn(async move {
            let fetch = |fill| async move {
                fetches.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                write_all(fill).await
            };
            let mut file = cache.get_or_fetch(key(1), LEN as u64, Some(crc), fetch).await.expect("gets");
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).expect("reads");
            bytes
        })
    });
    for bytes in join_all(callers).await {
        assert_eq!(bytes.expect("ends"), content(1, LEN));
    }
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_error_is_shared_and_the_next_caller_tries_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = open(dir.path(), 40);
    let fetches = AtomicUsize::new(0);
    let fetch = async |fill: Fill| {
        drop(fill);
        fetches.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        Err::<Fill, _>(std::io::Error::from(std::io::ErrorKind::ConnectionRefused))
    };
    let callers = (0..10).map(|_| cache.get_or_fetch(key(1), LEN as u64, None, fetch));
    for outcome in join_all(callers).await {
        let Err(CacheError::Fetch { source, .. }) = outcome else { panic!("{outcome:?}") };
        let io = source.downcast_ref::<std::io::Error>().expect("the fetch's own error");
        assert_eq!(io.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    cache.get_or_fetch(key(1), LEN as u64, None, write_all).await.expect("the next one fetches");
    assert_eq!(cache.stats().used_bytes, charge(LEN as u64));
}

#[tokio::test]
async fn a_caller_that_goes_away_is_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = open(dir.path(), 40);
    let started = Arc::new(Notify::new());
    let leader = tokio::spawn({
        let (cache, started) = (cache.clone(), Arc::clone(&started));
        async move {
            let stuck = |_fill| async move {
                started.notify_one();
                std::future::pending::<Result<Fill, std::io::Error>>().await
            };
            cache.get_or_fetch(key(1), LEN as u64, None, stuck).await
        }
    });
    started.notified().await;
    let mut waiter = Box::pin(cache.get_or_fetch(key(1), LEN as u64, None, write_all));
    assert!(futures::poll!(&mut waiter).is_pending(), "waits for the one that fetches");
    leader.abort();
    waiter.await.expect("fetches itself");
    assert_eq!(read(&cache, 1), Some(content(1, LEN)));
    assert_eq!((cache.stats().used_bytes, filling_count(dir.path())), (charge(LEN as u64), 0));
}

#[tokio::test]
async fn a_blob_that_cannot_fit_is_told_to_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = open(dir.path(), 2);
    let outcome = cache.get_or_fetch(key(1), 3 * BLOCK, None, write_all).await;
    assert!(matches!(outcome, Err(CacheError::NoRoom { .. })));
    let wrong = cache.get_or_fetch(key(1), 2 * BLOCK, None, write_all).await;
    assert!(matches!(wrong, Err(CacheError::Fetch { .. })), "more bytes than announced: {wrong:?}");
    assert_eq!(cache.stats().used_bytes, 0);
}
