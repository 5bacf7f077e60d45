//! [`Ledger`]: what there is, what it costs, and what must go. Pure: it touches no file and asks no clock.
//!
//! Invariant: after every call that adds cached bytes, `staged + cached + reserved ≤ budget`, in whole disk blocks; only staged
//! bytes can break it, because their growth is told afterwards, and then nothing cached is left. What one caller evicts counts
//! as *leaving*, against all others, until the disk has it back; and it writes nothing into its own reservation before. So the
//! disk never holds more than the budget either, but for whole files that somebody still has open when they are evicted.

use std::collections::{HashMap, HashSet};

use crate::cache::Tenant;
use crate::key::BlobKey;
use crate::limits::BLOCK_BYTES;
use crate::s3fifo::S3Fifo;

/// What the file system gives out at once.
const SECTOR_BYTES: u64 = 4096;

/// The disk space that a file of this length takes: whole sectors, at least one (for its inode).
pub(crate) fn charge(bytes: u64) -> u64 {
    bytes.div_ceil(SECTOR_BYTES).max(1).saturating_mul(SECTOR_BYTES)
}

/// What is evicted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    Whole(BlobKey),
    /// One block of a blob that is here in parts.
    Block(BlobKey, u32),
}

#[derive(Clone, Copy, Default)]
struct Sum {
    count: u64,
    bytes: u64,
    charged: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
        self.charged += charge(bytes);
    }

    fn subtract(&mut self, bytes: u64) {
        self.count -= 1;
        self.bytes -= bytes;
        self.charged -= charge(bytes);
    }
}

/// What was counted since the start.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub hits: u64,
    pub misses: u64,
    pub evictions: u64,
    pub ghost_hits: u64,
}

/// What must be taken off the disk, and is charged until [`Ledger::left`].
#[must_use]
#[derive(Default)]
pub(crate) struct Evicted {
    pub units: Vec<Unit>,
    pub charged: u64,
}

pub(crate) struct Ledger {
    budget_bytes: u64,
    staged: HashMap<BlobKey, u64>,
    staged_sum: Sum,
    /// Staged blobs whose writers may not have ended: their length is what it was when somebody looked last.
    growing: HashSet<BlobKey>,
    wholes: HashMap<BlobKey, u64>,
    wholes_sum: Sum,
    blocks: HashMap<(BlobKey, u32), u64>,
    blocks_sum: Sum,
    /// Every whole and block that is cached, and nothing else.
    policy: S3Fifo<Unit>,
    /// Wholes that lay here before this start, and that nobody has checked since.
    unchecked: HashSet<BlobKey>,
    /// Of fills under way, charged.
    reserved_staged: u64,
    reserved_cached: u64,
    /// Evicted, but not off the disk yet.
    leaving: u64,
    counts: Counts,
}

impl Ledger {
    pub fn new(budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            staged: HashMap::new(),
            staged_sum: Sum::default(),
            growing: HashSet::new(),
            wholes: HashMap::new(),
            wholes_sum: Sum::default(),
            blocks: HashMap::new(),
            blocks_sum: Sum::default(),
            policy: S3Fifo::new(budget_bytes),
            unchecked: HashSet::new(),
            reserved_staged: 0,
            reserved_cached: 0,
            leaving: 0,
            counts: Counts::default(),
        }
    }

    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Where a whole blob is, and its length.
    pub fn find(&self, key: BlobKey) -> Option<(Tenant, u64)> {
        let staged = self.staged.get(&key).map(|bytes| (Tenant::Staged, *bytes));
        staged.or_else(|| self.wholes.get(&key).map(|bytes| (Tenant::Cached, *bytes)))
    }

    /// [`Ledger::find`] for a reader: the use is noted, and the hit or miss is counted.
    pub fn touch(&mut self, key: BlobKey, now_ms: u64) -> Option<(Tenant, u64)> {
        self.policy.touch(&Unit::Whole(key), now_ms);
        let found = self.find(key);
        self.count(found.is_some());
        found
    }

    /// Notes the use of a block that is here.
    pub fn touch_block(&mut self, key: BlobKey, block: u32, now_ms: u64) {
        self.policy.touch(&Unit::Block(key, block), now_ms);
    }

    pub fn count(&mut self, hit: bool) {
        *if hit { &mut self.counts.hits } else { &mut self.counts.misses } += 1;
    }

    /// Sets the length of a staged blob, new or known. [`Ledger::evict_excess`] is due afterwards.
    pub fn set_staged(&mut self, key: BlobKey, bytes: u64) {
        if let Some(before) = self.staged.insert(key, bytes) {
            self.staged_sum.subtract(before);
        }
        self.staged_sum.add(bytes);
    }

    /// The staged blob has its last length.
    pub fn end_growth(&mut self, key: BlobKey) {
        self.growing.remove(&key);
    }

    /// An empty staged blob that somebody is about to write.
    pub fn begin_staged(&mut self, key: BlobKey) {
        self.set_staged(key, 0);
        self.growing.insert(key);
    }

    pub fn growing_keys(&self) -> Vec<BlobKey> {
        self.growing.iter().copied().collect()
    }

    /// Adds a cached blob; true if it had been evicted not long ago. The caller reserved its room, or evicts afterwards.
    pub fn set_cached(&mut self, key: BlobKey, bytes: u64, now_ms: u64) -> bool {
        self.forget(key, Tenant::Cached);
        self.wholes.insert(key, bytes);
        self.wholes_sum.add(bytes);
        let returns = self.policy.insert(Unit::Whole(key), charge(bytes), now_ms);
        self.counts.ghost_hits += u64::from(returns);
        returns
    }

    /// Adds a blob that an earlier process cached. It counts as proved, and as unchecked.
    pub fn set_found(&mut self, key: BlobKey, bytes: u64) {
        self.wholes.insert(key, bytes);
        self.wholes_sum.add(bytes);
        self.policy.insert_kept(Unit::Whole(key), charge(bytes), 0);
        self.unchecked.insert(key);
    }

    pub fn is_unchecked(&self, key: BlobKey) -> bool {
        self.unchecked.contains(&key)
    }

    pub fn set_checked(&mut self, key: BlobKey) {
        self.unchecked.remove(&key);
    }

    /// Adds a block; true if it had been evicted not long ago. The caller reserved its room.
    pub fn set_block(&mut self, key: BlobKey, block: u32, bytes: u64, now_ms: u64) -> bool {
        self.blocks.insert((key, block), bytes);
        self.blocks_sum.add(bytes);
        let returns = self.policy.insert(Unit::Block(key, block), charge(bytes), now_ms);
        self.counts.ghost_hits += u64::from(returns);
        returns
    }

    pub fn forget_block(&mut self, key: BlobKey, block: u32) {
        self.policy.remove(&Unit::Block(key, block));
        self.drop_block(key, block);
    }

    /// All blocks of a blob are here and become one whole. It is proved if one of the blocks was.
    pub fn unite(&mut self, key: BlobKey, blocks: u32, bytes: u64, now_ms: u64) {
        let is_kept = (0..blocks).any(|block| self.policy.is_kept(&Unit::Block(key, block)));
        (0..blocks).for_each(|block| self.forget_block(key, block));
        self.wholes.insert(key, bytes);
        self.wholes_sum.add(bytes);
        if is_kept {
            self.policy.insert_kept(Unit::Whole(key), charge(bytes), now_ms);
        } else {
            self.policy.insert(Unit::Whole(key), charge(bytes), now_ms);
        }
    }

    pub fn forget(&mut self, key: BlobKey, tenant: Tenant) {
        match tenant {
            Tenant::Staged => {
                self.growing.remove(&key);
                if let Some(bytes) = self.staged.remove(&key) {
                    self.staged_sum.subtract(bytes);
                }
            }
            Tenant::Cached => {
                self.policy.remove(&Unit::Whole(key));
                self.drop_whole(key);
            }
        }
    }

    /// True when the staged blobs, also those on the way in, leave nothing of the budget.
    pub fn is_full(&self) -> bool {
        self.staged_sum.charged.saturating_add(self.reserved_staged) >= self.budget_bytes
    }

    /// True when so much is on its way in that more, which nobody waits for, would only push out what has just come.
    pub fn is_crowded(&self) -> bool {
        self.reserved_cached.saturating_mul(4) > self.budget_bytes
    }

    /// Reserves room for bytes on their way in, and gives what to evict for them, which must be off the disk before the
    /// bytes are on it; `None`, and nothing changes, if that cannot do.
    pub fn reserve(&mut self, tenant: Tenant, bytes: u64) -> Option<Evicted> {
        let wanted = charge(bytes);
        // A cached blob is not worth waiting for a disk that is busy freeing; a staged one is.
        let leaving = if tenant == Tenant::Cached { self.leaving } else { 0 };
        if self.fixed().saturating_add(leaving).saturating_add(wanted) > self.budget_bytes {
            return None;
        }
        *self.reserved(tenant) += wanted;
        Some(self.evict_excess())
    }

    /// [`Ledger::reserve`] of cached room, only if nothing has to go for it.
    pub fn reserve_free(&mut self, bytes: u64) -> bool {
        let wanted = self.leaving.saturating_add(charge(bytes));
        let fits = self.used().saturating_add(wanted) <= self.budget_bytes;
        if fits {
            self.reserved_cached += charge(bytes);
        }
        fits
    }

    pub fn release(&mut self, tenant: Tenant, bytes: u64) {
        *self.reserved(tenant) -= charge(bytes);
    }

    /// A file of this length was forgotten, and is on the disk until [`Ledger::left`].
    pub fn leave(&mut self, bytes: u64) -> u64 {
        self.leaving += charge(bytes);
        charge(bytes)
    }

    /// What was evicted is off the disk.
    pub fn left(&mut self, charged: u64) {
        self.leaving -= charged;
    }

    /// Forgets what is worth least until everything fits, and gives it.
    pub fn evict_excess(&mut self) -> Evicted {
        let before = self.leaving;
        let mut evicted = Evicted::default();
        while self.fixed().saturating_add(before).saturating_add(self.policy.cost()) > self.budget_bytes {
            let Some((unit, charged)) = self.policy.evict(self.reserved_cached) else { break };
            match unit {
                Unit::Whole(key) => self.drop_whole(key),
                Unit::Block(key, block) => self.drop_block(key, block),
            }
            self.counts.evictions += 1;
            evicted.charged += charged;
            evicted.units.push(unit);
        }
        self.leaving += evicted.charged;
        evicted
    }

    /// Every cached whole; blocks are known by whoever has their bitmaps.
    pub fn cached_keys(&self) -> Vec<BlobKey> {
        self.wholes.keys().copied().collect()
    }

    pub fn staged_keys(&self) -> Vec<BlobKey> {
        self.staged.keys().copied().collect()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Blobs and their bytes.
    pub fn staged(&self) -> (u64, u64) {
        (self.staged_sum.count, self.staged_sum.bytes)
    }

    /// What staged blobs take of the budget, those on their way in included.
    pub fn staged_used(&self) -> u64 {
        self.staged_sum.charged.saturating_add(self.reserved_staged)
    }

    /// Whole blobs and their bytes.
    pub fn wholes(&self) -> (u64, u64) {
        (self.wholes_sum.count, self.wholes_sum.bytes)
    }

    /// Blocks of blobs that are not whole, and their bytes.
    pub fn blocks(&self) -> (u64, u64) {
        (self.blocks_sum.count, self.blocks_sum.bytes)
    }

    /// What counts against the budget.
    pub fn used(&self) -> u64 {
        self.fixed() + self.policy.cost()
    }

    /// What no eviction makes smaller.
    fn fixed(&self) -> u64 {
        self.staged_sum.charged.saturating_add(self.reserved_staged).saturating_add(self.reserved_cached)
    }

    fn drop_whole(&mut self, key: BlobKey) {
        self.unchecked.remove(&key);
        if let Some(bytes) = self.wholes.remove(&key) {
            self.wholes_sum.subtract(bytes);
        }
    }

    fn drop_block(&mut self, key: BlobKey, block: u32) {
        if let Some(bytes) = self.blocks.remove(&(key, block)) {
            self.blocks_sum.subtract(bytes);
        }
    }

    fn reserved(&mut self, tenant: Tenant) -> &mut u64 {
        match tenant {
            Tenant::Staged => &mut self.reserved_staged,
            Tenant::Cached => &mut self.reserved_cached,
        }
    }
}

const _: () =
    assert!(BLOCK_BYTES.is_multiple_of(SECTOR_BYTES), "a block is whole sectors, so that blocks add up to their file");
