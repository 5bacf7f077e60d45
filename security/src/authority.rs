//! A small certificate authority, for those who have none: the door to rcgen.

use std::path::Path;
use std::time::{Duration, SystemTime};

use moorhouse_base::secret::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::Identity;
use crate::limits;
use crate::material::CA_FILE;

const CA_KEY_FILE: &str = "ca.key";
/// Clocks of two machines may differ by so much.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// How long a certificate is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(pub Duration);

impl Lifetime {
    pub const AUTHORITY: Self = Self::days(3_650);
    pub const LEAF: Self = Self::days(90);

    pub const fn days(days: u64) -> Self {
        Self(Duration::from_secs(days * 86_400))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no time: write a number with d, h, m or s, for example 90d")]
pub struct InvalidLifetime(String);

impl std::str::FromStr for Lifetime {
    type Err = InvalidLifetime;

    fn from_str(text: &str) -> Result<Self, InvalidLifetime> {
        let invalid = || InvalidLifetime(text.to_owned());
        let unit = text.chars().next_back().ok_or_else(invalid)?;
        let seconds = match unit {
            'd' => 86_400,
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            _ => return Err(invalid()),
        };
        let number: u64 = text[..text.len() - 1].parse().map_err(|_| invalid())?;
        // X.509 ends with the year 9999.
        let all = number.checked_mul(seconds).filter(|all| (1..=1_000 * 365 * 86_400).contains(all));
        all.map(|seconds| Self(Duration::from_secs(seconds))).ok_or_else(invalid)
    }
}

/// A private key in PEM form.
pub type KeyPem = Secret;

/// A certificate with its key and the CA that vouches for it.
#[derive(Debug)]
pub struct Issued {
    pub certificate_pem: String,
    pub key_pem: KeyPem,
    pub ca_pem: String,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot read {path}: {error}")]
    Read { path: String, error: std::io::Error },
    #[error("the CA cannot be used: {0}")]
    Bad(String),
    #[error("the certificate request is not valid: {0}")]
    Request(String),
}

/// Issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// A new CA, self-signed; its certificate and its key, both PEM.
    pub fn create(warehouse: &str) -> Result<(String, KeyPem), AuthorityError> {
        let key = KeyPair::generate().map_err(bad)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, warehouse);
        params.distinguished_name.push(DnType::CommonName, format!("Moorhouse CA of {warehouse}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, Lifetime::AUTHORITY);
        let certificate = params.self_signed(&key).map_err(bad)?;
        Ok((certificate.pem(), Secret::new(key.serialize_pem())))
    }

    /// From `ca.crt` and `ca.key` in `dir`.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        let read = |name: &str| {
            let path = dir.join(name);
            let failed = |error| AuthorityError::Read { path: path.display().to_string(), error };
            std::fs::read_to_string(&path).map_err(failed)
        };
        Self::new(&read(CA_FILE)?, &Secret::new(read(CA_KEY_FILE)?))
    }

    pub fn new(certificate_pem: &str, key_pem: &KeyPem) -> Result<Self, AuthorityError> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| AuthorityError::Bad(format!("{CA_FILE} holds no certificate in PEM form")))?;
        // The key's own text must not come back in an error.
        let key = KeyPair::from_pem(key_pem.expose())
            .map_err(|_| AuthorityError::Bad(format!("{CA_KEY_FILE} holds no private key in PEM form")))?;
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(bad)?;
        if *parsed.public_key().raw != *key.subject_public_key_info() {
            return Err(AuthorityError::Bad(format!("{CA_KEY_FILE} is not the key of {CA_FILE}")));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(bad)?;
        Ok(Self { issuer, certificate_pem: certificate_pem.to_owned(), certificate })
    }

    /// The warehouse that [`Authority::create`] wrote into the CA; `None` for a CA of another making.
    pub fn warehouse(&self) -> Option<String> {
        let (_, parsed) = X509Certificate::from_der(&self.certificate).ok()?;
        let organization = parsed.subject().iter_organization().next()?;
        organization.as_str().ok().map(str::to_owned)
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// SHA-256 of the CA's certificate: what a join token carries.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }

    /// A new key with its certificate.
    pub fn issue(&self, identity: &Identity, lifetime: Lifetime) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate().map_err(bad)?;
        let certificate = leaf(identity, lifetime)?.signed_by(&key, &self.issuer).map_err(bad)?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            key_pem: Secret::new(key.serialize_pem()),
            ca_pem: self.certificate_pem.clone(),
        })
    }

    /// A certificate in PEM form for the key of a request. Of the request only the key is taken: who it is for is not the
    /// asker's to say.
    pub fn sign(&self, request: &[u8], identity: &Identity, lifetime: Lifetime) -> Result<String, AuthorityError> {
        if request.len() > limits::REQUEST_BYTES {
            return Err(AuthorityError::Request(format!("it has more than {} bytes", limits::REQUEST_BYTES)));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
            .map_err(|error| AuthorityError::Request(error.to_string()))?;
        let certificate = leaf(identity, lifetime)?.signed_by(&request.public_key, &self.issuer).map_err(bad)?;
        Ok(certificate.pem())
    }
}

/// A new key, and the request for its certificate.
pub struct CertificateRequest {
    pub key_pem: KeyPem,
    pub der: Vec<u8>,
}

impl CertificateRequest {
    pub fn new() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(bad)?;
        let request = CertificateParams::default().serialize_request(&key).map_err(bad)?;
        Ok(Self { key_pem: Secret::new(key.serialize_pem()), der: request.der().to_vec() })
    }
}

fn leaf(identity: &Identity, lifetime: Lifetime) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, identity.short());
    let uri = identity.to_string().try_into().map_err(bad)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, lifetime);
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, lifetime: Lifetime) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + lifetime.0).into();
}

fn bad(error: impl std::fmt::Display) -> AuthorityError {
    AuthorityError::Bad(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::RoleKind;
    use crate::material::holder_of;

    fn authority() -> Authority {
        let (certificate, key) = Authority::create("prod").expect("made");
        Authority::new(&certificate, &key).expect("usable")
    }

    fn holder(pem: &str) -> crate::material::Holder {
        holder_of(&CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("an identity")
    }

    #[test]
    fn a_certificate_names_its_holder() {
        let identity = Identity::new("prod", RoleKind::Agent, "etl-0").expect("valid");
        let issued = authority().issue(&identity, Lifetime::days(3)).expect("issued");
        let holder = holder(&issued.certificate_pem);
        assert_eq!(holder.identity, identity);
        let left = holder.not_after.duration_since(SystemTime::now()).expect("in the future");
        assert!(left > Duration::from_secs(2 * 86_400) && left <= Duration::from_secs(3 * 86_400), "{left:?}");
        assert!(!format!("{issued:?}").contains("PRIVATE KEY"));
    }

    #[test]
    fn a_request_cannot_choose_who_it_is_for() {
        let mut params = CertificateParams::default();
        let wished = "moorhouse://prod/admin/mallory".to_owned().try_into().expect("ASCII");
        params.subject_alt_names = vec![SanType::URI(wished)];
        let key = KeyPair::generate().expect("a key");
        let request = params.serialize_request(&key).expect("a request");
        let identity = Identity::new("prod", RoleKind::Agent, "etl-0").expect("valid");
        let signed = authority().sign(request.der(), &identity, Lifetime::LEAF).expect("signed");
        assert_eq!(holder(&signed).identity, identity);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let identity = Identity::new("prod", RoleKind::Agent, "etl-0").expect("valid");
        let authority = authority();
        let mut good = CertificateRequest::new().expect("a request").der;
        *good.last_mut().expect("not empty") ^= 1; // The signature, which proves that the asker has the key.
        for request in [Vec::new(), vec![0x30; 100], vec![0; limits::REQUEST_BYTES + 1], good] {
            assert!(matches!(authority.sign(&request, &identity, Lifetime::LEAF), Err(AuthorityError::Request(_))));
        }
    }

    #[test]
    fn a_key_of_another_ca_is_refused() {
        let (certificate, _) = Authority::create("prod").expect("made");
        let (_, key) = Authority::create("prod").expect("made");
        assert!(Authority::new(&certificate, &key).is_err());
        assert_eq!(authority().warehouse().as_deref(), Some("prod"));
    }
}
