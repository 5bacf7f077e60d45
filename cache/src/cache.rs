//! [`BlobCache`]: every operation on blobs. Each is a step on the ledger and the same step on the directory, under one lock.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::directory::Directory;
use crate::durable;
use crate::error::CacheError;
use crate::fill::Fill;
use crate::inner::Inner;
use crate::key::BlobKey;
use crate::ledger::Ledger;
use crate::ranged::{FetchRange, RangedReader};
use crate::stats::CacheStats;

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

/// The cache. Cheap to clone; all clones are the same one. No descriptor is kept per blob.
#[derive(Clone)]
pub struct BlobCache {
    inner: Arc<Inner>,
}

impl BlobCache {
    /// Opens the directory, made if absent, and takes stock. What was staged is staged again, complete or not: the caller
    /// knows from its catalog which staged blobs were committed, and removes or [`BlobCache::stored`]s the others. Whole
    /// cached blobs are kept, but nobody sees one before it was checked: [`BlobCache::get_or_fetch`]. Evicts down to the
    /// budget. [`CacheError::InUse`] while another cache has the directory open.
    pub fn open(dir: &Path, budget_bytes: u64) -> Result<Self, CacheError> {
        let directory = Directory::open(dir)?;
        let mut ledger = Ledger::new(budget_bytes);
        for found in directory.scan(Tenant::Staged)? {
            ledger.set_staged(found.key, found.bytes);
        }
        let mut cached = directory.scan(Tenant::Cached)?;
        cached.sort_by_key(|found| found.last_used);
        for found in cached {
            // A crash in the middle of a `fill_staged` over a cached blob leaves both.
            if ledger.find(found.key).is_some() {
                let path = directory.path(Tenant::Cached, found.key);
                fs::remove_file(&path).map_err(|error| CacheError::io("remove", &path, error))?;
            } else {
                ledger.set_found(found.key, found.bytes);
            }
        }
        let inner = Inner::new(directory, ledger);
        let freed = inner.evict_excess(&mut inner.lock());
        inner.free(freed);
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A new, empty staged file, open for reading and writing. Its growth is unknown until [`BlobCache::account_staged`].
    /// Errors: [`CacheError::Full`], [`CacheError::Exists`].
    pub fn create_staged(&self, key: BlobKey) -> Result<File, CacheError> {
        let mut state = self.inner.lock();
        if state.ledger.find(key).is_some() {
            return Err(CacheError::Exists { key });
        }
        if state.ledger.is_full() {
            return Err(full(&state.ledger));
        }
        let path = self.inner.directory.path(Tenant::Staged, key);
        let created = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = created.map_err(|error| CacheError::io("create", &path, error))?;
        state.ledger.begin_staged(key);
        let freed = self.inner.evict_excess(&mut state);
        drop(state);
        self.inner.free(freed);
        Ok(file)
    }

    /// The present length of a staged blob that is still written, which [`BlobCache::lookup`] does not know. `None` if it is gone.
    pub fn written_bytes(&self, key: BlobKey) -> Option<u64> {
        self.inner.staged_length(key).ok()
    }

    /// Looks at a staged file's length, enters it into the budget, evicts cached blobs if that is now exceeded, and gives
    /// the length. Call when a written file is closed, and now and then while a large one grows. [`CacheError::NoBlob`].
    pub fn account_staged(&self, key: BlobKey) -> Result<u64, CacheError> {
        let mut state = self.inner.lock();
        expect_staged(&state.ledger, key)?;
        let bytes = self.inner.staged_length(key)?;
        state.ledger.set_staged(key, bytes);
        let freed = self.inner.evict_excess(&mut state);
        drop(state);
        self.inner.free(freed);
        Ok(bytes)
    }

    /// [`BlobCache::account_staged`] for every staged blob that is being written, so that the budget knows of bytes whose
    /// writers have not ended. One that is renamed or removed meanwhile is left to whoever did that.
    pub fn account_growing(&self) {
        let keys = self.inner.lock().ledger.growing_keys();
        let lengths: Vec<_> = keys.into_iter().map(|key| (key, self.inner.staged_length(key))).collect();
        let mut state = self.inner.lock();
        for (key, length) in lengths {
            if let (Ok(bytes), Some((Tenant::Staged, known))) = (length, state.ledger.find(key))
                && bytes > known
            {
                state.ledger.set_staged(key, bytes);
            }
        }
        let freed = self.inner.evict_excess(&mut state);
        drop(state);
        self.inner.free(freed);
    }

    /// Makes staged blobs survive a loss of power: their bytes, however they were written, and their names. Enters their
    /// lengths into the budget, as [`BlobCache::account_staged`], and gives them. Blocks for as long as the disk needs.
    /// [`CacheError::NoBlob`] if one is not staged.
    pub fn sync_staged(&self, keys: &[BlobKey]) -> Result<Vec<u64>, CacheError> {
        self.expect_all_staged(keys)?;
        let directory = &self.inner.directory;
        let paths: Vec<PathBuf> = keys.iter().map(|key| directory.path(Tenant::Staged, *key)).collect();
        let lengths = match durable::sync_files(&paths) {
            // Stored or removed since the look above: then that says which one.
            Err(CacheError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                self.expect_all_staged(keys)?;
                return Err(CacheError::NoBlob { key: keys[0] });
            }
            synced => synced?,
        };
        let buckets: BTreeSet<u8> = keys.iter().map(|key| key.bucket()).collect();
        buckets.iter().try_for_each(|bucket| durable::sync_dir(&directory.bucket_dir(Tenant::Staged, *bucket)))?;
        let mut state = self.inner.lock();
        for (key, bytes) in keys.iter().zip(&lengths) {
            expect_staged(&state.ledger, *key)?;
            state.ledger.set_staged(*key, *bytes);
            state.ledger.end_growth(*key);
        }
        let freed = self.inner.evict_excess(&mut state);
        drop(state);
        self.inner.free(freed);
        Ok(lengths)
    }

    fn expect_all_staged(&self, keys: &[BlobKey]) -> Result<(), CacheError> {
        let state = self.inner.lock();
        keys.iter().try_for_each(|key| expect_staged(&state.ledger, *key))
    }

    /// The blob's bytes are safe elsewhere: staged becomes cached, as a newcomer there. Fine if it is cached already.
    /// Not synced: after a loss of power it may be staged again. [`CacheError::NoBlob`] if it is gone.
    pub fn stored(&self, key: BlobKey) -> Result<(), CacheError> {
        let mut state = self.inner.lock();
        match state.ledger.find(key) {
            None => return Err(CacheError::NoBlob { key }),
            Some((Tenant::Cached, _)) => return Ok(()),
            Some((Tenant::Staged, _)) => {}
        }
        let bytes = self.inner.staged_length(key)?;
        let (from, to) =
            (self.inner.directory.path(Tenant::Staged, key), self.inner.directory.path(Tenant::Cached, key));
        fs::rename(&from, &to).map_err(|error| CacheError::io("rename", &from, error))?;
        state.ledger.forget(key, Tenant::Staged);
        state.ledger.set_cached(key, bytes, self.inner.now_ms());
        let freed = self.inner.evict_excess(&mut state);
        drop(state);
        self.inner.free(freed);
        Ok(())
    }

    /// Forgets the blob in either tenant, whole or not; fine if there is none. Open descriptors of whole ones stay good. Not
    /// synced: after a loss of power it may be there again.
    pub fn remove(&self, key: BlobKey) -> Result<(), CacheError> {
        let mut state = self.inner.lock();
        let mut freed = self.inner.take_partial(&mut state, key);
        let taken = match state.ledger.find(key) {
            Some((tenant, _)) => self.inner.take_whole(&mut state, key, tenant).map(|more| freed.absorb(more)),
            None => Ok(()),
        };
        drop(state);
        self.inner.free(freed);
        taken
    }

    /// Removes everything that may be had again, and gives the number of blobs, whole or not, and the bytes that went.
    /// Staged blobs stay. What the disk refuses to remove stays too, and is said.
    pub fn drop_cached(&self) -> (u64, u64) {
        let before = self.stats();
        let keys = {
            let state = self.inner.lock();
            [state.ledger.cached_keys(), state.partials.keys()].concat()
        };
        for key in keys {
            // Between the list and the look it may have become staged, which must stay.
            let mut state = self.inner.lock();
            let mut freed = self.inner.take_partial(&mut state, key);
            if matches!(state.ledger.find(key), Some((Tenant::Cached, _))) {
                match self.inner.take_whole(&mut state, key, Tenant::Cached) {
                    Ok(more) => freed.absorb(more),
                    Err(error) => tracing::warn!(%key, %error, "a cached blob cannot be dropped"),
                }
            }
            drop(state);
            self.inner.free(freed);
        }
        let after = self.stats();
        let count = |stats: &CacheStats| stats.cached_blobs + stats.partial_blobs;
        let bytes = |stats: &CacheStats| stats.cached_bytes + stats.block_bytes;
        (count(&before).saturating_sub(count(&after)), bytes(&before).saturating_sub(bytes(&after)))
    }

    /// Where the whole blob is, for a read of it: notes the use, and counts a hit or a miss.
    pub fn lookup(&self, key: BlobKey) -> Option<Blob> {
        let mut state = self.inner.lock();
        let (tenant, bytes) = self.inner.touch(&mut state, key)?;
        Some(Blob { tenant, path: self.inner.directory.path(tenant, key), bytes })
    }

    /// Whose the whole blob is, for decisions: leaves recency and counters alone.
    pub fn tenant(&self, key: BlobKey) -> Option<Tenant> {
        self.inner.lock().ledger.find(key).map(|(tenant, _)| tenant)
    }

    /// Opens the whole blob, `None` if it is not here, or not to be trusted before [`BlobCache::get_or_fetch`] or
    /// [`BlobCache::open_checked`]. Notes the use, and counts a hit or a miss. The file stays good when the blob is evicted
    /// or removed. [`CacheError::Immutable`] for writing to a cached one.
    pub fn open_file(&self, key: BlobKey, write: bool) -> Result<Option<File>, CacheError> {
        let mut state = self.inner.lock();
        self.inner.touch(&mut state, key);
        self.inner.open_found(&mut state, key, write)
    }

    /// Like [`BlobCache::open_file`] for reading, but checks a blob first that an earlier process has left: reads all of it
    /// once, on a thread for that. `None` if it is not here or was wrong; a wrong one is gone then.
    pub async fn open_checked(
        &self,
        key: BlobKey,
        bytes: u64,
        expected_crc32c: Option<u32>,
    ) -> Result<Option<File>, CacheError> {
        if let Some(file) = self.open_quietly(key)? {
            return Ok(Some(file));
        }
        let check = async || self.check(key, bytes, expected_crc32c).await?.ok_or(CacheError::NoBlob { key });
        if !self.inner.lock().ledger.is_unchecked(key) {
            return Ok(None);
        }
        match self.inner.flights.fly(key, || self.open_quietly(key), check).await {
            Ok(file) => Ok(Some(file)),
            Err(CacheError::NoBlob { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reserves room for a cached blob of exactly `bytes`, evicting others, and gives the place to write it.
    /// [`CacheError::NoRoom`] if it cannot fit, [`CacheError::Sick`] if the disk is out of use.
    pub fn fill(&self, key: BlobKey, bytes: u64) -> Result<Fill, CacheError> {
        self.start_fill(key, Tenant::Cached, bytes)
    }

    /// [`BlobCache::fill`] that evicts nothing: [`CacheError::NoRoom`] if it would have to.
    pub fn fill_free(&self, key: BlobKey, bytes: u64) -> Result<Fill, CacheError> {
        if !self.inner.health.is_usable() {
            return Err(CacheError::Sick);
        }
        if !self.inner.lock().ledger.reserve_free(bytes) {
            return Err(CacheError::NoRoom { bytes });
        }
        Fill::start(Arc::clone(&self.inner), key, Tenant::Cached, bytes)
    }

    /// Like [`BlobCache::fill`] for a staged blob that arrives from elsewhere, a peer for example: it is durable when
    /// [`Fill::complete`] returns. [`CacheError::Full`] if it cannot fit.
    pub fn fill_staged(&self, key: BlobKey, bytes: u64) -> Result<Fill, CacheError> {
        self.start_fill(key, Tenant::Staged, bytes)
    }

    /// Opens the blob, fetching it into the cache first if it is not here. Of many concurrent callers for one key, one
    /// runs its `fetch`, which writes all `bytes` into the [`Fill`] and gives it back; the others wait and share the
    /// outcome, also an error. If that one caller goes away, another takes over. [`CacheError::NoRoom`] and
    /// [`CacheError::Sick`]: read past the cache. The fetch's own error comes as [`CacheError::Fetch`].
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
        if let Some(file) = self.open_quietly(key)? {
            return Ok(file);
        }
        let fetch_once = async || {
            if let Some(file) = self.check(key, bytes, expected_crc32c).await? {
                return Ok(file);
            }
            let filled = fetch(self.fill(key, bytes)?).await;
            let filled = filled.map_err(|error| CacheError::Fetch { key, source: Arc::from(error.into()) })?;
            filled.complete(expected_crc32c)
        };
        let flown = self.inner.flights.fly(key, || self.open_quietly(key), fetch_once);
        flown.await
    }

    /// A reader of a blob of which only some blocks, or none, need be here; `fetch` gives it the others. What it fetches is
    /// cached, up to the whole blob, whose checksum is compared then.
    pub fn open_ranged(&self, key: BlobKey, bytes: u64, expected_crc32c: u32, fetch: FetchRange) -> RangedReader {
        RangedReader::new(Arc::clone(&self.inner), key, bytes, expected_crc32c, fetch)
    }

    /// Has `gone` told of every whole blob that is evicted or removed, before its bytes are given back to the disk: who keeps
    /// files open beyond a read lets go of them there. Called without a lock, from any thread. The first listener stays.
    pub fn on_gone(&self, gone: impl Fn(BlobKey) + Send + Sync + 'static) {
        if self.inner.gone.set(Box::new(gone)).is_err() {
            tracing::error!("a cache has one listener; the second is not told");
        }
    }

    /// Notes a read of a whole blob whose file the caller has open already, and counts a hit. False, and nothing is counted, if
    /// it is not here or not to be trusted: then the file is not to be used.
    pub fn note_use(&self, key: BlobKey) -> bool {
        let mut state = self.inner.lock();
        let is_here = match state.ledger.find(key) {
            Some((Tenant::Staged, _)) => true,
            Some((Tenant::Cached, _)) => !self.inner.health.is_sick() && !state.ledger.is_unchecked(key),
            None => false,
        };
        if is_here {
            self.inner.touch(&mut state, key);
        }
        is_here
    }

    /// All staged blobs, in no order.
    pub fn staged_keys(&self) -> Vec<BlobKey> {
        self.inner.lock().ledger.staged_keys()
    }

    pub fn stats(&self) -> CacheStats {
        self.inner.stats(&self.inner.lock())
    }

    /// Whether the disk is out of use as a read cache.
    pub fn is_sick(&self) -> bool {
        self.inner.health.is_sick()
    }

    /// Tries the disk with a small write and read, and takes it out of use, or in again. Blocks for as long as the disk needs.
    pub fn probe(&self) -> bool {
        self.inner.health.probe()
    }

    /// Opens without counting; a waiter's look after somebody else's fetch.
    fn open_quietly(&self, key: BlobKey) -> Result<Option<File>, CacheError> {
        self.inner.open_found(&mut self.inner.lock(), key, false)
    }

    /// Checks a blob that an earlier process has left. `None` if there is no such, or it was wrong; then it is gone.
    async fn check(&self, key: BlobKey, bytes: u64, expected_crc32c: Option<u32>) -> Result<Option<File>, CacheError> {
        if !self.inner.lock().ledger.is_unchecked(key) {
            return Ok(None);
        }
        let this = self.clone();
        let checked = tokio::task::spawn_blocking(move || this.check_now(key, bytes, expected_crc32c)).await;
        checked.expect("checking does not panic")
    }

    fn check_now(&self, key: BlobKey, bytes: u64, expected_crc32c: Option<u32>) -> Result<Option<File>, CacheError> {
        let path = self.inner.directory.path(Tenant::Cached, key);
        let looked = File::open(&path).and_then(|file| Ok((durable::length_and_crc32c(&file)?, file)));
        let is_right = match &looked {
            Ok(((length, found), _)) => match expected_crc32c {
                Some(expected) if (*length, *found) == (bytes, expected) => true,
                Some(expected) => {
                    self.inner.count_checksum_failure(key, expected, *found, "the cache after a restart");
                    false
                }
                // Nothing to compare it with: not to be trusted.
                None => false,
            },
            Err(error) => {
                self.inner.health.report("read", &path, error);
                false
            }
        };
        if !is_right {
            self.remove_cached(key)?;
            return Ok(None);
        }
        self.inner.lock().ledger.set_checked(key);
        Ok(looked.ok().map(|(_, file)| file))
    }

    fn remove_cached(&self, key: BlobKey) -> Result<(), CacheError> {
        let mut state = self.inner.lock();
        if !matches!(state.ledger.find(key), Some((Tenant::Cached, _))) {
            return Ok(());
        }
        let taken = self.inner.take_whole(&mut state, key, Tenant::Cached);
        drop(state);
        self.inner.free(taken?);
        Ok(())
    }

    fn start_fill(&self, key: BlobKey, tenant: Tenant, bytes: u64) -> Result<Fill, CacheError> {
        if tenant == Tenant::Cached && !self.inner.health.is_usable() {
            return Err(CacheError::Sick);
        }
        let mut state = self.inner.lock();
        let Some(evicted) = state.ledger.reserve(tenant, bytes) else {
            return Err(match tenant {
                Tenant::Staged => full(&state.ledger),
                Tenant::Cached => CacheError::NoRoom { bytes },
            });
        };
        let freed = self.inner.take_off(&mut state, evicted);
        drop(state);
        self.inner.free(freed);
        Fill::start(Arc::clone(&self.inner), key, tenant, bytes)
    }
}

impl std::fmt::Debug for BlobCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BlobCache").field(&self.stats()).finish()
    }
}

fn expect_staged(ledger: &Ledger, key: BlobKey) -> Result<(), CacheError> {
    match ledger.find(key) {
        Some((Tenant::Staged, _)) => Ok(()),
        Some((Tenant::Cached, _)) | None => Err(CacheError::NoBlob { key }),
    }
}

fn full(ledger: &Ledger) -> CacheError {
    CacheError::Full { staged_bytes: ledger.staged().1, budget_bytes: ledger.budget_bytes() }
}
