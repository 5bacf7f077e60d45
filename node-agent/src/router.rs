//! The shard router: one local port for each shard, forwarding ClickHouse's native protocol to the node that holds the
//! shard in this group. ClickHouse's cluster names only these ports, so a move changes no ClickHouse configuration.
//!
//! During a **hold** no connection of the shard reaches a backend: new ones wait, idle ones are closed (ClickHouse checks a
//! pooled connection before each use and connects anew), busy ones are left until their statement is over. Closing
//! anywhere else would fail a statement; `moorhouse_engine::native` knows where that is. The same happens, without
//! waiting, to connections whose shard now has another target.
//!
//! [`gate`] keeps a shard's target, hold and count; [`connection`] moves the bytes of one connection.

mod connection;
mod gate;
mod metrics;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use moorhouse_base::tasks::TaskGroup;
use moorhouse_catalog::{ShardCount, ShardId};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use gate::Gate;

/// A shard's connections beyond this wait in the listener's backlog.
const MAX_CONNECTIONS_PER_SHARD: usize = 4096;
/// After a failed accept: the process is out of file descriptors, or nearly.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Why a hold did not come about. The shard is open again, to its old target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    #[error("there is no shard {shard}")]
    NoSuchShard { shard: ShardId },
    #[error("shard {shard} is held already: release it first")]
    AlreadyHeld { shard: ShardId },
    #[error("{connections} connections of shard {shard} were still busy after {waited:?}")]
    StillBusy { shard: ShardId, connections: u32, waited: Duration },
    #[error("shard {shard} was released while it was being drained")]
    Released { shard: ShardId },
}

/// All shards' ports. Cheap to clone; lives as long as its task group.
#[derive(Clone)]
pub struct ShardRouter {
    gates: Arc<[Arc<Gate>]>,
    tasks: TaskGroup,
}

impl ShardRouter {
    /// Listens on 127.0.0.1, ports `base_port` to `base_port + shards - 1`. No shard has a target yet: connections wait for
    /// one, up to a limit. The error names the port.
    pub async fn start(base_port: u16, shards: ShardCount, tasks: &TaskGroup) -> std::io::Result<Self> {
        metrics::register();
        let mut gates = Vec::with_capacity(usize::from(shards.get()));
        let mut listeners = Vec::with_capacity(gates.capacity());
        for shard in shards.iter() {
            let port = base_port
                .checked_add(shard.0)
                .ok_or_else(|| std::io::Error::other(format!("port {base_port} + {shard} is above 65535")))?;
            listeners.push(listen(port).await?);
            gates.push(Arc::new(Gate::new(shard)));
        }
        for (gate, listener) in gates.iter().zip(listeners) {
            tasks.spawn("router-accept", accept(listener, Arc::clone(gate), tasks.clone()));
        }
        Ok(Self { gates: gates.into(), tasks: tasks.clone() })
    }

    /// From now on the shard is at `target` (`host:port`). During a hold this only says where connections go if the hold
    /// runs out; it does not end it.
    pub fn route(&self, shard: ShardId, target: &str) {
        match self.gate(shard) {
            Some(gate) => gate.route(target),
            None => tracing::warn!(%shard, "a route for a shard that does not exist"),
        }
    }

    /// Returns the number of closed connections once none of the shard reaches a backend any more. If that takes longer
    /// than `drain_timeout`, or if the call is dropped, the hold is off again. It ends by itself, to the shard's target,
    /// `hold_timeout` after it began.
    pub async fn hold(
        &self,
        shard: ShardId,
        drain_timeout: Duration,
        hold_timeout: Duration,
    ) -> Result<u32, HoldError> {
        let gate = self.gate(shard).ok_or(HoldError::NoSuchShard { shard })?;
        let hold = gate.begin_hold()?;
        let expiring = Arc::clone(gate);
        self.tasks.spawn("router-hold", async move {
            tokio::time::sleep(hold_timeout).await;
            expiring.expire(hold);
        });
        gate.drain(hold, drain_timeout).await
    }

    /// Ends a hold, if there is one: all that waits goes to `target`.
    pub fn release(&self, shard: ShardId, target: &str) {
        match self.gate(shard) {
            Some(gate) => gate.release(target),
            None => tracing::warn!(%shard, "a release of a shard that does not exist"),
        }
    }

    fn gate(&self, shard: ShardId) -> Option<&Arc<Gate>> {
        self.gates.get(usize::from(shard.0))
    }
}

async fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(|error| std::io::Error::new(error.kind(), format!("port {port}: {error}")))
}

async fn accept(listener: TcpListener, gate: Arc<Gate>, tasks: TaskGroup) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS_PER_SHARD));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let gate = Arc::clone(&gate);
                tasks.spawn("router-connection", async move {
                    connection::serve(&gate, client).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of a shard");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}
