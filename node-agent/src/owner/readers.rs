//! Read-only tables that do not see yet what their directory shows.
//!
//! Parts that have come are found by a look at the directory (`SYSTEM RESTART DISK`). A part that has gone, or is another one under
//! its name, the engine notices only when it attaches a table: so a second table is attached over the directory, exchanged with the
//! first, which takes no time, and the first one dropped. Statements that run on it keep it until they end, and no
//! statement finds the table missing. (Dropping a table of a read-only disk removes nothing but its definition.)

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;
use moorhouse_catalog::{Table, TableId, TableShard};
use moorhouse_engine::{SqlClient, SqlError};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::pass::run;
use super::wanted::Wanted;
use super::{EngineOwner, Present};
use crate::fs::stale::Look;
use crate::fs::{Role, ShardFs};
use crate::tables::{self, ReaderDirectory};
use crate::{limits, metrics};

/// A round of refreshes that is under way: beside the owner, because moves wait for that one.
pub(super) struct Refreshing {
    ended: oneshot::Receiver<Vec<Refreshed>>,
    /// Tables that it attaches.
    afresh: HashSet<TableShard>,
}

/// What came of one reader.
pub(super) struct Refreshed {
    shard: TableShard,
    look: Look,
    /// The generation that the engine has now.
    outcome: Result<u32, SqlError>,
}

/// One reader that is to look again.
struct Reader {
    table: Table,
    shard: TableShard,
    look: Look,
    /// Attached now.
    generation: u32,
}

impl EngineOwner {
    /// Refreshes all readers that are due and attached; one that is not will see everything when it is.
    pub(super) fn begin_refresh(
        &self,
        due: HashMap<TableShard, Look>,
        sql: &SqlClient,
        present: &mut Present,
        wanted: &Wanted,
    ) {
        let by_id: HashMap<TableId, &Table> = wanted.view.tables.iter().map(|t| (t.id, t)).collect();
        let reader = |(shard, look): (TableShard, Look)| {
            let attached = present.attached.get(&shard).filter(|attached| attached.role == Role::Reader)?;
            let table = (*by_id.get(&shard.table)?).clone();
            Some(Reader { table, shard, look, generation: attached.generation })
        };
        let readers: Vec<Reader> = due.into_iter().filter_map(reader).collect();
        let afresh = readers.iter().filter(|reader| reader.look == Look::Afresh).map(|reader| reader.shard).collect();
        let (done, ended) = oneshot::channel();
        present.refreshing = Some(Refreshing { ended, afresh });
        let (sql, fs) = (sql.clone(), Arc::clone(&self.fs));
        let mount = self.mount.to_string_lossy().into_owned();
        self.tasks.spawn("refresh", async move {
            let runs = readers.into_iter().map(|reader| {
                let (sql, fs, mount) = (&sql, &fs, mount.as_str());
                async move {
                    let outcome = match reader.look {
                        Look::Again => look_again(sql, &reader).await,
                        Look::Afresh => look_afresh(sql, fs, mount, &reader).await,
                    };
                    Refreshed { shard: reader.shard, look: reader.look, outcome }
                }
            });
            let refreshed = futures::stream::iter(runs).buffer_unordered(limits::PARALLEL_STATEMENTS).collect().await;
            // Nobody waits for it if the engine has ended meanwhile.
            let _ = done.send(refreshed);
        });
    }

    /// Notes which generations the engine has now; what failed waits for the next pass.
    pub(super) fn take_refreshed(&self, refreshed: Vec<Refreshed>, present: &mut Present) {
        present.refreshing = None;
        for Refreshed { shard, look, outcome } in refreshed {
            match outcome {
                Ok(generation) => {
                    if let Some(attached) = present.attached.get_mut(&shard) {
                        attached.generation = generation;
                    }
                }
                Err(error) => {
                    tracing::warn!(%shard, ?look, %error, "a reader does not see all changes yet: it will be tried again");
                    present.late.entry(shard).and_modify(|known| *known = look.max(*known)).or_insert(look);
                }
            }
        }
    }

    /// Waits for the round that is under way if it attaches one of these: not over a directory that is about to go.
    pub(super) async fn end_attaches(&self, goes: impl Fn(&TableShard) -> bool, present: &mut Present) {
        if present.refreshing.as_ref().is_some_and(|round| round.afresh.iter().any(goes)) {
            let refreshed = ended(&mut present.refreshing).await;
            self.take_refreshed(refreshed, present);
        }
    }
}

/// Resolves when the round that is under way has ended; never if none is.
pub(super) async fn ended(refreshing: &mut Option<Refreshing>) -> Vec<Refreshed> {
    match refreshing {
        // An error: the task was cancelled, because the agent stops.
        Some(round) => (&mut round.ended).await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

async fn look_again(sql: &SqlClient, reader: &Reader) -> Result<u32, SqlError> {
    metrics::READER_REFRESHES.inc();
    run(sql, &tables::refresh_reader(&reader.table, reader.shard.shard, reader.generation)).await?;
    Ok(reader.generation)
}

async fn look_afresh(sql: &SqlClient, fs: &ShardFs, mount: &str, reader: &Reader) -> Result<u32, SqlError> {
    metrics::READER_REATTACHES.inc();
    let (table, shard) = (&reader.table, reader.shard.shard);
    let (generation, path) = fs.generation(reader.shard);
    let next = format!("{}_{}", table.physical, Uuid::new_v4().simple());
    let directory = ReaderDirectory { generation, path: &format!("{mount}/{path}/") };
    run(sql, &tables::attach_reader(table, shard, &next, directory)).await?;
    let exchanged = run(sql, &tables::exchange(shard, &table.physical, &next)).await;
    if exchanged.is_ok() {
        fs.generation_attached(reader.shard, generation);
    }
    // Of the two, the one that is not the reader's any more, also if the answer to the exchange was lost.
    if let Err(error) = run(sql, &tables::drop_reader(shard, &next)).await {
        tracing::warn!(shard = %reader.shard, table = next, %error, "a superseded table stays until the engine's next start");
    }
    exchanged.map(|()| generation)
}
