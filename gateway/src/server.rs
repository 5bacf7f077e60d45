//! The process: bind everything, wait for a first view, serve, drain.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use moorhouse_base::tasks::TaskGroup;
use moorhouse_base::telemetry;
use moorhouse_catalog::GroupName;
use moorhouse_security::{Dialer, RoleKind};
use tokio::net::TcpListener;

use crate::cluster::Cluster;
use crate::config::{Config, GroupListen, Mistakes};
use crate::controller::Controller;
use crate::{http, limits, native};

/// A gateway with its ports bound, not yet serving.
pub struct Gateway {
    config: Config,
    listeners: Vec<(GroupName, TcpListener, TcpListener)>,
}

impl Gateway {
    /// Binds all ports of all groups; the mistakes are the ports that cannot be had.
    pub async fn bind(config: Config) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let mut listeners = Vec::new();
        for GroupListen { group, http, native } in &config.groups {
            match (bind(*http).await, bind(*native).await) {
                (Ok(http), Ok(native)) => listeners.push((group.clone(), http, native)),
                (http, native) => mistakes.extend([http.err(), native.err()].into_iter().flatten()),
            }
        }
        // Served only when ready, but a taken port is told now.
        mistakes.extend(bind(config.metrics).await.err());
        if mistakes.is_empty() { Ok(Self { config, listeners }) } else { Err(mistakes) }
    }

    /// The addresses that were bound, HTTP and native, in the order of the flags.
    pub fn addresses(&self) -> io::Result<Vec<(SocketAddr, SocketAddr)>> {
        self.listeners.iter().map(|(_, http, native)| Ok((http.local_addr()?, native.local_addr()?))).collect()
    }

    /// Serves until `stop` resolves; then lets open statements end, up to [`limits::DRAIN`].
    pub async fn run(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let (background, clients, upstream) = (TaskGroup::new(), TaskGroup::new(), TaskGroup::new());
        let cluster = Cluster::default();
        let credentials = self.config.tls.open(RoleKind::Gateway, None, &background).map_err(io::Error::other)?;
        let controller = Controller::new(&self.config.controller, &Dialer::from(credentials));
        let controller = controller.map_err(io::Error::other)?;
        background.spawn("views", controller.clone().follow(cluster.clone()));
        let nodes = http::node_client(&upstream);
        tokio::pin!(stop);
        let started = tokio::select! {
            () = cluster.first_view() => true,
            () = &mut stop => false,
        };
        if started {
            for (group, http, native) in self.listeners {
                let endpoint = http::Endpoint::new(group.clone(), cluster.clone(), controller.clone(), nodes.clone());
                clients.spawn("http listener", Arc::new(endpoint).serve(http, clients.clone()));
                let endpoint = native::Endpoint::new(group, cluster.clone());
                clients.spawn("native listener", Arc::new(endpoint).serve(native, clients.clone()));
            }
            let metrics = telemetry::serve_metrics(self.config.metrics, &background).await?;
            tracing::info!(%metrics, "the gateway is ready");
            stop.await;
        }
        tracing::info!("stopping: open statements may end");
        if !clients.shutdown(limits::DRAIN).await {
            tracing::warn!("some statements were still running and are cut");
        }
        upstream.shutdown(Duration::from_millis(500)).await;
        background.shutdown(Duration::from_millis(500)).await;
        Ok(())
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("port {} of {} is in use: choose another or stop its owner.", address.port(), address.ip())
        }
        _ => format!("cannot listen at {address}: {error}."),
    })
}
