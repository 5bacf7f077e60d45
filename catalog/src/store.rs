//! Where the catalog's records are durable.
//!
//! One leader writes. Every transaction is atomic, whatever its size, and proves the leadership under which it is made: a
//! deposed leader gets [`StoreError::Deposed`] and must end. Implementations: [`memory`] (tests), [`embedded`] (one process,
//! one file), [`etcd`] (production). One conformance suite runs against all three.

pub mod embedded;
pub mod etcd;
pub mod memory;
mod url;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::entry::Write;
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
    /// Ends the keep-alive when the leadership is dropped.
    _release: tokio_util::sync::DropGuard,
}

impl Leadership {
    /// For stores: `lost` is cancelled by the store, `release` when the leader lets go.
    pub fn new(term: u64, lost: CancellationToken, release: CancellationToken) -> Self {
        Self { term, lost, _release: release.drop_guard() }
    }

    /// Resolves once the leadership is lost. The next commit would say so too.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    pub fn term(&self) -> u64 {
        self.term
    }
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Every record whose key begins with `prefix`, sorted by key, as of one moment.
    async fn range(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError>;

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

/// Opens the store that a URL names. Makes sure that it answers.
pub async fn open(url: &StoreUrl) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match url {
        StoreUrl::Memory => Arc::new(memory::MemoryStore::new()),
        StoreUrl::Embedded(path) => Arc::new(embedded::EmbeddedStore::open(path)?),
        StoreUrl::Etcd { endpoints, prefix } => Arc::new(etcd::EtcdStore::connect(endpoints, prefix).await?),
    })
}
