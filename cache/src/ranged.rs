//! [`RangedReader`]: reads a blob that is not here as a whole, fetching the blocks that are missing.
//!
//! A missing block is asked for once, however many read it: whoever comes later waits for the same request. A request runs in
//! a task of its own, so it ends in the cache even if its reader has gone. When the last block has come, the blob is checked
//! and becomes a whole one; who opens it then gets its file.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::ahead::ReadAhead;
use crate::cache::Tenant;
use crate::error::CacheError;
use crate::inner::{Freed, Inner, State};
use crate::key::BlobKey;
use crate::limits::{BLOCK_BYTES, FETCH_BYTES, FETCHES_FOR_READS, READ_TRIES};
use crate::partial::{Flight, Found, Landing, PartialFile, blocks_of, span};

const FETCH_BLOCKS: u32 = (FETCH_BYTES / BLOCK_BYTES) as u32;

type FetchError = Box<dyn std::error::Error + Send + Sync>;
/// Gives exactly the bytes of a range of the blob, from where it is kept for good.
pub type FetchRange =
    Arc<dyn Fn(Range<u64>) -> Pin<Box<dyn Future<Output = Result<Bytes, FetchError>> + Send>> + Send + Sync>;

/// One open blob. Reads may come from any number of tasks of a tokio runtime.
pub struct RangedReader {
    inner: Arc<Inner>,
    key: BlobKey,
    bytes: u64,
    expected_crc32c: u32,
    fetch: FetchRange,
    ahead: Mutex<ReadAhead>,
    /// Keeps the file open between reads.
    held: Mutex<Option<Arc<PartialFile>>>,
    /// What was read past the cache last: the next read is often beside it.
    past: Mutex<Option<(u64, Bytes)>>,
}

/// How one read is to be served.
enum Plan {
    /// All of it is on the disk.
    Disk(Arc<PartialFile>, Presence),
    /// Some of it is on its way: `Some` for blocks that are, `None` for those on the disk.
    Mixed(Arc<PartialFile>, Presence, Vec<(Range<u64>, Option<Flight>)>),
    Past,
}

/// What must still be so after the disk was read, or the bytes may be those of a hole.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Presence {
    life: u64,
    departures: u64,
}

/// Blocks that this process has asked for. Dropped without landing, it gives them up.
struct Claim {
    inner: Arc<Inner>,
    key: BlobKey,
    life: u64,
    blocks: Range<u32>,
    range: Range<u64>,
    file: Arc<PartialFile>,
    expected_crc32c: u32,
    landing: watch::Sender<Landing>,
    is_settled: bool,
}

impl RangedReader {
    pub(crate) fn new(inner: Arc<Inner>, key: BlobKey, bytes: u64, expected_crc32c: u32, fetch: FetchRange) -> Self {
        let (ahead, held, past) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { inner, key, bytes, expected_crc32c, fetch, ahead, held, past }
    }

    /// The blob's length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads `len` bytes at `offset`, fewer only at the blob's end. The store's error comes as [`CacheError::Fetch`]; an
    /// error of the local disk is none here: the bytes then come from the store.
    pub async fn read(&self, offset: u64, len: u64) -> Result<Bytes, CacheError> {
        let range = offset.min(self.bytes)..offset.saturating_add(len).min(self.bytes);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut ahead = lock(&self.ahead).note(&range, self.bytes);
        for attempt in 0..READ_TRIES {
            let (plan, claims, freed) = self.plan(&range, &ahead, attempt == 0);
            self.inner.free(freed);
            for (claim, permit) in claims {
                self.start(claim, permit);
            }
            ahead = range.end..range.end;
            let read = match plan {
                Plan::Past => break,
                Plan::Disk(file, presence) => self.read_disk(&file, &range, presence),
                Plan::Mixed(file, presence, pieces) => self.gather(&file, presence, pieces, &range).await?,
            };
            if let Some(bytes) = read {
                return Ok(bytes);
            }
        }
        self.read_past(range).await
    }

    /// Decides under the lock; what it claims is already reserved, and what it evicts must be freed before it is written.
    fn plan(
        &self,
        range: &Range<u64>,
        ahead: &Range<u64>,
        is_first: bool,
    ) -> (Plan, Vec<(Claim, Option<OwnedSemaphorePermit>)>, Freed) {
        let (mut claims, mut freed) = (Vec::new(), Freed::default());
        if let Some(file) = lock(&self.held).clone().filter(|file| file.is_whole()) {
            self.inner.count_read(&mut self.inner.lock(), true);
            return (Plan::Disk(file, Presence { life: 0, departures: 0 }), claims, freed);
        }
        let is_usable = self.inner.health.is_usable();
        let mut state = self.inner.lock();
        let plan = match self.file(&mut state, is_usable) {
            None => Plan::Past,
            Some(file) if file.is_whole() => Plan::Disk(file, Presence { life: 0, departures: 0 }),
            Some(file) => {
                let plan = self.plan_blocks(&mut state, &file, range, &mut claims, &mut freed);
                if !matches!(plan, Plan::Past) {
                    self.plan_ahead(&mut state, &file, ahead, &mut claims, &mut freed);
                }
                plan
            }
        };
        if is_first {
            self.inner.count_read(&mut state, matches!(plan, Plan::Disk(..)));
        }
        (plan, claims, freed)
    }

    /// The file to read and fill, begun if need be; `None` to read past the cache.
    fn file(&self, state: &mut State, is_usable: bool) -> Option<Arc<PartialFile>> {
        if !is_usable {
            return None;
        }
        let opened = if state.ledger.find(self.key).is_some() {
            // It came as a whole meanwhile; unless nobody has checked it.
            match self.inner.open_found(state, self.key, false) {
                Ok(Some(file)) => Ok(Arc::new(PartialFile::whole(file))),
                Ok(None) | Err(_) => return None,
            }
        } else if let Some(partial) = state.partials.get_mut(self.key) {
            partial.open()
        } else {
            state.partials.begin(self.key, self.bytes, self.inner.directory.partial_path(self.key))
        };
        match opened {
            Ok(file) => {
                *lock(&self.held) = Some(file.clone());
                Some(file)
            }
            Err(error) => {
                self.inner.health.report("open a part of", &self.inner.directory.partial_path(self.key), &error);
                None
            }
        }
    }

    fn plan_blocks(
        &self,
        state: &mut State,
        file: &Arc<PartialFile>,
        range: &Range<u64>,
        claims: &mut Vec<(Claim, Option<OwnedSemaphorePermit>)>,
        freed: &mut Freed,
    ) -> Plan {
        let now_ms = self.inner.now_ms();
        let mut waits = false;
        let mut blocks = blocks_of(range);
        for block in blocks.clone() {
            let Some(partial) = state.partials.get_mut(self.key) else { return Plan::Past };
            match partial.find(block) {
                Found::Present => state.ledger.touch_block(self.key, block, now_ms),
                Found::Filling(_) => {
                    waits = true;
                    self.inner.count_coalesced();
                }
                Found::Leaving => return Plan::Past,
                Found::Absent => {}
            }
        }
        while let Some(run) = self.absent(state, blocks.clone()) {
            waits = true;
            blocks.start = run.end;
            match self.claim(state, file, run, freed) {
                Some(claim) => claims.push((claim, None)),
                None => return Plan::Past,
            }
        }
        let Some(partial) = state.partials.get_mut(self.key) else { return Plan::Past };
        let presence = Presence { life: partial.life(), departures: partial.departures() };
        if !waits {
            return Plan::Disk(file.clone(), presence);
        }
        let mut pieces = Vec::new();
        for block in blocks_of(range) {
            let bytes = span(&(block..block + 1), self.bytes);
            let bytes = bytes.start.max(range.start)..bytes.end.min(range.end);
            match partial.find(block) {
                Found::Present => pieces.push((bytes, None)),
                Found::Filling(flight) => pieces.push((bytes, Some(flight))),
                // Evicted for the claims above: there is too little room for this read.
                Found::Absent | Found::Leaving => return Plan::Past,
            }
        }
        Plan::Mixed(file.clone(), presence, pieces)
    }

    /// Claims what is absent of a read-ahead, as long as requests and room are to be had.
    fn plan_ahead(
        &self,
        state: &mut State,
        file: &Arc<PartialFile>,
        ahead: &Range<u64>,
        claims: &mut Vec<(Claim, Option<OwnedSemaphorePermit>)>,
        freed: &mut Freed,
    ) {
        if ahead.is_empty() {
            return;
        }
        let mut blocks = blocks_of(ahead);
        while let Some(run) = self.absent(state, blocks.clone()) {
            let free = self.inner.fetches.available_permits() > FETCHES_FOR_READS && !state.ledger.is_crowded();
            let permit = if free { Arc::clone(&self.inner.fetches).try_acquire_owned().ok() } else { None };
            let start = span(&run, self.bytes).start;
            blocks.start = run.end;
            let claim = permit.and_then(|permit| Some((self.claim(state, file, run, freed)?, Some(permit))));
            match claim {
                Some(claim) => claims.push(claim),
                None => return lock(&self.ahead).cut(start),
            }
        }
    }

    fn absent(&self, state: &mut State, blocks: Range<u32>) -> Option<Range<u32>> {
        state.partials.get_mut(self.key)?.absent_run(blocks, FETCH_BLOCKS)
    }

    fn claim(
        &self,
        state: &mut State,
        file: &Arc<PartialFile>,
        blocks: Range<u32>,
        freed: &mut Freed,
    ) -> Option<Claim> {
        if !state.partials.contains(self.key) {
            return None;
        }
        let range = span(&blocks, self.bytes);
        let evicted = state.ledger.reserve(Tenant::Cached, range.end - range.start)?;
        let (landing, flight) = watch::channel(Landing::Flying);
        let partial = state.partials.get_mut(self.key)?;
        partial.claim(&blocks, &flight);
        let life = partial.life();
        freed.absorb(self.inner.take_off(state, evicted));
        let (inner, file, expected_crc32c) = (self.inner.clone(), file.clone(), self.expected_crc32c);
        Some(Claim { inner, key: self.key, life, blocks, range, file, expected_crc32c, landing, is_settled: false })
    }

    fn start(&self, claim: Claim, permit: Option<OwnedSemaphorePermit>) {
        let (fetch, fetches) = (self.fetch.clone(), self.inner.fetches.clone());
        tokio::spawn(async move {
            let permit = match permit {
                Some(permit) => Ok(permit),
                None => fetches.acquire_owned().await,
            };
            let _permit = permit.expect("the semaphore is never closed");
            let fetched = fetch(claim.range.clone()).await;
            claim.settle(fetched);
        });
    }

    /// `None` if it has to be tried again.
    fn read_disk(&self, file: &PartialFile, range: &Range<u64>, presence: Presence) -> Option<Bytes> {
        match file.read(range) {
            Ok(bytes) if file.is_whole() || self.is_present(presence) => Some(bytes.into()),
            Ok(_) => None,
            Err(error) => {
                self.inner.health.report("read", &self.inner.directory.partial_path(self.key), &error);
                None
            }
        }
    }

    fn is_present(&self, presence: Presence) -> bool {
        let mut state = self.inner.lock();
        let partial = state.partials.living(self.key, presence.life);
        partial.is_some_and(|partial| partial.departures() == presence.departures)
    }

    /// Waits for what is on its way. `Ok(None)` if it has to be tried again.
    async fn gather(
        &self,
        file: &PartialFile,
        presence: Presence,
        pieces: Vec<(Range<u64>, Option<Flight>)>,
        range: &Range<u64>,
    ) -> Result<Option<Bytes>, CacheError> {
        let mut gathered = BytesMut::new();
        for (piece, flight) in pieces {
            let Some(mut flight) = flight else {
                let Some(bytes) = self.read_disk(file, &piece, presence) else { return Ok(None) };
                gathered.extend_from_slice(&bytes);
                continue;
            };
            let landing = flight.wait_for(|landing| !matches!(landing, Landing::Flying)).await;
            match landing.map(|landing| landing.clone()) {
                Ok(Landing::Landed(start, data)) => {
                    let slice = data.slice((piece.start - start) as usize..(piece.end - start) as usize);
                    if piece == *range {
                        return Ok(Some(slice));
                    }
                    gathered.extend_from_slice(&slice);
                }
                // Some block was wrong: all are dropped, and come again.
                Ok(Landing::Failed(CacheError::WrongChecksum { .. })) => return Ok(None),
                Ok(Landing::Failed(error)) => return Err(error),
                Ok(Landing::Flying) | Err(_) => return Ok(None),
            }
        }
        Ok(Some(gathered.freeze()))
    }

    async fn read_past(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        if let Some((start, data)) = lock(&self.past).clone()
            && start <= range.start
            && start + data.len() as u64 >= range.end
        {
            return Ok(data.slice((range.start - start) as usize..(range.end - start) as usize));
        }
        let wanted = range.start..range.end.max(range.start + BLOCK_BYTES).min(self.bytes);
        let _permit = self.inner.fetches.acquire().await.expect("the semaphore is never closed");
        let data = checked_length(self.key, &wanted, (self.fetch)(wanted.clone()).await)?;
        *lock(&self.past) = Some((wanted.start, data.clone()));
        Ok(data.slice(..(range.end - range.start) as usize))
    }
}

impl Claim {
    /// Puts what came into its place, and tells those who wait.
    fn settle(mut self, fetched: Result<Bytes, FetchError>) {
        let landing = match checked_length(self.key, &self.range, fetched) {
            Err(error) => Landing::Failed(error),
            Ok(data) => match self.file.write(&data, self.range.start) {
                Ok(()) => self.land(data),
                Err(error) => {
                    self.inner.health.report("write", &self.inner.directory.partial_path(self.key), &error);
                    Landing::Landed(self.range.start, data)
                }
            },
        };
        self.settle_blocks();
        // Nobody waiting is fine.
        let _ = self.landing.send(landing);
    }

    fn land(&mut self, data: Bytes) -> Landing {
        let crcs: Vec<u32> = data.chunks(BLOCK_BYTES as usize).map(crc32c::crc32c).collect();
        let now_ms = self.inner.now_ms();
        let mut state = self.inner.lock();
        self.is_settled = true;
        state.ledger.release(Tenant::Cached, self.range.end - self.range.start);
        let mut returns = 0;
        let Some(partial) = state.partials.living(self.key, self.life) else {
            return Landing::Landed(self.range.start, data);
        };
        for (block, crc32c) in self.blocks.clone().zip(&crcs) {
            partial.land(block, *crc32c);
        }
        let is_complete = partial.is_complete();
        for (block, chunk) in self.blocks.clone().zip(data.chunks(BLOCK_BYTES as usize)) {
            returns += u64::from(state.ledger.set_block(self.key, block, chunk.len() as u64, now_ms));
        }
        self.inner.count_fetched(data.len() as u64, returns > 0);
        let united = if is_complete { self.unite(&mut state) } else { Ok(Freed::default()) };
        let more = self.inner.evict_excess(&mut state);
        drop(state);
        self.inner.free(more);
        match united {
            Ok(freed) => {
                self.inner.free(freed);
                Landing::Landed(self.range.start, data)
            }
            Err((error, freed)) => {
                self.inner.free(*freed);
                Landing::Failed(error)
            }
        }
    }

    /// All blocks are here: a whole blob, if they are the right ones.
    fn unite(&self, state: &mut State) -> Result<Freed, (CacheError, Box<Freed>)> {
        let Some(partial) = state.partials.get_mut(self.key) else { return Ok(Freed::default()) };
        let (found, expected, bytes) = (partial.crc32c(), self.expected_crc32c, partial.bytes());
        if found != expected {
            self.inner.count_checksum_failure(self.key, expected, found, "the object store");
            let freed = self.inner.take_partial(state, self.key);
            return Err((CacheError::WrongChecksum { key: self.key, expected, found }, Box::new(freed)));
        }
        let to = self.inner.directory.path(Tenant::Cached, self.key);
        if let Err(error) = std::fs::rename(partial.path(), &to) {
            self.inner.health.report("rename", partial.path(), &error);
            return Ok(self.inner.take_partial(state, self.key));
        }
        partial.set_whole();
        state.partials.remove(self.key);
        state.ledger.unite(self.key, blocks_of(&(0..bytes)).end, bytes, self.inner.now_ms());
        Ok(Freed::default())
    }

    /// Gives blocks up that did not land.
    fn settle_blocks(&mut self) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let mut state = self.inner.lock();
        state.ledger.release(Tenant::Cached, self.range.end - self.range.start);
        let is_empty = state.partials.living(self.key, self.life).is_some_and(|partial| partial.give_up(&self.blocks));
        let freed = if is_empty { self.inner.take_partial(&mut state, self.key) } else { Freed::default() };
        drop(state);
        self.inner.free(freed);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.settle_blocks();
    }
}

fn checked_length(key: BlobKey, range: &Range<u64>, fetched: Result<Bytes, FetchError>) -> Result<Bytes, CacheError> {
    let data = fetched.map_err(|error| CacheError::Fetch { key, source: Arc::from(error) })?;
    let (expected, found) = (range.end - range.start, data.len() as u64);
    if found == expected { Ok(data) } else { Err(CacheError::WrongLength { key, expected, found }) }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Each holder makes one change, so a panicked one leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
