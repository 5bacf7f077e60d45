//! One connection between a client (a server of the cluster) and a backend, seen from the middle.
//!
//! Rules (ClickHouse's `ConnectionEstablisher`): before each use of a pooled connection the client sends a Ping or a
//! TablesStatusRequest, and connects anew if it finds the connection closed. After a hello, a Pong or a
//! TablesStatusResponse a query is about to come, and closing the connection then would fail a statement.

use super::framing::{Framing, HEAD, Kind, Mark};
use super::handshake::{self, Stop};

/// A handshake longer than this is none that we know.
const MAX_HANDSHAKE_BYTES: usize = 32 * 1024;

mod client {
    use super::Kind;
    pub const QUERY: Kind = Kind(1);
    pub const PING: Kind = Kind(4);
    pub const TABLES_STATUS_REQUEST: Kind = Kind(5);
}

mod server {
    use super::Kind;
    pub const EXCEPTION: Kind = Kind(2);
    pub const PONG: Kind = Kind(4);
    pub const END_OF_STREAM: Kind = Kind(5);
    pub const TABLES_STATUS_RESPONSE: Kind = Kind(9);
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Hellos and addendum are under way.
    Handshake,
    /// The client asked whether the connection is alive; the answer is to come.
    Checking,
    /// A query is about to come.
    Pledged,
    /// A statement runs.
    Busy,
    /// The last statement is over.
    Idle,
    /// The connection is not chunked (or not ClickHouse's): nothing more is known of it.
    Opaque,
}

/// What to do with bytes from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientVerdict {
    /// Pass on so many bytes; show the others again, together with what comes next.
    Forward(usize),
    /// The client asks whether the connection is alive: close it and don't pass the question on.
    Close,
}

#[derive(Debug)]
enum Phase {
    ClientHello,
    /// Collects the server's hello up to its revision.
    ServerHello {
        client_revision: u64,
        seen: Vec<u8>,
    },
    Addendum {
        revision: u64,
    },
    Chunked {
        client: Framing,
        server: Framing,
    },
    Opaque,
}

/// Follows both directions. Bytes must be shown in the order in which they were read.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    state: State,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    pub fn new() -> Self {
        Self { phase: Phase::ClientHello, state: State::Handshake }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Neither side is in the middle of a message.
    pub fn at_boundary(&self) -> bool {
        matches!(&self.phase, Phase::Chunked { client, server } if client.at_boundary() && server.at_boundary())
    }

    /// Closing now fails no statement, provided that all bytes shown so far were passed on.
    pub fn may_close(&self) -> bool {
        self.state == State::Idle && self.at_boundary()
    }

    /// Decides on bytes from the client. `closing`: the connection is to be closed as soon as that fails no statement.
    pub fn client_bytes(&mut self, bytes: &[u8], closing: bool) -> ClientVerdict {
        match &self.phase {
            Phase::ClientHello => self.client_hello(bytes),
            // A client that does not wait for the server's hello is none that we know.
            Phase::ServerHello { .. } if !bytes.is_empty() => self.give_up(bytes),
            Phase::ServerHello { .. } => ClientVerdict::Forward(0),
            Phase::Addendum { revision } => self.addendum(bytes, *revision),
            Phase::Chunked { client, .. } => self.messages(*client, bytes, closing),
            Phase::Opaque => ClientVerdict::Forward(bytes.len()),
        }
    }

    /// Takes note of bytes from the server, all of which are passed on.
    pub fn server_bytes(&mut self, bytes: &[u8]) {
        match &mut self.phase {
            Phase::ServerHello { client_revision, seen } => {
                seen.extend_from_slice(bytes);
                match handshake::server_revision(seen) {
                    Ok(revision) => {
                        self.phase = Phase::Addendum { revision: revision.min(*client_revision) };
                    }
                    Err(Stop::Short) if seen.len() <= MAX_HANDSHAKE_BYTES => {}
                    Err(_) => self.become_opaque(),
                }
            }
            Phase::Chunked { server, .. } => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let Ok((used, mark)) = server.step(rest) else { return self.become_opaque() };
                    rest = &rest[used..];
                    if let Some(Mark::End(kind)) = mark {
                        self.state = after_server(self.state, kind);
                    }
                }
            }
            Phase::ClientHello | Phase::Addendum { .. } | Phase::Opaque => {}
        }
    }

    fn client_hello(&mut self, bytes: &[u8]) -> ClientVerdict {
        match handshake::client_hello(bytes) {
            Ok((client_revision, length)) => {
                self.phase = Phase::ServerHello { client_revision, seen: Vec::new() };
                ClientVerdict::Forward(length)
            }
            Err(stop) => self.wait_or_give_up(bytes, stop),
        }
    }

    fn addendum(&mut self, bytes: &[u8], revision: u64) -> ClientVerdict {
        if revision < handshake::REVISION_CHUNKED {
            return self.give_up(bytes);
        }
        match handshake::addendum(bytes, revision) {
            Ok((true, length)) => {
                self.phase = Phase::Chunked { client: Framing::new(), server: Framing::new() };
                self.state = State::Pledged;
                ClientVerdict::Forward(length)
            }
            Ok((false, _)) => self.give_up(bytes),
            Err(stop) => self.wait_or_give_up(bytes, stop),
        }
    }

    /// Up to the end, to a message whose kind is not there yet, or to a question that is not to be passed on.
    fn messages(&mut self, mut framing: Framing, bytes: &[u8], closing: bool) -> ClientVerdict {
        let mut used = 0;
        while used < bytes.len() {
            let rest = &bytes[used..];
            if framing.at_boundary() {
                let Some(head) = rest.first_chunk::<HEAD>() else { break };
                if closing && self.is_free_question(Framing::kind_of(head)) {
                    if used == 0 {
                        return ClientVerdict::Close;
                    }
                    break;
                }
            }
            let Ok((count, mark)) = framing.step(rest) else { return self.give_up(bytes) };
            used += count;
            if let Some(Mark::Start(kind)) = mark {
                self.state = after_client(self.state, kind);
            }
        }
        if let Phase::Chunked { client, .. } = &mut self.phase {
            *client = framing;
        }
        ClientVerdict::Forward(used)
    }

    /// A liveness question outside of a statement.
    fn is_free_question(&self, kind: Kind) -> bool {
        matches!(kind, client::PING | client::TABLES_STATUS_REQUEST)
            && matches!(self.state, State::Idle | State::Pledged)
    }

    fn wait_or_give_up(&mut self, bytes: &[u8], stop: Stop) -> ClientVerdict {
        match stop {
            Stop::Short if bytes.len() <= MAX_HANDSHAKE_BYTES => ClientVerdict::Forward(0),
            Stop::Short | Stop::Malformed => self.give_up(bytes),
        }
    }

    fn give_up(&mut self, bytes: &[u8]) -> ClientVerdict {
        self.become_opaque();
        ClientVerdict::Forward(bytes.len())
    }

    fn become_opaque(&mut self) {
        self.phase = Phase::Opaque;
        self.state = State::Opaque;
    }
}

/// At the start of a client's message: from here on it is passed on.
fn after_client(state: State, kind: Kind) -> State {
    match (state, kind) {
        (State::Opaque | State::Handshake, _) => state,
        (_, client::QUERY) => State::Busy,
        (State::Idle | State::Pledged, client::PING | client::TABLES_STATUS_REQUEST) => State::Checking,
        // Data, scalars and cancellations belong to the statement, or come late and are ignored by the server.
        (State::Idle | State::Pledged | State::Checking | State::Busy, _) => state,
    }
}

/// At the end of a server's message.
fn after_server(state: State, kind: Kind) -> State {
    match (state, kind) {
        (State::Opaque | State::Handshake, _) => state,
        (_, server::END_OF_STREAM | server::EXCEPTION) => State::Idle,
        (State::Checking, server::PONG | server::TABLES_STATUS_RESPONSE) => State::Pledged,
        (State::Idle | State::Pledged | State::Checking | State::Busy, _) => state,
    }
}
