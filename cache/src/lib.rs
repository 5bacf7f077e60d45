//! The SSD's one directory, with one byte budget and two tenants. A blob is one immutable file, named by its key.
//!
//! * **Staged** blobs are the only copy of their bytes (until they are stored elsewhere): never evicted.
//! * **Cached** blobs can be had again: evicted, the least recently used first, to keep everything within the budget.
//!
//! The life of a blob:
//! ```text
//! create_staged → (writes, also through the kernel) → account_staged → sync_staged ─┐
//! fill_staged → write → complete                                    ───────────────┴→ staged ── stored ─┐
//! fill → write → complete, or get_or_fetch                          ────────────────────────────────────┴→ cached
//! remove: gone from either; descriptors that are open stay good
//! ```
//! Everything here but [`BlobCache::get_or_fetch`] is synchronous and safe to call from any thread. One lock covers the
//! ledger and the names in the directory, and no data is read, written or freed under it.
//!
//! Layout: `<dir>/{staged,cached}/<last 2 hex digits of the key>/<key as UUID>`; `<dir>/filling/` holds what is being
//! filled and is wiped at open; `<dir>/lock` keeps a second process out; `<dir>/boot` tells a crash of the machine.
//!
//! Not kept on disk: sizes, recency, counters. They are rebuilt at open from the files, recency from their times.

mod key;
pub use key::BlobKey;

mod error;
pub use error::CacheError;

mod cache;
pub use cache::{Blob, BlobCache, CacheStats, Tenant};

mod fill;
pub use fill::Fill;

mod directory;
mod durable;
mod flight;
mod ledger;

pub mod metrics;
