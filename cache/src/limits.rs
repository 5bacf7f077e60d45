//! Every limit of the cache, in one table.

use std::time::Duration;

/// Unit of partial presence: what the coldest of reads brings, and what is evicted of a blob that is not whole.
pub const BLOCK_BYTES: u64 = 1 << 20;
/// Largest request of a read-ahead. One request of an object store brings some 100 MB/s, so several smaller ones in parallel
/// beat a large one, and the first bytes are there sooner; far below this, the way there takes longer than the bytes.
pub const FETCH_BYTES: u64 = 2 << 20;
/// A reader that has read this much without a gap goes on: a point query reads less of a column.
pub const SEQUENTIAL_AFTER_BYTES: u64 = 384 << 10;
/// How far a sequential reader is led at first, and at most.
pub const AHEAD_FIRST_BYTES: u64 = 16 << 20;
pub const AHEAD_LONGEST_BYTES: u64 = 48 << 20;
/// A gap that a sequential reader may leave: ClickHouse skips granules that it knows it does not need.
pub const GAP_BYTES: u64 = 1 << 20;
/// Requests under way at once over all blobs, and so, times [`FETCH_BYTES`], the memory that they take.
pub const FETCHES_MAX: usize = 32;
/// Of these, what read-aheads leave for reads that somebody waits for.
pub const FETCHES_FOR_READS: usize = 8;
/// A read whose blocks are evicted under its hands this often goes past the cache.
pub const READ_TRIES: usize = 4;
/// Files that are synced together: each has a descriptor meanwhile.
pub const SYNCED_AT_ONCE: usize = 256;
/// How often a disk that was taken out of use is tried again.
pub const PROBE_EVERY: Duration = Duration::from_secs(30);
/// What a probe writes and reads.
pub const PROBE_BYTES: usize = 64 << 10;
