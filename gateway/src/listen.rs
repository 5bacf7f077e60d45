//! Ports on which clients arrive, and which group they mean.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use moorhouse_base::tasks::TaskGroup;
use moorhouse_catalog::GroupName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::exception::{Code, Exception};
use crate::tls::Tls;
use crate::{http, limits, native};

/// A client's connection, with TLS or without.
pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// Who is at the other end, before it has said anything.
#[derive(Debug, Clone)]
pub struct Visitor {
    pub address: SocketAddr,
    /// From the TLS handshake.
    pub server_name: Option<String>,
}

/// Whom a port leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entrance {
    /// To one group, whatever the client says.
    Group(GroupName),
    /// To the group that the client names: in the first part of the host name (TLS server name, HTTP Host), or by its user.
    Shared,
}

/// Every group's endpoints, and the users that belong to one group.
pub struct Doors {
    pub groups: BTreeMap<GroupName, (Arc<http::Endpoint>, Arc<native::Endpoint>)>,
    pub users: BTreeMap<String, GroupName>,
}

/// What a client tells of the group it means.
#[derive(Debug, Default, Clone, Copy)]
pub struct Hints<'a> {
    pub server_name: Option<&'a str>,
    pub host: Option<&'a str>,
    pub user: Option<&'a str>,
}

impl Doors {
    /// The group that is meant.
    pub fn choose(&self, entrance: &Entrance, hints: Hints<'_>) -> Result<&GroupName, Exception> {
        let named = |group: &str| self.groups.keys().find(|name| name.as_str() == group);
        if let Entrance::Group(group) = entrance
            && let Some(group) = named(group.as_str())
        {
            return Ok(group);
        }
        let first_part = |host: &str| named(host.split(['.', ':']).next().unwrap_or_default());
        let by_host = hints.server_name.and_then(first_part).or_else(|| hints.host.and_then(first_part));
        let by_user = || hints.user.and_then(|user| self.users.get(user)).and_then(|group| named(group.as_str()));
        by_host.or_else(by_user).ok_or_else(|| {
            let names: Vec<&str> = self.groups.keys().map(GroupName::as_str).collect();
            Exception::new(
                Code::BadArguments,
                format!(
                    "This port serves several compute groups and the connection names none of them ({}). Connect to \
                     GROUP.<host>, or to the group's own port.",
                    names.join(", ")
                ),
            )
        })
    }

    pub fn http(&self, group: &GroupName) -> &Arc<http::Endpoint> {
        &self.groups[group].0
    }

    pub fn native(&self, group: &GroupName) -> &Arc<native::Endpoint> {
        &self.groups[group].1
    }
}

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Http,
    Native,
}

/// A bound port.
pub struct Port {
    pub listener: TcpListener,
    pub speaks: Speaks,
    pub entrance: Entrance,
    pub tls: Option<Tls>,
}

impl Port {
    /// Takes connections until the group of tasks ends; each then ends after its current statement.
    pub async fn serve(self, doors: Arc<Doors>, tasks: TaskGroup) {
        let room = Arc::new(Semaphore::new(limits::CONNECTIONS_PER_LISTENER));
        let Self { listener, speaks, entrance, tls } = self;
        loop {
            let place = room.clone().acquire_owned().await.expect("never closed");
            match listener.accept().await {
                Ok((stream, address)) => {
                    let (doors, entrance, tls, stopping) =
                        (doors.clone(), entrance.clone(), tls.clone(), tasks.token());
                    tasks.spawn_uncancelled("client connection", async move {
                        enter(stream, address, speaks, tls, doors, entrance, stopping).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(?entrance, %error, "cannot take a connection");
                    sleep(limits::RECONNECT_PAUSE).await;
                }
            }
        }
    }
}

async fn enter(
    stream: TcpStream,
    address: SocketAddr,
    speaks: Speaks,
    tls: Option<Tls>,
    doors: Arc<Doors>,
    entrance: Entrance,
    stopping: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client was gone at once");
        return;
    }
    let (stream, server_name): (Box<dyn Stream>, _) = match tls {
        None => (Box::new(stream), None),
        Some(tls) => match tls.accept(stream).await {
            Ok((stream, name)) => (Box::new(stream), name),
            Err(error) => {
                tracing::debug!(error, "a client's TLS handshake failed");
                return;
            }
        },
    };
    let visitor = Visitor { address, server_name };
    match speaks {
        Speaks::Http => http::converse(stream, doors, entrance, visitor, stopping).await,
        Speaks::Native => native::converse(stream, &doors, &entrance, &visitor, stopping).await,
    }
}
