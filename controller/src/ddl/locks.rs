//! Turns of DDL tasks: in order on one table, and databases not under their tables' feet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use moorhouse_catalog::{DdlStatement, SqlName};
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

type Database = tokio::sync::RwLock<()>;
type Table = tokio::sync::Mutex<()>;

#[derive(Default)]
pub struct Locks {
    databases: Mutex<HashMap<SqlName, Weak<Database>>>,
    tables: Mutex<HashMap<(SqlName, SqlName), Weak<Table>>>,
}

/// What a statement has to wait for.
pub enum Lock {
    Database(Arc<Database>),
    /// The order: database, then table.
    Table(Arc<Database>, Arc<Table>),
}

/// Held while a statement runs.
pub enum Turn {
    Database { _exclusive: OwnedRwLockWriteGuard<()> },
    Table { _shared: OwnedRwLockReadGuard<()>, _table: OwnedMutexGuard<()> },
}

impl Locks {
    pub fn of(&self, statement: &DdlStatement) -> Lock {
        match statement {
            DdlStatement::CreateDatabase { database, .. } | DdlStatement::DropDatabase { database, .. } => {
                Lock::Database(take(&self.databases, database.clone()))
            }
            DdlStatement::CreateTable { database, name, .. } | DdlStatement::DropTable { database, name, .. } => {
                let table = take(&self.tables, (database.clone(), name.clone()));
                Lock::Table(take(&self.databases, database.clone()), table)
            }
        }
    }
}

impl Lock {
    /// Waits; first come, first served.
    pub async fn turn(self) -> Turn {
        match self {
            Self::Database(database) => Turn::Database { _exclusive: database.write_owned().await },
            Self::Table(database, table) => {
                let shared = database.read_owned().await;
                Turn::Table { _shared: shared, _table: table.lock_owned().await }
            }
        }
    }
}

fn take<K: std::hash::Hash + Eq, L: Default>(locks: &Mutex<HashMap<K, Weak<L>>>, key: K) -> Arc<L> {
    let mut locks = locks.lock().unwrap_or_else(PoisonError::into_inner);
    locks.retain(|_, lock| lock.strong_count() > 0);
    if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
        return lock;
    }
    let lock = Arc::new(L::default());
    locks.insert(key, Arc::downgrade(&lock));
    lock
}
