//! The cache's metrics, summed over the process (which has one cache).

use std::sync::LazyLock;

use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};

use crate::cache::CacheStats;

macro_rules! metric {
    ($kind:ty, $register:ident, $constant:ident, $name:literal, $help:literal) => {
        #[doc = $help]
        pub static $constant: LazyLock<$kind> =
            LazyLock::new(|| $register!($name, $help).expect("the name is registered once"));
    };
}

metric!(IntGauge, register_int_gauge, STAGING_BLOBS, "moorhouse_staging_blobs", "Blobs whose only copy is here");
metric!(IntGauge, register_int_gauge, STAGING_BYTES, "moorhouse_staging_bytes", "Bytes whose only copy is here");
metric!(IntGauge, register_int_gauge, BLOCKCACHE_BLOBS, "moorhouse_blockcache_blobs", "Evictable blobs");
metric!(IntGauge, register_int_gauge, BLOCKCACHE_BYTES, "moorhouse_blockcache_bytes", "Bytes of evictable blobs");
metric!(IntGauge, register_int_gauge, BUDGET_BYTES, "moorhouse_cache_budget_bytes", "The budget of both tenants");
metric!(IntCounter, register_int_counter, HITS, "moorhouse_blockcache_hits", "Reads that found their blob here");
metric!(
    IntCounter,
    register_int_counter,
    MISSES,
    "moorhouse_blockcache_miss",
    "Reads that did not find their blob here"
);
metric!(IntCounter, register_int_counter, EVICTIONS, "moorhouse_blockcache_evicts", "Blobs evicted for the budget");

pub(crate) fn show(stats: &CacheStats) {
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    STAGING_BLOBS.set(gauge(stats.staged_blobs));
    STAGING_BYTES.set(gauge(stats.staged_bytes));
    BLOCKCACHE_BLOBS.set(gauge(stats.cached_blobs));
    BLOCKCACHE_BYTES.set(gauge(stats.cached_bytes));
    BUDGET_BYTES.set(gauge(stats.budget_bytes));
}
