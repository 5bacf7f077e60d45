//! A proxy before the object store: passes HTTP/1.1 on byte for byte, counts requests by method, and delays them.
//!
//! The delay is one of requests, as distance is: a request and its body go on `delay` after its head came in, requests that
//! follow each other on a connection wait side by side and keep their order, and no byte costs anything more. Answers pass
//! at once. Every contender has a proxy of its own, so that counts never mix.

mod framing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::error::BenchError;
use framing::{Framed, Requests};

/// Pieces of requests between the reader and the writer of a connection; a piece is at most [`framing::PIECE_BYTES`].
const PIECES_IN_FLIGHT: usize = 64;
const ANSWER_BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    /// A GET that lists the bucket.
    List,
    Head,
    Put,
    Post,
    Delete,
    Other,
}

impl Method {
    const ALL: [Self; 7] = [Self::Get, Self::List, Self::Head, Self::Put, Self::Post, Self::Delete, Self::Other];

    fn changes_something(self) -> bool {
        matches!(self, Self::Put | Self::Post | Self::Delete)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    delay: Duration,
    /// PUT, POST and DELETE wait.
    holds_writes: bool,
}

struct Shared {
    upstream: SocketAddr,
    policy: watch::Sender<Policy>,
    requests: [AtomicU64; Method::ALL.len()],
    /// Of answers, heads included.
    answer_bytes: AtomicU64,
}

/// How many requests came, by method, since the proxy began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    requests: [u64; Method::ALL.len()],
    pub answer_bytes: u64,
}

impl Counts {
    pub fn of(&self, method: Method) -> u64 {
        self.requests[method as usize]
    }

    /// What came after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let requests = std::array::from_fn(|at| self.requests[at] - earlier.requests[at]);
        Self { requests, answer_bytes: self.answer_bytes - earlier.answer_bytes }
    }
}

/// Listens until it is dropped.
pub struct DelayProxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl DelayProxy {
    /// On a free port of the loopback, without delay.
    pub async fn start(upstream_port: u16) -> Result<Self, BenchError> {
        let no_port = || BenchError::io("the proxy finds no port");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(no_port())?;
        let port = listener.local_addr().map_err(no_port())?.port();
        let policy = Policy { delay: Duration::ZERO, holds_writes: false };
        let shared = Arc::new(Shared {
            upstream: SocketAddr::from(([127, 0, 0, 1], upstream_port)),
            policy: watch::Sender::new(policy),
            requests: Default::default(),
            answer_bytes: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { port, shared, accepting })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// For requests whose head comes from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.policy.send_modify(|policy| policy.delay = delay);
    }

    /// Requests that change something wait for the end of the hold: an upload then takes no time from what is measured.
    pub fn hold_writes(&self) -> Hold<'_> {
        self.shared.policy.send_modify(|policy| policy.holds_writes = true);
        Hold { proxy: self }
    }

    pub fn counts(&self) -> Counts {
        Counts {
            requests: std::array::from_fn(|at| self.shared.requests[at].load(Ordering::Relaxed)),
            answer_bytes: self.shared.answer_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Ends when it is dropped.
pub struct Hold<'a> {
    proxy: &'a DelayProxy,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.proxy.shared.policy.send_modify(|policy| policy.holds_writes = false);
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    // Ends with the value that stands for it; connections end with this task.
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let shared = shared.clone();
                    // A broken connection is the two ends' affair: each of them sees it.
                    connections.spawn(async move { drop(pass(client, &shared).await) });
                }
                // Out of descriptors, most likely: those who wait are served later.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, until either end closes it.
async fn pass(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let server = TcpStream::connect(shared.upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (pieces, due_pieces) = mpsc::channel(PIECES_IN_FLIGHT);
    let requests = async {
        let (read, written) = tokio::join!(receive(from_client, shared, pieces), forward(due_pieces, to_server));
        read.and(written)
    };
    tokio::select! {
        // The client is done; what the server still has to say would reach nobody.
        ended = requests => ended,
        ended = answer(from_server, to_client, shared) => ended,
    }
}

/// A piece of a request, and when it goes on.
struct Due {
    at: Instant,
    bytes: Vec<u8>,
}

async fn receive(from: OwnedReadHalf, shared: &Shared, pieces: mpsc::Sender<Due>) -> std::io::Result<()> {
    let mut requests = Requests::new(from);
    let mut policies = shared.policy.subscribe();
    let mut at = Instant::now();
    while let Some(framed) = requests.next().await? {
        let bytes = match framed {
            Framed::Head(method, bytes) => {
                shared.requests[method as usize].fetch_add(1, Ordering::Relaxed);
                at = Instant::now() + policies.borrow().delay;
                if method.changes_something() {
                    let open = policies.wait_for(|policy| !policy.holds_writes).await;
                    drop(open.map_err(std::io::Error::other)?);
                }
                bytes
            }
            Framed::Body(bytes) => bytes,
        };
        if pieces.send(Due { at, bytes }).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn forward(mut pieces: mpsc::Receiver<Due>, mut to: OwnedWriteHalf) -> std::io::Result<()> {
    while let Some(Due { at, bytes }) = pieces.recv().await {
        if at > Instant::now() {
            tokio::time::sleep_until(at).await;
        }
        to.write_all(&bytes).await?;
    }
    Ok(())
}

async fn answer(from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) -> std::io::Result<()> {
    use tokio::io::AsyncBufReadExt;
    let mut from = BufReader::with_capacity(ANSWER_BUFFER_BYTES, from);
    loop {
        let bytes = from.fill_buf().await?;
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(bytes).await?;
        let length = bytes.len();
        shared.answer_bytes.fetch_add(length as u64, Ordering::Relaxed);
        from.consume(length);
    }
}

#[cfg(test)]
mod tests;
