//! The client's side of a connection, after the handshake: packet by packet in, bytes out.
//!
//! A client that speaks in chunks shows where its packets end. With one that does not, data blocks are followed by their
//! headers and lengths. If a block cannot be followed, the connection is *opaque* from there on: it stays with its node.

use std::io;

use moorhouse_engine::native::block::{self, End, Source};
use moorhouse_engine::native::framing::{Framing, HEAD, Mark};
use moorhouse_engine::native::query::{NoQuery, Query};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::tcp::OwnedWriteHalf;

use super::frames::Frames;
use super::inlet::{Inlet, Outlet};
use super::packet::{self, kind};
use crate::exception::{Code, Exception};
use crate::limits;
use crate::listen::Stream;

pub type Read = ReadHalf<Box<dyn Stream>>;
pub type Write = WriteHalf<Box<dyn Stream>>;
pub type ToNode = Outlet<OwnedWriteHalf>;

/// What the client sends.
pub struct FromClient {
    pub inlet: Inlet<Read>,
    pub revision: u64,
    /// There if the client sends in chunks.
    pub framing: Option<Framing>,
    /// In the middle of a packet, part of which was passed on.
    pub within_packet: bool,
    /// The current statement's blocks are compressed.
    pub compressed: bool,
}

/// What the client is sent.
pub struct ToClient {
    pub outlet: Outlet<Write>,
    pub chunked: bool,
}

/// Why a packet did not go through.
#[derive(Debug)]
pub enum Broken {
    /// The client went away.
    Client,
    /// The node took no more.
    Node(io::Error),
    /// The client's bytes make no sense.
    Malformed(&'static str),
    /// What follows cannot be told apart any more; so far all was passed on.
    Opaque,
}

impl FromClient {
    /// The next packet has begun.
    pub fn has_kind(&self) -> bool {
        self.inlet.buffer().len() >= if self.framing.is_some() { HEAD } else { 1 }
    }

    /// The kind of the next packet, which stays unread; `None` at the end of the stream. Cancelling it loses nothing.
    pub async fn next_kind(&mut self) -> io::Result<Option<u8>> {
        loop {
            let there = self.inlet.buffer();
            let kind = match &self.framing {
                Some(_) => there.get(HEAD - 1),
                None => there.first(),
            };
            if let Some(kind) = kind {
                return Ok(Some(*kind));
            }
            if !self.inlet.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Takes a Query packet: what it says, and its bytes. The error is for the client, who must then be left.
    pub async fn query(&mut self) -> Result<(Query, bytes::Bytes), Exception> {
        let mut framing = Framing::new();
        let (mut seen, mut content) = (0, Vec::new());
        loop {
            let read = match &self.framing {
                None => Query::read(self.inlet.buffer(), self.revision, limits::STATEMENT_BYTES),
                Some(_) => {
                    let ended = content_of(&mut framing, &self.inlet.buffer()[seen..], &mut content);
                    let used = ended.map_err(|()| malformed("the chunks of a query"))?;
                    let length = seen + used.unwrap_or(0);
                    seen = self.inlet.buffer().len();
                    match used {
                        Some(_) => Query::read(&content, self.revision, limits::STATEMENT_BYTES)
                            .map(|(query, _)| (query, length)),
                        None if content.len() > limits::STATEMENT_BYTES + limits::QUERY_EXTRA_BYTES => {
                            Err(NoQuery::TooLong(content.len() as u64))
                        }
                        None => Err(NoQuery::Short),
                    }
                }
            };
            match read {
                Ok((query, length)) => {
                    self.compressed = query.compressed;
                    return Ok((query, self.inlet.take(length)));
                }
                Err(NoQuery::Malformed) => return Err(malformed("a query packet")),
                Err(NoQuery::TooLong(bytes)) => return Err(too_long(bytes)),
                Err(NoQuery::Short) if self.inlet.buffer().len() > 2 * limits::STATEMENT_BYTES => {
                    return Err(too_long(self.inlet.buffer().len() as u64));
                }
                Err(NoQuery::Short) => match self.inlet.fill().await {
                    Ok(true) => {}
                    _ => return Err(Exception::new(Code::NetworkError, "The client left within a query packet.")),
                },
            }
        }
    }

    /// Passes the next packet, whatever it is but a Query, to the node, or to nobody.
    pub async fn pass(&mut self, node: Option<&mut ToNode>, kept: &mut Kept) -> Result<(), Broken> {
        self.within_packet = true;
        let compressed = self.compressed;
        let mut tee = Tee { inlet: &mut self.inlet, node, kept, taken: 0, node_error: None };
        let passed = match &mut self.framing {
            Some(framing) => tee.message(framing).await,
            None => tee.packet(self.revision, compressed).await,
        };
        let written = tee.settle().await;
        let error = tee.node_error.take();
        match (error, written, passed) {
            (Some(error), _, _) | (None, Err(error), _) => Err(Broken::Node(error)),
            (None, Ok(()), Err(End::Closed)) => Err(Broken::Client),
            (None, Ok(()), Err(End::Malformed)) => Err(Broken::Malformed("a packet")),
            (None, Ok(()), Err(End::Unknown)) => Err(Broken::Opaque),
            (None, Ok(()), Ok(())) => {
                self.within_packet = false;
                Ok(())
            }
        }
    }
}

fn malformed(what: &str) -> Exception {
    Exception::new(
        Code::UnexpectedPacket,
        format!("The gateway cannot read {what}. Is this client's revision supported?"),
    )
}

fn too_long(bytes: u64) -> Exception {
    Exception::new(
        Code::QueryIsTooLarge,
        format!(
            "The statement has {bytes} bytes; the gateway takes up to {}. Send the data of an INSERT as blocks, not as text.",
            limits::STATEMENT_BYTES
        ),
    )
}

/// Appends the content; the bytes up to the message's end, if it is there.
fn content_of(framing: &mut Framing, bytes: &[u8], content: &mut Vec<u8>) -> Result<Option<usize>, ()> {
    let mut used = 0;
    while used < bytes.len() {
        let piece = framing.piece(&bytes[used..]).map_err(|_| ())?;
        if piece.is_content {
            content.extend_from_slice(&bytes[used..used + piece.length]);
        }
        used += piece.length;
        if matches!(piece.mark, Some(Mark::End(_))) {
            return Ok(Some(used));
        }
    }
    Ok(None)
}

/// A copy of what a statement's node was sent, in case that it must be said again; given up when it grows long.
#[derive(Default)]
pub struct Kept(Option<Vec<u8>>);

impl Kept {
    pub fn of(bytes: &[u8]) -> Self {
        let mut kept = Self(Some(Vec::new()));
        kept.add(bytes);
        kept
    }

    fn add(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.0 {
            if kept.len() + bytes.len() > limits::RETRY_BYTES {
                self.0 = None;
            } else {
                kept.extend_from_slice(bytes);
            }
        }
    }

    pub fn bytes(&self) -> Option<&[u8]> {
        self.0.as_deref()
    }
}

/// Passes on what it consumes.
pub struct Tee<'a> {
    inlet: &'a mut Inlet<Read>,
    node: Option<&'a mut ToNode>,
    kept: &'a mut Kept,
    /// Consumed bytes that are still in the inlet.
    taken: usize,
    node_error: Option<io::Error>,
}

impl Tee<'_> {
    /// Hands what was consumed to the node's outlet.
    async fn hand_over(&mut self) -> io::Result<()> {
        if self.taken > 0 {
            let bytes = self.inlet.take(std::mem::take(&mut self.taken));
            self.kept.add(&bytes);
            if let Some(node) = &mut self.node {
                node.write(&bytes).await?;
            }
        }
        Ok(())
    }

    /// … and sends it off, unless more is there already to go with it.
    async fn settle(&mut self) -> io::Result<()> {
        self.hand_over().await?;
        match &mut self.node {
            Some(node) if self.inlet.buffer().is_empty() => node.flush().await,
            _ => Ok(()),
        }
    }

    /// A message in chunks.
    async fn message(&mut self, framing: &mut Framing) -> Result<(), End> {
        loop {
            if self.buffer().is_empty() {
                self.fill().await?;
            }
            let (used, mark) = framing.step(self.buffer()).map_err(|_| End::Malformed)?;
            self.consume(used);
            if matches!(mark, Some(Mark::End(_))) {
                return Ok(());
            }
        }
    }

    /// A packet without chunks.
    async fn packet(&mut self, revision: u64, compressed: bool) -> Result<(), End> {
        let kind = u8::try_from(block::number(self).await?).map_err(|_| End::Malformed)?;
        match kind {
            kind::DATA | kind::SCALAR => {
                let _table = block::text(self).await?;
                if compressed {
                    let mut frames = Frames::new(self);
                    block::skip_block(&mut frames, revision).await?;
                    frames.at_end()
                } else {
                    block::skip_block(self, revision).await.map(drop)
                }
            }
            kind::CANCEL | kind::PING | kind::KEEP_ALIVE => Ok(()),
            kind::TABLES_STATUS => packet::skip_table_names(self).await,
            _ => Err(End::Unknown),
        }
    }
}

impl Source for Tee<'_> {
    fn buffer(&self) -> &[u8] {
        &self.inlet.buffer()[self.taken..]
    }

    fn consume(&mut self, count: usize) {
        self.taken += count;
    }

    async fn fill(&mut self) -> Result<(), End> {
        if let Err(error) = self.settle().await {
            self.node_error = Some(error);
            return Err(End::Closed);
        }
        match self.inlet.fill().await {
            Ok(true) => Ok(()),
            _ => Err(End::Closed),
        }
    }
}
