//! What keeps this node in step with the controller: heartbeats up, views down, and the changelog of others' tables.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use moorhouse_catalog::{NodeName, NodeView, PartChange, ShardId, TableId, TableShard, Version, codec};
use moorhouse_objects::metrics as objects;
use moorhouse_proto as wire;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tonic::{Code, Status};

use crate::controller::{Backoff, ControllerClient};
use crate::fs::{Role, ShardFs};
use crate::limits;
use crate::metrics;
use crate::owner::Applied;

/// Why a session can never go on.
#[derive(Debug, thiserror::Error)]
#[error("the controller has given this node's name to a newer process: {0}")]
pub struct Superseded(String);

/// Beats until superseded; reconnects for as long as it takes.
pub async fn keep(
    controller: ControllerClient,
    node: NodeName,
    fs: Arc<ShardFs>,
    views: watch::Sender<Arc<NodeView>>,
    applied: watch::Receiver<Applied>,
) -> Superseded {
    let mut pause = Backoff::new(limits::RECONNECT_FIRST, limits::RECONNECT_LONGEST);
    loop {
        match one_session(&controller, &node, &fs, &views, applied.clone(), &mut pause).await {
            Ok(()) => tracing::warn!("the controller ended the session"),
            Err(status) if status.code() == Code::FailedPrecondition => {
                return Superseded(status.message().to_string());
            }
            Err(status) => tracing::warn!(error = status.message(), "no session with the controller"),
        }
        pause.wait().await;
    }
}

async fn one_session(
    controller: &ControllerClient,
    node: &NodeName,
    fs: &ShardFs,
    views: &watch::Sender<Arc<NodeView>>,
    mut applied: watch::Receiver<Applied>,
    pause: &mut Backoff,
) -> Result<(), Status> {
    let (beats, outgoing) = mpsc::channel(4);
    let beat = |applied: &Applied| wire::Heartbeat {
        node: node.to_string(),
        incarnation: controller.incarnation().0,
        view_revision: applied.revision,
        failures: applied
            .failures
            .iter()
            .map(|failure| wire::DdlFailure {
                ddl_seq: failure.seq.0,
                error: failure.error.clone(),
                shard: failure.shard.map(|shard| u32::from(shard.0)),
            })
            .collect(),
        load: Some(load(fs, controller)),
        config_error: applied.config_error.clone(),
    };
    let first = beat(&applied.borrow_and_update());
    beats.try_send(first).map_err(|_| Status::internal("a fresh channel has room"))?;
    let mut incoming = controller.session(outgoing).await?;
    let mut ticks = tokio::time::interval(limits::HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            update = incoming.message() => match update? {
                None => return Ok(()),
                Some(update) => {
                    pause.reset();
                    let view: NodeView =
                        codec::decode(&update.view_record).map_err(|error| Status::data_loss(error.to_string()))?;
                    views.send_if_modified(|known| {
                        let newer = view.revision > known.revision;
                        if newer {
                            *known = Arc::new(view);
                        }
                        newer
                    });
                }
            },
            changed = applied.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let beat = beat(&applied.borrow_and_update());
                beats.send(beat).await.map_err(|_| Status::unavailable("the session's stream is closed"))?;
            }
            _ = ticks.tick() => {
                let beat = beat(&applied.borrow());
                beats.send(beat).await.map_err(|_| Status::unavailable("the session's stream is closed"))?;
            }
        }
    }
}

fn load(fs: &ShardFs, controller: &ControllerClient) -> wire::NodeLoad {
    let cache = fs.cache.stats();
    wire::NodeLoad {
        staged_parts: metrics::STAGED_PARTS.get().max(0) as u64,
        staged_bytes: cache.staged_bytes,
        cached_bytes: cache.cached_bytes,
        object_puts: metrics::UPLOAD_PUTS.get(),
        object_gets: objects::REQUESTS.with_label_values(&[objects::Method::Get.label()]).get(),
        object_put_bytes: metrics::UPLOAD_BYTES.get(),
        peer_read_bytes: metrics::PEER_READ_BYTES.get(),
        commits: metrics::COMMITS.get(),
        changelog_behind_ms: controller.in_step().behind().as_millis() as u64,
    }
}

/// Follows the changelog of tables that other groups write, for ever.
pub async fn follow(controller: ControllerClient, fs: Arc<ShardFs>) {
    let mut pause = Backoff::new(limits::RECONNECT_FIRST, limits::RECONNECT_LONGEST);
    loop {
        let ended = follow_once(&controller, &fs, &mut pause).await;
        controller.in_step().lost();
        if let Err(status) = ended {
            tracing::warn!(error = status.message(), "the changelog stream broke");
        }
        pause.wait().await;
    }
}

async fn follow_once(controller: &ControllerClient, fs: &ShardFs, pause: &mut Backoff) -> Result<(), Status> {
    let mut stream = controller.watch_changelog().await?;
    // From here on nothing new is missed; what was missed before is fetched.
    let readers = futures::stream::iter(fs.loaded(Role::Reader));
    let caught_up =
        readers.map(|ts| async move { (ts, fs.catch_up(ts).await) }).buffer_unordered(limits::PARALLEL_COPIES);
    let mut behind = HashSet::new();
    for (ts, outcome) in caught_up.collect::<Vec<_>>().await {
        if let Err(error) = outcome {
            tracing::warn!(%ts, %error, "a reader could not catch up");
            behind.insert(ts);
        }
    }
    let mut ticks = tokio::time::interval(limits::CATCH_UP_RETRY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if behind.is_empty() {
            controller.in_step().reached();
        } else {
            controller.in_step().lost();
        }
        let update = tokio::select! {
            update = stream.message() => update?,
            _ = ticks.tick() => {
                catch_up(fs, &mut behind).await;
                continue;
            }
        };
        let Some(update) = update else { return Ok(()) };
        pause.reset();
        let (ts, version, change) = read_update(&update)?;
        if let Err(error) = fs.follow(ts, version, &change).await {
            tracing::warn!(%ts, %version, %error, "a changelog entry was not applied");
            behind.insert(ts);
        }
    }
}

/// Tries the readers again that have missed something. One that is no longer shown here has nothing to catch up with.
async fn catch_up(fs: &ShardFs, behind: &mut HashSet<TableShard>) {
    for ts in behind.clone() {
        if fs.role(ts) != Some(Role::Reader) || fs.catch_up(ts).await.is_ok() {
            behind.remove(&ts);
        }
    }
}

fn read_update(update: &wire::ChangelogUpdate) -> Result<(TableShard, Version, PartChange), Status> {
    let table = TableId::from_wire(&update.table).map_err(|error| Status::data_loss(error.to_string()))?;
    let shard = u16::try_from(update.shard).map_err(|error| Status::data_loss(error.to_string()))?;
    let change = codec::decode(&update.change_record).map_err(|error| Status::data_loss(error.to_string()))?;
    Ok((TableShard { table, shard: ShardId(shard) }, Version(update.version), change))
}
