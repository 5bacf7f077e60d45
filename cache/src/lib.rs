//! The SSD's one directory, with one byte budget and two tenants. A blob is one immutable file, named by its key.
//!
//! * **Staged** blobs are the only copy of their bytes (until they are stored elsewhere): never evicted.
//! * **Cached** blobs can be had again: evicted by S3-FIFO to keep everything within the budget, so that a scan passes through
//!   and the hot set stays. A large one may be here in part, by blocks.
//!
//! The life of a blob:
//! ```text
//! create_staged → (writes, also through the kernel) → account_staged → sync_staged ─┐
//! fill_staged → write → complete                                    ───────────────┴→ staged ── stored ─┐
//! fill → write → complete, or get_or_fetch                          ────────────────────────────────────┤
//! open_ranged → read … read: block by block, the last one completes ────────────────────────────────────┴→ cached
//! remove: gone from either; descriptors that are open stay good
//! ```
//! One lock covers the ledger and the names in the directory, and no data is read, written or freed under it. What is
//! synchronous here is safe to call from any thread; what is async wants a tokio runtime.
//!
//! *What is checked:* each fill, and each blob whose last block has come, against its CRC-32C; a blob that an earlier process
//! has left, before its first use. A disk that fails is taken out of use as a read cache (`health`), never as staging.
//!
//! Layout: `<dir>/{staged,cached}/<2 hex digits before the key's last 2>/<key as UUID>`; `<dir>/filling/` and `<dir>/partial/` hold
//! what is not complete and are wiped at open; `<dir>/lock` keeps a second process out. (Earlier the last 2 digits were taken: what
//! lies there moves at open.)
//!
//! Not kept on disk: sizes, recency, bitmaps, counters. Sizes are rebuilt at open from the files, recency from their times.

mod key;
pub use key::BlobKey;

mod error;
pub use error::CacheError;

mod cache;
pub use cache::{Blob, BlobCache, Tenant};

mod stats;
pub use stats::CacheStats;

mod fill;
pub use fill::Fill;

mod ranged;
pub use ranged::{FetchRange, RangedReader};

mod ahead;
mod directory;
mod durable;
mod flight;
mod health;
mod inner;
mod ledger;
mod partial;
mod s3fifo;

pub mod limits;

pub mod metrics;
