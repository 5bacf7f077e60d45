//! [`CacheStats`]: a look at the cache.

/// A look at the cache. Blob bytes are file lengths; counts are since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    pub staged_blobs: u64,
    pub staged_bytes: u64,
    /// What staged blobs take of the budget, those on their way in included, in whole 4 KiB sectors. Files that are being
    /// written count with the length that [`crate::BlobCache::account_growing`] saw last.
    pub staged_used_bytes: u64,
    /// Whole blobs that may be evicted.
    pub cached_blobs: u64,
    pub cached_bytes: u64,
    /// Blobs of which some blocks are here, those blocks, and their bytes.
    pub partial_blobs: u64,
    pub blocks: u64,
    pub block_bytes: u64,
    /// What counts against the budget: both tenants and the fills under way, in whole 4 KiB sectors.
    pub used_bytes: u64,
    pub budget_bytes: u64,
    /// Reads that found, or did not find, their bytes here: [`crate::BlobCache::lookup`], [`crate::BlobCache::open_file`],
    /// [`crate::BlobCache::get_or_fetch`] and [`crate::RangedReader::read`] count once per call.
    pub hits: u64,
    pub misses: u64,
    pub evictions: u64,
    /// Blobs and blocks that came back soon after their eviction: a larger cache would have kept them.
    pub ghost_hits: u64,
    /// Bytes that came into the read cache.
    pub fetched_bytes: u64,
    /// Reads that waited for bytes that another read had asked for already.
    pub coalesced: u64,
    pub checksum_failures: u64,
    pub disk_errors: u64,
    /// The disk is out of use as a read cache.
    pub is_sick: bool,
}
