//! One reading of a certificate directory, ready for use: the door to rustls's configurations.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::identity::Identity;
use crate::limits;

/// The names that cert-manager gives to the keys of its secrets.
pub const CERTIFICATE_FILE: &str = "tls.crt";
pub const KEY_FILE: &str = "tls.key";
pub const CA_FILE: &str = "ca.crt";

/// Certificate, key and trust of one process at one time.
pub struct Material {
    pub identity: Identity,
    /// The own certificate's or the CA's end, whichever is first.
    pub expires: SystemTime,
    /// From when on the own certificate is good.
    pub issued: SystemTime,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    /// SHA-256 over the files: whether a new reading is worth taking.
    pub(crate) digest: [u8; 32],
}

/// Why a directory cannot be used. Each text names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    #[error("cannot read {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path} holds no {wanted} in PEM form")]
    Empty { path: PathBuf, wanted: &'static str },
    #[error("{path}: {problem}")]
    Bad { path: PathBuf, problem: String },
}

/// What a certificate says of its holder.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    pub identity: Identity,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("identity", &self.identity).field("expires", &self.expires).finish()
    }
}

/// The three files, as they are.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl Material {
    /// Reads and checks everything, that the key is the certificate's included.
    pub fn read(dir: &Path) -> Result<Self, MaterialError> {
        let files =
            Files { certificate: read(dir, CERTIFICATE_FILE)?, key: read(dir, KEY_FILE)?, ca: read(dir, CA_FILE)? };
        let certificate_path = dir.join(CERTIFICATE_FILE);
        let chain = certificates(&files.certificate, &certificate_path)?;
        let roots = certificates(&files.ca, &dir.join(CA_FILE))?;
        let key = PrivateKeyDer::from_pem_slice(&files.key)
            .map_err(|_| MaterialError::Empty { path: dir.join(KEY_FILE), wanted: "private key" })?;
        let bad = |problem: String| MaterialError::Bad { path: certificate_path.clone(), problem };
        let Holder { identity, not_before, not_after } = holder_of(&chain[0]).map_err(bad)?;
        let mut expires = not_after;
        let mut trusted = RootCertStore::empty();
        for root in &roots {
            let unfit = |problem: String| MaterialError::Bad { path: dir.join(CA_FILE), problem };
            expires = expires.min(end_of(root).map_err(unfit)?);
            trusted.add(root.clone()).map_err(|error| unfit(error.to_string()))?;
        }
        let trusted = Arc::new(trusted);
        // The CA goes along, so that a node that joins by a token's fingerprint can see it.
        let shown = chain.iter().chain(roots.iter().filter(|root| !chain.contains(root))).cloned().collect();
        let server = server_config(&trusted, shown, key.clone_key()).map_err(|error| bad(error.to_string()))?;
        let client = client_config(&trusted, chain, key).map_err(|error| bad(error.to_string()))?;
        let digest = digest(&files);
        Ok(Self { identity, expires, issued: not_before, server: Arc::new(server), client: Arc::new(client), digest })
    }

    /// Of what lies there now; equal to [`Material::digest`] if nothing has changed.
    pub(crate) fn digest_of(dir: &Path) -> Result<[u8; 32], MaterialError> {
        Ok(digest(&Files {
            certificate: read(dir, CERTIFICATE_FILE)?,
            key: read(dir, KEY_FILE)?,
            ca: read(dir, CA_FILE)?,
        }))
    }
}

fn digest(files: &Files) -> [u8; 32] {
    let mut hash = Sha256::new();
    for file in [&files.certificate, &files.key, &files.ca] {
        hash.update((file.len() as u64).to_be_bytes());
        hash.update(file);
    }
    hash.finalize().into()
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>, MaterialError> {
    let path = dir.join(name);
    let failed = |error| MaterialError::Read { path: path.clone(), error };
    let bytes = std::fs::metadata(&path).map_err(failed)?.len();
    if bytes > limits::FILE_BYTES {
        let problem = format!("{bytes} bytes are more than a certificate file has ({})", limits::FILE_BYTES);
        return Err(MaterialError::Bad { path, problem });
    }
    std::fs::read(&path).map_err(failed)
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(MaterialError::Empty { path: path.to_owned(), wanted: "certificate" }),
        Err(error) => Err(MaterialError::Bad { path: path.to_owned(), problem: error.to_string() }),
    }
}

/// The one implementation of cryptography in the process, named so that no default has to be installed.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Lets those without a certificate in; the guard lets them do nothing but join.
fn server_config(
    trusted: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(trusted), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn client_config(
    trusted: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    let verifier = Arc::new(ByTrust { trust: Trust::Roots(Arc::clone(trusted)), provider: provider() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the look at the server's certificate, which may have changed or ended since.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Of a process that has no certificate yet and trusts whoever is signed by the CA with this SHA-256.
pub(crate) fn pinned_client_config(ca_sha256: [u8; 32]) -> Result<ClientConfig, rustls::Error> {
    let verifier = Arc::new(ByTrust { trust: Trust::Fingerprint(ca_sha256), provider: provider() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
enum Trust {
    Roots(Arc<RootCertStore>),
    Fingerprint([u8; 32]),
}

/// Checks the chain as usual, but not the host name: servers move between addresses, and what matters is the identity,
/// which [`crate::connect`] compares before the first request.
#[derive(Debug)]
struct ByTrust {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByTrust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned;
        let roots = match &self.trust {
            Trust::Roots(roots) => &**roots,
            Trust::Fingerprint(wanted) => {
                let ca = intermediates.iter().find(|c| <[u8; 32]>::from(Sha256::digest(c.as_ref())) == *wanted);
                let ca = ca.ok_or(rustls::CertificateError::UnknownIssuer)?;
                let mut store = RootCertStore::empty();
                store.add(ca.clone().into_owned())?;
                pinned = store;
                &pinned
            }
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Reads the identity: exactly one URI of our scheme must be there.
pub(crate) fn holder_of(certificate: &CertificateDer<'_>) -> Result<Holder, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let names = parsed.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let uris = names.flatten().filter_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("moorhouse:") => Some(*uri),
        _ => None,
    });
    let found: Vec<&str> = uris.collect();
    let [uri] = found[..] else {
        return Err(format!(
            "the certificate names {} Moorhouse identities, not one: it needs the URI moorhouse://WAREHOUSE/ROLE/NAME \
             among its alternative names",
            found.len()
        ));
    };
    let identity = uri.parse::<Identity>().map_err(|error| error.to_string())?;
    let not_before = time(parsed.validity().not_before);
    Ok(Holder { identity, not_before, not_after: validity_end(&parsed) })
}

pub(crate) fn end_of(certificate: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    Ok(validity_end(&parsed))
}

fn validity_end(certificate: &X509Certificate<'_>) -> SystemTime {
    time(certificate.validity().not_after)
}

fn time(at: ASN1Time) -> SystemTime {
    let seconds = at.timestamp();
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
