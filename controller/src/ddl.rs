//! Carries out tasks of the distributed DDL queue.
//!
//! A task is: its turn among those on the same table, a place in the queue, a change of the catalog, waiting until every
//! live node has applied a view that shows it, an end. Each step is one transaction and is done once, whoever leads: a new
//! leader takes up what runs ([`Ddl::resume`]) at the step that its record names. A leader that may not go on says nothing
//! of the outcome; the client asks the next one under the same token. Tasks on one table run in order, on different tables
//! at once.

mod flight;
pub mod listing;
mod locks;
mod standing;
mod table;

use std::sync::Arc;
use std::time::Duration;

use moorhouse_base::failpoint;
use moorhouse_base::tasks::TaskGroup;
use moorhouse_catalog::state::{Catalog, CatalogError, Command, Reply};
use moorhouse_catalog::{AuditSeq, DdlNode, DdlOutcome, DdlSeq, DdlStatement, DdlStep, DdlTask, DdlToken, GroupName};
use moorhouse_proto::DdlProgress;
use moorhouse_security::Caller;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tonic::Status;
use tracing::{info, warn};

use crate::agents::Agents;
use crate::error::ControllerError;
use crate::limits;
use crate::owner::Owner;
use crate::security::Audit;
use flight::{End, Flight, Flights, follow};
use locks::{Locks, Turn};
use standing::Standing;

pub struct Ddl {
    owner: Owner,
    agents: Arc<Agents>,
    audit: Audit,
    places: Arc<Semaphore>,
    locks: Locks,
    flights: Flights,
    /// Until then, a node that this leader has not heard of may be up all the same.
    settled: Instant,
}

/// Why a task stopped.
enum Stop {
    /// It has failed; in the words that its user sees.
    Failed(String),
    /// This leader may not go on: the next one will.
    Cut(ControllerError),
}

type Done<T> = Result<T, Stop>;

impl From<ControllerError> for Stop {
    fn from(error: ControllerError) -> Self {
        match error {
            ControllerError::Unavailable(_) | ControllerError::Stopping => Self::Cut(error),
            ControllerError::Catalog(_)
            | ControllerError::StoreFull(_)
            | ControllerError::BadRequest(_)
            | ControllerError::TooMany(_) => Self::Failed(error.to_string()),
        }
    }
}

/// A statement and who asked for it.
struct Work {
    statement: DdlStatement,
    token: DdlToken,
    audit: Option<AuditSeq>,
}

impl Ddl {
    /// `lease`: within it, every node that is up will have spoken.
    pub fn new(owner: Owner, agents: Arc<Agents>, lease: Duration) -> Self {
        let audit = Audit::new(owner.clone());
        let places = Arc::new(Semaphore::new(limits::DDL_AT_ONCE));
        let settled = Instant::now() + lease;
        Self { owner, agents, audit, places, locks: Locks::default(), flights: Flights::default(), settled }
    }

    /// Takes up the tasks that earlier leaders did not end. Called before anything else is admitted, so that each is before
    /// later ones on its table.
    pub async fn resume(self: &Arc<Self>, tasks: &TaskGroup) -> Result<(), ControllerError> {
        let running = |catalog: &Catalog| -> Vec<DdlTask> {
            catalog.ddl().values().filter(|task| task.is_running()).cloned().collect()
        };
        for task in self.owner.read(running).await? {
            info!(ddl_seq = task.seq.0, step = ?task.step, "taking up a DDL task of an earlier leader");
            // Records of older builds have no token, and nobody asks for those again.
            let flight = self.flights.begin(task.token.unwrap_or_else(DdlToken::random)).0;
            let Some(flight) = flight else { continue };
            let mut turn = Box::pin(self.locks.of(&task.statement).turn());
            // Its place in the line is taken here, and not when the task is first run.
            let taken = futures::poll!(&mut turn);
            let ddl = Arc::clone(self);
            tasks.spawn("ddl", async move {
                let _turn: Turn = match taken {
                    std::task::Poll::Ready(turn) => turn,
                    std::task::Poll::Pending => turn.await,
                };
                let end = ddl.carry_through(task, &flight).await;
                flight.end(end);
            });
        }
        Ok(())
    }

    /// Progress of the one task that this token names, to its end. What has begun goes on when the client leaves.
    pub async fn submit(
        self: &Arc<Self>,
        statement: DdlStatement,
        token: DdlToken,
        caller: &Caller,
        tasks: &TaskGroup,
    ) -> Result<mpsc::Receiver<Result<DdlProgress, Status>>, Status> {
        let (sender, receiver) = mpsc::channel(limits::STREAM_BACKLOG);
        let (begun, steps) = self.flights.begin(token);
        tasks.spawn("ddl-progress", follow(steps, sender));
        // Somebody has it in hand already.
        let Some(flight) = begun else { return Ok(receiver) };
        let ended = move |catalog: &Catalog| catalog.ddl_of(token).filter(|task| !task.is_running()).cloned();
        if let Some(task) = self.owner.read(ended).await? {
            if task.statement != statement {
                return Err(Status::invalid_argument(format!("DDL token {token} was another statement's")));
            }
            flight.end(told(&task));
            return Ok(receiver);
        }
        let places = Arc::clone(&self.places).try_acquire_owned();
        let place = places.map_err(|_| ControllerError::TooMany("DDL statements"))?;
        let (action, target) = describe(&statement);
        let audit = Some(self.audit.begin(caller, action, &target).await?.into_seq());
        let ddl = Arc::clone(self);
        let work = Work { statement, token, audit };
        tasks.spawn("ddl", async move {
            let _place = place;
            let _turn = ddl.locks.of(&work.statement).turn().await;
            let end = match ddl.enqueue(work).await {
                Ok(task) => ddl.carry_through(task, &flight).await,
                Err(error) => End::Unknown(error),
            };
            flight.end(end);
        });
        Ok(receiver)
    }

    /// In the queue under its token: once, however often the store does not answer.
    async fn enqueue(&self, work: Work) -> Result<DdlTask, ControllerError> {
        let Work { statement, token, audit } = work;
        let submit = Command::SubmitDdl { statement, token, audit };
        let submitted = match self.insist(submit).await {
            Err(error) => {
                if let Some(seq) = audit {
                    self.audit.end_of(seq, Err(error.to_string())).await;
                }
                return Err(error);
            }
            Ok(reply) => reply,
        };
        let Reply::Submitted(seq) = submitted else {
            return Err(ControllerError::Unavailable(format!("a submission was answered with {submitted:?}")));
        };
        failpoint::reach("ddl.queued");
        let task = self.owner.read(move |catalog| catalog.ddl().get(&seq).cloned()).await?;
        task.ok_or(ControllerError::Catalog(CatalogError::UnknownDdl(seq)))
    }

    /// From the step that the task is at, to its end.
    async fn carry_through(&self, task: DdlTask, flight: &Flight) -> End {
        if !task.is_running() {
            return told(&task);
        }
        let (result, nodes) = match self.carry_out(&task, flight).await {
            Ok(nodes) => (Ok(()), nodes),
            Err((Stop::Failed(error), nodes)) => (Err(error), nodes),
            Err((Stop::Cut(error), _)) => return End::Unknown(error),
        };
        failpoint::reach("ddl.applied");
        let (seq, outcome) = (task.seq, outcome_of(&result));
        info!(ddl_seq = seq.0, ?outcome, "DDL task ends");
        if let Err(error) = self.insist(Command::FinishDdl { seq, outcome, nodes }).await {
            warn!(ddl_seq = seq.0, %error, "the outcome of a DDL task is not kept: the next leader decides it");
            return End::Unknown(error);
        }
        failpoint::reach("ddl.finished");
        if let Some(audit) = task.audit {
            self.audit.end_of(audit, result.clone()).await;
        }
        End::Told { seq, result }
    }

    /// Repeats a command that may be repeated, until the store says what became of it.
    async fn insist(&self, command: Command) -> Result<Reply, ControllerError> {
        let mut wait = limits::RELOAD_RETRY;
        loop {
            match self.owner.apply(command.clone()).await {
                Err(ControllerError::Unavailable(error)) => warn!(error, "a DDL task waits for the store"),
                // A task that is in the queue waits for room: its end would need a write too.
                Err(ControllerError::StoreFull(error)) if !matches!(command, Command::SubmitDdl { .. }) => {
                    warn!(error, "a DDL task waits for room in the store");
                }
                answered => return answered,
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(limits::RELOAD_RETRY_MAX);
        }
    }

    /// Answers how far each node is, either way.
    async fn carry_out(&self, task: &DdlTask, flight: &Flight) -> Result<Vec<DdlNode>, (Stop, Vec<DdlNode>)> {
        if task.step == DdlStep::Queued {
            self.change(task).await.map_err(|stop| (stop, Vec::new()))?;
            failpoint::reach("ddl.changed");
        }
        self.wait_applied(task, flight).await
    }

    /// The task's change of the catalog.
    async fn change(&self, task: &DdlTask) -> Done<()> {
        let change = match task.statement.clone() {
            DdlStatement::CreateDatabase { database, if_not_exists } => {
                Command::CreateDatabase { database, if_not_exists }
            }
            DdlStatement::DropDatabase { database, if_exists } => Command::DropDatabase { database, if_exists },
            DdlStatement::DropTable { database, name, if_exists } => Command::DropTable { database, name, if_exists },
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
                match self.describe(wanted, if_not_exists, task.seq).await? {
                    Some(create) => create,
                    None => return Ok(()),
                }
            }
        };
        let change = Command::ChangeByDdl { seq: task.seq, change: Box::new(change) };
        self.insist(change).await.map(drop).map_err(Stop::from)
    }

    /// The engine says what the statement means. `None`: the table is there, and that is fine.
    async fn describe(&self, wanted: table::Wanted, if_not_exists: bool, seq: DdlSeq) -> Done<Option<Command>> {
        let directory = self.owner.shown().directory;
        let (database, name) = (&wanted.database, &wanted.name);
        if !directory.databases.contains_key(database) {
            return Err(Stop::Failed(CatalogError::unknown_database(database).to_string()));
        }
        if let Some(there) = directory.table_named(database, name)
            && there.ddl_seq != seq
        {
            let exists = CatalogError::table_exists(database, name).to_string();
            return if if_not_exists { Ok(None) } else { Err(Stop::Failed(exists)) };
        }
        self.wait_for_a_node(&wanted.group).await?;
        let described = table::describe(&self.owner.shown(), &self.agents, wanted, seq).await;
        let table = described.map_err(Stop::Failed)?;
        failpoint::reach("ddl.described");
        Ok(Some(Command::CreateTable { table: Box::new(table), if_not_exists: false }))
    }

    /// A new leader hears of the nodes one by one: none yet does not mean that none is up.
    async fn wait_for_a_node(&self, group: &GroupName) -> Done<()> {
        let mut published = self.owner.published();
        while published.borrow_and_update().nodes_up(group).is_empty() && Instant::now() < self.settled {
            if published.borrow().directory.group_nodes(group).next().is_none() {
                return Ok(());
            }
            tokio::select! {
                changed = published.changed() => changed.map_err(|_| Stop::Cut(ControllerError::Stopping))?,
                () = tokio::time::sleep_until(self.settled) => {}
            }
        }
        Ok(())
    }

    /// Waits until each node that is up has applied what is in the catalog now. Nodes that go down are not waited for.
    async fn wait_applied(&self, task: &DdlTask, flight: &Flight) -> Result<Vec<DdlNode>, (Stop, Vec<DdlNode>)> {
        let mut published = self.owner.published();
        let revision = published.borrow_and_update().directory.revision;
        let begun = Instant::now();
        let mut failing_since = None;
        let mut noted = begun;
        loop {
            let now = Instant::now();
            let standing = Standing::of(&published.borrow_and_update(), task, revision, now >= self.settled);
            flight.at(standing.progress(task.seq));
            failing_since = standing.first_error().map(|_| failing_since.unwrap_or(now));
            let gathered = failing_since.is_some_and(|since: Instant| now >= since + limits::DDL_FAILURE_GATHER);
            if let Some(error) = standing.first_error().filter(|_| gathered || !standing.is_waiting()) {
                return Err((Stop::Failed(error), standing.nodes));
            }
            if !standing.is_waiting() {
                let ready = self.owner.ready_from(revision).await;
                return ready.map(|()| standing.nodes).map_err(|error| (error.into(), Vec::new()));
            }
            if now >= begun + limits::DDL_TIMEOUT {
                return Err((Stop::Failed(standing.timed_out()), standing.nodes));
            }
            if now >= noted + limits::DDL_NOTE_INTERVAL {
                noted = now;
                self.note(task.seq, standing.nodes).await.map_err(|stop| (stop, Vec::new()))?;
            }
            tokio::select! {
                changed = published.changed() => {
                    changed.map_err(|_| (Stop::Cut(ControllerError::Stopping), Vec::new()))?;
                }
                // Deadlines: of settling, of gathering failures, of notes and of the task.
                () = tokio::time::sleep(limits::DDL_LOOK) => {}
            }
        }
    }

    async fn note(&self, seq: DdlSeq, nodes: Vec<DdlNode>) -> Done<()> {
        match self.owner.apply(Command::NoteDdl { seq, nodes }).await {
            Err(ControllerError::Stopping) => Err(Stop::Cut(ControllerError::Stopping)),
            Err(error) => {
                warn!(ddl_seq = seq.0, %error, "the progress of a DDL task is not noted");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }
}

/// Of a task that has ended.
fn told(task: &DdlTask) -> End {
    let result = match &task.outcome {
        DdlOutcome::Done => Ok(()),
        DdlOutcome::Failed { error } => Err(error.clone()),
        DdlOutcome::Running => return End::Unknown(ControllerError::Stopping),
    };
    End::Told { seq: task.seq, result }
}

fn outcome_of(result: &Result<(), String>) -> DdlOutcome {
    match result {
        Ok(()) => DdlOutcome::Done,
        Err(error) => DdlOutcome::Failed { error: error.clone() },
    }
}

/// Action and target, for the audit and for listings; without the text, which may hold what only its user may know.
pub fn describe(statement: &DdlStatement) -> (&'static str, String) {
    match statement {
        DdlStatement::CreateDatabase { database, .. } => ("create_database", database.to_string()),
        DdlStatement::DropDatabase { database, .. } => ("drop_database", database.to_string()),
        DdlStatement::CreateTable { database, name, .. } => ("create_table", format!("{database}.{name}")),
        DdlStatement::DropTable { database, name, .. } => ("drop_table", format!("{database}.{name}")),
    }
}
