//! Outgoing connections: every one is made with the newest certificate, and to the one that was meant.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use crate::files::Credentials;
use crate::identity::{Identity, Role, RoleKind};
use crate::limits;
use crate::material::{holder_of, pinned_client_config};

/// Who must be at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    Controller,
    /// This node's agent.
    Agent(String),
}

/// Makes channels, in plaintext or with a process's credentials. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    way: Way,
}

#[derive(Clone)]
enum Way {
    Plaintext,
    Tls(Credentials),
    /// Without a certificate, to a controller that the CA with this SHA-256 vouches for.
    Pinned([u8; 32]),
}

/// Why no connection came about, in words for an operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(String);

impl Dialer {
    pub fn plaintext() -> Self {
        Self { way: Way::Plaintext }
    }

    pub fn tls(credentials: Credentials) -> Self {
        Self { way: Way::Tls(credentials) }
    }

    /// For one who joins.
    pub fn pinned(ca_sha256: [u8; 32]) -> Self {
        Self { way: Way::Pinned(ca_sha256) }
    }

    pub fn is_tls(&self) -> bool {
        !matches!(self.way, Way::Plaintext)
    }

    /// For `host:port`, or a URL. Whether TLS is spoken is the dialer's to know: inside, tonic must not see `https`, which
    /// it would want to speak itself.
    pub fn endpoint(&self, address: &str) -> Result<Endpoint, tonic::transport::Error> {
        let bare = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://")).unwrap_or(address);
        Endpoint::from_shared(format!("http://{bare}"))
    }

    /// Connects when first used, and again whenever needed.
    pub fn channel(&self, endpoint: &Endpoint, expected: Expected) -> Channel {
        endpoint.connect_with_connector_lazy(Connector { way: self.way.clone(), expected })
    }

    /// Connects now.
    pub async fn connect(&self, endpoint: &Endpoint, expected: Expected) -> Result<Channel, tonic::transport::Error> {
        endpoint.connect_with_connector(Connector { way: self.way.clone(), expected }).await
    }
}

/// What tonic calls for each new connection.
struct Connector {
    way: Way,
    expected: Expected,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<TokioIo<Stream>, ConnectError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (way, expected) = (self.way.clone(), self.expected.clone());
        Box::pin(async move { dial(&uri, way, &expected).await.map(TokioIo::new) })
    }
}

async fn dial(uri: &Uri, way: Way, expected: &Expected) -> Result<Stream, ConnectError> {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().ok_or_else(|| ConnectError(format!("{uri} names no port")))?;
    let address = format!("{host}:{port}");
    let stream = TcpStream::connect((host, port)).await;
    let stream = stream.map_err(|error| ConnectError(format!("{address}: {error}")))?;
    stream.set_nodelay(true).map_err(|error| ConnectError(format!("{address}: {error}")))?;
    let (config, own) = match &way {
        Way::Plaintext => return Ok(Stream::Plain(stream)),
        Way::Tls(credentials) => {
            let material = credentials.current();
            (Arc::clone(&material.client), Some(material.identity.clone()))
        }
        Way::Pinned(ca) => {
            let config = pinned_client_config(*ca).map_err(|error| ConnectError(error.to_string()))?;
            (Arc::new(config), None)
        }
    };
    let shaken = tokio::time::timeout(limits::HANDSHAKE, shake(stream, config)).await;
    let shaken = shaken.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no handshake in time")));
    let tls = shaken.map_err(|error| ConnectError(format!("{address}: {}", in_words(&error))))?;
    check_identity(&tls, own.as_ref(), expected).map_err(|problem| ConnectError(format!("{address}: {problem}")))?;
    Ok(Stream::Tls(Box::new(tls)))
}

async fn shake(stream: TcpStream, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    // The name is sent but not compared: the identity in the certificate is.
    let name = ServerName::try_from("moorhouse").map_err(io::Error::other)?;
    let mut tls = TlsConnector::from(config).connect(name, stream).await?;
    // In TLS 1.3 the server's refusal of our certificate comes after the handshake, in the place of its first words. A
    // server of HTTP/2 always speaks first; one that is slow to may still do so later.
    match tokio::time::timeout(limits::FIRST_WORDS, tls.fill_buf()).await {
        Ok(Ok([])) => Err(io::Error::new(io::ErrorKind::ConnectionReset, "the other side hung up after the handshake")),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(tls),
    }
}

fn check_identity(tls: &TlsStream<TcpStream>, own: Option<&Identity>, expected: &Expected) -> Result<(), String> {
    let shown = tls.get_ref().1.peer_certificates().and_then(<[_]>::first).ok_or("it shows no certificate")?;
    let found = holder_of(shown)?.identity;
    if let Some(own) = own
        && own.warehouse() != found.warehouse()
    {
        return Err(format!("it is {found}, of another warehouse than ours ({own})"));
    }
    let fits = match (expected, found.role()) {
        (Expected::Controller, role) => role.kind() == RoleKind::Controller,
        (Expected::Agent(node), Role::Agent(name)) => node == name,
        (Expected::Agent(_), _) => false,
    };
    let wanted = match expected {
        Expected::Controller => "a controller".to_owned(),
        Expected::Agent(node) => format!("agent/{node}"),
    };
    if fits { Ok(()) } else { Err(format!("it is {}, not {wanted}", found.short())) }
}

/// What a failed handshake means, and what to do about it.
fn in_words(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return error.to_string();
    };
    match tls {
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS: say http://… if it is meant to be plaintext".to_owned()
        }
        rustls::Error::InvalidCertificate(problem) => match problem {
            // Another CA of the same name shows as a signature that does not fit.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is not of our CA (ca.crt)".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired: renew it there".to_owned()
            }
            other => format!("its certificate is not valid: {other}"),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "it refuses our certificate (tls.crt): not of its CA".to_owned()
            }
            AlertDescription::CertificateExpired => "it refuses our certificate (tls.crt): expired".to_owned(),
            other => format!("it refuses the connection: {other:?}"),
        },
        other => other.to_string(),
    }
}

/// What a channel reads and writes.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
