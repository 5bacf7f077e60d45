//! The owner loop: the one task that has the catalog.
//!
//! A round takes what waits in the mailbox, applies it, makes all of its writes durable in one store transaction, publishes,
//! and only then answers. If the store does not confirm, nobody is told that anything happened: the state is loaded
//! again. Reads are answered after the writes of their round. What needs a part list that is not in memory waits for it in
//! [`Lists`].

mod batch;

use std::sync::Arc;
use std::time::Duration;

use moorhouse_base::clock::Clock;
use moorhouse_catalog::state::{
    Applied, Catalog, CatalogError, Command, LISTS, Limits, NotHere, NotLoaded, Reply, Shard,
};
use moorhouse_catalog::store::{Leadership, Store, StoreError};
use moorhouse_catalog::{NodeName, PartChange, Revision, TableShard, Version};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::error::ControllerError;
use crate::lists::{Lists, Loaded};
use crate::liveness::{Beat, Liveness};
use crate::published::Published;
use crate::{limits, metrics};
use batch::Batch;

/// Looks at the catalog, or hears why it cannot. Run again once the lists are loaded that it asks for.
type Reading = Box<dyn FnMut(Result<&Catalog, ControllerError>) -> Result<(), NotLoaded> + Send>;

type Answer<T> = oneshot::Sender<Result<T, ControllerError>>;

enum Request {
    Apply {
        command: Box<Command>,
        answer: Answer<Reply>,
    },
    Read {
        read: Reading,
        /// The list that it is about.
        at: Option<TableShard>,
    },
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
        let mut read = Some(read);
        self.read_when_loaded(None, move |catalog| Ok(read.take().map(|read| read(catalog))))
            .await?
            .ok_or(ControllerError::Stopping)
    }

    /// The same of one table shard, whose list is loaded for it; `None` if there is no such table shard.
    pub async fn read_shard<T: Send + 'static>(
        &self,
        at: TableShard,
        mut read: impl FnMut(&Catalog, &Shard) -> T + Send + 'static,
    ) -> Result<Option<T>, ControllerError> {
        let read = move |catalog: &Catalog| match catalog.shard(at) {
            Ok(shard) => Ok(Some(read(catalog, shard))),
            Err(NotHere::Unknown(_)) => Ok(None),
            Err(NotHere::NotLoaded(needed)) => Err(needed),
        };
        self.read_when_loaded(Some(at), read).await
    }

    /// As [`Owner::read`]; run again when the lists are here that it says it needs.
    pub async fn read_when_loaded<T: Send + 'static>(
        &self,
        at: Option<TableShard>,
        mut read: impl FnMut(&Catalog) -> Result<T, NotLoaded> + Send + 'static,
    ) -> Result<T, ControllerError> {
        let (answer, answered) = oneshot::channel();
        let mut answer = Some(answer);
        let reading = move |catalog: Result<&Catalog, ControllerError>| {
            let found = match catalog {
                Ok(catalog) => Ok(read(catalog)?),
                Err(error) => Err(error),
            };
            // Whoever asked may have left.
            let _ = answer.take().map(|answer| answer.send(found));
            Ok(())
        };
        self.send(Request::Read { read: Box::new(reading), at }).await?;
        answered.await.unwrap_or(Err(ControllerError::Stopping))
    }

    /// Table shards of tables that are not dropped, and that were written.
    pub async fn table_shards(&self) -> Result<Vec<TableShard>, ControllerError> {
        self.read(|catalog| catalog.live_shards().map(|(at, _)| at).collect()).await
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
    lists: Lists<Request>,
    published: watch::Sender<Published>,
    changelog: broadcast::Sender<ChangelogEvent>,
}

/// Reads the catalog but for its part lists.
pub async fn load(store: &dyn Store, limits: Limits) -> Result<Catalog, OwnerEnd> {
    let mut records = Vec::new();
    let mut from = Vec::new();
    for list in LISTS {
        records.extend(store.range_between(&from, list).await.map_err(unreadable)?);
        from = moorhouse_catalog::store::end_of(list);
    }
    records.extend(store.range_between(&from, b"").await.map_err(unreadable)?);
    let records = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
    Catalog::load_without_lists(limits, records).map_err(unreadable)
}

/// Reads all of it.
pub async fn load_whole(store: &dyn Store, limits: Limits) -> Result<Catalog, OwnerEnd> {
    let records = store.range(b"").await.map_err(unreadable)?;
    let records = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
    Catalog::load(limits, records).map_err(unreadable)
}

fn unreadable(error: impl std::fmt::Display) -> OwnerEnd {
    OwnerEnd::Unreadable(error.to_string())
}

/// What the loop is made of.
pub struct OwnerSetup {
    pub catalog: Catalog,
    pub store: Arc<dyn Store>,
    pub leadership: Leadership,
    pub clock: Arc<dyn Clock>,
    /// A node that is silent for longer is down.
    pub lease: Duration,
    /// Memory that part lists may take, about.
    pub lists_bytes: usize,
}

impl OwnerLoop {
    pub fn new(setup: OwnerSetup) -> (Self, Owner) {
        let OwnerSetup { catalog, store, leadership, clock, lease, lists_bytes } = setup;
        let (sender, mailbox) = mpsc::channel(limits::MAILBOX);
        let (changelog, _) = broadcast::channel(limits::CHANGELOG_BACKLOG);
        let (published, receiver) = watch::channel(Published {
            directory: Arc::clone(catalog.directory()),
            liveness: Arc::new(Liveness::default()),
            ready_revision: catalog.directory().revision,
        });
        let owner = Owner { mailbox: sender, published: receiver, changelog: changelog.clone() };
        let limits = *catalog.limits();
        let lists = Lists::new(Arc::clone(&store), lists_bytes);
        (Self { catalog, limits, store, leadership, clock, lease, mailbox, lists, published, changelog }, owner)
    }

    /// Until `stop`; answers with the leadership, to be given up last.
    pub async fn run(mut self, stop: CancellationToken) -> Result<Leadership, OwnerEnd> {
        let mut leases = tokio::time::interval(self.lease / 4);
        leases.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut waiting = Vec::with_capacity(limits::ROUND);
        self.count();
        loop {
            let mut freed = self.lists.freed();
            self.round(&mut freed).await?;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(self.leadership),
                () = self.leadership.lost() => return Err(OwnerEnd::Deposed),
                _ = leases.tick() => self.expire_leases(),
                loaded = self.lists.loaded() => self.take_in(loaded).await?,
                taken = self.mailbox.recv_many(&mut waiting, limits::ROUND) => {
                    if taken == 0 {
                        return Ok(self.leadership);
                    }
                    self.round(&mut waiting).await?;
                }
            }
        }
    }

    /// A list is here, or cannot be had: those who waited for it go on.
    async fn take_in(&mut self, loaded: Loaded) -> Result<(), OwnerEnd> {
        let (mut ready, refused) = self.lists.take_in(&mut self.catalog, loaded);
        for (request, error) in refused {
            request.refuse(ControllerError::Unavailable(error));
        }
        self.round(&mut ready).await
    }

    async fn round(&mut self, waiting: &mut Vec<Request>) -> Result<(), OwnerEnd> {
        let mut batch = Batch::default();
        let mut reads = Vec::new();
        for request in waiting.drain(..) {
            match request {
                Request::Apply { command, answer } => {
                    // What is published must be confirmed, and only commits of parts change nothing that is published.
                    if !matches!(*command, Command::CommitParts(_)) && batch.is_large() {
                        self.commit(std::mem::take(&mut batch), &mut Batch::default()).await?;
                    }
                    match self.apply(*command) {
                        Tried::Done(Ok(applied)) if !batch.has_room_for(&applied) => {
                            let mut next = Batch::default();
                            next.add(Ok(applied), answer);
                            self.commit(std::mem::take(&mut batch), &mut next).await?;
                            batch = next;
                        }
                        Tried::Done(applied) => batch.add(applied, answer),
                        Tried::Later(command, needed) => self.park(Request::Apply { command, answer }, needed),
                    }
                }
                Request::Read { read, at } => reads.push((read, at)),
                Request::Heartbeat { beat, answer } => drop(answer.send(self.hear(beat))),
                Request::Disconnected { node, session } => self.disconnect(&node, session),
                Request::Ready(revision) => self.published.send_modify(|shown| {
                    shown.ready_revision = shown.ready_revision.max(revision);
                }),
            }
        }
        self.commit(batch, &mut Batch::default()).await?;
        for (mut read, at) in reads {
            if !self.leadership.is_certain() {
                // Another may lead, and have changed what is in memory here.
                Request::Read { read, at }
                    .refuse(ControllerError::Unavailable("the leadership may be lost".to_owned()));
                continue;
            }
            match read(Ok(&self.catalog)) {
                Ok(()) => at.into_iter().for_each(|at| self.lists.touch(at)),
                Err(needed) => self.park(Request::Read { read, at }, needed),
            }
        }
        self.lists.shrink(&mut self.catalog);
        self.count();
        Ok(())
    }

    fn apply(&mut self, command: Command) -> Tried {
        if let Err(needed) = self.catalog.is_ready_for(&command) {
            return Tried::Later(Box::new(command), needed);
        }
        // A commit is large, and needs nothing more; others are small.
        let again = match &command {
            Command::CommitParts(commit) => {
                self.lists.touch(commit.at);
                None
            }
            other => Some(Box::new(other.clone())),
        };
        let applied = self.catalog.apply(command, self.clock.now_ms());
        match (applied, again) {
            (Err(CatalogError::NotLoaded(needed)), Some(command)) => Tried::Later(command, needed),
            (Err(CatalogError::Violated(violation)), _) => {
                error!(%violation, "a command was refused by an invariant: this is a bug");
                Tried::Done(Err(violation.into()))
            }
            (applied, _) => Tried::Done(applied),
        }
    }

    fn park(&mut self, request: Request, needed: NotLoaded) {
        if self.lists.is_full() {
            request.refuse(ControllerError::Unavailable("too many requests wait for part lists".to_owned()));
        } else {
            self.lists.park(&self.catalog, request, needed);
        }
    }

    /// `later` was applied after `batch`, and is to be committed next: if `batch` fails, it fails too, and is empty then.
    async fn commit(&mut self, batch: Batch, later: &mut Batch) -> Result<(), OwnerEnd> {
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
                let later = std::mem::take(later);
                self.catalog.undo(later.undo);
                self.catalog.undo(undo);
                let full = || ControllerError::StoreFull(text.clone());
                let answers = answers.into_iter().chain(later.answers);
                answers.for_each(|(answer, _)| drop(answer.send(Err(full()))));
                return Ok(());
            }
            if let Err(error) = committed {
                self.reload_after(&error).await?;
                let unavailable = || ControllerError::Unavailable(error.to_string());
                let answers = answers.into_iter().chain(std::mem::take(later).answers);
                answers.for_each(|(answer, _)| drop(answer.send(Err(unavailable()))));
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
        self.lists.begin_anew(&self.catalog);
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
        self.published.send_if_modified(|shown| {
            if Arc::ptr_eq(&shown.directory, self.catalog.directory()) {
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
        metrics::PARTS_LOADED.set(self.catalog.loaded_parts() as i64);
        metrics::PART_LISTS_BYTES.set(self.catalog.memory_bytes() as i64);
    }

    fn count_nodes(&self) {
        metrics::NODES_UP.set(self.published.borrow().liveness.up().count() as i64);
    }
}

/// What came of a command.
enum Tried {
    Done(Result<Applied, CatalogError>),
    /// To be tried again when these lists are here.
    Later(Box<Command>, NotLoaded),
}

impl Request {
    fn refuse(self, error: ControllerError) {
        match self {
            Self::Apply { answer, .. } => drop(answer.send(Err(error))),
            // It has nothing to ask for.
            Self::Read { mut read, .. } => drop(read(Err(error))),
            Self::Heartbeat { answer, .. } => drop(answer.send(Err(error))),
            Self::Disconnected { .. } | Self::Ready(_) => {}
        }
    }
}
