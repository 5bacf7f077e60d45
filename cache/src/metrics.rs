//! The cache's metrics, summed over the process (which has one cache).

use std::sync::LazyLock;

use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};

use crate::stats::CacheStats;

macro_rules! metric {
    ($kind:ty, $register:ident, $constant:ident, $name:literal, $help:literal) => {
        #[doc = $help]
        pub static $constant: LazyLock<$kind> =
            LazyLock::new(|| $register!($name, $help).expect("the name is registered once"));
    };
}

macro_rules! gauge {
    ($constant:ident, $name:literal, $help:literal) => {
        metric!(IntGauge, register_int_gauge, $constant, $name, $help);
    };
}

macro_rules! counter {
    ($constant:ident, $name:literal, $help:literal) => {
        metric!(IntCounter, register_int_counter, $constant, $name, $help);
    };
}

gauge!(STAGING_BLOBS, "moorhouse_staging_blobs", "Blobs whose only copy is here");
gauge!(STAGING_BYTES, "moorhouse_staging_bytes", "Bytes whose only copy is here");
gauge!(BLOCKCACHE_BLOBS, "moorhouse_blockcache_blobs", "Evictable blobs that are whole");
gauge!(BLOCKCACHE_BYTES, "moorhouse_blockcache_bytes", "Bytes of evictable blobs, whole or not");
gauge!(BLOCKCACHE_BLOCKS, "moorhouse_blockcache_blocks", "Blocks of evictable blobs that are not whole");
gauge!(BUDGET_BYTES, "moorhouse_cache_budget_bytes", "The budget of both tenants");
gauge!(USED_BYTES, "moorhouse_cache_used_bytes", "What counts against the budget");
counter!(HITS, "moorhouse_blockcache_hits", "Reads that found their bytes here");
counter!(MISSES, "moorhouse_blockcache_miss", "Reads that did not find their bytes here");
counter!(EVICTIONS, "moorhouse_blockcache_evicts", "Blobs and blocks evicted for the budget");
counter!(GHOST_HITS, "moorhouse_blockcache_ghost_hits", "Blobs and blocks that came back soon after their eviction");
counter!(FETCHED_BYTES, "moorhouse_blockcache_fetched_bytes", "Bytes that came into the read cache");
counter!(COALESCED, "moorhouse_blockcache_coalesced", "Reads that waited for what another read had asked for");
counter!(CHECKSUM_FAILURES, "moorhouse_cache_checksum_failures", "Blobs whose bytes were wrong; a person should look");
counter!(DISK_ERRORS, "moorhouse_cache_disk_errors", "Operations on cached bytes that the disk failed");
gauge!(DISK_SICK, "moorhouse_cache_disk_sick", "1 while the disk is out of use as a read cache; a person should look");

pub(crate) fn show(stats: &CacheStats) {
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    STAGING_BLOBS.set(gauge(stats.staged_blobs));
    STAGING_BYTES.set(gauge(stats.staged_bytes));
    BLOCKCACHE_BLOBS.set(gauge(stats.cached_blobs));
    BLOCKCACHE_BYTES.set(gauge(stats.cached_bytes + stats.block_bytes));
    BLOCKCACHE_BLOCKS.set(gauge(stats.blocks));
    BUDGET_BYTES.set(gauge(stats.budget_bytes));
    USED_BYTES.set(gauge(stats.used_bytes));
}
