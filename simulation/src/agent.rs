//! A node agent that speaks the protocol and serves no engine: it registers, keeps a session, follows its view, and commits,
//! uploads and hands over as a real one does. Written against the wire, not from the real agent's code.

mod reader;
mod service;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moorhouse_catalog::{
    AssignmentView, BlobId, Epoch, GroupName, Incarnation, Node, NodeName, NodeView, ShardId, TableId, TableShard,
    codec,
};
use moorhouse_objects::Objects;
use moorhouse_proto::agent_server::AgentServer;
use moorhouse_proto::{Heartbeat, NodeLoad, ViewUpdate};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::service::Routes;

use crate::chance::Chance;
use crate::controllers::{Controllers, Failure};
use crate::network::Network;
use crate::observer::Observer;
use writer::Local;

const BEAT: Duration = Duration::from_millis(300);
const RETRY: Duration = Duration::from_millis(150);
/// A detached shard that nobody speaks of again is attached by itself.
const HOLD: Duration = Duration::from_secs(9);

/// The staged bytes of every node: they outlive its processes.
#[derive(Clone, Default)]
pub struct Disks(Arc<Mutex<BTreeMap<NodeName, BTreeSet<BlobId>>>>);

impl Disks {
    pub fn write(&self, node: &NodeName, blob: BlobId) {
        self.lock().entry(node.clone()).or_default().insert(blob);
    }

    pub fn evict(&self, node: &NodeName, blob: BlobId) {
        if let Some(blobs) = self.lock().get_mut(node) {
            blobs.remove(&blob);
        }
    }

    pub fn has(&self, node: &NodeName, blob: BlobId) -> bool {
        self.lock().get(node).is_some_and(|blobs| blobs.contains(&blob))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, BTreeSet<BlobId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every process of the simulation is given.
#[derive(Clone)]
pub struct Surroundings {
    pub network: Network,
    pub observer: Observer,
    pub disks: Disks,
    pub objects: Objects,
    pub controllers: Vec<String>,
    /// Set for the end of a run: nobody writes any more.
    pub quiet: Arc<std::sync::atomic::AtomicBool>,
}

impl Surroundings {
    pub fn is_quiet(&self) -> bool {
        self.quiet.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// One process of a node.
pub struct Agent {
    name: NodeName,
    group: GroupName,
    around: Surroundings,
    controllers: Controllers,
    chance: Mutex<Chance>,
    state: Mutex<State>,
    /// Table shards that this process writes, each with its turn.
    locals: Mutex<BTreeMap<TableShard, Arc<tokio::sync::Mutex<Local>>>>,
}

#[derive(Default)]
struct State {
    incarnation: Option<Incarnation>,
    view: Option<NodeView>,
    /// Shards taken out of the engine for a move, and since when.
    detached: BTreeMap<ShardId, tokio::time::Instant>,
}

/// Until the process is told that it is not its node's newest any more; then it ends.
pub async fn run(name: NodeName, group: GroupName, writes: bool, around: Surroundings, chance: Chance) {
    let controllers = Controllers::new(&around.network, name.as_str(), &around.controllers);
    let agent = Arc::new(Agent {
        name,
        group,
        around,
        controllers,
        chance: Mutex::new(chance),
        state: Mutex::default(),
        locals: Mutex::default(),
    });
    let (network, host) = (agent.around.network.clone(), agent.name.to_string());
    let routes = Routes::new(AgentServer::from_arc(Arc::clone(&agent)));
    let serving = tokio::spawn(async move { network.serve(&host, routes).await });
    let mut tasks = tokio::task::JoinSet::new();
    if agent.register().await {
        for _ in 0..if writes { 3 } else { 0 } {
            tasks.spawn(Arc::clone(&agent).write());
        }
        if !writes {
            tasks.spawn(Arc::clone(&agent).follow());
        }
        let why = agent.attend().await;
        agent.around.observer.note(&format!("{} ends: {}", agent.name, why.message()));
    }
    // A real process ends here: its promises with it.
    tasks.abort_all();
    serving.abort();
}

impl Agent {
    /// False if the warehouse does not want it.
    async fn register(&self) -> bool {
        let record = Node {
            name: self.name.clone(),
            group: self.group.clone(),
            agent_address: self.name.to_string(),
            engine_http: format!("{}:8123", self.name),
            engine_native: format!("{}:9000", self.name),
            incarnation: Incarnation(0),
            draining: false,
        };
        loop {
            match self.controllers.register(&record).await {
                Ok((incarnation, view)) => {
                    let mut state = self.state();
                    state.incarnation = Some(incarnation);
                    state.view = Some(view);
                    return true;
                }
                Err(Failure::Refused(status)) => {
                    self.around.observer.note(&format!("{} may not register: {}", self.name, status.message()));
                    return false;
                }
                Err(Failure::Unknown(_)) => self.pause(RETRY).await,
            }
        }
    }

    /// Session after session; answers why there is none any more.
    async fn attend(&self) -> Status {
        loop {
            let ended = match self.one_session().await {
                Ok(()) => Failure::Unknown(Status::unavailable("the session ended")),
                Err(failure) => failure,
            };
            match ended {
                Failure::Refused(status) => return status,
                Failure::Unknown(_) => self.pause(RETRY).await,
            }
        }
    }

    async fn one_session(&self) -> Result<(), Failure> {
        let (beats, receiver) = mpsc::channel(8);
        let send = |beat| beats.try_send(beat).map_err(|_| Failure::Unknown(Status::unavailable("no room for a beat")));
        send(self.beat())?;
        let mut views = self.controllers.session(receiver).await?;
        loop {
            let update = tokio::select! {
                biased;
                update = views.message() => update,
                () = tokio::time::sleep(BEAT) => {
                    send(self.beat())?;
                    continue;
                }
            };
            match update {
                Ok(Some(update)) => {
                    self.take_view(&update)?;
                    send(self.beat())?;
                }
                Ok(None) => return Err(self.controllers.session_ended(Status::unavailable("the session ended"))),
                Err(status) => return Err(self.controllers.session_ended(status)),
            }
        }
    }

    fn take_view(&self, update: &ViewUpdate) -> Result<(), Failure> {
        let view: NodeView = codec::decode(&update.view_record)
            .map_err(|error| Failure::Refused(Status::internal(error.to_string())))?;
        let mut state = self.state();
        // A leader of before may still speak: what it says is not newer.
        if state.view.as_ref().is_none_or(|known| known.revision < view.revision) {
            state.view = Some(view);
        }
        Ok(())
    }

    fn beat(&self) -> Heartbeat {
        let state = self.state();
        Heartbeat {
            node: self.name.to_string(),
            incarnation: state.incarnation.map_or(0, |incarnation| incarnation.0),
            view_revision: state.view.as_ref().map_or(0, |view| view.revision.0),
            failures: Vec::new(),
            load: Some(NodeLoad::default()),
            config_error: String::new(),
        }
    }

    /// The epoch under which this process may write a shard.
    fn epoch(&self, shard: ShardId) -> Option<Epoch> {
        let mut state = self.state();
        let mine = |a: &&AssignmentView| a.shard == shard && a.node == self.name;
        let epoch = state.view.as_ref()?.assignments.iter().find(mine)?.epoch;
        if state.detached.get(&shard).is_some_and(|since| since.elapsed() < HOLD) {
            return None;
        }
        state.detached.remove(&shard);
        Some(epoch)
    }

    fn tables(&self, of: impl Fn(&moorhouse_catalog::Table) -> bool) -> Vec<TableId> {
        let state = self.state();
        let tables = state.view.iter().flat_map(|view| &view.tables);
        let active = |t: &&moorhouse_catalog::Table| t.state == moorhouse_catalog::TableState::Active && of(t);
        tables.filter(active).map(|table| table.id).collect()
    }

    fn shard_count(&self) -> u16 {
        self.state().view.as_ref().map_or(0, |view| view.shards.get())
    }

    async fn pause(&self, about: Duration) {
        let about = about.as_millis() as u64;
        let ms = self.chance().between(about / 2, about * 2);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chance(&self) -> MutexGuard<'_, Chance> {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
