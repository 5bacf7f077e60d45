//! [`Inner`]: what all clones of a cache share, and the steps that every operation is made of.
//!
//! An operation decides under the lock, in [`State`] alone; what must go from the disk is put down as [`Freed`] and done
//! after the lock, by whoever decided it, before it uses the room.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::cache::Tenant;
use crate::directory::Directory;
use crate::durable;
use crate::error::CacheError;
use crate::flight::Flights;
use crate::health::Health;
use crate::key::BlobKey;
use crate::ledger::{Evicted, Ledger, Unit};
use crate::limits::FETCHES_MAX;
use crate::metrics;
use crate::partial::{Hole, Partials};
use crate::stats::CacheStats;

pub(crate) struct Inner {
    pub directory: Directory,
    /// Covers the names in the directory too. Never held over reads, writes, syncs or frees of data.
    state: Mutex<State>,
    pub flights: Flights,
    pub health: Health,
    /// One permit a request under way.
    pub fetches: Arc<Semaphore>,
    /// Told of whole blobs that are no longer here.
    pub gone: OnceLock<Box<dyn Fn(BlobKey) + Send + Sync>>,
    started: Instant,
    fetched_bytes: AtomicU64,
    coalesced: AtomicU64,
    checksum_failures: AtomicU64,
}

pub(crate) struct State {
    pub ledger: Ledger,
    pub partials: Partials,
}

/// What is forgotten, but still on the disk and charged. To be given to [`Inner::free`] once the lock is released.
#[must_use]
#[derive(Default)]
pub(crate) struct Freed {
    charged: u64,
    /// Whole blobs among it.
    gone: Vec<BlobKey>,
    /// Without a name; closing frees the bytes, which takes long for large ones.
    files: Vec<File>,
    holes: Vec<Hole>,
}

impl Inner {
    pub fn new(directory: Directory, ledger: Ledger) -> Self {
        let health = Health::new(directory.probe_path());
        Self {
            directory,
            state: Mutex::new(State { ledger, partials: Partials::default() }),
            flights: Flights::default(),
            health,
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            gone: OnceLock::new(),
            started: Instant::now(),
            fetched_bytes: AtomicU64::new(0),
            coalesced: AtomicU64::new(0),
            checksum_failures: AtomicU64::new(0),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together, so the state of a panicked thread is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Evicts what staged bytes have pushed out.
    pub fn evict_excess(&self, state: &mut State) -> Freed {
        let evicted = state.ledger.evict_excess();
        self.take_off(state, evicted)
    }

    /// Takes the names of evicted files away, and marks evicted blocks as leaving.
    pub fn take_off(&self, state: &mut State, evicted: Evicted) -> Freed {
        metrics::EVICTIONS.inc_by(evicted.units.len() as u64);
        let mut freed = Freed { charged: evicted.charged, ..Freed::default() };
        for unit in evicted.units {
            match unit {
                Unit::Whole(key) => {
                    freed.files.extend(unlink(&self.directory.path(Tenant::Cached, key)));
                    freed.gone.push(key);
                }
                Unit::Block(key, block) => freed.holes.extend(state.partials.leave(key, block)),
            }
        }
        metrics::show(&self.stats(state));
        freed
    }

    /// Forgets a whole blob and takes its name away.
    pub fn take_whole(&self, state: &mut State, key: BlobKey, tenant: Tenant) -> Result<Freed, CacheError> {
        let Some((_, bytes)) = state.ledger.find(key) else { return Ok(Freed::default()) };
        let path = self.directory.path(tenant, key);
        // Open first, so that the bytes are freed at the close, after the lock.
        let files = File::open(&path).ok().into_iter().collect();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(CacheError::io("remove", &path, error)),
            _ => {}
        }
        state.ledger.forget(key, tenant);
        let charged = state.ledger.leave(bytes);
        metrics::show(&self.stats(state));
        Ok(Freed { charged, gone: vec![key], files, holes: Vec::new() })
    }

    /// Forgets what is here of a blob that is not whole, and takes its name away.
    pub fn take_partial(&self, state: &mut State, key: BlobKey) -> Freed {
        let Some(partial) = state.partials.remove(key) else { return Freed::default() };
        let mut charged = 0;
        for (block, bytes) in partial.present() {
            state.ledger.forget_block(key, block);
            charged += state.ledger.leave(bytes);
        }
        metrics::show(&self.stats(state));
        // Readers that have it open find it empty, and look again.
        if let Err(error) = partial.truncate() {
            self.health.report("truncate", partial.path(), &error);
        }
        Freed { charged, files: unlink(partial.path()).into_iter().collect(), ..Freed::default() }
    }

    /// Gives the bytes back to the disk, and then their room to the others.
    pub fn free(&self, freed: Freed) {
        let Freed { charged, gone, files, holes } = freed;
        if charged == 0 && gone.is_empty() && files.is_empty() && holes.is_empty() {
            return;
        }
        if let Some(tell) = self.gone.get() {
            gone.into_iter().for_each(tell);
        }
        drop(files);
        let punched: Vec<(Hole, std::io::Result<()>)> = holes.into_iter().map(|hole| hole.punch()).collect();
        let mut more = Freed::default();
        {
            let mut state = self.lock();
            for (hole, outcome) in punched {
                if let Err(error) = outcome {
                    self.health.report("free a part of", hole.path(), &error);
                    more.absorb(self.take_partial(&mut state, hole.key()));
                } else if state.partials.left(&hole) {
                    more.absorb(self.take_partial(&mut state, hole.key()));
                }
            }
            state.ledger.left(charged);
            metrics::show(&self.stats(&state));
        }
        // At most once deeper: what is taken as a partial has no holes.
        self.free(more);
    }

    pub fn release(&self, tenant: Tenant, bytes: u64) {
        let mut state = self.lock();
        state.ledger.release(tenant, bytes);
        metrics::show(&self.stats(&state));
    }

    /// Names a complete file as the blob, and turns the reservation of its fill into the blob's own bytes; the
    /// reservation ends here also when this fails. A staged blob that is already here stays; so does a cached one,
    /// unless the new one is staged. Then the file at `from` is left behind.
    pub fn adopt(&self, key: BlobKey, tenant: Tenant, bytes: u64, from: &Path) -> Result<(), CacheError> {
        let mut state = self.lock();
        state.ledger.release(tenant, bytes);
        let mut freed = Freed::default();
        match (state.ledger.find(key), tenant) {
            (None, _) => {}
            (Some((Tenant::Cached, _)), Tenant::Staged) => {
                freed.absorb(self.take_whole(&mut state, key, Tenant::Cached)?);
            }
            (Some(_), _) => return Ok(()),
        }
        let to = self.directory.path(tenant, key);
        fs::rename(from, &to).map_err(|error| CacheError::io("rename", from, error))?;
        freed.absorb(self.take_partial(&mut state, key));
        match tenant {
            Tenant::Staged => state.ledger.set_staged(key, bytes),
            Tenant::Cached => {
                let returns = state.ledger.set_cached(key, bytes, self.now_ms());
                self.count_fetched(bytes, returns);
            }
        }
        // Staged files may have grown during the fill.
        freed.absorb(self.evict_excess(&mut state));
        drop(state);
        self.free(freed);
        match tenant {
            Tenant::Staged => durable::sync_dir(&self.directory.bucket_dir(tenant, key.bucket())),
            Tenant::Cached => Ok(()),
        }
    }

    pub fn staged_length(&self, key: BlobKey) -> Result<u64, CacheError> {
        let path = self.directory.path(Tenant::Staged, key);
        let meta = fs::metadata(&path).map_err(|error| CacheError::io("look at", &path, error))?;
        Ok(meta.len())
    }

    /// A whole blob's file. A cached one that cannot be had, or is not to be trusted yet, counts as absent.
    pub fn open_found(&self, state: &mut State, key: BlobKey, write: bool) -> Result<Option<File>, CacheError> {
        let Some((tenant, _)) = state.ledger.find(key) else { return Ok(None) };
        if tenant == Tenant::Cached {
            if write {
                return Err(CacheError::Immutable { key });
            }
            if self.health.is_sick() || state.ledger.is_unchecked(key) {
                return Ok(None);
            }
        }
        let path = self.directory.path(tenant, key);
        match OpenOptions::new().read(true).write(write).open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if tenant == Tenant::Cached => {
                self.health.report("open", &path, &error);
                if error.kind() == ErrorKind::NotFound {
                    tracing::warn!(%key, "a cached blob's file is gone; somebody else removed it");
                    state.ledger.forget(key, tenant);
                }
                Ok(None)
            }
            Err(error) => Err(CacheError::io("open", &path, error)),
        }
    }

    pub fn count_read(&self, state: &mut State, hit: bool) {
        state.ledger.count(hit);
        count_metric(hit);
    }

    pub fn touch(&self, state: &mut State, key: BlobKey) -> Option<(Tenant, u64)> {
        let found = state.ledger.touch(key, self.now_ms());
        count_metric(found.is_some());
        found
    }

    pub fn count_fetched(&self, bytes: u64, returns: bool) {
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        metrics::FETCHED_BYTES.inc_by(bytes);
        metrics::GHOST_HITS.inc_by(u64::from(returns));
    }

    pub fn count_coalesced(&self) {
        self.coalesced.fetch_add(1, Ordering::Relaxed);
        metrics::COALESCED.inc();
    }

    /// The alarm: bytes that were not those of the blob.
    pub fn count_checksum_failure(&self, key: BlobKey, expected: u32, found: u32, place: &'static str) {
        self.checksum_failures.fetch_add(1, Ordering::Relaxed);
        metrics::CHECKSUM_FAILURES.inc();
        tracing::error!(%key, expected, found, place, "wrong bytes: they are dropped and fetched again");
    }

    pub fn stats(&self, state: &State) -> CacheStats {
        let State { ledger, partials } = state;
        let counts = ledger.counts();
        let ((staged_blobs, staged_bytes), (cached_blobs, cached_bytes)) = (ledger.staged(), ledger.wholes());
        let (blocks, block_bytes) = ledger.blocks();
        CacheStats {
            staged_blobs,
            staged_bytes,
            staged_used_bytes: ledger.staged_used(),
            cached_blobs,
            cached_bytes,
            partial_blobs: partials.len(),
            blocks,
            block_bytes,
            used_bytes: ledger.used(),
            budget_bytes: ledger.budget_bytes(),
            hits: counts.hits,
            misses: counts.misses,
            evictions: counts.evictions,
            ghost_hits: counts.ghost_hits,
            fetched_bytes: self.fetched_bytes.load(Ordering::Relaxed),
            coalesced: self.coalesced.load(Ordering::Relaxed),
            checksum_failures: self.checksum_failures.load(Ordering::Relaxed),
            disk_errors: self.health.errors(),
            is_sick: self.health.is_sick(),
        }
    }
}

impl Freed {
    pub fn absorb(&mut self, other: Freed) {
        self.charged += other.charged;
        self.gone.extend(other.gone);
        self.files.extend(other.files);
        self.holes.extend(other.holes);
    }
}

fn count_metric(hit: bool) {
    if hit { metrics::HITS.inc() } else { metrics::MISSES.inc() }
}

/// Takes a cached file's name away; the descriptor still holds its bytes.
fn unlink(path: &Path) -> Option<File> {
    let file = File::open(path).ok();
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot evict; its bytes stay on disk until the next start");
    }
    file
}
