//! Where the catalog's records are durable.
//!
//! One leader writes. Every transaction is atomic, whatever its size, and proves the leadership under which it is made: a
//! deposed leader gets [`StoreError::Deposed`] and must end. Implementations: [`memory`] (tests), [`embedded`] (one process,
//! one file), [`etcd`] (production). One conformance suite runs against all three.

pub mod access;
pub mod embedded;
pub mod etcd;
pub mod memory;
mod url;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::entry::Write;
pub use access::StoreAccess;
pub use url::{InvalidStoreUrl, StoreUrl};

/// Why a store did not do it; variants by what the caller should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else leads: stop writing, for good.
    #[error("this process is not the leader of the store any more")]
    Deposed,
    /// A commit may or may not have happened: [`Store::settle`], then load again.
    #[error("the store did not answer: {0}")]
    Unavailable(String),
    /// Nothing has happened: the store has no room for it. The text says what to do; reading goes on.
    #[error("the store is full: {0}")]
    Full(String),
    /// Nothing has happened, and repeating it will not help.
    #[error("the store refuses the transaction: {0}")]
    Refused(String),
    /// The store cannot be opened; the text says what to do.
    #[error("{0}")]
    Open(String),
}

/// A stored record as it lies there.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// The right to write, for as long as it lasts.
#[derive(Debug)]
pub struct Leadership {
    /// Which term this is; what the store compares.
    term: u64,
    lost: CancellationToken,
    lasts: LeaseClock,
    /// Ends the keep-alive when the leadership is dropped.
    release: tokio_util::sync::DropGuard,
}

impl Leadership {
    /// For stores: `lost` is cancelled by the store, `release` when the leader lets go.
    pub fn new(term: u64, lost: CancellationToken, release: CancellationToken) -> Self {
        Self { term, lost, lasts: LeaseClock::default(), release: release.drop_guard() }
    }

    /// Resolves once the leadership is lost. The next commit would say so too.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// With a lease that ends by itself.
    pub fn lasting(self, lasts: LeaseClock) -> Self {
        Self { lasts, ..self }
    }

    /// False once another may lead, by this process's own clock: also when it was stopped and has just woken, and nothing
    /// else has told it yet. What is read from its memory may be old then.
    pub fn is_certain(&self) -> bool {
        !self.lost.is_cancelled() && self.lasts.is_running()
    }

    /// Without letting go: whoever has the lease keeps it.
    pub(crate) fn keep(self) {
        self.release.disarm();
    }

    pub fn term(&self) -> u64 {
        self.term
    }
}

/// Until when a lease lasts at least, by the clock of the process that has it, which goes on while the process is stopped.
/// Clones are one clock.
#[derive(Debug, Clone, Default)]
pub struct LeaseClock(Arc<Mutex<Option<Instant>>>);

impl LeaseClock {
    /// `asked`: from when on the lease lasts; before the request was sent that the store has answered.
    pub fn renewed(&self, asked: Instant, ttl: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked + ttl);
    }

    /// Also of a lease that never ends by itself.
    fn is_running(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|end| Instant::now() < end)
    }
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Every record whose key begins with `prefix`, sorted by key, as of one moment.
    async fn range(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError>;

    /// The same of keys from `from` on and before `to`; an empty `to` is the end.
    async fn range_between(&self, from: &[u8], to: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let mut all = self.range(b"").await?;
        all.retain(|(key, _)| key.as_slice() >= from && (to.is_empty() || key.as_slice() < to));
        Ok(all)
    }

    /// Waits until this process leads. The store keeps the leadership alive until it is dropped; if the process dies,
    /// another may lead after `ttl`.
    async fn acquire_leadership(&self, candidate: &str, ttl: Duration) -> Result<Leadership, StoreError>;

    /// All of `writes`, durable, or none. After [`StoreError::Unavailable`] it is unknown which.
    async fn commit(&self, leadership: &Leadership, writes: Vec<Write>) -> Result<(), StoreError>;

    /// Once this returns, no commit of before can still take effect. Called after a commit of unknown outcome, before
    /// the state is loaded again.
    async fn settle(&self, leadership: &Leadership) -> Result<(), StoreError>;

    /// Gives the leadership back, so that the next leader need not wait for the lease to end.
    async fn resign(&self, leadership: Leadership) {
        drop(leadership);
    }

    /// What the leader called itself when it was a candidate; `None` if nobody leads, or the store does not tell.
    async fn leader(&self) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    /// For people, without secrets.
    fn describe(&self) -> String;
}

/// The first key after all that begin with `prefix`, which must not end in 0xff.
pub fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Opens a store that asks for nothing: see [`open_with`].
pub async fn open(url: &StoreUrl) -> Result<Arc<dyn Store>, StoreError> {
    open_with(url, &StoreAccess::default()).await
}

/// Opens the store that a URL names, with what it asks for. Makes sure that it answers.
pub async fn open_with(url: &StoreUrl, access: &StoreAccess) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match url {
        StoreUrl::Memory => Arc::new(memory::MemoryStore::new()),
        StoreUrl::Embedded(path) => Arc::new(embedded::EmbeddedStore::open(path)?),
        StoreUrl::Etcd { endpoints, prefix } => {
            Arc::new(etcd::EtcdStore::connect_with(endpoints, prefix, access).await?)
        }
    })
}
