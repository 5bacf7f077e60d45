//! The owner loop: the one task that has the catalog.
//!
//! A round takes what waits in the mailbox, applies it, makes all of its writes durable in one store transaction, publishes,
//! and only then answers. If the store does not confirm, nobody is told that anything happened: the state is loaded
//! again. Reads are answered after the writes of their round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use moorhouse_base::clock::Clock;
use moorhouse_catalog::entry::Write;
use moorhouse_catalog::state::{Applied, Catalog, CatalogError, Command, Limits, Reply, Undo};
use moorhouse_catalog::store::{Leadership, Store, StoreError};
use moorhouse_catalog::{NodeName, PartChange, Revision, TableShard, Version};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::error::ControllerError;
use crate::liveness::{Beat, Liveness};
use crate::published::Published;
use crate::{limits, metrics};

type Answer<T> = oneshot::Sender<Result<T, ControllerError>>;

enum Request {
    Apply {
        command: Box<Command>,
        answer: Answer<Reply>,
    },
    Read(Box<dyn FnOnce(&Catalog) + Send>),
    Heartbeat {
        beat: Beat,
        answer: Answer<()>,
    },
    Disconnected {
        node: NodeName,
        session: u64,
    },
    /// A DDL task has ended that all live nodes have applied.
    Ready(Revision),
}

/// For those who watch the changelog.
#[derive(Debug, Clone)]
pub enum ChangelogEvent {
    Change(TableShard, Version, Arc<PartChange>),
    /// Changes may have been missed: end the stream.
    Broken,
}

/// How everybody else reaches the catalog.
#[derive(Clone)]
pub struct Owner {
    mailbox: mpsc::Sender<Request>,
    published: watch::Receiver<Published>,
    changelog: broadcast::Sender<ChangelogEvent>,
}

impl Owner {
    /// Durable and published when this answers.
    pub async fn apply(&self, command: Command) -> Result<Reply, ControllerError> {
        let (answer, answered) = oneshot::channel();
        self.send(Request::Apply { command: Box::new(command), answer }).await?;
        answered.await.unwrap_or(Err(ControllerError::Stopping))
    }

    /// Runs `read` inside the loop: it must be quick.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Catalog) -> T + Send + 'static,
    ) -> Result<T, ControllerError> {
        let (answer, answered) = oneshot::channel();
        let answering = move |catalog: &Catalog| drop(answer.send(read(catalog)));
        self.send(Request::Read(Box::new(answering))).await?;
        answered.await.map_err(|_| ControllerError::Stopping)
    }

    pub async fn heartbeat(&self, beat: Beat) -> Result<(), ControllerError> {
        let (answer, answered) = oneshot::channel();
        self.send(Request::Heartbeat { beat, answer }).await?;
        answered.await.unwrap_or(Err(ControllerError::Stopping))
    }

    /// The node's stream has ended. If the loop has ended too, there is nobody to tell.
    pub async fn disconnected(&self, node: NodeName, session: u64) {
        let _ = self.send(Request::Disconnected { node, session }).await;
    }

    /// From now on only nodes that have applied `revision` get statements.
    pub async fn ready_from(&self, revision: Revision) -> Result<(), ControllerError> {
        self.send(Request::Ready(revision)).await
    }

    pub fn published(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    pub fn shown(&self) -> Published {
        self.published.borrow().clone()
    }

    pub fn watch_changelog(&self) -> broadcast::Receiver<ChangelogEvent> {
        self.changelog.subscribe()
    }

    async fn send(&self, request: Request) -> Result<(), ControllerError> {
        self.mailbox.send(request).await.map_err(|_| ControllerError::Stopping)
    }
}

/// Why the loop ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum OwnerEnd {
    #[error(
        "the leadership over the store is lost: another controller leads, or the store could not be reached in time"
    )]
    Deposed,
    #[error("the catalog cannot be loaded again: {0}")]
    Unreadable(String),
}

pub struct OwnerLoop {
    catalog: Catalog,
    limits: Limits,
    store: Arc<dyn Store>,
    leadership: Leadership,
    clock: Arc<dyn Clock>,
    lease: Duration,
    mailbox: mpsc::Receiver<Request>,
    published: watch::Sender<Published>,
    changelog: broadcast::Sender<ChangelogEvent>,
}

/// Reads the whole catalog.
pub async fn load(store: &dyn Store, limits: Limits) -> Result<Catalog, OwnerEnd> {
    let records = store.range(b"").await.map_err(|error| OwnerEnd::Unreadable(error.to_string()))?;
    let records = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
    Catalog::load(limits, records).map_err(|error| OwnerEnd::Unreadable(error.to_string()))
}

/// What the loop is made of.
pub struct OwnerSetup {
    pub catalog: Catalog,
    pub store: Arc<dyn Store>,
    pub leadership: Leadership,
    pub clock: Arc<dyn Clock>,
    /// A node that is silent for longer is down.
    pub lease: Duration,
}

impl OwnerLoop {
    pub fn new(setup: OwnerSetup) -> (Self, Owner) {
        let OwnerSetup { catalog, store, leadership, clock, lease } = setup;
        let (sender, mailbox) = mpsc::channel(limits::MAILBOX);
        let (changelog, _) = broadcast::channel(limits::CHANGELOG_BACKLOG);
        let (published, receiver) = watch::channel(Published {
            directory: Arc::clone(catalog.directory()),
            liveness: Arc::new(Liveness::default()),
            ready_revision: catalog.directory().revision,
        });
        let owner = Owner { mailbox: sender, published: receiver, changelog: changelog.clone() };
        let limits = *catalog.limits();
        (Self { catalog, limits, store, leadership, clock, lease, mailbox, published, changelog }, owner)
    }

    /// Until `stop`; answers with the leadership, to be given up last.
    pub async fn run(mut self, stop: CancellationToken) -> Result<Leadership, OwnerEnd> {
        let mut leases = tokio::time::interval(self.lease / 4);
        leases.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut waiting = Vec::with_capacity(limits::ROUND);
        self.count();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(self.leadership),
                () = self.leadership.lost() => return Err(OwnerEnd::Deposed),
                _ = leases.tick() => self.expire_leases(),
                taken = self.mailbox.recv_many(&mut waiting, limits::ROUND) => {
                    if taken == 0 {
                        return Ok(self.leadership);
                    }
                    self.round(&mut waiting).await?;
                }
            }
        }
    }

    async fn round(&mut self, waiting: &mut Vec<Request>) -> Result<(), OwnerEnd> {
        let mut batch = Batch::default();
        let mut reads = Vec::new();
        for request in waiting.drain(..) {
            match request {
                Request::Apply { command, answer } => {
                    batch.add(self.apply(*command), answer);
                    if batch.is_full() {
                        self.commit(std::mem::take(&mut batch)).await?;
                    }
                }
                Request::Read(read) => reads.push(read),
                Request::Heartbeat { beat, answer } => drop(answer.send(self.hear(beat))),
                Request::Disconnected { node, session } => self.disconnect(&node, session),
                Request::Ready(revision) => self.published.send_modify(|shown| {
                    shown.ready_revision = shown.ready_revision.max(revision);
                }),
            }
        }
        self.commit(batch).await?;
        reads.into_iter().for_each(|read| read(&self.catalog));
        Ok(())
    }

    fn apply(&mut self, command: Command) -> Result<Applied, CatalogError> {
        let applied = self.catalog.apply(command, self.clock.now_ms());
        if let Err(CatalogError::Violated(violation)) = &applied {
            error!(%violation, "a command was refused by an invariant: this is a bug");
        }
        applied
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), OwnerEnd> {
        let Batch { answers, writes, changes, undo, .. } = batch;
        if !writes.is_empty() {
            let begun = Instant::now();
            let committed = self.store.commit(&self.leadership, writes.into_values().collect()).await;
            metrics::COMMIT_SECONDS.observe(begun.elapsed().as_secs_f64());
            metrics::BATCH_SIZE.observe(answers.len() as f64);
            metrics::STORE_FULL.set(i64::from(matches!(committed, Err(StoreError::Full(_)))));
            if let Err(StoreError::Full(text) | StoreError::Refused(text)) = committed {
                // Certain not to have happened: what is in memory is taken back, and reads go on.
                metrics::COMMIT_FAILURES.inc();
                error!(text, "the store takes no writes");
                self.catalog.undo(undo);
                let full = || ControllerError::StoreFull(text.clone());
                answers.into_iter().for_each(|(answer, _)| drop(answer.send(Err(full()))));
                return Ok(());
            }
            if let Err(error) = committed {
                self.reload_after(&error).await?;
                let unavailable = || ControllerError::Unavailable(error.to_string());
                answers.into_iter().for_each(|(answer, _)| drop(answer.send(Err(unavailable()))));
                return Ok(());
            }
            metrics::COMMITS.inc_by(answers.len() as u64);
            self.publish();
        }
        for (at, version, change) in changes {
            // Nobody watching is no error.
            let _ = self.changelog.send(ChangelogEvent::Change(at, version, change));
        }
        answers.into_iter().for_each(|(answer, reply)| drop(answer.send(reply.map_err(ControllerError::from))));
        Ok(())
    }

    async fn reload_after(&mut self, error: &StoreError) -> Result<(), OwnerEnd> {
        metrics::COMMIT_FAILURES.inc();
        if *error == StoreError::Deposed {
            return Err(OwnerEnd::Deposed);
        }
        warn!(%error, "a commit was not confirmed: loading the catalog again");
        let mut wait = limits::RELOAD_RETRY;
        loop {
            match self.reload().await {
                Ok(()) => break,
                Err(StoreError::Deposed) => return Err(OwnerEnd::Deposed),
                Err(error) => warn!(%error, "the catalog could not be loaded, trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.leadership.lost() => return Err(OwnerEnd::Deposed),
            }
            wait = (wait * 2).min(limits::RELOAD_RETRY_MAX);
        }
        // What did happen was not announced: watchers take snapshots.
        let _ = self.changelog.send(ChangelogEvent::Broken);
        self.publish();
        info!(revision = self.catalog.directory().revision.0, "the catalog is loaded again");
        Ok(())
    }

    async fn reload(&mut self) -> Result<(), StoreError> {
        self.store.settle(&self.leadership).await?;
        let unreadable = |error: OwnerEnd| StoreError::Unavailable(error.to_string());
        self.catalog = load(&*self.store, self.limits).await.map_err(unreadable)?;
        Ok(())
    }

    fn publish(&self) {
        self.count();
        self.published.send_if_modified(|shown| {
            if shown.directory.revision == self.catalog.directory().revision
                && shown.directory == *self.catalog.directory()
            {
                return false;
            }
            shown.directory = Arc::clone(self.catalog.directory());
            Arc::make_mut(&mut shown.liveness).retain_newest(self.catalog.directory());
            true
        });
    }

    fn hear(&self, beat: Beat) -> Result<(), ControllerError> {
        let name = beat.node.clone();
        let mut heard = Ok(());
        self.published.send_if_modified(|shown| {
            let was_up = shown.liveness.is_up(&name);
            match Arc::make_mut(&mut shown.liveness).hear(&shown.directory, beat, Instant::now()) {
                Ok(changed) => {
                    if !was_up {
                        info!(node = %name, "node is up");
                    }
                    changed
                }
                Err(refusal) => {
                    heard = Err(refusal.into());
                    false
                }
            }
        });
        self.count_nodes();
        heard
    }

    fn disconnect(&self, node: &NodeName, session: u64) {
        let down = |shown: &mut Published| Arc::make_mut(&mut shown.liveness).disconnect(node, session);
        if self.published.send_if_modified(down) {
            warn!(%node, "node is down: its session has ended");
            self.count_nodes();
        }
    }

    fn expire_leases(&self) {
        let mut down = Vec::new();
        self.published.send_if_modified(|shown| {
            down = Arc::make_mut(&mut shown.liveness).expire(self.lease, Instant::now());
            !down.is_empty()
        });
        for node in down {
            warn!(%node, lease_ms = self.lease.as_millis() as u64, "node is down: no heartbeat came");
            self.count_nodes();
        }
    }

    fn count(&self) {
        metrics::TABLES.set(self.catalog.directory().tables.len() as i64);
        metrics::PARTS.set(self.catalog.shards().values().map(|shard| shard.parts.len() as i64).sum());
    }

    fn count_nodes(&self) {
        metrics::NODES_UP.set(self.published.borrow().liveness.up().count() as i64);
    }
}

/// Commands of one store transaction.
#[derive(Default)]
struct Batch {
    answers: Vec<(Answer<Reply>, Result<Reply, CatalogError>)>,
    /// The newest write of each key is the one that counts.
    writes: BTreeMap<Vec<u8>, Write>,
    bytes: usize,
    changes: Vec<(TableShard, Version, Arc<PartChange>)>,
    undo: Undo,
}

impl Batch {
    fn add(&mut self, applied: Result<Applied, CatalogError>, answer: Answer<Reply>) {
        let reply = applied.map(|Applied { reply, writes, changes, undo }| {
            self.undo.extend(undo);
            for write in writes {
                if let Write::Put { value, .. } = &write {
                    self.bytes += value.len();
                }
                self.writes.insert(write.key().to_vec(), write);
            }
            self.changes.extend(changes);
            reply
        });
        self.answers.push((answer, reply));
    }

    fn is_full(&self) -> bool {
        self.writes.len() >= limits::BATCH_WRITES || self.bytes >= limits::BATCH_BYTES
    }
}
