//! [`Ledger`]: which blobs there are, what they cost, and which must go. Pure: it touches no file.
//!
//! Invariant: after every call that adds cached bytes, `staged + cached + reserved ≤ budget`, in whole disk blocks; only
//! staged bytes can break it, because their growth is told afterwards, and then nothing cached is left.

use std::collections::HashMap;

use lru::LruCache;

use crate::cache::{CacheStats, Tenant};
use crate::key::BlobKey;

/// What the file system gives out at once.
const BLOCK_BYTES: u64 = 4096;

/// The disk space that a blob of this length takes: whole blocks, at least one (for its inode).
pub(crate) fn charge(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES).max(1).saturating_mul(BLOCK_BYTES)
}

#[derive(Clone, Copy, Default)]
struct Sum {
    bytes: u64,
    charged: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.charged += charge(bytes);
    }

    fn subtract(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.charged -= charge(bytes);
    }
}

pub(crate) struct Ledger {
    budget_bytes: u64,
    staged: HashMap<BlobKey, u64>,
    staged_sum: Sum,
    cached: LruCache<BlobKey, u64>,
    cached_sum: Sum,
    /// Of fills under way, charged.
    reserved_staged: u64,
    reserved_cached: u64,
    hits: u64,
    misses: u64,
    evictions: u64,
}

impl Ledger {
    pub fn new(budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            staged: HashMap::new(),
            staged_sum: Sum::default(),
            cached: LruCache::unbounded(),
            cached_sum: Sum::default(),
            reserved_staged: 0,
            reserved_cached: 0,
            hits: 0,
            misses: 0,
            evictions: 0,
        }
    }

    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    pub fn find(&self, key: BlobKey) -> Option<(Tenant, u64)> {
        let staged = self.staged.get(&key).map(|bytes| (Tenant::Staged, *bytes));
        staged.or_else(|| self.cached.peek(&key).map(|bytes| (Tenant::Cached, *bytes)))
    }

    /// [`Ledger::find`] for a reader: the blob becomes the most recently used, and the hit or miss is counted.
    pub fn touch(&mut self, key: BlobKey) -> Option<(Tenant, u64)> {
        self.cached.promote(&key);
        let found = self.find(key);
        *if found.is_some() { &mut self.hits } else { &mut self.misses } += 1;
        found
    }

    /// Sets the length of a staged blob, new or known. [`Ledger::evict_excess`] is due afterwards.
    pub fn set_staged(&mut self, key: BlobKey, bytes: u64) {
        if let Some(before) = self.staged.insert(key, bytes) {
            self.staged_sum.subtract(before);
        }
        self.staged_sum.add(bytes);
    }

    /// Adds a cached blob as the most recently used. The caller reserved its room, or evicts afterwards.
    pub fn set_cached(&mut self, key: BlobKey, bytes: u64) {
        if let Some(before) = self.cached.put(key, bytes) {
            self.cached_sum.subtract(before);
        }
        self.cached_sum.add(bytes);
    }

    pub fn forget(&mut self, key: BlobKey, tenant: Tenant) {
        match tenant {
            Tenant::Staged => {
                if let Some(bytes) = self.staged.remove(&key) {
                    self.staged_sum.subtract(bytes);
                }
            }
            Tenant::Cached => {
                if let Some(bytes) = self.cached.pop(&key) {
                    self.cached_sum.subtract(bytes);
                }
            }
        }
    }

    /// True when the staged blobs, also those on the way in, leave nothing of the budget.
    pub fn is_full(&self) -> bool {
        self.staged_sum.charged.saturating_add(self.reserved_staged) >= self.budget_bytes
    }

    /// Reserves room for a fill and gives the blobs to evict for it; `None`, and nothing changes, if that cannot do.
    pub fn reserve(&mut self, tenant: Tenant, bytes: u64) -> Option<Vec<BlobKey>> {
        let wanted = charge(bytes);
        let fixed = self.staged_sum.charged.saturating_add(self.reserved_staged).saturating_add(self.reserved_cached);
        if fixed.saturating_add(wanted) > self.budget_bytes {
            return None;
        }
        *self.reserved(tenant) += wanted;
        Some(self.evict_excess())
    }

    pub fn release(&mut self, tenant: Tenant, bytes: u64) {
        *self.reserved(tenant) -= charge(bytes);
    }

    /// Forgets the least recently used cached blobs until everything fits, and gives them: their files must go.
    pub fn evict_excess(&mut self) -> Vec<BlobKey> {
        let fixed = self.staged_sum.charged.saturating_add(self.reserved_staged).saturating_add(self.reserved_cached);
        let mut evicted = Vec::new();
        while fixed.saturating_add(self.cached_sum.charged) > self.budget_bytes {
            let Some((key, bytes)) = self.cached.pop_lru() else { break };
            self.cached_sum.subtract(bytes);
            self.evictions += 1;
            evicted.push(key);
        }
        evicted
    }

    pub fn staged_keys(&self) -> Vec<BlobKey> {
        self.staged.keys().copied().collect()
    }

    pub fn stats(&self) -> CacheStats {
        CacheStats {
            staged_blobs: self.staged.len() as u64,
            staged_bytes: self.staged_sum.bytes,
            cached_blobs: self.cached.len() as u64,
            cached_bytes: self.cached_sum.bytes,
            used_bytes: self.staged_sum.charged + self.cached_sum.charged + self.reserved_staged + self.reserved_cached,
            budget_bytes: self.budget_bytes,
            hits: self.hits,
            misses: self.misses,
            evictions: self.evictions,
        }
    }

    fn reserved(&mut self, tenant: Tenant) -> &mut u64 {
        match tenant {
            Tenant::Staged => &mut self.reserved_staged,
            Tenant::Cached => &mut self.reserved_cached,
        }
    }
}
