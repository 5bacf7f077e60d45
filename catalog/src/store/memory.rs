//! A store for tests: nothing is durable, and it fails when told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::entry::Write;
use crate::store::{KeyValue, Leadership, Store, StoreError};

/// What happens to a commit that [`MemoryStore::fail_next`] spoils.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It does not happen, and the caller is not told so.
    Lost,
    /// It happens, and the caller is not told so.
    Unanswered,
}

/// Clones share the records: a second "process" opens a clone.
#[derive(Clone, Default)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    term: u64,
    /// The leader's two ends: told by us, told to us.
    leader: Option<(CancellationToken, CancellationToken)>,
    failure: Option<Failure>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    /// Spoils the next commit.
    pub fn fail_next(&self, failure: Failure) {
        self.lock().failure = Some(failure);
    }

    /// Takes the leadership away from whoever has it.
    pub fn depose(&self) {
        let mut shared = self.lock();
        shared.term += 1;
        if let Some((lost, _)) = shared.leader.take() {
            lost.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn range(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let shared = self.lock();
        let from = shared.records.range(prefix.to_vec()..);
        Ok(from.take_while(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    async fn range_between(&self, from: &[u8], to: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let shared = self.lock();
        let found = shared.records.range(from.to_vec()..).take_while(|(key, _)| to.is_empty() || key.as_slice() < to);
        Ok(found.map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    async fn acquire_leadership(&self, _candidate: &str, _ttl: Duration) -> Result<Leadership, StoreError> {
        loop {
            let released = {
                let mut shared = self.lock();
                match &shared.leader {
                    Some((_, release)) if !release.is_cancelled() => release.clone(),
                    _ => {
                        let (lost, release) = (CancellationToken::new(), CancellationToken::new());
                        shared.term += 1;
                        shared.leader = Some((lost.clone(), release.clone()));
                        return Ok(Leadership::new(shared.term, lost, release));
                    }
                }
            };
            released.cancelled().await;
        }
    }

    async fn commit(&self, leadership: &Leadership, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut shared = self.lock();
        if shared.term != leadership.term() {
            return Err(StoreError::Deposed);
        }
        let failure = shared.failure.take();
        if failure != Some(Failure::Lost) {
            for write in writes {
                match write {
                    Write::Put { key, value } => drop(shared.records.insert(key, value)),
                    Write::Delete { key } => drop(shared.records.remove(&key)),
                }
            }
        }
        match failure {
            None => Ok(()),
            Some(failure) => Err(StoreError::Unavailable(format!("told to fail: {failure:?}"))),
        }
    }

    async fn settle(&self, leadership: &Leadership) -> Result<(), StoreError> {
        if self.lock().term == leadership.term() { Ok(()) } else { Err(StoreError::Deposed) }
    }

    fn describe(&self) -> String {
        "memory:".to_owned()
    }
}
