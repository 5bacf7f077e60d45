//! What the gateway is told at its start. All mistakes are reported at once, each with its remedy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use moorhouse_catalog::GroupName;
use moorhouse_security::{Dialer, TlsFlags, controller_urls};

use crate::listen::Entrance;
use crate::tls::Files;

/// The endpoints of Moorhouse's compute groups: ClickHouse HTTP and native protocol in, statements routed out.
#[derive(Debug, Parser)]
#[command(name = "moorhouse-gateway", version)]
pub struct Flags {
    /// The controller's address; several with commas between.
    #[arg(long, env = "MOORHOUSE_CONTROLLER", value_name = "http://HOST:PORT")]
    pub controller: String,
    /// A group and where its clients connect; repeat it for further groups.
    #[arg(
        long = "listen-group",
        env = "MOORHOUSE_LISTEN_GROUP",
        value_delimiter = ' ',
        required_unless_present_any = ["listen_group_tls", "listen_shared", "listen_shared_tls"],
        value_name = "GROUP=HTTP_ADDRESS:PORT,NATIVE_ADDRESS:PORT"
    )]
    pub listen_group: Vec<String>,
    /// As --listen-group, with TLS.
    #[arg(
        long = "listen-group-tls",
        env = "MOORHOUSE_LISTEN_GROUP_TLS",
        value_delimiter = ' ',
        value_name = "GROUP=HTTPS_ADDRESS:PORT,NATIVE_ADDRESS:PORT"
    )]
    pub listen_group_tls: Vec<String>,
    /// Ports of all groups: the group is the first part of the HTTP Host, or belongs to the user (--user-group).
    #[arg(
        long = "listen-shared",
        env = "MOORHOUSE_LISTEN_SHARED",
        value_name = "HTTP_ADDRESS:PORT,NATIVE_ADDRESS:PORT"
    )]
    pub listen_shared: Option<String>,
    /// As --listen-shared, with TLS: the group is the first part of the server name that the client asks for.
    #[arg(
        long = "listen-shared-tls",
        env = "MOORHOUSE_LISTEN_SHARED_TLS",
        value_name = "HTTPS_ADDRESS:PORT,NATIVE_ADDRESS:PORT"
    )]
    pub listen_shared_tls: Option<String>,
    /// A user and the group that is meant at the shared ports when no host name says it; repeat it for further users.
    #[arg(long = "user-group", env = "MOORHOUSE_USER_GROUP", value_delimiter = ' ', value_name = "USER=GROUP")]
    pub user_group: Vec<String>,
    /// The certificate chain for TLS (PEM); it is read again when it changes.
    #[arg(long, env = "MOORHOUSE_TLS_CERTIFICATE", value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, env = "MOORHOUSE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Checks clients' certificates, if they show one, against these authorities (PEM).
    #[arg(long, env = "MOORHOUSE_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Turns clients without a certificate away.
    #[arg(long, env = "MOORHOUSE_TLS_CLIENT_REQUIRED", requires = "tls_client_ca")]
    pub tls_client_required: bool,
    /// Where /metrics and /healthz are served.
    #[arg(long, env = "MOORHOUSE_METRICS", value_name = "ADDRESS:PORT")]
    pub metrics: String,
    #[command(flatten)]
    pub tls: TlsFlags,
}

/// A pair of ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub entrance: Entrance,
    pub tls: bool,
    pub http: SocketAddr,
    pub native: SocketAddr,
}

/// The flags, checked.
#[derive(Debug)]
pub struct Config {
    /// As the flag says it; each URL in it is one.
    pub controller: String,
    pub groups: Vec<GroupName>,
    pub listen: Vec<Listen>,
    pub users: BTreeMap<String, GroupName>,
    /// For clients.
    pub endpoint_tls: Option<Files>,
    pub metrics: SocketAddr,
    /// Among Moorhouse's own processes.
    pub tls: TlsFlags,
}

/// One mistake a line, each with its remedy.
pub type Mistakes = Vec<String>;

impl Flags {
    pub fn check(&self) -> Result<Config, Mistakes> {
        let mut mistakes = Vec::new();
        let mut keep = |error: String| mistakes.push(error);
        let controller = controller(&self.controller).map_err(&mut keep).ok();
        let metrics = address("--metrics", &self.metrics).map_err(&mut keep).ok();
        let plain = self.listen_group.iter().map(|text| group_listen("--listen-group", text, false));
        let secure = self.listen_group_tls.iter().map(|text| group_listen("--listen-group-tls", text, true));
        let shared = self.listen_shared.iter().map(|text| pair("--listen-shared", text, Entrance::Shared, false));
        let shared_tls =
            self.listen_shared_tls.iter().map(|text| pair("--listen-shared-tls", text, Entrance::Shared, true));
        let parsed = plain.chain(secure).chain(shared).chain(shared_tls);
        let listen: Vec<Listen> = parsed.filter_map(|parsed| parsed.map_err(&mut keep).ok()).collect();
        let users = self.user_group.iter().map(|text| user_group(text));
        let users: Vec<_> = users.filter_map(|parsed| parsed.map_err(&mut keep).ok()).collect();
        let groups = groups(&listen, &users);
        mistakes.extend(said_twice(&listen, metrics));
        let wanted = listen.iter().any(|ports| ports.tls);
        let endpoint_tls = self.endpoint_tls(wanted).map_err(|error| mistakes.push(error)).ok().flatten();
        mistakes.extend(self.tls.mistakes(None, Some(&self.controller)));
        let users = users.into_iter().collect();
        match (controller, metrics) {
            (Some(controller), Some(metrics)) if mistakes.is_empty() => {
                let tls = self.tls.clone();
                Ok(Config { controller, groups, listen, users, endpoint_tls, metrics, tls })
            }
            _ => Err(mistakes),
        }
    }

    fn endpoint_tls(&self, wanted: bool) -> Result<Option<Files>, String> {
        match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => Ok(Some(Files {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: self.tls_client_ca.clone(),
                client_required: self.tls_client_required,
            })),
            (None, None) if !wanted => Ok(None),
            _ => Err("TLS needs both --tls-certificate and --tls-key.".to_owned()),
        }
    }
}

/// Every group that is named, once, in the order of the flags.
fn groups(listen: &[Listen], users: &[(String, GroupName)]) -> Vec<GroupName> {
    let by_port = listen.iter().filter_map(|ports| match &ports.entrance {
        Entrance::Group(group) => Some(group),
        Entrance::Shared => None,
    });
    let mut groups: Vec<GroupName> = Vec::new();
    for group in by_port.chain(users.iter().map(|(_, group)| group)) {
        if !groups.contains(group) {
            groups.push(group.clone());
        }
    }
    groups
}

/// One URL, or several with commas between.
fn controller(text: &str) -> Result<String, String> {
    for url in controller_urls(text) {
        let has_scheme = url.starts_with("http://") || url.starts_with("https://");
        let endpoint = Dialer::plaintext().endpoint(url).ok().filter(|e| has_scheme && e.uri().port().is_some());
        if endpoint.is_none() {
            return Err(format!(
                "--controller {url:?} is no address: write http://HOST:PORT, or https://HOST:PORT with --tls."
            ));
        }
    }
    Ok(text.to_owned())
}

fn address(flag: &str, text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{flag}: {text:?} is no address: write IP:PORT, for example 127.0.0.1:8123."))
}

fn group_listen(flag: &str, text: &str, tls: bool) -> Result<Listen, String> {
    let shape = || format!("{flag} {text:?} is not GROUP=IP:PORT,IP:PORT (first HTTP, then native).");
    let (group, addresses) = text.split_once('=').ok_or_else(shape)?;
    let group = GroupName::new(group).map_err(|error| format!("{flag} {text:?}: {error}."))?;
    pair(flag, addresses, Entrance::Group(group), tls)
}

fn pair(flag: &str, text: &str, entrance: Entrance, tls: bool) -> Result<Listen, String> {
    let shape = || format!("{flag}: {text:?} is not IP:PORT,IP:PORT (first HTTP, then native).");
    let (http, native) = text.split_once(',').ok_or_else(shape)?;
    Ok(Listen { entrance, tls, http: address(flag, http)?, native: address(flag, native)? })
}

fn user_group(text: &str) -> Result<(String, GroupName), String> {
    let (user, group) = text.split_once('=').ok_or_else(|| format!("--user-group {text:?} is not USER=GROUP."))?;
    let group = GroupName::new(group).map_err(|error| format!("--user-group {text:?}: {error}."))?;
    Ok((user.to_owned(), group))
}

fn said_twice(listen: &[Listen], metrics: Option<SocketAddr>) -> Mistakes {
    let (mut names, mut taken) = (BTreeSet::new(), BTreeSet::new());
    let mut mistakes = Vec::new();
    for ports in listen {
        if let Entrance::Group(group) = &ports.entrance
            && !names.insert((group.as_str(), ports.tls))
        {
            mistakes.push(format!("--listen-group names {group} twice: give each group one pair of addresses."));
        }
    }
    let addresses = listen.iter().flat_map(|ports| [ports.http, ports.native]).chain(metrics);
    for address in addresses.filter(|address| address.port() != 0) {
        if !taken.insert(address) {
            mistakes.push(format!("{address} is given twice: give each endpoint its own port."));
        }
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(controller: &str, groups: &[&str], metrics: &str) -> Flags {
        Flags {
            controller: controller.into(),
            listen_group: groups.iter().map(|&text| text.into()).collect(),
            listen_group_tls: vec![],
            listen_shared: None,
            listen_shared_tls: None,
            user_group: vec![],
            tls_certificate: None,
            tls_key: None,
            tls_client_ca: None,
            tls_client_required: false,
            metrics: metrics.into(),
            tls: TlsFlags::default(),
        }
    }

    #[test]
    fn right_flags_are_taken() {
        let config = flags(
            "http://127.0.0.1:7000",
            &["etl=127.0.0.1:8123,127.0.0.1:9000", "bi=127.0.0.1:0,127.0.0.1:0"],
            "127.0.0.1:9100",
        );
        let config = config.check().expect("right");
        assert_eq!(config.groups.len(), 2);
        assert_eq!(config.listen[0].native.port(), 9000);
    }

    #[test]
    fn groups_may_share_ports_and_have_tls() {
        let mut flags = flags("http://127.0.0.1:7000", &["etl=127.0.0.1:8123,127.0.0.1:9000"], "127.0.0.1:9100");
        flags.listen_group_tls = vec!["etl=127.0.0.1:8443,127.0.0.1:9440".into()];
        flags.listen_shared_tls = Some("127.0.0.1:443,127.0.0.1:9441".into());
        flags.user_group = vec!["ann=bi".into()];
        let mistakes = flags.check().expect_err("no certificate");
        assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
        flags.tls_certificate = Some("c.pem".into());
        flags.tls_key = Some("k.pem".into());
        let config = flags.check().expect("right");
        assert_eq!((config.groups.len(), config.listen.len(), config.users.len()), (2, 3, 1));
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let groups = [
            "etl",
            "Etl=127.0.0.1:1,127.0.0.1:2",
            "bi=127.0.0.1:3,native",
            "a=127.0.0.1:4,127.0.0.1:4",
            "a=127.0.0.1:5,127.0.0.1:6",
        ];
        let mistakes = flags("127.0.0.1:7000", &groups, "here").check().expect_err("wrong");
        assert_eq!(mistakes.len(), 7, "{mistakes:#?}");
    }
}
