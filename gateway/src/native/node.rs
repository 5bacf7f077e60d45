//! A client's connection to one node: the handshake in the client's name, and the way of an answer.
//!
//! The node speaks the client's revision, so that packets pass unchanged. From a revision on that knows chunks the node
//! sends in chunks even if the client does not want them: the gateway sees where an answer ends and takes the sizes out.
//! An older node's answer passes blindly; it has ended when the client goes on.

use std::io;

use bytes::Bytes;
use moorhouse_catalog::NodeName;
use moorhouse_engine::native::block::{End, Source};
use moorhouse_engine::native::framing::{Framing, Mark};
use moorhouse_engine::native::handshake::{Addendum, ClientHello, REVISION_CHUNKED, ServerHello, Stop};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::timeout;

use super::client::{ToClient, ToNode};
use super::head::Head;
use super::inlet::{Inlet, Outlet};
use super::packet::{self, answer};
use crate::cluster::Lease;
use crate::limits;
use crate::metrics::{self, Protocol};

/// Why there is no connection.
#[derive(Debug)]
pub enum Refusal {
    /// The node is not there: another may be tried.
    Away(String),
    /// The node's own exception, a packet without chunks.
    Said(Bytes),
}

pub struct NodeConnection {
    pub node: NodeName,
    pub from: FromNode,
    pub to: ToNode,
    revision: u64,
    _lease: Lease,
}

/// What a node answers.
pub struct FromNode {
    inlet: Inlet<OwnedReadHalf>,
    /// There if the node sends in chunks.
    framing: Option<Framing>,
    /// The last answer began with an exception.
    failed: bool,
}

/// How an answer ended.
#[derive(Debug)]
pub enum Answered {
    /// All of it was passed on.
    Whole {
        failed: bool,
    },
    ClientGone,
    /// The node went away; `sent`: the client has a part of its answer that cannot be repeated, `between`: the client is
    /// between two packets.
    NodeGone {
        sent: bool,
        between: bool,
        why: String,
    },
}

impl NodeConnection {
    /// Connects and says the client's hello; the node's hello is the answer. The addendum is still to be said.
    pub async fn open(lease: Lease, hello: &ClientHello) -> Result<(Self, ServerHello), Refusal> {
        let away = |error: io::Error| Refusal::Away(error.to_string());
        let late = |_| Refusal::Away("it does not answer in time".to_owned());
        let address = &lease.node.engine_native;
        let socket = timeout(limits::CONNECT, TcpStream::connect(address)).await.map_err(late)?.map_err(away)?;
        socket.set_nodelay(true).map_err(away)?;
        let (read, write) = socket.into_split();
        let from = FromNode { inlet: Inlet::new(read), framing: None, failed: false };
        let node = lease.node.node.clone();
        let mut connection = Self { node, from, to: Outlet::new(write), revision: hello.revision, _lease: lease };
        let greeting = connection.greet(hello);
        let server = timeout(limits::HANDSHAKE, greeting).await.map_err(late)??;
        Ok((connection, server))
    }

    async fn greet(&mut self, hello: &ClientHello) -> Result<ServerHello, Refusal> {
        let away = |error: io::Error| Refusal::Away(error.to_string());
        self.to.write(&hello.write()).await.map_err(away)?;
        self.to.flush().await.map_err(away)?;
        loop {
            let there = self.from.inlet.buffer();
            if there.first() == Some(&answer::EXCEPTION) {
                let mut said = Collect { inlet: &mut self.from.inlet, taken: 0 };
                let whole = packet::skip_answer(&mut said, hello.revision).await;
                whole.map_err(|_| Refusal::Away("its refusal broke off".to_owned()))?;
                let length = said.taken;
                return Err(Refusal::Said(self.from.inlet.take(length)));
            }
            match ServerHello::read(there, hello.revision) {
                Ok((server, length)) if server.revision >= hello.revision => {
                    self.from.inlet.consume(length);
                    return Ok(server);
                }
                Ok((server, _)) => {
                    let text =
                        format!("its revision {} is below the connection's, {}", server.revision, hello.revision);
                    return Err(Refusal::Away(text));
                }
                Err(Stop::Malformed) => {
                    return Err(Refusal::Away("it does not speak ClickHouse's protocol".to_owned()));
                }
                Err(Stop::Short) if there.len() > limits::HELLO_BYTES => {
                    return Err(Refusal::Away("its hello does not end".to_owned()));
                }
                Err(Stop::Short) => match self.from.inlet.fill().await {
                    Ok(true) => {}
                    Ok(false) => return Err(Refusal::Away("it closes the connection".to_owned())),
                    Err(error) => return Err(away(error)),
                },
            }
        }
    }

    /// Says the client's addendum, but for the framing of answers.
    pub async fn finish(&mut self, server: &ServerHello, addendum: &Addendum) -> Result<(), Refusal> {
        let chunked = self.revision >= REVISION_CHUNKED;
        if let Some((send, receive)) = server.chunking
            && !(send.allows(true) && receive.allows(addendum.send_chunked))
        {
            return Err(Refusal::Away("its proto_caps do not allow chunks".to_owned()));
        }
        let addendum = Addendum { receive_chunked: chunked, ..addendum.clone() };
        let away = |error: io::Error| Refusal::Away(error.to_string());
        self.to.write(&addendum.write(self.revision)).await.map_err(away)?;
        self.to.flush().await.map_err(away)?;
        self.from.framing = chunked.then(Framing::new);
        Ok(())
    }

    /// Nothing came since the last answer, the end of the stream included.
    pub fn is_idle(&self) -> bool {
        let mut byte = [0];
        let nothing = self.from.inlet.socket().try_read(&mut byte);
        self.from.inlet.buffer().is_empty() && nothing.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Where answers end can be seen.
    pub fn shows_ends(&self) -> bool {
        self.from.framing.is_some()
    }

    /// Reads an answer that nobody wants to see; true if it is no exception.
    pub async fn swallow(&mut self) -> Result<bool, Refusal> {
        let broken = |_| Refusal::Away("an answer broke off".to_owned());
        loop {
            let kind = match &mut self.from.framing {
                Some(framing) => {
                    if self.from.inlet.buffer().is_empty() && !self.from.inlet.fill().await.unwrap_or(false) {
                        return Err(broken(End::Closed));
                    }
                    let (used, mark) = framing.step(self.from.inlet.buffer()).map_err(|_| broken(End::Malformed))?;
                    self.from.inlet.consume(used);
                    match mark {
                        Some(Mark::End(kind)) => kind.0,
                        _ => continue,
                    }
                }
                None => {
                    let mut unseen = Collect { inlet: &mut self.from.inlet, taken: 0 };
                    let kind = packet::skip_answer(&mut unseen, self.revision).await.map_err(broken)?;
                    let length = unseen.taken;
                    self.from.inlet.consume(length);
                    kind
                }
            };
            match kind {
                answer::END_OF_STREAM => return Ok(true),
                answer::EXCEPTION => return Ok(false),
                _ => {}
            }
        }
    }
}

impl FromNode {
    /// Passes an answer on to its end; blindly, if the end cannot be seen: then until it is cancelled. `lease` is given back
    /// when the node seems to be done.
    pub async fn pass(&mut self, to: &mut ToClient, lease: &mut Option<Lease>, head: &mut Head) -> Answered {
        let mut sent = false;
        self.failed = false;
        loop {
            let filled = self.inlet.fill().await;
            let why = match filled {
                Ok(true) => None,
                Ok(false) => Some("it closed the connection".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(why) = why {
                let at_boundary = self.framing.as_ref().is_some_and(Framing::at_boundary);
                return Answered::NodeGone { sent, between: !sent || at_boundary, why };
            }
            let bytes = self.inlet.take(self.inlet.buffer().len());
            metrics::BYTES_OUT.with_label_values(&[Protocol::Native.label()]).inc_by(bytes.len() as u64);
            let Ok((out, ended)) = self.unframed(&bytes, to.chunked, head) else {
                return Answered::NodeGone { sent, between: !sent, why: "it does not keep to chunks".to_owned() };
            };
            if self.framing.is_none() {
                self.failed |= !sent && bytes[0] == answer::EXCEPTION;
                // Only a guess, and only for the balance of load: an answer's last byte is the kind of its last packet.
                if self.failed || bytes.last() == Some(&answer::END_OF_STREAM) {
                    *lease = None;
                }
            }
            sent = self.framing.is_none() || head.is_over();
            if !out.is_empty() && (to.outlet.write(&out).await.is_err() || to.outlet.flush().await.is_err()) {
                return Answered::ClientGone;
            }
            if let Some(kind) = ended {
                *lease = None;
                return Answered::Whole { failed: kind == answer::EXCEPTION };
            }
        }
    }

    /// What of these bytes is for the client, and the last packet's kind if it came to its end.
    fn unframed(&mut self, bytes: &Bytes, chunked: bool, head: &mut Head) -> Result<(Bytes, Option<u8>), ()> {
        let Some(framing) = &mut self.framing else { return Ok((bytes.clone(), None)) };
        let mut ended = None;
        let as_it_is = chunked && head.is_over();
        let mut out = Vec::with_capacity(if as_it_is { 0 } else { bytes.len() });
        let mut used = 0;
        while used < bytes.len() {
            let piece = framing.piece(&bytes[used..]).map_err(|_| ())?;
            if !as_it_is {
                let shown = if chunked || piece.is_content { &bytes[used..used + piece.length] } else { &[] };
                head.take(shown, piece.mark, &mut out);
            }
            used += piece.length;
            if let Some(Mark::End(kind)) = piece.mark {
                let last = [answer::END_OF_STREAM, answer::EXCEPTION, answer::PONG, answer::TABLES_STATUS];
                ended = last.contains(&kind.0).then_some(kind.0).or(ended);
            }
        }
        Ok((if as_it_is { bytes.clone() } else { out.into() }, ended))
    }

    /// Whether the last answer began with an exception, as far as that could be seen.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Gives back the buffer's memory.
    pub fn rest(&mut self) {
        self.inlet.rest();
    }

    /// For a connection that is passed on byte by byte from here.
    pub async fn pass_blindly(&mut self, to: &mut ToClient) -> io::Result<()> {
        loop {
            let bytes = self.inlet.take(self.inlet.buffer().len());
            let (out, _) =
                self.unframed(&bytes, to.chunked, &mut Head::over()).map_err(|()| io::ErrorKind::InvalidData)?;
            to.outlet.write(&out).await?;
            to.outlet.flush().await?;
            if !self.inlet.fill().await? {
                return Ok(());
            }
        }
    }
}

/// Counts what is read and passes it to nobody.
struct Collect<'a> {
    inlet: &'a mut Inlet<OwnedReadHalf>,
    taken: usize,
}

impl Source for Collect<'_> {
    fn buffer(&self) -> &[u8] {
        &self.inlet.buffer()[self.taken..]
    }

    fn consume(&mut self, count: usize) {
        self.taken += count;
    }

    async fn fill(&mut self) -> Result<(), End> {
        match self.inlet.fill().await {
            Ok(true) if self.inlet.buffer().len() <= limits::OWN_ANSWER_BYTES => Ok(()),
            _ => Err(End::Closed),
        }
    }
}
