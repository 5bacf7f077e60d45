//! [`BlobCache`]: every operation on blobs. Each is a step on the ledger and the same step on the directory, under one lock.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::directory::Directory;
use crate::durable;
use crate::error::CacheError;
use crate::fill::Fill;
use crate::flight::Flights;
use crate::key::BlobKey;
use crate::ledger::Ledger;
use crate::metrics;

/// Whose a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tenant {
    /// The only copy; stays until [`BlobCache::stored`] or [`BlobCache::remove`].
    Staged,
    /// A copy; may be evicted at any moment.
    Cached,
}

/// Where a blob is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub tenant: Tenant,
    /// Good only until the blob moves or is evicted, so prefer [`BlobCache::open_file`].
    pub path: PathBuf,
    /// Its length; for a staged blob, when it was last accounted.
    pub bytes: u64,
}

/// A look at the cache. Blob bytes are file lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStats {
    pub staged_blobs: u64,
    pub staged_bytes: u64,
    pub cached_blobs: u64,
    pub cached_bytes: u64,
    /// What counts against the budget: both tenants and the fills under way, each blob in whole 4 KiB blocks.
    pub used_bytes: u64,
    pub budget_bytes: u64,
    /// Reads that found, or did not find, their blob: [`BlobCache::lookup`], [`BlobCache::open_file`], and
    /// [`BlobCache::get_or_fetch`] count once per call.
    pub hits: u64,
    pub misses: u64,
    pub evictions: u64,
}

/// The cache. Cheap to clone; all clones are the same one. No descriptor is kept per blob.
#[derive(Clone)]
pub struct BlobCache {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    directory: Directory,
    /// Covers the names below `staged/` and `cached/` too. Never held over reads, writes, syncs or frees of data.
    ledger: Mutex<Ledger>,
    pub(crate) flights: Flights,
}

/// Files without a name. Dropping frees their bytes, which takes long for large ones: so, after the lock is released.
type Unlinked = Vec<File>;

impl BlobCache {
    /// Opens the directory, made if absent, and takes stock. What was staged is staged again, complete or not: the caller
    /// knows from its catalog which staged blobs were committed, and removes or [`BlobCache::stored`]s the others.
    /// Cached blobs survive a crash of the process, not of the machine. Evicts down to the budget.
    /// [`CacheError::InUse`] while another cache has the directory open.
    pub fn open(dir: &Path, budget_bytes: u64) -> Result<Self, CacheError> {
        let directory = Directory::open(dir)?;
        let mut ledger = Ledger::new(budget_bytes);
        for found in directory.scan(Tenant::Staged)? {
            ledger.set_staged(found.key, found.bytes);
        }
        let mut cached = directory.scan(Tenant::Cached)?;
        cached.sort_by_key(|found| found.last_used);
        let mut unlinked = Unlinked::new();
        for found in cached {
            // A crash in the middle of a `fill_staged` over a cached blob leaves both.
            if ledger.find(found.key).is_some() {
                unlinked.extend(unlink(&directory.path(Tenant::Cached, found.key)));
            } else {
                ledger.set_cached(found.key, found.bytes);
            }
        }
        let inner = Inner { directory, ledger: Mutex::new(ledger), flights: Flights::default() };
        let mut ledger = inner.lock();
        unlinked.extend(inner.evict_excess(&mut ledger));
        drop(ledger);
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A new, empty staged file, open for reading and writing. Its growth is unknown until [`BlobCache::account_staged`].
    /// Errors: [`CacheError::Full`], [`CacheError::Exists`].
    pub fn create_staged(&self, key: BlobKey) -> Result<File, CacheError> {
        let mut ledger = self.inner.lock();
        if ledger.find(key).is_some() {
            return Err(CacheError::Exists { key });
        }
        if ledger.is_full() {
            return Err(full(&ledger));
        }
        let path = self.inner.directory.path(Tenant::Staged, key);
        let created = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = created.map_err(|error| CacheError::io("create", &path, error))?;
        ledger.set_staged(key, 0);
        let unlinked = self.inner.evict_excess(&mut ledger);
        drop(ledger);
        drop(unlinked);
        Ok(file)
    }

    /// Looks at a staged file's length, enters it into the budget, evicts cached blobs if that is now exceeded, and gives
    /// the length. Call when a written file is closed, and now and then while a large one grows. [`CacheError::NoBlob`].
    pub fn account_staged(&self, key: BlobKey) -> Result<u64, CacheError> {
        let mut ledger = self.inner.lock();
        self.inner.expect_staged(&ledger, key)?;
        let bytes = self.inner.staged_length(key)?;
        ledger.set_staged(key, bytes);
        let unlinked = self.inner.evict_excess(&mut ledger);
        drop(ledger);
        drop(unlinked);
        Ok(bytes)
    }

    /// Makes staged blobs survive a loss of power: their bytes, however they were written, and their names. Blocks for
    /// as long as the disk needs. [`CacheError::NoBlob`] if one is not staged.
    pub fn sync_staged(&self, keys: &[BlobKey]) -> Result<(), CacheError> {
        {
            let ledger = self.inner.lock();
            for key in keys {
                self.inner.expect_staged(&ledger, *key)?;
            }
        }
        let directory = &self.inner.directory;
        durable::sync_each(keys, |key| match durable::sync_file(&directory.path(Tenant::Staged, *key)) {
            // Stored or removed since the look above.
            Err(CacheError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Err(CacheError::NoBlob { key: *key })
            }
            outcome => outcome,
        })?;
        let buckets: BTreeSet<u8> = keys.iter().map(|key| key.bucket()).collect();
        let dirs: Vec<PathBuf> = buckets.iter().map(|bucket| directory.bucket_dir(Tenant::Staged, *bucket)).collect();
        durable::sync_each(&dirs, |dir| durable::sync_dir(dir))
    }

    /// The blob's bytes are safe elsewhere: staged becomes cached, as the most recently used. Fine if it is cached already.
    /// Not synced: after a loss of power it may be staged again. [`CacheError::NoBlob`] if it is gone.
    pub fn stored(&self, key: BlobKey) -> Result<(), CacheError> {
        let mut ledger = self.inner.lock();
        match ledger.find(key) {
            None => return Err(CacheError::NoBlob { key }),
            Some((Tenant::Cached, _)) => return Ok(()),
            Some((Tenant::Staged, _)) => {}
        }
        let bytes = self.inner.staged_length(key)?;
        let (from, to) =
            (self.inner.directory.path(Tenant::Staged, key), self.inner.directory.path(Tenant::Cached, key));
        fs::rename(&from, &to).map_err(|error| CacheError::io("rename", &from, error))?;
        ledger.forget(key, Tenant::Staged);
        ledger.set_cached(key, bytes);
        let unlinked = self.inner.evict_excess(&mut ledger);
        drop(ledger);
        drop(unlinked);
        Ok(())
    }

    /// Forgets the blob in either tenant; fine if there is none. Open descriptors stay good. Not synced: after a loss of
    /// power it may be there again.
    pub fn remove(&self, key: BlobKey) -> Result<(), CacheError> {
        let mut ledger = self.inner.lock();
        let Some((tenant, _)) = ledger.find(key) else { return Ok(()) };
        let path = self.inner.directory.path(tenant, key);
        // Open first, so that the bytes are freed at the close below, outside the lock.
        let holder = File::open(&path).ok();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(CacheError::io("remove", &path, error)),
            _ => {}
        }
        ledger.forget(key, tenant);
        metrics::show(&ledger.stats());
        drop(ledger);
        drop(holder);
        Ok(())
    }

    /// Where the blob is, for a read of it: makes it the most recently used, and counts a hit or a miss.
    pub fn lookup(&self, key: BlobKey) -> Option<Blob> {
        let mut ledger = self.inner.lock();
        let (tenant, bytes) = self.inner.touch(&mut ledger, key)?;
        Some(Blob { tenant, path: self.inner.directory.path(tenant, key), bytes })
    }

    /// Whose the blob is, for decisions: leaves recency and counters alone.
    pub fn tenant(&self, key: BlobKey) -> Option<Tenant> {
        self.inner.lock().find(key).map(|(tenant, _)| tenant)
    }

    /// Opens the blob, `None` if it is not here; makes it the most recently used, and counts a hit or a miss. The file
    /// stays good when the blob is evicted or removed. [`CacheError::Immutable`] for writing to a cached one.
    pub fn open_file(&self, key: BlobKey, write: bool) -> Result<Option<File>, CacheError> {
        let mut ledger = self.inner.lock();
        self.inner.touch(&mut ledger, key);
        self.inner.open_found(&mut ledger, key, write)
    }

    /// Reserves room for a cached blob of exactly `bytes`, evicting others, and gives the place to write it.
    /// [`CacheError::NoRoom`] if it cannot fit.
    pub fn fill(&self, key: BlobKey, bytes: u64) -> Result<Fill, CacheError> {
        self.start_fill(key, Tenant::Cached, bytes)
    }

    /// Like [`BlobCache::fill`] for a staged blob that arrives from elsewhere, a peer for example: it is durable when
    /// [`Fill::complete`] returns. [`CacheError::Full`] if it cannot fit.
    pub fn fill_staged(&self, key: BlobKey, bytes: u64) -> Result<Fill, CacheError> {
        self.start_fill(key, Tenant::Staged, bytes)
    }

    /// Opens the blob, fetching it into the cache first if it is not here. Of many concurrent callers for one key, one
    /// runs its `fetch`, which writes all `bytes` into the [`Fill`] and gives it back; the others wait and share the
    /// outcome, also an error. If that one caller goes away, another takes over. [`CacheError::NoRoom`]: read past the
    /// cache. The fetch's own error comes as [`CacheError::Fetch`].
    pub async fn get_or_fetch<F, Fetching, E>(
        &self,
        key: BlobKey,
        bytes: u64,
        expected_crc32c: Option<u32>,
        fetch: F,
    ) -> Result<File, CacheError>
    where
        F: FnOnce(Fill) -> Fetching,
        Fetching: Future<Output = Result<Fill, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if let Some(file) = self.open_file(key, false)? {
            return Ok(file);
        }
        let fetch_once = async || {
            let filled = fetch(self.fill(key, bytes)?).await;
            let filled = filled.map_err(|error| CacheError::Fetch { key, source: Arc::from(error.into()) })?;
            filled.complete(expected_crc32c)
        };
        self.inner.flights.fly(key, || self.open_quietly(key), fetch_once).await
    }

    /// All staged blobs, in no order.
    pub fn staged_keys(&self) -> Vec<BlobKey> {
        self.inner.lock().staged_keys()
    }

    pub fn stats(&self) -> CacheStats {
        self.inner.lock().stats()
    }

    /// Opens without counting; a waiter's look after somebody else's fetch.
    fn open_quietly(&self, key: BlobKey) -> Result<Option<File>, CacheError> {
        self.inner.open_found(&mut self.inner.lock(), key, false)
    }

    fn start_fill(&self, key: BlobKey, tenant: Tenant, bytes: u64) -> Result<Fill, CacheError> {
        let mut ledger = self.inner.lock();
        let Some(evicted) = ledger.reserve(tenant, bytes) else {
            return Err(match tenant {
                Tenant::Staged => full(&ledger),
                Tenant::Cached => CacheError::NoRoom { bytes },
            });
        };
        let unlinked = self.inner.unlink_evicted(&mut ledger, evicted);
        drop(ledger);
        drop(unlinked);
        Fill::start(Arc::clone(&self.inner), key, tenant, bytes)
    }
}

impl std::fmt::Debug for BlobCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BlobCache").field(&self.stats()).finish()
    }
}

impl Inner {
    pub fn filling_path(&self, key: BlobKey) -> PathBuf {
        self.directory.filling_path(key)
    }

    pub fn release(&self, tenant: Tenant, bytes: u64) {
        let mut ledger = self.lock();
        ledger.release(tenant, bytes);
        metrics::show(&ledger.stats());
    }

    /// Names a complete file as the blob, and turns the reservation of its fill into the blob's own bytes; the
    /// reservation ends here also when this fails. A staged blob that is already here stays; so does a cached one,
    /// unless the new one is staged. Then the file at `from` is left behind.
    pub fn adopt(&self, key: BlobKey, tenant: Tenant, bytes: u64, from: &Path) -> Result<(), CacheError> {
        let mut ledger = self.lock();
        ledger.release(tenant, bytes);
        let mut unlinked = Unlinked::new();
        match (ledger.find(key), tenant) {
            (None, _) => {}
            (Some((Tenant::Cached, _)), Tenant::Staged) => {
                ledger.forget(key, Tenant::Cached);
                unlinked.extend(unlink(&self.directory.path(Tenant::Cached, key)));
            }
            (Some(_), _) => return Ok(()),
        }
        let to = self.directory.path(tenant, key);
        fs::rename(from, &to).map_err(|error| CacheError::io("rename", from, error))?;
        match tenant {
            Tenant::Staged => ledger.set_staged(key, bytes),
            Tenant::Cached => ledger.set_cached(key, bytes),
        }
        // Staged files may have grown during the fill.
        unlinked.extend(self.evict_excess(&mut ledger));
        drop(ledger);
        drop(unlinked);
        match tenant {
            Tenant::Staged => durable::sync_dir(&self.directory.bucket_dir(tenant, key.bucket())),
            Tenant::Cached => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // Nothing panics between two changes that belong together, so the ledger of a panicked thread is still good.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, ledger: &mut Ledger, key: BlobKey) -> Option<(Tenant, u64)> {
        let found = ledger.touch(key);
        if found.is_some() {
            metrics::HITS.inc()
        } else {
            metrics::MISSES.inc()
        }
        found
    }

    fn expect_staged(&self, ledger: &Ledger, key: BlobKey) -> Result<(), CacheError> {
        match ledger.find(key) {
            Some((Tenant::Staged, _)) => Ok(()),
            Some((Tenant::Cached, _)) | None => Err(CacheError::NoBlob { key }),
        }
    }

    fn staged_length(&self, key: BlobKey) -> Result<u64, CacheError> {
        let path = self.directory.path(Tenant::Staged, key);
        let meta = fs::metadata(&path).map_err(|error| CacheError::io("look at", &path, error))?;
        Ok(meta.len())
    }

    fn open_found(&self, ledger: &mut Ledger, key: BlobKey, write: bool) -> Result<Option<File>, CacheError> {
        let Some((tenant, _)) = ledger.find(key) else { return Ok(None) };
        if write && tenant == Tenant::Cached {
            return Err(CacheError::Immutable { key });
        }
        let path = self.directory.path(tenant, key);
        match OpenOptions::new().read(true).write(write).open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound && tenant == Tenant::Cached => {
                tracing::warn!(%key, "a cached blob's file is gone; somebody else removed it");
                ledger.forget(key, tenant);
                Ok(None)
            }
            Err(error) => Err(CacheError::io("open", &path, error)),
        }
    }

    fn evict_excess(&self, ledger: &mut Ledger) -> Unlinked {
        let evicted = ledger.evict_excess();
        self.unlink_evicted(ledger, evicted)
    }

    fn unlink_evicted(&self, ledger: &mut Ledger, evicted: Vec<BlobKey>) -> Unlinked {
        metrics::EVICTIONS.inc_by(evicted.len() as u64);
        metrics::show(&ledger.stats());
        evicted.into_iter().filter_map(|key| unlink(&self.directory.path(Tenant::Cached, key))).collect()
    }
}

fn full(ledger: &Ledger) -> CacheError {
    CacheError::Full { staged_bytes: ledger.stats().staged_bytes, budget_bytes: ledger.budget_bytes() }
}

/// Takes a cached blob's name away; the descriptor still holds its bytes.
fn unlink(path: &Path) -> Option<File> {
    let file = File::open(path).ok();
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot evict; its bytes stay on disk until the next start");
    }
    file
}
