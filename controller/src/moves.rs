//! Brings shards to the nodes where placement wants them: on request, and when a node has joined.
//!
//! One move at a time in a group. [`run`] carries out one; here stands which, and what became of the last ones.

mod history;
mod run;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use moorhouse_base::tasks::TaskGroup;
use moorhouse_catalog::placement::{self, Candidate, Step};
use moorhouse_catalog::state::Command;
use moorhouse_catalog::{GroupName, Incarnation, NodeName, Revision};
use moorhouse_proto::{MoveInfo, MoveProgress};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;
use tracing::{info, warn};

use crate::agents::Agents;
use crate::error::ControllerError;
use crate::limits;
use crate::owner::Owner;
use crate::published::Published;
use history::History;

pub struct Mover {
    owner: Owner,
    agents: Arc<Agents>,
    history: History,
    places: Arc<Semaphore>,
    /// One move at a time in a group.
    groups: Mutex<HashMap<GroupName, Arc<tokio::sync::Mutex<()>>>>,
}

pub type Progress = mpsc::Sender<Result<MoveProgress, Status>>;

impl Mover {
    pub fn new(owner: Owner, agents: Arc<Agents>) -> Self {
        Self {
            owner,
            agents,
            history: History::default(),
            places: Arc::new(Semaphore::new(limits::BALANCES_AT_ONCE)),
            groups: Mutex::new(HashMap::new()),
        }
    }

    /// The newest first.
    pub fn list(&self) -> Vec<MoveInfo> {
        self.history.list()
    }

    pub fn admit(&self) -> Result<OwnedSemaphorePermit, ControllerError> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| ControllerError::TooMany("rebalance requests"))
    }

    /// Moves shards until the group is balanced, and says so in the last message of `progress`.
    pub async fn balance(
        &self,
        _place: OwnedSemaphorePermit,
        group: GroupName,
        progress: Option<Progress>,
    ) -> Result<(), String> {
        let lock =
            Arc::clone(self.groups.lock().unwrap_or_else(PoisonError::into_inner).entry(group.clone()).or_default());
        let _turn = lock.lock().await;
        let mut done = 0;
        let mut last = None;
        let mut attempts = 0;
        let error = loop {
            // Planned anew each time: nodes come and go meanwhile.
            let steps = plan(&self.owner.shown(), &group);
            // After a failure another shard has its turn.
            let Some(step) = steps.get(attempts as usize % steps.len().max(1)) else { break self.left_behind(&group) };
            send(&progress, done, steps.len(), last.clone(), None).await;
            let mut run = run::Run::new(&self.owner, &self.agents, group.clone(), step.clone());
            let number = self.history.begin(&group, step);
            let outcome = run.execute().await;
            let error = outcome.as_ref().err().cloned();
            last = Some(self.history.end(number, &run.measured(), &outcome));
            match error {
                None => (done, attempts) = (done + 1, 0),
                Some(_) if attempts + 1 < limits::MOVE_ATTEMPTS => {
                    tokio::time::sleep(limits::MOVE_RETRY * 2u32.pow(attempts)).await;
                    attempts += 1;
                }
                Some(error) => break Some(error),
            }
        };
        send(&progress, done, 0, last, Some(error.clone().unwrap_or_default())).await;
        error.map_or(Ok(()), Err)
    }

    /// Why a draining node still has shards although there is nothing that can be moved.
    fn left_behind(&self, group: &GroupName) -> Option<String> {
        let shown = self.owner.shown();
        let draining = shown.directory.group_nodes(group).filter(|node| node.draining);
        let stuck: Vec<String> = draining
            .map(|node| (&node.name, shown.directory.assignments_of(&node.name).count()))
            .filter(|(_, held)| *held > 0)
            .map(|(node, held)| format!("node {node} still holds {held} shards"))
            .collect();
        let remedy = "start it, or another node of the group to take them";
        (!stuck.is_empty()).then(|| format!("{}: {remedy}", stuck.join(", ")))
    }

    /// Balances a group whenever one of its nodes has come up and has applied a view for the first time.
    pub async fn follow_joins(self: Arc<Self>, tasks: TaskGroup) {
        let mut published = self.owner.published();
        let mut joined: BTreeMap<NodeName, Incarnation> = BTreeMap::new();
        loop {
            let groups = newly_joined(&published.borrow_and_update(), &mut joined);
            for group in groups {
                match self.admit() {
                    Ok(place) => {
                        let mover = Arc::clone(&self);
                        tasks.spawn("rebalance", async move {
                            // Why it ended stands in the history of moves.
                            drop(mover.balance(place, group, None).await);
                        });
                    }
                    Err(error) => warn!(%group, %error, "a group is not rebalanced"),
                }
            }
            if published.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends the moves that an earlier leader began and did not complete.
    pub async fn cancel_abandoned(self: Arc<Self>, tasks: &TaskGroup) -> Result<(), ControllerError> {
        let directory = self.owner.shown().directory;
        for assignment in directory.assignments.values().filter(|a| a.moving.is_some()) {
            let (group, shard) = (assignment.group.clone(), assignment.shard);
            info!(%group, %shard, "cancelling a move that was begun before this controller led");
            self.owner.apply(Command::CancelMove { group: group.clone(), shard }).await?;
            let mover = Arc::clone(&self);
            let stays = assignment.node.clone();
            // In the background: the nodes connect only once we serve.
            tasks.spawn("cancel-move", async move { mover.release_until_told(group, shard, stays).await });
        }
        Ok(())
    }

    async fn release_until_told(&self, group: GroupName, shard: moorhouse_catalog::ShardId, stays: NodeName) {
        for _ in 0..limits::CANCEL_ATTEMPTS {
            let nodes = self.owner.shown().nodes_up(&group);
            if nodes.iter().any(|node| node.name == stays) {
                match run::release(&self.agents, &self.owner.shown(), &group, shard, &stays).await {
                    Ok(()) => return,
                    Err(error) => warn!(%group, %shard, %error, "a cancelled move is not released yet"),
                }
            }
            tokio::time::sleep(limits::CANCEL_RETRY).await;
        }
    }
}

/// Nodes that are up and have applied a view may take shards. A draining node gives its own away also while it is down.
fn plan(shown: &Published, group: &GroupName) -> Vec<Step> {
    let is_lost = |node: &moorhouse_catalog::Node| node.draining && !shown.liveness.is_up(&node.name);
    let fit = shown.directory.group_nodes(group);
    let fit = fit.filter(|node| shown.has_applied(&node.name, Revision(0)) || is_lost(node));
    let candidate =
        |node: &moorhouse_catalog::Node| Candidate { name: node.name.clone(), weight: 1, draining: node.draining };
    let candidates: Vec<Candidate> = fit.map(candidate).collect();
    let assignments = shown.directory.group_assignments(group).map(|a| (a.shard, a.node.clone())).collect();
    placement::steps(&candidates, &assignments)
}

fn newly_joined(shown: &Published, joined: &mut BTreeMap<NodeName, Incarnation>) -> BTreeSet<GroupName> {
    let mut groups = BTreeSet::new();
    for (name, live) in shown.liveness.up().filter(|(name, _)| shown.has_applied(name, Revision(0))) {
        let Some(node) = shown.directory.nodes.get(name) else { continue };
        if joined.insert(name.clone(), live.incarnation) != Some(live.incarnation) && !node.draining {
            groups.insert(node.group.clone());
        }
    }
    groups
}

/// `finished`: with an error, or with an empty text.
async fn send(progress: &Option<Progress>, done: u32, left: usize, last: Option<MoveInfo>, finished: Option<String>) {
    if let Some(progress) = progress {
        let message = MoveProgress {
            moves_total: done + left as u32,
            moves_done: done,
            last,
            finished: finished.is_some(),
            error: finished.unwrap_or_default(),
        };
        // The client may have left; the moves go on.
        let _ = progress.send(Ok(message)).await;
    }
}
