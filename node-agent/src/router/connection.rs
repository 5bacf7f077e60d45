//! Moves the bytes of one connection, as they come, and closes it between two statements when it is to leave.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use moorhouse_engine::native::{ClientVerdict, Session, State};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::gate::{Gate, Pass, Way};
use super::metrics;

const BUFFER_BYTES: usize = 128 * 1024;
/// A client waits so long for a target; ClickHouse gives up at about the same time (`connect_timeout_with_failover_ms`).
const WAIT_LIMIT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// An engine that restarts refuses connections for a moment.
const CONNECT_RETRY_FOR: Duration = Duration::from_secs(1);
const CONNECT_RETRY_EVERY: Duration = Duration::from_millis(50);
/// A connection that was checked is used at once. One that was not after this time went back to the pool unused (its
/// statement failed elsewhere), and the pool will check it again.
const PLEDGE_LIMIT: Duration = Duration::from_secs(3);

/// Connects `client` to the shard's backend, however long a hold takes, and forwards until one side ends.
pub async fn serve(gate: &Gate, client: TcpStream) {
    let Some((backend, target, pass)) = reach(gate).await else {
        tracing::warn!(shard = %gate.shard(), "no backend for a connection of the shard");
        return;
    };
    match forward(gate, client, backend, &target).await {
        Ok(End::Cut) => gate.count_cut(),
        Ok(End::Closed) => {}
        Err(error) => tracing::debug!(%error, shard = %gate.shard(), "a connection broke"),
    }
    drop(pass);
}

async fn reach(gate: &Gate) -> Option<(TcpStream, Arc<str>, Pass<'_>)> {
    let mut way = gate.watch();
    let give_up = Instant::now() + WAIT_LIMIT;
    let mut first_failure = None;
    loop {
        let Some((target, pass)) = gate.enter() else {
            metrics::WAITING.inc();
            let opened = tokio::time::timeout_at(give_up, way.wait_for(|way| way.open().is_some())).await;
            metrics::WAITING.dec();
            opened.ok()?.ok()?;
            continue;
        };
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(&*target)).await {
            Ok(Ok(backend)) => return Some((backend, target, pass)),
            failed => {
                drop(pass);
                let since: Instant = *first_failure.get_or_insert_with(Instant::now);
                if since.elapsed() > CONNECT_RETRY_FOR {
                    tracing::debug!(%target, ?failed, "cannot connect to a backend");
                    return None;
                }
                tokio::time::sleep(CONNECT_RETRY_EVERY).await;
            }
        }
    }
}

enum End {
    /// One side ended it.
    Closed,
    /// It was to leave.
    Cut,
}

/// Bytes of one direction: `[start, approved)` are to be written, `[approved, end)` are not judged yet.
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    approved: usize,
    end: usize,
    open: bool,
}

impl Buffer {
    fn new() -> Self {
        Self { bytes: vec![0; BUFFER_BYTES].into(), start: 0, approved: 0, end: 0, open: true }
    }
    fn approved(&self) -> &[u8] {
        &self.bytes[self.start..self.approved]
    }
    fn unjudged(&self) -> &[u8] {
        &self.bytes[self.approved..self.end]
    }
    fn is_written(&self) -> bool {
        self.start == self.approved
    }
    /// Only asked for when all that is approved is written.
    fn space(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.approved..self.end, 0);
        self.end -= self.approved;
        (self.start, self.approved) = (0, 0);
        &mut self.bytes[self.end..]
    }
    /// Writes what is approved, or else reads. Nothing is lost if it is dropped half-way.
    async fn step(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<Moved> {
        if !self.is_written() {
            let count = to.write(self.approved()).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.start += count;
            return Ok(Moved::Written(count as u64));
        }
        if !self.open {
            return std::future::pending().await;
        }
        let count = from.read(self.space()).await?;
        self.end += count;
        self.open = count > 0;
        Ok(Moved::Read)
    }
}

/// What one step did.
enum Moved {
    /// More bytes are unjudged, or the side has ended.
    Read,
    Written(u64),
}

async fn forward(gate: &Gate, mut client: TcpStream, mut backend: TcpStream, target: &str) -> io::Result<End> {
    client.set_nodelay(true)?;
    backend.set_nodelay(true)?;
    let mut way = gate.watch();
    let (mut client_in, mut client_out) = client.split();
    let (mut backend_in, mut backend_out) = backend.split();
    let (mut up, mut down) = (Buffer::new(), Buffer::new());
    let mut turn = Turn::new();
    let to_backend = metrics::BYTES.with_label_values(&["to_backend"]);
    let to_client = metrics::BYTES.with_label_values(&["to_client"]);
    let end = loop {
        let closing = way.borrow_and_update().leaves(target);
        if up.is_written() && !up.unjudged().is_empty() {
            match turn.session.client_bytes(up.unjudged(), closing) {
                ClientVerdict::Forward(count) => up.approved += count,
                ClientVerdict::Close => break End::Cut,
            }
        }
        turn.note();
        let quiet = up.is_written() && down.is_written();
        if closing && quiet && turn.may_close() {
            break End::Cut;
        }
        if (up.is_written() && !up.open) || (down.is_written() && !down.open) {
            break End::Closed;
        }
        tokio::select! {
            changed = changed(&mut way) => changed?,
            () = sleep_until(turn.pledge_ends()), if closing && turn.is_pledged() => {}
            moved = up.step(&mut client_in, &mut backend_out) => {
                if let Moved::Written(count) = moved? {
                    to_backend.inc_by(count);
                }
            }
            moved = down.step(&mut backend_in, &mut client_out) => match moved? {
                Moved::Read => {
                    turn.session.server_bytes(down.unjudged());
                    down.approved = down.end;
                }
                Moved::Written(count) => to_client.inc_by(count),
            },
        }
    };
    // A FIN after the last byte, not a reset.
    let _ = client_out.shutdown().await;
    Ok(end)
}

async fn changed(way: &mut watch::Receiver<Way>) -> io::Result<()> {
    way.changed().await.map_err(|_| io::Error::other("the router has ended"))
}

/// The session, and since when it is in its state.
struct Turn {
    session: Session,
    state: State,
    since: Instant,
}

impl Turn {
    fn new() -> Self {
        let session = Session::new();
        Self { state: session.state(), session, since: Instant::now() }
    }

    fn note(&mut self) {
        if self.session.state() != self.state {
            self.state = self.session.state();
            self.since = Instant::now();
        }
    }

    fn is_pledged(&self) -> bool {
        self.state == State::Pledged && self.session.at_boundary()
    }

    fn pledge_ends(&self) -> Instant {
        self.since + PLEDGE_LIMIT
    }

    fn may_close(&self) -> bool {
        self.session.may_close() || (self.is_pledged() && Instant::now() >= self.pledge_ends())
    }
}
