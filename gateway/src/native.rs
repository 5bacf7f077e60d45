//! The native endpoint of one group: each connection is passed, byte by byte, to the ready node with the fewest of them.
//!
//! Nothing of the protocol is read in this version. So definitions are refused by the engine's grants, an INSERT must come
//! through the table's owner group, and a connection stays with its node until either side ends it.

use std::sync::Arc;

use moorhouse_base::tasks::TaskGroup;
use moorhouse_catalog::{GroupName, NodeName};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{Cluster, Lease, Work};
use crate::limits;
use crate::metrics::{self, Open, Protocol};

pub struct Endpoint {
    group: GroupName,
    cluster: Cluster,
}

impl Endpoint {
    pub fn new(group: GroupName, cluster: Cluster) -> Self {
        Self { group, cluster }
    }

    /// Takes connections until the group of tasks ends; open ones are then cut.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, tasks: TaskGroup) {
        let room = Arc::new(Semaphore::new(limits::CONNECTIONS_PER_LISTENER));
        loop {
            let place = room.clone().acquire_owned().await.expect("never closed");
            match listener.accept().await {
                Ok((client, _)) => {
                    let endpoint = self.clone();
                    tasks.spawn("native connection", async move {
                        endpoint.pass(client).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(group = %self.group, %error, "cannot take a connection");
                    sleep(limits::RECONNECT_PAUSE).await;
                }
            }
        }
    }

    async fn pass(&self, mut client: TcpStream) {
        let _open = Open::new(Protocol::Native);
        let Some((mut node, lease)) = self.connect().await else {
            tracing::warn!(group = %self.group, "a native connection is dropped: no node of the group is ready");
            return;
        };
        let _ = (client.set_nodelay(true), node.set_nodelay(true));
        match copy_bidirectional(&mut client, &mut node).await {
            Ok((up, down)) => {
                metrics::BYTES_IN.with_label_values(&[Protocol::Native.label()]).inc_by(up);
                metrics::BYTES_OUT.with_label_values(&[Protocol::Native.label()]).inc_by(down);
            }
            Err(error) => tracing::debug!(node = %lease.node.node, %error, "a native connection broke"),
        }
    }

    /// A connection to a ready node, held until there is one, up to the limit.
    async fn connect(&self) -> Option<(TcpStream, Lease)> {
        let deadline = Instant::now() + limits::HOLD;
        let mut refused: Vec<NodeName> = Vec::new();
        while Instant::now() < deadline {
            let Some(lease) = self.cluster.pick(&self.group, Work::Connection, None, &refused) else {
                if refused.is_empty() {
                    self.cluster.changed(deadline).await;
                } else {
                    refused.clear();
                    sleep(limits::RECONNECT_PAUSE).await;
                }
                continue;
            };
            match timeout(limits::CONNECT, TcpStream::connect(&lease.node.engine_native)).await {
                Ok(Ok(stream)) => return Some((stream, lease)),
                _ => {
                    tracing::warn!(node = %lease.node.node, "a node takes no native connection; trying elsewhere");
                    metrics::RETRIES.inc();
                    refused.push(lease.node.node.clone());
                }
            }
        }
        None
    }
}
