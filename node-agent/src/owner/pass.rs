//! One pass: the engine's databases and tables are brought in line with a view, statement by statement.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::StreamExt;
use moorhouse_catalog::{Epoch, NodeView, ShardId, Table, TableId, TableShard};
use moorhouse_engine::{SqlClient, SqlError};

use super::wanted::Wanted;
use super::{Attached, CLUSTER, EngineOwner, Failure, PassError, Present};
use crate::fs::Role;
use crate::limits;
use crate::tables::{self, SCRATCH_DATABASE};

/// ClickHouse's error number.
const TABLE_ALREADY_EXISTS: i32 = 57;

#[derive(serde::Deserialize)]
struct TableName {
    name: String,
}

impl EngineOwner {
    pub(super) async fn bring_in_line(
        &mut self,
        view: &NodeView,
        sql: &SqlClient,
        present: &mut Present,
        wanted: &mut Wanted,
        failures: &mut Vec<Failure>,
    ) -> Result<(), PassError> {
        self.fs.source.apply_view(view);
        self.drop_tables(view, sql, present).await?;
        let mine: BTreeMap<ShardId, Epoch> =
            view.assignments.iter().filter(|a| a.node == view.node).map(|a| (a.shard, a.epoch)).collect();
        // A shard that was away meanwhile is not the one that left: its epoch tells.
        let stays = |shard: &ShardId, epoch: &Epoch| mine.get(shard) == Some(epoch);
        let gone = present.shards.iter().filter(|(shard, epoch)| !stays(shard, epoch));
        let gone: Vec<ShardId> = gone.map(|(shard, _)| *shard).collect();
        for shard in gone {
            self.detach_shard(shard, sql, present, wanted).await?;
        }
        wanted.release_departed(&self.fs).await;
        self.fs.apply_view(view)?;
        self.make_databases(view, &mine, sql, present).await?;
        self.attach_tables(view, &mine, sql, present, failures).await;
        self.make_distributed(view, sql, present, failures).await;
        self.drop_databases(view, sql, present).await
    }

    async fn drop_tables(&self, view: &NodeView, sql: &SqlClient, present: &mut Present) -> Result<(), PassError> {
        let wanted: HashSet<TableId> = view.tables.iter().map(|t| t.id).collect();
        let named: HashMap<TableId, (&str, &str)> =
            view.tables.iter().map(|t| (t.id, (t.database.as_str(), t.name.as_str()))).collect();
        let stale: Vec<TableId> = present
            .distributed
            .iter()
            .filter(|(id, (database, name))| named.get(*id) != Some(&(database.as_str(), name.as_str())))
            .map(|(id, _)| *id)
            .collect();
        for id in stale {
            let (database, name) = &present.distributed[&id];
            run(sql, &tables::drop_user_table(database, name)).await?;
            present.distributed.remove(&id);
        }
        let is_gone = |ts: &TableShard| !wanted.contains(&ts.table);
        self.end_attaches(is_gone, present).await;
        let gone = present.attached.iter().filter(|(ts, _)| is_gone(ts));
        let gone: Vec<(TableShard, String)> = gone.map(|(ts, attached)| (*ts, attached.physical.clone())).collect();
        for (ts, physical) in &gone {
            // The catalog has forgotten its parts already: there is nothing that the engine should clear.
            run(sql, &tables::detach(physical, ts.shard)).await?;
            present.attached.remove(ts);
        }
        for table in gone.iter().map(|(ts, _)| ts.table).collect::<HashSet<_>>() {
            self.fs.unmount_table(table);
        }
        Ok(())
    }

    /// Takes a shard out that another node is about to get: with all that the engine has done to it in the catalog.
    pub(super) async fn let_leave(
        &self,
        shard: ShardId,
        sql: &SqlClient,
        present: &mut Present,
        wanted: &mut Wanted,
    ) -> Result<(), PassError> {
        self.fs.flush_shard(shard).await?;
        self.detach_shard(shard, sql, present, wanted).await
    }

    /// Takes a shard's tables out, one by one, then its database, empty by then: nothing of the data is touched.
    async fn detach_shard(
        &self,
        shard: ShardId,
        sql: &SqlClient,
        present: &mut Present,
        wanted: &mut Wanted,
    ) -> Result<(), PassError> {
        self.end_attaches(|ts| ts.shard == shard, present).await;
        // What the engine has, not what we believe: DROP DATABASE would take a forgotten table's parts along.
        let here: Vec<TableName> = sql.rows(&tables::list_tables(shard)).await?;
        let statements = here.into_iter().map(|table| ((), tables::detach(&table.name, shard))).collect();
        for ((), outcome) in run_all(sql, statements).await {
            outcome?;
        }
        present.attached.retain(|ts, _| ts.shard != shard);
        wanted.departed.entry(shard).or_default().extend(self.fs.unmount_shard(shard));
        run(sql, &tables::drop_database(&tables::shard_database(shard))).await?;
        present.shards.remove(&shard);
        Ok(())
    }

    async fn make_databases(
        &self,
        view: &NodeView,
        mine: &BTreeMap<ShardId, Epoch>,
        sql: &SqlClient,
        present: &mut Present,
    ) -> Result<(), PassError> {
        for database in view.databases.iter().map(|d| d.name.as_str()).chain([SCRATCH_DATABASE]) {
            if !present.databases.contains(database) {
                run(sql, &tables::create_database(database)).await?;
                present.databases.insert(database.to_string());
            }
        }
        for (shard, epoch) in mine {
            if !present.shards.contains_key(shard) {
                run(sql, &tables::create_database(&tables::shard_database(*shard))).await?;
                present.shards.insert(*shard, *epoch);
            }
        }
        Ok(())
    }

    async fn attach_tables(
        &self,
        view: &NodeView,
        mine: &BTreeMap<ShardId, Epoch>,
        sql: &SqlClient,
        present: &mut Present,
        failures: &mut Vec<Failure>,
    ) {
        let mount = self.mount.to_string_lossy();
        let pairs = view.tables.iter().flat_map(|table| mine.keys().map(move |shard| (table, *shard)));
        let mut statements = Vec::new();
        for (table, shard) in pairs {
            let ts = TableShard { table: table.id, shard };
            if present.attached.contains_key(&ts) {
                continue;
            }
            let role = Role::of(table, view);
            let (generation, path) = self.fs.generation(ts);
            let statement = match role {
                Role::Writer => tables::attach_writer(table, shard, &mount, self.broken_parts),
                Role::Reader => {
                    let directory = tables::ReaderDirectory { generation, path: &format!("{mount}/{path}/") };
                    tables::attach_reader(table, shard, &table.physical, directory)
                }
            };
            let attached = Attached { physical: table.physical.clone(), role, generation };
            statements.push(((ts, attached, table.ddl_seq), statement));
        }
        for ((ts, attached, ddl_seq), outcome) in run_all(sql, statements).await {
            match outcome {
                Ok(()) => {}
                // An earlier attempt had succeeded although its answer was lost.
                Err(error) if error.code() == Some(TABLE_ALREADY_EXISTS) => {}
                Err(error) => {
                    tracing::warn!(%ts, %error, "a table does not attach: it will be tried again");
                    failures.push(Failure { seq: ddl_seq, shard: Some(ts.shard), error: error.to_string() });
                    continue;
                }
            }
            self.fs.generation_attached(ts, attached.generation);
            present.attached.insert(ts, attached);
        }
    }

    async fn make_distributed(
        &self,
        view: &NodeView,
        sql: &SqlClient,
        present: &mut Present,
        failures: &mut Vec<Failure>,
    ) {
        for table in view.tables.iter().filter(|t| !present.distributed.contains_key(&t.id)).collect::<Vec<_>>() {
            let mut outcome = Ok(());
            for statement in tables::create_distributed(table, CLUSTER) {
                if outcome.is_ok() {
                    outcome = run(sql, &statement).await;
                }
            }
            match outcome {
                Ok(()) => {
                    present.distributed.insert(table.id, (table.database.to_string(), table.name.to_string()));
                }
                Err(error) => failures.push(Failure { seq: table.ddl_seq, shard: None, error: error.to_string() }),
            }
        }
    }

    async fn drop_databases(&self, view: &NodeView, sql: &SqlClient, present: &mut Present) -> Result<(), PassError> {
        let wanted: HashSet<&str> = view.databases.iter().map(|d| d.name.as_str()).chain([SCRATCH_DATABASE]).collect();
        let gone: Vec<String> = present.databases.iter().filter(|d| !wanted.contains(d.as_str())).cloned().collect();
        for database in gone {
            run(sql, &tables::drop_database(&database)).await?;
            present.databases.remove(&database);
        }
        Ok(())
    }
}

/// Runs independent statements a few at a time, each with the key that tells its outcome from the others'.
pub(super) async fn run_all<K>(sql: &SqlClient, statements: Vec<(K, String)>) -> Vec<(K, Result<(), SqlError>)> {
    let runs = statements.into_iter().map(|(key, statement)| {
        let sql = sql.clone();
        async move { (key, run(&sql, &statement).await) }
    });
    futures::stream::iter(runs).buffer_unordered(limits::PARALLEL_STATEMENTS).collect().await
}

pub(super) async fn run(sql: &SqlClient, statement: &str) -> Result<(), SqlError> {
    sql.execute(statement).await.inspect_err(|error| tracing::debug!(statement, %error, "a statement failed"))
}

pub(super) fn all_attached(shard: ShardId, present: &Present, wanted: &Wanted) -> Result<(), String> {
    let missing = |table: &&Table| !present.attached.contains_key(&TableShard { table: table.id, shard });
    match wanted.view.tables.iter().find(missing) {
        None => Ok(()),
        Some(table) => Err(format!("{}.{} did not attach", table.database, table.name)),
    }
}
