//! The handshake with a client, and in its name with a node.

use moorhouse_engine::native::framing::Framing;
use moorhouse_engine::native::handshake::{
    Addendum, Chunking, ClientHello, NEWEST_REVISION, OLDEST_REVISION, Proof, REVISION_ADDENDUM, ServerHello, Stop,
};
use tokio::io::AsyncRead;
use tokio::time::{Instant, timeout};

use super::Endpoint;
use super::client::{FromClient, Read, ToClient, Write};
use super::inlet::{Inlet, Outlet};
use super::node::{NodeConnection, Refusal};
use super::packet;
use super::session::Session;
use crate::cluster::{Lease, Work};
use crate::exception::{Code, Exception};
use crate::http::ready_node;
use crate::limits;
use crate::listen::{Doors, Entrance, Hints};

/// Why a handshake came to nothing.
enum Failed {
    /// The client went away, or is none of ClickHouse's.
    Client(&'static str),
    /// To be told.
    Exception(Exception),
    /// A node's exception, to be passed on.
    Said(bytes::Bytes),
}

impl From<Exception> for Failed {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

/// Shakes hands; `None` if that came to nothing, which the client was then told as far as possible.
pub async fn accept<'d>(
    doors: &'d Doors,
    entrance: &Entrance,
    server_name: Option<&str>,
    read: Read,
    write: Write,
) -> Option<Session<'d>> {
    let (mut inlet, mut outlet) = (Inlet::new(read), Outlet::new(write));
    let failed = match timeout(limits::HANDSHAKE, client_hello(&mut inlet)).await {
        Err(_) => Failed::Client("it says no hello"),
        Ok(Err(failed)) => failed,
        Ok(Ok(hello)) => {
            let user = std::str::from_utf8(&hello.user).ok();
            match doors.choose(entrance, Hints { server_name, host: None, user }) {
                Err(exception) => exception.into(),
                Ok(group) => match doors.native(group).greet(hello, &mut inlet, &mut outlet).await {
                    Ok(greeted) => return Some(greeted.over(inlet, outlet)),
                    Err(failed) => failed,
                },
            }
        }
    };
    let last_words = match failed {
        Failed::Client(why) => {
            tracing::debug!(?entrance, why, "no handshake with a client");
            return None;
        }
        Failed::Exception(exception) => {
            tracing::debug!(?entrance, text = %exception.text, "a client is refused");
            packet::exception(&exception).into()
        }
        Failed::Said(said) => said,
    };
    if outlet.write(&last_words).await.is_ok() && outlet.flush().await.is_ok() {
        outlet.close().await;
    }
    None
}

impl Endpoint {
    /// Finds a node that takes the client, and tells the client the node's hello.
    async fn greet(
        &self,
        hello: ClientHello,
        inlet: &mut Inlet<Read>,
        outlet: &mut Outlet<Write>,
    ) -> Result<Greeted<'_>, Failed> {
        check(&hello)?;
        let hello = ClientHello { revision: hello.revision.min(NEWEST_REVISION), ..hello };
        let (mut node, server) = self.first_node(&hello).await?;
        let mut told = server.clone();
        told.revision = hello.revision;
        told.chunking = server.chunking.map(|_| (Chunking::EITHER, Chunking::EITHER));
        let gone = |_| Failed::Client("it went away in the handshake");
        outlet.write(&told.write()).await.map_err(gone)?;
        outlet.flush().await.map_err(gone)?;
        let addendum = timeout(limits::HANDSHAKE, client_addendum(inlet, hello.revision)).await;
        let addendum = addendum.map_err(|_| Failed::Client("it says no addendum"))??;
        node.finish(&server, &addendum).await.map_err(|refusal| match refusal {
            Refusal::Said(said) => Failed::Said(said),
            Refusal::Away(why) => Exception::new(Code::NetworkError, format!("Node {}: {why}.", node.node)).into(),
        })?;
        Ok(Greeted { endpoint: self, hello, addendum, node })
    }

    /// The ready node with the fewest connections that takes this client; waits for one up to the limit.
    async fn first_node(&self, hello: &ClientHello) -> Result<(NodeConnection, ServerHello), Failed> {
        let deadline = Instant::now() + limits::HOLD;
        let mut refused = Vec::new();
        loop {
            let lease: Lease =
                ready_node(&self.cluster, &self.group, Work::Connection, None, &mut refused, deadline).await?;
            let name = lease.node.node.clone();
            match NodeConnection::open(lease, hello).await {
                Ok(opened) => return Ok(opened),
                Err(Refusal::Said(said)) => return Err(Failed::Said(said)),
                Err(Refusal::Away(why)) => {
                    tracing::warn!(node = %name, why, "a node takes no native connection; trying elsewhere");
                    crate::metrics::RETRIES.inc();
                    refused.push(name);
                }
            }
        }
    }
}

fn check(hello: &ClientHello) -> Result<(), Exception> {
    if hello.revision < OLDEST_REVISION {
        let text = format!("The client's revision {} is too old: at least {OLDEST_REVISION}.", hello.revision);
        return Err(Exception::new(Code::NotImplemented, text));
    }
    match hello.proof() {
        Proof::Password => Ok(()),
        Proof::ClusterSecret => {
            let text = "The gateway is for clients; servers of the cluster speak to each other.";
            Err(Exception::new(Code::AccessDenied, text))
        }
        Proof::SshKey => {
            let text = "SSH keys are not supported by the gateway. Use a password.";
            Err(Exception::new(Code::NotImplemented, text))
        }
    }
}

/// What the handshake ended with.
struct Greeted<'e> {
    endpoint: &'e Endpoint,
    hello: ClientHello,
    addendum: Addendum,
    node: NodeConnection,
}

impl<'e> Greeted<'e> {
    fn over(self, inlet: Inlet<Read>, outlet: Outlet<Write>) -> Session<'e> {
        let Self { endpoint, hello, addendum, node } = self;
        let from = FromClient {
            inlet,
            revision: hello.revision,
            framing: addendum.send_chunked.then(Framing::new),
            within_packet: false,
            compressed: false,
        };
        let to = ToClient { outlet, chunked: addendum.receive_chunked };
        Session::new(endpoint, hello, addendum, from, to, node)
    }
}

async fn client_hello(inlet: &mut Inlet<Read>) -> Result<ClientHello, Failed> {
    loop {
        if inlet.buffer().starts_with(b"GET ") || inlet.buffer().starts_with(b"POST") {
            return Err(Failed::Client("it speaks HTTP at the native port"));
        }
        match ClientHello::read(inlet.buffer()) {
            Ok((hello, length)) => {
                inlet.consume(length);
                return Ok(hello);
            }
            Err(stop) => more(inlet, stop).await?,
        }
    }
}

async fn client_addendum(inlet: &mut Inlet<Read>, revision: u64) -> Result<Addendum, Failed> {
    loop {
        match Addendum::read(inlet.buffer(), revision) {
            Ok((addendum, length)) => {
                inlet.consume(length);
                return Ok(addendum);
            }
            Err(stop) => more(inlet, stop).await?,
        }
    }
}

async fn more<R: AsyncRead + Unpin + Send>(inlet: &mut Inlet<R>, stop: Stop) -> Result<(), Failed> {
    if stop == Stop::Malformed || inlet.buffer().len() > limits::HELLO_BYTES {
        return Err(Failed::Client("it does not speak ClickHouse's protocol"));
    }
    match inlet.fill().await {
        Ok(true) => Ok(()),
        _ => Err(Failed::Client("it went away in the handshake")),
    }
}

/// The addendum is asked for only where there is one.
const _: () = assert!(OLDEST_REVISION < REVISION_ADDENDUM);
