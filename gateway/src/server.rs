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
use crate::config::{Config, Mistakes};
use crate::controller::Controller;
use crate::listen::{Doors, Port, Speaks};
use crate::tls::Tls;
use crate::{http, limits, native};

/// A gateway with its ports bound, not yet serving.
pub struct Gateway {
    config: Config,
    ports: Vec<Port>,
    tls: Option<Tls>,
}

impl Gateway {
    /// Reads certificates and binds all ports; the mistakes are what cannot be had.
    pub async fn bind(config: Config) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let mut ports = Vec::new();
        let tls =
            config.endpoint_tls.clone().map(Tls::load).transpose().map_err(|error| mistakes.push(error)).ok().flatten();
        for listen in &config.listen {
            for (address, speaks) in [(listen.http, Speaks::Http), (listen.native, Speaks::Native)] {
                let tls = tls.clone().filter(|_| listen.tls);
                match bind(address).await {
                    Ok(listener) => ports.push(Port { listener, speaks, entrance: listen.entrance.clone(), tls }),
                    Err(mistake) => mistakes.push(mistake),
                }
            }
        }
        // Served only when ready, but a taken port is told now.
        mistakes.extend(bind(config.metrics).await.err());
        if mistakes.is_empty() { Ok(Self { config, ports, tls }) } else { Err(mistakes) }
    }

    /// Serves until `stop` resolves; then lets open statements end, up to [`limits::DRAIN`].
    pub async fn run(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let (background, clients, upstream) = (TaskGroup::new(), TaskGroup::new(), TaskGroup::new());
        let cluster = Cluster::default();
        let credentials = self.config.tls.open(RoleKind::Gateway, None, &background).map_err(io::Error::other)?;
        let controller = Controller::new(&self.config.controller, &Dialer::from(credentials));
        let controller = controller.map_err(io::Error::other)?;
        background.spawn("views", controller.clone().follow(cluster.clone()));
        if let Some(tls) = self.tls {
            background.spawn("certificates", tls.follow());
        }
        let nodes = http::node_client(&upstream);
        tokio::pin!(stop);
        let started = tokio::select! {
            () = cluster.first_view() => true,
            () = &mut stop => false,
        };
        if started {
            let endpoints = |group: GroupName| {
                let http = http::Endpoint::new(group.clone(), cluster.clone(), controller.clone(), nodes.clone());
                let http = Arc::new(http);
                let native = native::Endpoint::new(group.clone(), cluster.clone(), http.clone());
                (group, (http, Arc::new(native)))
            };
            let groups = self.config.groups.into_iter().map(endpoints).collect();
            let doors = Arc::new(Doors { groups, users: self.config.users });
            for port in self.ports {
                clients.spawn("port", port.serve(doors.clone(), clients.clone()));
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
