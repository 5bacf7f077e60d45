//! Carries out tasks of the distributed DDL queue.
//!
//! A task is: a change of the catalog, then waiting until every live node has applied a view that shows it. A table that some
//! node cannot make is removed again. Tasks on one table run in order, tasks on different tables at once.

mod locks;
mod table;

use std::collections::BTreeSet;
use std::sync::Arc;

use moorhouse_catalog::state::{CatalogError, Command, Reply};
use moorhouse_catalog::{DdlOutcome, DdlSeq, DdlStatement, DdlTask, NodeName, Revision, SqlName, Table};
use moorhouse_proto::DdlProgress;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;
use tracing::{info, warn};

use crate::agents::Agents;
use crate::error::ControllerError;
use crate::limits;
use crate::owner::Owner;
use crate::published::Published;
use locks::Locks;

pub struct Ddl {
    owner: Owner,
    agents: Arc<Agents>,
    places: Arc<Semaphore>,
    locks: Locks,
}

/// Why a statement failed, in the words that its user sees.
type DdlResult = Result<(), String>;

type Progress = mpsc::Sender<Result<DdlProgress, Status>>;

/// A task that has its number.
struct Task {
    seq: DdlSeq,
    progress: Progress,
}

impl Ddl {
    pub fn new(owner: Owner, agents: Arc<Agents>) -> Self {
        Self { owner, agents, places: Arc::new(Semaphore::new(limits::DDL_AT_ONCE)), locks: Locks::default() }
    }

    /// A place among the statements that run at once.
    pub fn admit(&self) -> Result<OwnedSemaphorePermit, ControllerError> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| ControllerError::TooMany("DDL statements"))
    }

    /// Fails the tasks that an earlier leader did not end, and removes the tables that it was making.
    pub async fn fail_abandoned(&self) -> Result<(), ControllerError> {
        let running = |catalog: &moorhouse_catalog::state::Catalog| {
            let tasks = catalog.ddl().values().filter(|task| task.outcome == DdlOutcome::Running);
            tasks.map(|task| task.seq).collect::<Vec<_>>()
        };
        let creating = |table: &&Table| table.state == moorhouse_catalog::TableState::Creating;
        let tables: Vec<Table> = self.owner.shown().directory.tables.values().filter(creating).cloned().collect();
        for Table { database, name, .. } in tables {
            warn!(%database, table = %name, "removing a table that was being made when the controller ended");
            self.owner.apply(Command::DropTable { database, name, if_exists: true }).await?;
        }
        for seq in self.owner.read(running).await? {
            let error = "the controller ended while this statement ran: look what is there and repeat it".to_owned();
            self.owner.apply(Command::FinishDdl { seq, outcome: DdlOutcome::Failed { error } }).await?;
        }
        Ok(())
    }

    /// From the queue to the last message of `progress`; answers what that said.
    pub async fn run(
        &self,
        _place: OwnedSemaphorePermit,
        statement: DdlStatement,
        progress: Progress,
    ) -> Result<(), String> {
        let lock = self.locks.of(&statement);
        let _turn = lock.turn().await;
        let seq = match self.submit(&statement).await {
            Ok(Reply::Submitted(seq)) => seq,
            Ok(other) => return send_last(&progress, DdlSeq(0), Err(format!("internal error: {other:?}"))).await,
            Err(error) => return send_last(&progress, DdlSeq(0), Err(error.to_string())).await,
        };
        let task = Task { seq, progress };
        let result = self.carry_out(&task, statement).await;
        let outcome = match &result {
            Ok(()) => DdlOutcome::Done,
            Err(error) => DdlOutcome::Failed { error: error.clone() },
        };
        info!(ddl_seq = seq.0, ?outcome, "DDL task ended");
        if let Err(error) = self.insist(Command::FinishDdl { seq, outcome }).await {
            warn!(ddl_seq = seq.0, %error, "the outcome of a DDL task could not be kept");
        }
        send_last(&task.progress, seq, result).await
    }

    /// A task is in the queue, or it is certain that it is not: one without an end would be overtaken.
    async fn submit(&self, statement: &DdlStatement) -> Result<Reply, ControllerError> {
        let error = match self.owner.apply(Command::SubmitDdl(statement.clone())).await {
            Err(error @ ControllerError::Unavailable(_)) => error,
            answered => return answered,
        };
        // In this turn a running task with these words is ours.
        let words = statement.clone();
        let ours = move |catalog: &moorhouse_catalog::state::Catalog| {
            let running = |task: &&DdlTask| task.outcome == DdlOutcome::Running && task.statement == words;
            catalog.ddl().values().rfind(running).map(|task| task.seq)
        };
        self.owner.read(ours).await?.map(Reply::Submitted).ok_or(error)
    }

    /// Repeats a command that may be repeated, until the store says what became of it.
    async fn insist(&self, command: Command) -> Result<Reply, ControllerError> {
        let mut wait = limits::RELOAD_RETRY;
        loop {
            match self.owner.apply(command.clone()).await {
                Err(ControllerError::Unavailable(error)) => warn!(error, "a DDL task waits for the store"),
                answered => return answered,
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(limits::RELOAD_RETRY_MAX);
        }
    }

    async fn carry_out(&self, task: &Task, statement: DdlStatement) -> DdlResult {
        match statement {
            DdlStatement::CreateDatabase { database, if_not_exists } => {
                self.create_database(task, database, if_not_exists).await
            }
            DdlStatement::DropDatabase { database, if_exists } => {
                self.change(task, Command::DropDatabase { database, if_exists }).await
            }
            DdlStatement::CreateTable {
                group,
                database,
                name,
                if_not_exists,
                create_tail,
                session_database,
                sharding_key,
            } => {
                let wanted = table::Wanted { group, database, name, create_tail, session_database, sharding_key };
                self.create_table(task, wanted, if_not_exists).await
            }
            DdlStatement::DropTable { database, name, if_exists } => {
                self.change(task, Command::DropTable { database, name, if_exists }).await
            }
        }
    }

    async fn create_database(&self, task: &Task, database: SqlName, if_not_exists: bool) -> DdlResult {
        let created = self.apply(Command::CreateDatabase { database: database.clone(), if_not_exists }).await?;
        let result = self.wait_applied(task).await;
        if result.is_err() && created {
            self.undo(Command::DropDatabase { database, if_exists: true }).await;
        }
        result
    }

    /// The engine first says what the statement means; then the nodes make the table.
    async fn create_table(&self, task: &Task, wanted: table::Wanted, if_not_exists: bool) -> DdlResult {
        let (database, name) = (wanted.database.clone(), wanted.name.clone());
        {
            let directory = self.owner.shown().directory;
            if !directory.databases.contains_key(&database) {
                return Err(CatalogError::unknown_database(&database).to_string());
            }
            if directory.table_named(&database, &name).is_some() {
                let exists = CatalogError::table_exists(&database, &name).to_string();
                return if if_not_exists { self.wait_applied(task).await } else { Err(exists) };
            }
        }
        let table = table::describe(&self.owner.shown(), &self.agents, wanted, task.seq).await?;
        let id = table.id;
        self.apply(Command::CreateTable { table: Box::new(table), if_not_exists: false }).await?;
        let result = match self.wait_applied(task).await {
            Ok(()) => self.apply(Command::ActivateTable(id)).await.map(drop),
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.undo(Command::DropTable { database, name, if_exists: true }).await;
        }
        result
    }

    async fn change(&self, task: &Task, command: Command) -> DdlResult {
        self.apply(command).await?;
        self.wait_applied(task).await
    }

    /// True if it changed something.
    async fn apply(&self, command: Command) -> Result<bool, String> {
        match self.owner.apply(command).await {
            Ok(reply) => Ok(reply == Reply::Changed(true)),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn undo(&self, command: Command) {
        if let Err(error) = self.insist(command).await {
            warn!(%error, "a failed DDL task could not be undone: drop what is left by hand");
        }
    }

    /// Waits until each node that is up has applied what is in the catalog now. Nodes that go down are not waited for.
    async fn wait_applied(&self, task: &Task) -> DdlResult {
        let mut published = self.owner.published();
        let revision = published.borrow_and_update().directory.revision;
        let deadline = tokio::time::sleep(limits::DDL_TIMEOUT);
        tokio::pin!(deadline);
        let mut sent = None;
        loop {
            let (waiting, total) = {
                let shown = published.borrow_and_update();
                if let Some(error) = failure_of(&shown, task.seq) {
                    return Err(error);
                }
                let up: BTreeSet<NodeName> = shown.liveness.up().map(|(name, _)| name.clone()).collect();
                let total = up.len();
                (up.into_iter().filter(|n| !shown.has_applied(n, revision)).collect::<Vec<_>>(), total)
            };
            if waiting.is_empty() {
                return self.ready_from(revision).await;
            }
            let step = (waiting.len(), total);
            if sent.replace(step) != Some(step) {
                send_progress(task, total - waiting.len(), total).await;
            }
            tokio::select! {
                changed = published.changed() => changed.map_err(|_| ControllerError::Stopping.to_string())?,
                () = &mut deadline => return Err(timed_out(&waiting)),
            }
        }
    }

    async fn ready_from(&self, revision: Revision) -> DdlResult {
        self.owner.ready_from(revision).await.map_err(|error| error.to_string())
    }
}

fn failure_of(shown: &Published, seq: DdlSeq) -> Option<String> {
    let failures = shown.liveness.up().flat_map(|(node, live)| live.failures.iter().map(move |f| (node, f)));
    failures.into_iter().find(|(_, (of, _))| *of == seq).map(|(node, (_, error))| {
        // The engine's own words come first, so that clients recognise its code.
        format!("{error} (on node {node})")
    })
}

fn timed_out(waiting: &[NodeName]) -> String {
    let names: Vec<&str> = waiting.iter().map(NodeName::as_str).collect();
    CatalogError::Sql {
        code: 159,
        name: "TIMEOUT_EXCEEDED",
        message: format!(
            "After {} s the statement is not applied on {}: look at the log there",
            limits::DDL_TIMEOUT.as_secs(),
            names.join(", ")
        ),
    }
    .to_string()
}

/// The client may have left; the task goes on.
async fn send_progress(task: &Task, done: usize, total: usize) {
    let progress = DdlProgress {
        ddl_seq: task.seq.0,
        nodes_total: total as u32,
        nodes_done: done as u32,
        finished: false,
        error: String::new(),
    };
    // A slow client misses a step, not the end.
    let _ = task.progress.try_send(Ok(progress));
}

async fn send_last(progress: &Progress, seq: DdlSeq, result: DdlResult) -> DdlResult {
    let error = result.as_ref().err().cloned().unwrap_or_default();
    let last = DdlProgress { ddl_seq: seq.0, nodes_total: 0, nodes_done: 0, finished: true, error };
    let _ = progress.send(Ok(last)).await;
    result
}
