//! The native endpoint of one group: ClickHouse's TCP protocol, its statements routed one by one.
//!
//! The gateway makes the handshake on both sides (a node checks the password) and then reads no more than it must: queries,
//! and where packets end. A SELECT goes to the least-loaded node, an INSERT to the table's owner group, a definition to the
//! controller. A connection is a session: once it has settings or temporary tables it stays with its node.
//!
//! Reading order: [`accept`] shakes hands, [`session`] routes, [`relay`] passes a statement on; [`client`] and [`node`] are
//! the two sides.

mod accept;
mod client;
mod frames;
mod head;
mod inlet;
mod node;
mod packet;
mod relay;
mod session;

use std::sync::Arc;

use moorhouse_catalog::GroupName;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::http;
use crate::listen::{Doors, Entrance, Stream, Visitor};
use crate::metrics::{Open, Protocol};

pub struct Endpoint {
    group: GroupName,
    cluster: Cluster,
    /// Runs what a native client's statement needs of HTTP.
    http: Arc<http::Endpoint>,
}

impl Endpoint {
    pub fn new(group: GroupName, cluster: Cluster, http: Arc<http::Endpoint>) -> Self {
        Self { group, cluster, http }
    }
}

/// Serves one client's connection until it goes, or until `stopping` after its current statement.
pub async fn converse(
    stream: Box<dyn Stream>,
    doors: &Doors,
    entrance: &Entrance,
    visitor: &Visitor,
    stopping: CancellationToken,
) {
    let _open = Open::new(Protocol::Native);
    let (read, write) = tokio::io::split(stream);
    if let Some(session) = accept::accept(doors, entrance, visitor.server_name.as_deref(), read, write).await {
        session.arrived_from(visitor.address).run(stopping).await;
    }
}
