//! The flags that every process of a warehouse has, and the rule that plaintext stays on the machine.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use moorhouse_base::tasks::TaskGroup;

use crate::connect::Dialer;
use crate::files::Credentials;
use crate::identity::RoleKind;
use crate::leader::controller_urls;

const REMEDY: &str = "give a certificate with --tls DIR (`moorctl cert` makes one), or say --insecure-plaintext if the \
                      network is trusted";

/// How a process speaks to the others.
#[derive(Debug, Clone, Default, Args)]
pub struct TlsFlags {
    /// Directory with tls.crt, tls.key and ca.crt: speak TLS, and only to holders of such certificates
    #[arg(long = "tls", env = "MOORHOUSE_TLS", value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// Speak plaintext over the network, with everybody who can reach the port
    #[arg(long, env = "MOORHOUSE_INSECURE_PLAINTEXT")]
    pub insecure_plaintext: bool,
}

/// Which scheme an address says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl TlsFlags {
    /// Everything wrong with listening at `listen` and calling `controller`, one line each.
    pub fn mistakes(&self, listen: Option<SocketAddr>, controller: Option<&str>) -> Vec<String> {
        let mut found = Vec::new();
        if self.tls.is_some() && self.insecure_plaintext {
            found.push("--tls and --insecure-plaintext exclude each other: choose one".to_owned());
        }
        found.extend(listen.and_then(|listen| check_listen(listen, self).err()));
        let urls = controller.into_iter().flat_map(controller_urls);
        found.extend(urls.filter_map(|url| self.check_controller(url).err()));
        found
    }

    fn check_controller(&self, url: &str) -> Result<(), String> {
        match (scheme_of(url), &self.tls) {
            (Some(Scheme::Https), None) => {
                Err(format!("--controller {url} speaks TLS: give a certificate with --tls DIR"))
            }
            (Some(Scheme::Http), Some(_)) => {
                Err(format!("--controller {url} is plaintext, and --tls is given: say https://"))
            }
            (Some(Scheme::Http), None) if !self.insecure_plaintext && !is_loopback_url(url) => {
                Err(format!("--controller {url} is plaintext over the network: {REMEDY}"))
            }
            // What is no address at all is told by whoever reads it.
            (Some(_), _) | (None, _) => Ok(()),
        }
    }

    /// Reads the certificates and follows them as one of `tasks`; `None` for plaintext.
    ///
    /// # Errors
    /// When they cannot be used, or are another role's, or another name's than `name`.
    pub fn open(&self, kind: RoleKind, name: Option<&str>, tasks: &TaskGroup) -> Result<Option<Credentials>, String> {
        let Some(dir) = &self.tls else { return Ok(None) };
        let credentials = Credentials::open(dir, tasks).map_err(|error| format!("--tls: {error}"))?;
        let identity = credentials.current().identity.clone();
        if identity.role().kind() != kind || name.is_some_and(|name| name != identity.role().name()) {
            let wanted = name.map_or_else(|| format!("of a {kind}"), |name| format!("of {kind}/{name}"));
            return Err(format!(
                "--tls {}: the certificate is of {}, this process needs one {wanted}",
                dir.display(),
                identity.short()
            ));
        }
        Ok(Some(credentials))
    }
}

/// The way out of a process that has, or has not, credentials.
impl From<Option<Credentials>> for Dialer {
    fn from(credentials: Option<Credentials>) -> Self {
        credentials.map_or_else(Self::plaintext, Self::tls)
    }
}

/// Refuses plaintext for others than this machine, unless it was asked for by name.
pub fn check_listen(listen: SocketAddr, flags: &TlsFlags) -> Result<(), String> {
    if flags.tls.is_some() || flags.insecure_plaintext || listen.ip().is_loopback() {
        return Ok(());
    }
    Err(format!("--listen {listen} would take plaintext from the network: {REMEDY}"))
}

fn scheme_of(url: &str) -> Option<Scheme> {
    match url.split_once("://")?.0 {
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        _ => None,
    }
}

fn is_loopback_url(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(tls: bool, insecure: bool) -> TlsFlags {
        TlsFlags { tls: tls.then(|| "/tls".into()), insecure_plaintext: insecure }
    }

    #[test]
    fn plaintext_stays_on_the_machine() {
        let everywhere = "0.0.0.0:7400".parse().expect("an address");
        let here = "127.0.0.1:7400".parse().expect("an address");
        assert_eq!(flags(false, false).mistakes(Some(here), Some("http://127.0.0.1:1")), Vec::<String>::new());
        assert_eq!(flags(false, false).mistakes(Some(here), Some("http://[::1]:1")), Vec::<String>::new());
        let refused = flags(false, false).mistakes(Some(everywhere), Some("http://controller:7400"));
        assert_eq!(refused.len(), 2, "{refused:?}");
        assert!(refused.iter().all(|line| line.contains("--tls") && line.contains("--insecure-plaintext")));
        assert!(flags(false, true).mistakes(Some(everywhere), Some("http://controller:7400")).is_empty());
        assert!(flags(true, false).mistakes(Some(everywhere), Some("https://controller:7400")).is_empty());
    }

    #[test]
    fn the_scheme_fits_the_certificate() {
        assert_eq!(flags(true, false).mistakes(None, Some("http://127.0.0.1:1")).len(), 1);
        assert_eq!(flags(false, false).mistakes(None, Some("https://127.0.0.1:1")).len(), 1);
        assert_eq!(flags(true, true).mistakes(None, None).len(), 1);
    }
}
