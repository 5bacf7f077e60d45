//! A store in one file of this machine, for one process: redb, synced at every commit.
//!
//! Beside the file lies `FILE.lock`, locked while the process lives: it makes a second process fail with a clear word, and a
//! crash leaves nothing to clean up.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::entry::Write;
use crate::store::memory::MemoryStore;
use crate::store::{KeyValue, Leadership, Store, StoreError};

const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");

pub struct EmbeddedStore {
    database: Arc<Database>,
    path: PathBuf,
    /// Leadership among this process's own handles; the lock keeps other processes out.
    leadership: MemoryStore,
    _lock: File,
}

impl EmbeddedStore {
    /// Makes the file and its directory if they are not there.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let cannot = |what: &str, error: &dyn std::fmt::Display| {
            StoreError::Open(format!("the store {} cannot be {what}: {error}", path.display()))
        };
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(|e| cannot("made", &e))?;
        }
        let lock_path = path.with_added_extension("lock");
        let mut options = OpenOptions::new();
        let lock =
            options.create(true).truncate(false).write(true).open(&lock_path).map_err(|e| cannot("locked", &e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Open(format!(
                    "the store {} is in use by another process: stop that one first, or name another file",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(cannot("locked", &error)),
        }
        let database = Database::create(path).map_err(|e| cannot("opened", &e))?;
        let store =
            Self { database: Arc::new(database), path: path.to_owned(), leadership: MemoryStore::new(), _lock: lock };
        write_all(&store.database, Vec::new()).map_err(|e| cannot("opened", &e))?;
        Ok(store)
    }

    /// For tests: as if another process had taken over.
    pub fn depose(&self) {
        self.leadership.depose();
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn range(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let (database, prefix) = (Arc::clone(&self.database), prefix.to_vec());
        blocking(move || read_while(&database, &prefix, |key| key.starts_with(&prefix))).await
    }

    async fn range_between(&self, from: &[u8], to: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let (database, from, to) = (Arc::clone(&self.database), from.to_vec(), to.to_vec());
        blocking(move || read_while(&database, &from, |key| to.is_empty() || key < to.as_slice())).await
    }

    async fn acquire_leadership(&self, candidate: &str, ttl: Duration) -> Result<Leadership, StoreError> {
        self.leadership.acquire_leadership(candidate, ttl).await
    }

    async fn commit(&self, leadership: &Leadership, writes: Vec<Write>) -> Result<(), StoreError> {
        self.leadership.settle(leadership).await?;
        let database = Arc::clone(&self.database);
        blocking(move || write_all(&database, writes)).await
    }

    /// A commit has ended when its call has: nothing can be late.
    async fn settle(&self, leadership: &Leadership) -> Result<(), StoreError> {
        self.leadership.settle(leadership).await
    }

    fn describe(&self) -> String {
        format!("embedded:{}", self.path.display())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, redb::Error> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| StoreError::Unavailable(error.to_string())),
        Err(panicked) => Err(StoreError::Unavailable(panicked.to_string())),
    }
}

fn write_all(database: &Database, writes: Vec<Write>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        for write in &writes {
            match write {
                Write::Put { key, value } => drop(records.insert(key.as_slice(), value.as_slice())?),
                Write::Delete { key } => drop(records.remove(key.as_slice())?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn read_while(database: &Database, from: &[u8], goes_on: impl Fn(&[u8]) -> bool) -> Result<Vec<KeyValue>, redb::Error> {
    let records = database.begin_read()?.open_table(RECORDS)?;
    let mut found = Vec::new();
    for record in records.range(from..)? {
        let (key, value) = record?;
        if !goes_on(key.value()) {
            break;
        }
        found.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(found)
}
