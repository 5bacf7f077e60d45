//! One move of a shard, step by step: pre-copy → hold → detach → final delta → the catalog's one transaction → attach → release.
//!
//! Until the transaction every failure cancels: the old node attaches the shard again. After it the shard belongs to the new node
//! whatever happens: a failing attach is tried again, and the agent attaches what its view says anyway.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use moorhouse_catalog::placement::Step;
use moorhouse_catalog::state::{Command, CompleteMove, Reply};
use moorhouse_catalog::{BlobId, Epoch, GroupName, Node, NodeName, ShardId, codec};
use moorhouse_proto::{AttachRequest, HoldRequest, PreCopyReply, PreCopyRequest, ReleaseRequest, ShardRequest};
use tokio::time::Instant;
use tonic::Status;
use tracing::{debug, error, info, warn};

use crate::agents::{Agents, within};
use crate::error::ControllerError;
use crate::limits;
use crate::moves::history::Measured;
use crate::owner::Owner;
use crate::published::Published;

pub struct Run<'a> {
    owner: &'a Owner,
    agents: &'a Agents,
    group: GroupName,
    step: Step,
    measured: Measured,
}

impl<'a> Run<'a> {
    pub fn new(owner: &'a Owner, agents: &'a Agents, group: GroupName, step: Step) -> Self {
        Self { owner, agents, group, step, measured: Measured::default() }
    }

    pub fn measured(&self) -> Measured {
        self.measured
    }

    /// The error says why the move was cancelled.
    pub async fn execute(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        let result = self.try_execute().await;
        self.measured.total_ms = begun.elapsed().as_millis() as u64;
        let Step { shard, from, to } = &self.step;
        let Measured { hold_ms, total_ms, copied_bytes } = self.measured;
        match &result {
            Ok(()) => info!(group = %self.group, %shard, %from, %to, hold_ms, total_ms, copied_bytes, "shard moved"),
            Err(reason) => warn!(group = %self.group, %shard, %from, %to, reason, "the move of a shard was cancelled"),
        }
        result
    }

    async fn try_execute(&mut self) -> Result<(), String> {
        let begin = Command::BeginMove { group: self.group.clone(), shard: self.step.shard, to: self.step.to.clone() };
        let epoch = match self.owner.apply(begin).await {
            Ok(Reply::MoveBegun { from, epoch }) if from == self.step.from => epoch,
            Ok(_) => return Err(self.cancel("the shard has changed hands meanwhile".to_owned()).await),
            // It may have begun all the same.
            Err(error @ ControllerError::Unavailable(_)) => return Err(self.cancel(error.to_string()).await),
            Err(error) => return Err(error.to_string()),
        };
        if let Err(reason) = self.pre_copy_until_little_is_left().await {
            return Err(self.cancel(reason).await);
        }
        let hold = Instant::now();
        let result = match self.hand_over(epoch, hold).await {
            Ok(epoch) => {
                self.passed("epoch raised", hold);
                self.settle_in(epoch, hold).await;
                Ok(())
            }
            Err(reason) => Err(self.cancel(reason).await),
        };
        self.measured.hold_ms = hold.elapsed().as_millis() as u64;
        result
    }

    /// From the hold to the transaction; answers with the new epoch.
    async fn hand_over(&mut self, epoch: Epoch, hold: Instant) -> Result<Epoch, String> {
        self.hold().await?;
        self.passed("held", hold);
        self.detach(epoch).await?;
        self.passed("detached", hold);
        let blobs = self.pre_copy(limits::MOVE_STEP_TIMEOUT).await?;
        self.passed("final delta copied", hold);
        if hold.elapsed() > limits::HOLD_BUDGET {
            return Err(format!("the hold took {} ms already", hold.elapsed().as_millis()));
        }
        let complete = CompleteMove { group: self.group.clone(), shard: self.step.shard, epoch, blobs };
        match self.owner.apply(Command::CompleteMove(complete)).await {
            Ok(Reply::Moved { epoch }) => Ok(epoch),
            Ok(other) => Err(format!("internal error: {other:?}")),
            // The outcome may be unknown: what is in the catalog decides.
            Err(error) => match self.owner.shown().directory.assignment(&self.group, self.step.shard) {
                Some(a) if a.node == self.step.to && a.epoch > epoch => Ok(a.epoch),
                _ => Err(error.to_string()),
            },
        }
    }

    /// The old node lets go of the shard. One that is down cannot be asked, and need not be: the new epoch fences whatever it
    /// still does, and the catalog hands the shard over only if the new node has every byte that was staged there.
    async fn detach(&self, epoch: Epoch) -> Result<(), String> {
        let Step { shard, from, .. } = &self.step;
        if !self.owner.shown().liveness.is_up(from) {
            info!(group = %self.group, %shard, %from, "the node is down: its shard fails over to one that has its bytes");
            return Ok(());
        }
        let from = self.node(from)?;
        let detach = ShardRequest { shard: self.shard(), epoch: epoch.0 };
        let mut agent = self.agents.of(&from).map_err(|status| said(&from.name, "detach", &status))?;
        let detached = agent.detach(within(detach, limits::MOVE_STEP_TIMEOUT)).await;
        detached.map(drop).map_err(|status| said(&from.name, "detach", &status))
    }

    /// Each round copies what came during the one before, so the last delta, copied under the hold, is that of one short round.
    async fn pre_copy_until_little_is_left(&mut self) -> Result<(), String> {
        for _ in 0..limits::PRE_COPY_ROUNDS {
            let copied_before = self.measured.copied_bytes;
            self.pre_copy(limits::PRE_COPY_TIMEOUT).await?;
            if self.measured.copied_bytes == copied_before {
                break;
            }
        }
        Ok(())
    }

    async fn pre_copy(&mut self, deadline: Duration) -> Result<HashSet<BlobId>, String> {
        let to = self.node(&self.step.to)?;
        let mut agent = self.agents.of(&to).map_err(|status| said(&to.name, "pre-copy", &status))?;
        let request = within(PreCopyRequest { shard: self.shard() }, deadline);
        let copied = agent.pre_copy(request).await.map_err(|status| said(&to.name, "pre-copy", &status))?;
        let PreCopyReply { blobs, copied_bytes } = copied.into_inner();
        self.measured.copied_bytes += copied_bytes;
        blobs.iter().map(|blob| BlobId::from_wire(blob)).collect::<Result<_, _>>().map_err(|error| error.to_string())
    }

    async fn hold(&self) -> Result<(), String> {
        let holds = self.owner.shown().nodes_up(&self.group).into_iter().map(|node| async move {
            let request = HoldRequest {
                shard: self.shard(),
                drain_timeout_ms: limits::DRAIN_TIMEOUT.as_millis() as u32,
                hold_timeout_ms: limits::HOLD_TIMEOUT.as_millis() as u32,
            };
            let mut agent = self.agents.of(&node).map_err(|status| said(&node.name, "hold", &status))?;
            let deadline = limits::DRAIN_TIMEOUT + Duration::from_secs(1);
            agent.hold(within(request, deadline)).await.map_err(|status| said(&node.name, "hold", &status))
        });
        join_all(holds).await.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
    }

    /// The shard is the new node's: attach it there, and let work go on.
    async fn settle_in(&self, epoch: Epoch, hold: Instant) {
        let mut wait = Duration::from_millis(50);
        while let Err(reason) = self.attach(epoch).await {
            if wait > limits::MOVE_STEP_TIMEOUT {
                error!(group = %self.group, shard = %self.step.shard, reason, "a moved shard could not be attached: look at the agent's log");
                break;
            }
            warn!(group = %self.group, shard = %self.step.shard, reason, "a moved shard is not attached yet, trying again");
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        self.passed("attached", hold);
        if let Err(reason) =
            release(self.agents, &self.owner.shown(), &self.group, self.step.shard, &self.step.to).await
        {
            warn!(group = %self.group, shard = %self.step.shard, reason, "a moved shard is not released everywhere: those nodes follow their views");
        }
    }

    async fn attach(&self, epoch: Epoch) -> Result<(), String> {
        let to = self.node(&self.step.to)?;
        let view = self.owner.shown().directory.node_view(&to.name).ok_or("the node was removed")?;
        let request = AttachRequest { view_record: codec::encode(&view).into(), shard: self.shard(), epoch: epoch.0 };
        let mut agent = self.agents.of(&to).map_err(|status| said(&to.name, "attach", &status))?;
        let attached = agent.attach(within(request, limits::MOVE_STEP_TIMEOUT)).await;
        attached.map(drop).map_err(|status| said(&to.name, "attach", &status))
    }

    /// Ends the move with the shard where it was; answers with the reason. Every node is told, whatever it had done for the
    /// move: the old one attaches again, the new one lets go of its copies.
    async fn cancel(&self, reason: String) -> String {
        let (group, shard) = (&self.group, self.step.shard);
        let forget = || self.owner.apply(Command::CancelMove { group: group.clone(), shard });
        let mut wait = limits::CLEAN_UP_RETRY;
        for _ in 0..limits::CLEAN_UP_TRIES {
            let forgotten = forget().await.map(drop).map_err(|error| error.to_string());
            let told = release(self.agents, &self.owner.shown(), group, shard, &self.step.from).await;
            match forgotten.and(told) {
                Ok(()) => return reason,
                Err(error) => warn!(%group, %shard, error, "a cancelled move is not cleaned up yet, trying again"),
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        error!(%group, %shard, "a cancelled move is not cleaned up: nodes recover by themselves when its time is over");
        reason
    }

    fn node(&self, name: &NodeName) -> Result<Node, String> {
        let shown = self.owner.shown();
        match shown.directory.nodes.get(name) {
            Some(node) if shown.liveness.is_up(name) => Ok(node.clone()),
            Some(_) => Err(format!("node {name} is down")),
            None => Err(format!("node {name} was removed")),
        }
    }

    /// Where the time of a hold goes.
    fn passed(&self, step: &'static str, hold: Instant) {
        let (group, shard, ms) = (&self.group, self.step.shard, hold.elapsed().as_millis() as u64);
        debug!(%group, %shard, step, ms, "since the hold began");
    }

    fn shard(&self) -> u32 {
        u32::from(self.step.shard.0)
    }
}

/// Tells every live node of the group that `holder` has the shard. The holder first: it may have to attach it.
pub async fn release(
    agents: &Agents,
    shown: &Published,
    group: &GroupName,
    shard: ShardId,
    holder: &NodeName,
) -> Result<(), String> {
    let holder = shown.directory.nodes.get(holder).ok_or_else(|| format!("node {holder} was removed"))?;
    let assignment =
        shown.directory.assignment(group, shard).ok_or_else(|| format!("shard {shard} is not assigned"))?;
    let epoch = assignment.epoch.0;
    let tell = |node: Node| async move {
        let request = ReleaseRequest { shard: u32::from(shard.0), native_address: holder.engine_native.clone(), epoch };
        let mut agent = agents.of(&node).map_err(|status| said(&node.name, "release", &status))?;
        let released = agent.release(within(request, limits::MOVE_STEP_TIMEOUT)).await;
        released.map(drop).map_err(|status| said(&node.name, "release", &status))
    };
    let (first, others): (Vec<Node>, Vec<Node>) =
        shown.nodes_up(group).into_iter().partition(|node| node.name == holder.name);
    let mut told = join_all(first.into_iter().map(tell)).await;
    told.extend(join_all(others.into_iter().map(tell)).await);
    told.into_iter().collect()
}

fn said(node: &NodeName, step: &str, status: &Status) -> String {
    format!("node {node} failed to {step}: {} ({:?})", status.message(), status.code())
}
