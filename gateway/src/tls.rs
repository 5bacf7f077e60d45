//! The door to rustls: certificates from files, read again when they change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::limits;

/// Where the certificates are: PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Who signs clients' certificates; without it none is asked for.
    pub client_ca: Option<PathBuf>,
    /// A client without a certificate is turned away.
    pub client_required: bool,
}

/// What the files hold, to notice a change.
type Contents = Vec<Vec<u8>>;

/// Takes TLS connections with the newest certificates that could be read.
#[derive(Clone)]
pub struct Tls {
    files: Arc<Files>,
    current: watch::Sender<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files; the error says what is wrong with which.
    pub fn load(files: Files) -> Result<Self, String> {
        let config = config(&files)?;
        Ok(Self { files: Arc::new(files), current: watch::Sender::new(Arc::new(config)) })
    }

    /// Reads the files again whenever their content has changed; never returns. While they make no sense the old
    /// certificates stay.
    pub async fn follow(self) {
        let mut known = contents(&self.files).ok();
        loop {
            sleep(limits::CERTIFICATE_CHECK).await;
            let now = contents(&self.files).ok();
            if now == known {
                continue;
            }
            match config(&self.files) {
                Ok(config) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "certificates were read again");
                    self.current.send_replace(Arc::new(config));
                    known = now;
                }
                // Perhaps only half of the files is new yet.
                Err(error) => tracing::warn!(error, "new certificates cannot be used; the old ones stay"),
            }
        }
    }

    /// The handshake; the stream and the server name that the client asked for.
    pub async fn accept(&self, stream: TcpStream) -> Result<(TlsStream<TcpStream>, Option<String>), String> {
        let config = self.current.borrow().clone();
        let stream = timeout(limits::HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await;
        let stream = stream.map_err(|_| "no handshake in time".to_owned())?.map_err(|error| error.to_string())?;
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        Ok((stream, name))
    }
}

fn contents(files: &Files) -> Result<Contents, String> {
    let paths = [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()];
    paths.into_iter().flatten().map(|path| fs::read(path).map_err(|error| wrong(path, &error))).collect()
}

fn wrong(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}.", path.display())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(path, &error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| wrong(path, &error))?;
    if found.is_empty() { Err(wrong(path, &"no certificate in it")) } else { Ok(found) }
}

fn config(files: &Files) -> Result<ServerConfig, String> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, &error))?;
    let builder = ServerConfig::builder();
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| wrong(path, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
            let verifier = if files.client_required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong(path, &error))?)
        }
    };
    builder.with_single_cert(chain, key).map_err(|error| wrong(&files.certificate, &error))
}
