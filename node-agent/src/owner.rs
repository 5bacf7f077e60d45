//! The owner of this node's engine: the one place that starts it and changes its tables.
//!
//! Wanted is the newest view; present is what this task has done to the running engine; a pass brings present in line with
//! wanted. A crashed engine starts again empty and the next pass attaches everything: its metadata is disposable.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use moorhouse_base::tasks::TaskGroup;
use moorhouse_catalog::{BlobId, DdlSeq, Epoch, NodeView, ShardId, Table, TableId, TableShard};
use moorhouse_engine::{
    Engine, EngineAccess, EngineBinary, EngineConfig, EngineError, EngineKind, SqlClient, SqlError, quote_string,
};
use moorhouse_proto::DescribeTableReply;
use tokio::sync::{mpsc, oneshot, watch};

use crate::access;
use crate::describe;
use crate::fs::error::FsError;
use crate::fs::{Role, ShardFs};
use crate::limits;
use crate::metrics;
use crate::tables::{self, SCRATCH_DATABASE};

/// The cluster that every Distributed table names.
pub const CLUSTER: &str = "moorhouse";

/// After a pass that left something undone.
const PASS_AGAIN: Duration = Duration::from_secs(2);
const PASS_ANYWAY: Duration = Duration::from_secs(3600);
/// ClickHouse's error number.
const TABLE_ALREADY_EXISTS: i32 = 57;

type Answer<T> = oneshot::Sender<Result<T, String>>;

/// What others may ask of the engine's owner.
pub enum Command {
    /// Take a shard out, though the view still assigns it here: it is about to move.
    Detach {
        shard: ShardId,
        epoch: Epoch,
        answer: Answer<()>,
    },
    /// The move was called off: the shard belongs here again.
    Resume {
        shard: ShardId,
        epoch: Epoch,
        answer: Answer<()>,
    },
    /// A view that matters now: answer when its shard is attached.
    Attach {
        view: Box<NodeView>,
        shard: ShardId,
        answer: Answer<()>,
    },
    Describe {
        create_tail: String,
        database: String,
        answer: Answer<DescribeTableReply>,
    },
}

/// What the last pass achieved, for heartbeats.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    pub revision: u64,
    pub failures: Vec<Failure>,
    /// Why the engine runs with an older configuration than the view's; empty: it does not.
    pub config_error: String,
}

/// What of a view could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub seq: DdlSeq,
    /// `None`: it is not about one shard.
    pub shard: Option<ShardId>,
    /// The engine's words.
    pub error: String,
}

pub struct EngineOwner {
    pub binary: EngineBinary,
    pub config: EngineConfig,
    pub mount: PathBuf,
    pub fs: Arc<ShardFs>,
    pub commands: mpsc::Receiver<Command>,
    pub views: watch::Receiver<Arc<NodeView>>,
    pub refresh: mpsc::Receiver<TableShard>,
    pub applied: watch::Sender<Applied>,
    /// Ends this owner, and has what it runs beside itself.
    pub tasks: TaskGroup,
    /// As in [`Applied`].
    pub config_error: String,
    /// A configuration with which the engine would not start, and why: not tried again.
    pub refused: Option<(EngineAccess, String)>,
    /// Which row filters the engine could read.
    pub read: HashMap<String, bool>,
}

/// Why an engine is served no longer.
enum Ended {
    Stopped,
    Gone,
    /// It must start again with another configuration.
    Reconfigured(Box<EngineConfig>),
}

/// Why a pass stopped half-way; the next one goes on.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Fs(#[from] FsError),
}

#[derive(serde::Deserialize)]
struct TableName {
    name: String,
}

/// What the running engine has.
#[derive(Default)]
struct Present {
    databases: BTreeSet<String>,
    shards: BTreeMap<ShardId, Epoch>,
    attached: HashMap<TableShard, Attached>,
    distributed: BTreeMap<TableId, (String, String)>,
}

#[derive(Clone)]
struct Attached {
    physical: String,
    role: Role,
}

/// The owner's own state, which outlives an engine's crash.
struct Wanted {
    view: Arc<NodeView>,
    /// Shards taken out for a move, with the epoch under which they were here.
    leaving: HashMap<ShardId, Leaving>,
    /// Staged blobs of shards that have left; evictable once the view shows the shard elsewhere.
    departed: HashMap<ShardId, Vec<BlobId>>,
}

#[derive(Clone, Copy)]
struct Leaving {
    epoch: Epoch,
    since: Instant,
}

impl EngineOwner {
    /// Runs until stopped. An engine that cannot be started ends the agent.
    pub async fn run(mut self) -> Result<(), EngineError> {
        let mut wanted =
            Wanted { view: self.views.borrow_and_update().clone(), leaving: HashMap::new(), departed: HashMap::new() };
        let mut config = self.config.clone();
        let mut last_good = config.clone();
        loop {
            metrics::ENGINE_STARTS.inc();
            let mut engine = match Engine::start(&self.binary, &config).await {
                Ok(engine) => engine,
                Err(error) if config.access != last_good.access => {
                    tracing::error!(%error, "the engine does not start with the new documents: it keeps those of before");
                    let refused = std::mem::replace(&mut config, last_good.clone());
                    self.refused = Some((refused.access, error.to_string()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            tracing::info!(pid = engine.pid(), "the engine answers");
            last_good = config.clone();
            let mut present = Present::default();
            match self.serve(&mut engine, &mut config, &mut present, &mut wanted).await {
                Ended::Stopped => return engine.stop(limits::ENGINE_STOP).await,
                Ended::Gone => tracing::error!("the engine ended by itself: starting it again"),
                Ended::Reconfigured(new) => {
                    tracing::info!("the engine starts again, with new documents");
                    // Statements go elsewhere from here on.
                    self.applied.send_replace(Applied::default());
                    drain(engine.sql()).await;
                    engine.stop(limits::ENGINE_STOP).await?;
                    config = *new;
                }
            }
            // It has applied nothing: until it has, no new statement is sent here.
            self.applied.send_replace(Applied::default());
            if let Err(error) = self.fs.flush_letting().await {
                tracing::warn!(%error, "what the engine did last outside its parts may be undone");
            }
            // What it had in progress is of no use to its successor.
            self.fs.unmount_all();
        }
    }

    async fn serve(
        &mut self,
        engine: &mut Engine,
        config: &mut EngineConfig,
        present: &mut Present,
        wanted: &mut Wanted,
    ) -> Ended {
        let sql = engine.sql().clone();
        let stop = self.tasks.token();
        if let Some(new) = self.realign(engine, config, wanted).await {
            return Ended::Reconfigured(Box::new(new));
        }
        let mut again = self.pass(&sql, present, wanted).await;
        let mut refreshing: Option<oneshot::Receiver<()>> = None;
        loop {
            let soon = again || !wanted.leaving.is_empty();
            let retry = tokio::time::sleep(if soon { PASS_AGAIN } else { PASS_ANYWAY });
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopped,
                _ = engine.exited() => return Ended::Gone,
                Some(command) = self.commands.recv() => again |= self.obey(command, &sql, present, wanted).await,
                Ok(()) = self.views.changed() => {
                    let view = self.views.borrow_and_update().clone();
                    wanted.take(view);
                    if let Some(new) = self.realign(engine, config, wanted).await {
                        return Ended::Reconfigured(Box::new(new));
                    }
                    again = self.pass(&sql, present, wanted).await;
                }
                _ = ended(&mut refreshing) => refreshing = None,
                Some(ts) = self.refresh.recv(), if refreshing.is_none() => {
                    refreshing = Some(self.refresh_readers(ts, &sql, present, wanted));
                }
                () = retry => {
                    wanted.expire_leaving();
                    again = self.pass(&sql, present, wanted).await;
                }
            }
        }
    }

    /// Users, rights and settings as the view says. Answers with the configuration that takes a new start.
    async fn realign(&mut self, engine: &Engine, config: &mut EngineConfig, wanted: &Wanted) -> Option<EngineConfig> {
        let view = Arc::clone(&wanted.view);
        let unreadable = self.read_filters(engine.sql(), &view).await;
        let access = access::engine_access(&view, |rows| self.read.get(rows).copied().unwrap_or(false));
        self.config_error = match &self.refused {
            Some((refused, error)) if *refused == access => error.clone(),
            _ => unreadable
                .map(|rows| format!("the row filter {rows:?} cannot be read: it shows no row"))
                .unwrap_or_default(),
        };
        let is_refused = self.refused.as_ref().is_some_and(|(refused, _)| *refused == access);
        if access == config.access || is_refused {
            return None;
        }
        let new = EngineConfig { access, ..config.clone() };
        if self.binary.kind() == EngineKind::Embedded {
            return Some(new);
        }
        match engine.reload(&new).await {
            Ok(()) => *config = new,
            Err(error) => {
                tracing::error!(%error, "the engine does not take the new documents");
                self.config_error = error.to_string();
                self.refused = Some((new.access, error.to_string()));
            }
        }
        None
    }

    /// Asks the engine which row filters it can read; one that it cannot would keep it from starting. Answers with such a one.
    async fn read_filters(&mut self, sql: &SqlClient, view: &NodeView) -> Option<String> {
        for rows in access::expressions(view) {
            if self.read.contains_key(rows) {
                continue;
            }
            let statement = quote_string(&format!("SELECT ({rows})"));
            match sql.query(&format!("SELECT isNull(formatQueryOrNull({statement}))")).await {
                Ok(answer) => drop(self.read.insert(rows.to_owned(), answer.trim() == "0")),
                Err(error) => tracing::warn!(%error, "a row filter was not looked at: it shows no row until then"),
            }
        }
        access::expressions(view).into_iter().find(|rows| self.read.get(*rows) != Some(&true)).map(str::to_owned)
    }

    /// True if something is left to be tried again.
    async fn obey(&mut self, command: Command, sql: &SqlClient, present: &mut Present, wanted: &mut Wanted) -> bool {
        match command {
            Command::Detach { shard, epoch, answer } => {
                let outcome = match wanted.epoch_here(shard) {
                    Some(known) if known == epoch => {
                        wanted.leaving.insert(shard, Leaving { epoch, since: Instant::now() });
                        self.let_leave(shard, sql, present, wanted).await.map_err(|error| error.to_string())
                    }
                    known => Err(format!("shard {shard} is here under {known:?}, not under epoch {epoch}")),
                };
                let _ = answer.send(outcome);
                false
            }
            Command::Resume { shard, epoch, answer } => {
                if wanted.leaving.get(&shard).is_none_or(|leaving| leaving.epoch != epoch) {
                    let _ = answer.send(Ok(()));
                    return false;
                }
                wanted.leaving.remove(&shard);
                let again = self.pass(sql, present, wanted).await;
                let _ = answer.send(all_attached(shard, present, wanted));
                again
            }
            Command::Attach { view, shard, answer } => {
                wanted.take(Arc::from(view));
                let again = self.pass(sql, present, wanted).await;
                let _ = answer.send(all_attached(shard, present, wanted));
                again
            }
            Command::Describe { create_tail, database, answer } => {
                let _ = answer.send(describe::describe(sql, &create_tail, &database).await);
                false
            }
        }
    }

    /// One pass. True if something is left to be tried again.
    async fn pass(&mut self, sql: &SqlClient, present: &mut Present, wanted: &mut Wanted) -> bool {
        let view = wanted.effective();
        let mut failures = Vec::new();
        let outcome = self.bring_in_line(&view, sql, present, wanted, &mut failures).await;
        if let Err(error) = &outcome {
            tracing::warn!(%error, revision = %view.revision, "the engine is not in line with the view yet");
        }
        let failed = outcome.is_err() || !failures.is_empty();
        if outcome.is_ok() {
            metrics::VIEWS_APPLIED.inc();
            let config_error = self.config_error.clone();
            self.applied.send_replace(Applied { revision: view.revision.0, failures, config_error });
        }
        failed
    }

    async fn bring_in_line(
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
        let gone: Vec<(TableShard, String)> = present
            .attached
            .iter()
            .filter(|(ts, _)| !wanted.contains(&ts.table))
            .map(|(ts, attached)| (*ts, attached.physical.clone()))
            .collect();
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
    async fn let_leave(
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
            let statement = match role {
                Role::Writer => tables::attach_writer(table, shard, &mount),
                Role::Reader => tables::attach_reader(table, shard, &mount),
            };
            let attached = Attached { physical: table.physical.clone(), role };
            statements.push(((ts, attached, table.ddl_seq), statement));
        }
        for ((ts, attached, ddl_seq), outcome) in run_all(sql, statements).await {
            match outcome {
                Ok(()) => drop(present.attached.insert(ts, attached)),
                // An earlier attempt had succeeded although its answer was lost.
                Err(error) if error.code() == Some(TABLE_ALREADY_EXISTS) => drop(present.attached.insert(ts, attached)),
                Err(error) => {
                    failures.push(Failure { seq: ddl_seq, shard: Some(ts.shard), error: error.to_string() });
                }
            }
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
                Err(error) => {
                    failures.push(Failure { seq: table.ddl_seq, shard: None, error: error.to_string() });
                }
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

    /// Tells readers to look again: the one that was asked for, and all others that wait in the queue. Runs beside this task,
    /// because moves wait for that one.
    fn refresh_readers(
        &mut self,
        first: TableShard,
        sql: &SqlClient,
        present: &Present,
        wanted: &Wanted,
    ) -> oneshot::Receiver<()> {
        let mut due = HashSet::from([first]);
        while let Ok(next) = self.refresh.try_recv() {
            due.insert(next);
        }
        let by_id: HashMap<TableId, &Table> = wanted.view.tables.iter().map(|t| (t.id, t)).collect();
        let readers = due.into_iter().filter(|ts| present.attached.get(ts).is_some_and(|a| a.role == Role::Reader));
        let statements: Vec<_> =
            readers.filter_map(|ts| Some((ts, tables::refresh_reader(by_id.get(&ts.table)?, ts.shard)))).collect();
        metrics::READER_REFRESHES.inc_by(statements.len() as u64);
        let (done, ended) = oneshot::channel();
        let sql = sql.clone();
        self.tasks.spawn("refresh", async move {
            for (ts, outcome) in run_all(&sql, statements).await {
                if let Err(error) = outcome {
                    tracing::warn!(%ts, %error, "a reader did not refresh; its own interval will catch it");
                }
            }
            let _ = done.send(());
        });
        ended
    }
}

/// Resolves when the refresh that is under way has ended; never if none is.
async fn ended(refreshing: &mut Option<oneshot::Receiver<()>>) {
    match refreshing {
        // An error: the task is gone, and so is the refresh.
        Some(ended) => drop(ended.await),
        None => std::future::pending().await,
    }
}

impl Wanted {
    /// A newer view replaces the one before; an older one that was on its way is ignored.
    fn take(&mut self, view: Arc<NodeView>) {
        if view.revision < self.view.revision {
            return;
        }
        self.view = view;
        let here: HashMap<ShardId, Epoch> =
            self.view.assignments.iter().filter(|a| a.node == self.view.node).map(|a| (a.shard, a.epoch)).collect();
        self.leaving.retain(|shard, leaving| here.get(shard) == Some(&leaving.epoch));
    }

    fn epoch_here(&self, shard: ShardId) -> Option<Epoch> {
        self.view.assignments.iter().find(|a| a.shard == shard && a.node == self.view.node).map(|a| a.epoch)
    }

    /// A move that nobody ended or cancelled: its controller is gone.
    fn expire_leaving(&mut self) {
        self.leaving.retain(|shard, leaving| {
            let stays = leaving.since.elapsed() < limits::LEAVING_LONGEST;
            if !stays {
                tracing::warn!(%shard, "the shard was taken out for a move that never ended: it comes back");
            }
            stays
        });
    }

    /// The view without the shards that are on their way out.
    fn effective(&self) -> NodeView {
        let mut view = (*self.view).clone();
        view.assignments.retain(|a| a.node != view.node || !self.leaving.contains_key(&a.shard));
        view
    }

    async fn release_departed(&mut self, fs: &ShardFs) {
        let elsewhere: HashSet<ShardId> =
            self.view.assignments.iter().filter(|a| a.node != self.view.node).map(|a| a.shard).collect();
        if !self.departed.keys().any(|shard| elsewhere.contains(shard)) {
            return;
        }
        // A move may leave something behind that is no active part: those bytes are this node's to keep.
        let still_ours: HashSet<BlobId> = match fs.staged_here().await {
            Ok(blobs) => blobs.into_iter().collect(),
            Err(error) => {
                tracing::info!(%error, "the bytes of departed shards are released later");
                return;
            }
        };
        self.departed.retain(|shard, blobs| {
            if elsewhere.contains(shard) {
                blobs.retain(|blob| !still_ours.contains(blob));
                fs.release_staged(blobs);
                fs.forget_letting(*shard, &still_ours);
            }
            !elsewhere.contains(shard)
        });
    }
}

/// Waits, for a while, until no user's statement runs.
async fn drain(sql: &SqlClient) {
    let deadline = Instant::now() + limits::ENGINE_DRAIN;
    let running =
        "SELECT count() FROM system.processes WHERE query_id != queryID() AND NOT startsWith(user, 'moorhouse')";
    while Instant::now() < deadline {
        match sql.query(running).await {
            Ok(count) if count.trim() == "0" => return,
            Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => {
                tracing::warn!(%error, "the engine does not say what runs: it is not waited for");
                return;
            }
        }
    }
}

/// Runs independent statements a few at a time, each with the key that tells its outcome from the others'.
async fn run_all<K>(sql: &SqlClient, statements: Vec<(K, String)>) -> Vec<(K, Result<(), SqlError>)> {
    let runs = statements.into_iter().map(|(key, statement)| {
        let sql = sql.clone();
        async move { (key, run(&sql, &statement).await) }
    });
    futures::stream::iter(runs).buffer_unordered(limits::PARALLEL_STATEMENTS).collect().await
}

async fn run(sql: &SqlClient, statement: &str) -> Result<(), SqlError> {
    sql.execute(statement).await.inspect_err(|error| tracing::debug!(statement, %error, "a statement failed"))
}

fn all_attached(shard: ShardId, present: &Present, wanted: &Wanted) -> Result<(), String> {
    let missing = |table: &&Table| !present.attached.contains_key(&TableShard { table: table.id, shard });
    match wanted.view.tables.iter().find(missing) {
        None => Ok(()),
        Some(table) => Err(format!("{}.{} did not attach", table.database, table.name)),
    }
}
