//! The owner of this node's engine: the one place that starts it and changes its tables.
//!
//! Wanted is the newest view; present is what this task has done to the running engine; a pass brings present in line with
//! wanted. A crashed engine starts again empty and the next pass attaches everything: its metadata is disposable.

mod documents;
mod pass;
mod readers;
mod wanted;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moorhouse_base::tasks::TaskGroup;
use moorhouse_catalog::{DdlSeq, Epoch, NodeView, ShardId, TableId, TableShard};
use moorhouse_engine::{Engine, EngineBinary, EngineError, SqlClient, SqlError};
use moorhouse_proto::DescribeTableReply;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::documents::Documents;
use self::pass::all_attached;
use self::readers::Refreshing;
use self::wanted::{Leaving, Wanted};
use crate::describe;
use crate::fs::error::FsError;
use crate::fs::stale::Look;
use crate::fs::{Role, ShardFs};
use crate::limits;
use crate::metrics;
use crate::tables::BrokenParts;

/// The cluster that every Distributed table names.
pub const CLUSTER: &str = "moorhouse";

/// After a pass that left something undone.
const PASS_AGAIN: Duration = Duration::from_secs(2);
const PASS_ANYWAY: Duration = Duration::from_secs(3600);

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
    pub documents: Documents,
    pub mount: PathBuf,
    pub fs: Arc<ShardFs>,
    pub commands: mpsc::Receiver<Command>,
    pub views: watch::Receiver<Arc<NodeView>>,
    /// What becomes of parts that the engine cannot read when it attaches a table that this node writes.
    pub broken_parts: BrokenParts,
    pub applied: watch::Sender<Applied>,
    /// Ends this owner, and has what it runs beside itself.
    pub tasks: TaskGroup,
}

/// Why an engine is served no longer.
enum Ended {
    Stopped,
    Gone,
    /// It must start again with another configuration.
    Reconfigured,
}

/// Why a pass stopped half-way; the next one goes on.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// What the running engine has.
#[derive(Default)]
struct Present {
    databases: BTreeSet<String>,
    shards: BTreeMap<ShardId, Epoch>,
    attached: HashMap<TableShard, Attached>,
    distributed: BTreeMap<TableId, (String, String)>,
    refreshing: Option<Refreshing>,
    /// Refreshes that failed, for the next pass.
    late: HashMap<TableShard, Look>,
}

#[derive(Clone)]
struct Attached {
    physical: String,
    role: Role,
    /// Of its directory: see `fs/generations.rs`.
    generation: u32,
}

impl EngineOwner {
    /// Runs until stopped. An engine that cannot be started ends the agent.
    pub async fn run(mut self) -> Result<(), EngineError> {
        let mut wanted = Wanted::new(self.views.borrow_and_update().clone());
        loop {
            metrics::ENGINE_STARTS.inc();
            let mut engine = self.documents.start(&self.binary).await?;
            tracing::info!(pid = engine.pid(), "the engine answers");
            let mut present = Present::default();
            match self.serve(&mut engine, &mut present, &mut wanted).await {
                Ended::Stopped => return engine.stop(limits::ENGINE_STOP).await,
                Ended::Gone => tracing::error!("the engine ended by itself: starting it again"),
                Ended::Reconfigured => {
                    tracing::info!("the engine starts again, with new documents");
                    // Statements go elsewhere from here on.
                    self.applied.send_replace(Applied::default());
                    documents::drain(engine.sql()).await;
                    engine.stop(limits::ENGINE_STOP).await?;
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

    async fn serve(&mut self, engine: &mut Engine, present: &mut Present, wanted: &mut Wanted) -> Ended {
        let sql = engine.sql().clone();
        let stop = self.tasks.token();
        if self.documents.realign(&self.binary, engine, &wanted.view).await {
            return Ended::Reconfigured;
        }
        let mut again = self.pass(&sql, present, wanted).await;
        let mut retry_at = None;
        loop {
            let now = tokio::time::Instant::now();
            // Counted from when it became necessary: what else happens must not put it off.
            let soon = again || !wanted.leaving.is_empty() || !present.late.is_empty();
            retry_at = soon.then(|| retry_at.unwrap_or(now + PASS_AGAIN));
            let retry = tokio::time::sleep_until(retry_at.unwrap_or(now + PASS_ANYWAY));
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopped,
                _ = engine.exited() => return Ended::Gone,
                Some(command) = self.commands.recv() => again |= self.obey(command, &sql, present, wanted).await,
                Ok(()) = self.views.changed() => {
                    let view = self.views.borrow_and_update().clone();
                    wanted.take(view);
                    if self.documents.realign(&self.binary, engine, &wanted.view).await {
                        return Ended::Reconfigured;
                    }
                    again = self.pass(&sql, present, wanted).await;
                }
                () = retry => {
                    wanted.expire_leaving();
                    again = self.pass(&sql, present, wanted).await;
                    for (ts, look) in present.late.drain() {
                        self.fs.stale.note(ts, look);
                    }
                    retry_at = None;
                }
                refreshed = readers::ended(&mut present.refreshing) => self.take_refreshed(refreshed, present),
                due = self.fs.stale.take(), if present.refreshing.is_none() => {
                    self.begin_refresh(due, &sql, present, wanted);
                }
            }
        }
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
            let config_error = self.documents.error.clone();
            self.applied.send_replace(Applied { revision: view.revision.0, failures, config_error });
        }
        failed
    }
}
