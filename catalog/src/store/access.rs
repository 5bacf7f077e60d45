//! What a store asks for before it lets this process in. Secrets come from files, never from flags.

use std::path::{Path, PathBuf};

use moorhouse_base::secret::Secret;

use crate::store::StoreUrl;

/// The names that cert-manager gives to the keys of its secrets.
const CA_FILE: &str = "ca.crt";
const CERTIFICATE_FILE: &str = "tls.crt";
const KEY_FILE: &str = "tls.key";
/// More than any certificate or password has.
const FILE_BYTES: u64 = 1 << 20;

/// Where the papers lie. Nothing given: plaintext, and no name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreAccess {
    /// Directory with `ca.crt`, and `tls.crt` with `tls.key` if the store asks for a certificate: TLS is spoken.
    pub tls: Option<PathBuf>,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
}

/// One reading of them. Equal papers: nothing has changed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Papers {
    pub tls: Option<Tls>,
    pub user: Option<User>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Tls {
    pub ca: Vec<u8>,
    pub own: Option<Own>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Own {
    pub certificate: String,
    pub key: Secret,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct User {
    pub name: String,
    pub password: Secret,
}

impl StoreAccess {
    /// What does not fit together, one line each, with the flag.
    pub fn mistakes(&self, url: &StoreUrl) -> Vec<String> {
        let mut mistakes = Vec::new();
        let StoreUrl::Etcd { endpoints, .. } = url else {
            if *self != Self::default() {
                mistakes.push(format!("--store-tls, --store-user: {url} takes neither: they are for etcd://"));
            }
            return mistakes;
        };
        if self.user.is_some() != self.password_file.is_some() {
            mistakes.push("--store-user and --store-password-file: give both, or neither".to_owned());
        }
        let is_near = |endpoint: &String| {
            let host = endpoint.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        };
        if self.user.is_some() && self.tls.is_none() && !endpoints.iter().all(is_near) {
            let text = "--store-user: a password is not sent in plaintext to another machine: give --store-tls too";
            mistakes.push(text.to_owned());
        }
        mistakes
    }

    /// True if there is something that may change while the process runs.
    pub(super) fn has_files(&self) -> bool {
        self.tls.is_some() || self.password_file.is_some()
    }

    /// # Errors
    /// One line, with the file and what to do. Never what a file holds.
    pub(super) fn read(&self) -> Result<Papers, String> {
        let tls = self.tls.as_deref().map(read_tls).transpose()?;
        let user = match (&self.user, &self.password_file) {
            (Some(name), Some(file)) => {
                let password = text(file)?;
                let password = Secret::new(password.trim_end_matches(['\r', '\n']).to_owned());
                Some(User { name: name.clone(), password })
            }
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err("--store-user and --store-password-file: give both, or neither".to_owned());
            }
        };
        Ok(Papers { tls, user })
    }
}

fn read_tls(dir: &Path) -> Result<Tls, String> {
    let ca = text(&dir.join(CA_FILE))?.into_bytes();
    let (certificate, key) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
    let own = match (certificate.exists(), key.exists()) {
        (false, false) => None,
        (true, true) => Some(Own { certificate: text(&certificate)?, key: Secret::new(text(&key)?) }),
        (true, false) | (false, true) => {
            let dir = dir.display();
            return Err(format!("--store-tls: {dir} has one of {CERTIFICATE_FILE} and {KEY_FILE}: give both or none"));
        }
    };
    Ok(Tls { ca, own })
}

fn text(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let bytes = std::fs::metadata(path).map_err(|error| format!("cannot read {shown}: {error}"))?.len();
    if bytes == 0 || bytes > FILE_BYTES {
        return Err(format!("{shown} has {bytes} bytes: it takes 1 to {FILE_BYTES}"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(access: &StoreAccess, url: &str) -> Vec<String> {
        access.mistakes(&url.parse().expect("a store"))
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let named = StoreAccess {
            user: Some("moorhouse".to_owned()),
            password_file: Some("/p".into()),
            ..StoreAccess::default()
        };
        assert_eq!(mistakes(&named, "etcd://127.0.0.1:1,[::1]:2/p"), [""; 0]);
        assert!(mistakes(&named, "etcd://127.0.0.1:1,etcd-0:2/p")[0].contains("plaintext"));
        assert!(mistakes(&named, "embedded:/x")[0].contains("etcd://"));
        let covered = StoreAccess { tls: Some("/tls".into()), ..named.clone() };
        assert_eq!(mistakes(&covered, "etcd://etcd-0:2/p"), [""; 0]);
        let half = StoreAccess { password_file: None, ..named };
        assert!(mistakes(&half, "etcd://127.0.0.1:1/p")[0].contains("both"));
    }

    #[test]
    fn a_file_that_is_missing_is_named_and_a_password_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("password");
        let access =
            StoreAccess { user: Some("ada".to_owned()), password_file: Some(file.clone()), ..StoreAccess::default() };
        assert!(access.read().err().expect("missing").contains("password"));
        std::fs::write(&file, "hush hush\n").expect("writes");
        let user = access.read().unwrap_or_else(|error| panic!("{error}")).user.expect("a user");
        assert_eq!(user.password.expose(), "hush hush");
        let tls = StoreAccess { tls: Some(dir.path().to_owned()), ..StoreAccess::default() };
        assert!(tls.read().err().expect("missing").contains("ca.crt"));
    }
}
