//! Incoming connections: the handshake, and what it says about the other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::stream::{FuturesUnordered, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::caller::Who;
use crate::files::Credentials;
use crate::material::holder_of;
use crate::{limits, metrics};

/// First byte of every TLS connection: the record type of a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub who: Who,
    pub address: SocketAddr,
}

/// An accepted connection whose other end is known as far as it let itself be known.
pub struct Connection {
    io: Io,
    peer: Peer,
    /// When the other end's certificate is over, so is the connection.
    over: Option<Pin<Box<Sleep>>>,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Accepts for ever. With `credentials` the connections are TLS; one handshake does not wait for another.
pub fn incoming(
    listener: TcpListener,
    credentials: Option<Credentials>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let state = (listener, credentials, FuturesUnordered::new());
    futures::stream::unfold(state, |(listener, credentials, mut shaking)| async move {
        loop {
            tokio::select! {
                accepted = listener.accept(), if shaking.len() < limits::HANDSHAKES_AT_ONCE => match accepted {
                    Ok((stream, address)) => shaking.push(shake(stream, address, credentials.clone())),
                    Err(error) => {
                        tracing::warn!(%error, "no connection");
                        tokio::time::sleep(limits::ACCEPT_RETRY).await;
                    }
                },
                Some(outcome) = shaking.next() => match outcome {
                    Ok(connection) => return Some((Ok(connection), (listener, credentials, shaking))),
                    Err(Failure { address, error }) => {
                        metrics::HANDSHAKE_FAILURES.inc();
                        tracing::warn!(from = %address, %error, "no handshake");
                    }
                },
            }
        }
    })
}

struct Failure {
    address: SocketAddr,
    error: io::Error,
}

async fn shake(
    stream: TcpStream,
    address: SocketAddr,
    credentials: Option<Credentials>,
) -> Result<Connection, Failure> {
    let shaken = tokio::time::timeout(limits::HANDSHAKE, shake_hands(stream, address, credentials)).await;
    let error = match shaken {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) => error,
        Err(_) => io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"),
    };
    Err(Failure { address, error })
}

async fn shake_hands(
    stream: TcpStream,
    address: SocketAddr,
    credentials: Option<Credentials>,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let plain = |stream, who| Connection { io: Io::Plain(stream), peer: Peer { who, address }, over: None };
    let Some(credentials) = credentials else { return Ok(plain(stream, Who::Plaintext)) };
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first[0] != TLS_HANDSHAKE {
        // Served only to be refused in words that its user understands.
        return Ok(plain(stream, Who::PlaintextAtTls));
    }
    let material = credentials.current();
    let tls = TlsAcceptor::from(material.server.clone()).accept(stream).await?;
    let Some(certificate) = tls.get_ref().1.peer_certificates().and_then(<[_]>::first) else {
        return Ok(Connection { io: Io::Tls(Box::new(tls)), peer: Peer { who: Who::Nameless, address }, over: None });
    };
    let refused = |problem: String| io::Error::new(io::ErrorKind::PermissionDenied, problem);
    let holder = holder_of(certificate).map_err(refused)?;
    let own = &material.identity;
    if holder.identity.warehouse() != own.warehouse() {
        return Err(refused(format!("{} is of another warehouse than {own}", holder.identity)));
    }
    let left = holder.not_after.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
    let over = Some(Box::pin(tokio::time::sleep(left)));
    Ok(Connection { io: Io::Tls(Box::new(tls)), peer: Peer { who: Who::Known(holder.identity), address }, over })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(over) = &mut self.over
            && over.as_mut().poll(cx).is_ready()
        {
            tracing::info!(who = ?self.peer.who, "a connection ends with its certificate");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the certificate has expired")));
        }
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
