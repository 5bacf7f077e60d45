//! What the gateway is told at its start. All mistakes are reported at once, each with its remedy.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use clap::Parser;
use moorhouse_catalog::GroupName;
use moorhouse_security::{Dialer, TlsFlags, controller_urls};

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
        required = true,
        value_name = "GROUP=HTTP_ADDRESS:PORT,NATIVE_ADDRESS:PORT"
    )]
    pub listen_group: Vec<String>,
    /// Where /metrics and /healthz are served.
    #[arg(long, env = "MOORHOUSE_METRICS", value_name = "ADDRESS:PORT")]
    pub metrics: String,
    #[command(flatten)]
    pub tls: TlsFlags,
}

/// Where one group's clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupListen {
    pub group: GroupName,
    pub http: SocketAddr,
    pub native: SocketAddr,
}

/// The flags, checked.
#[derive(Debug)]
pub struct Config {
    /// As the flag says it; each URL in it is one.
    pub controller: String,
    pub groups: Vec<GroupListen>,
    pub metrics: SocketAddr,
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
        let parsed = self.listen_group.iter().map(|text| group_listen(text));
        let groups: Vec<GroupListen> = parsed.filter_map(|parsed| parsed.map_err(&mut keep).ok()).collect();
        mistakes.extend(said_twice(&groups, metrics));
        mistakes.extend(self.tls.mistakes(None, Some(&self.controller)));
        match (controller, metrics) {
            (Some(controller), Some(metrics)) if mistakes.is_empty() => {
                Ok(Config { controller, groups, metrics, tls: self.tls.clone() })
            }
            _ => Err(mistakes),
        }
    }
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

fn group_listen(text: &str) -> Result<GroupListen, String> {
    let shape = || format!("--listen-group {text:?} is not GROUP=IP:PORT,IP:PORT (first HTTP, then native).");
    let (group, addresses) = text.split_once('=').ok_or_else(shape)?;
    let (http, native) = addresses.split_once(',').ok_or_else(shape)?;
    let group = GroupName::new(group).map_err(|error| format!("--listen-group {text:?}: {error}."))?;
    Ok(GroupListen { group, http: address("--listen-group", http)?, native: address("--listen-group", native)? })
}

fn said_twice(groups: &[GroupListen], metrics: Option<SocketAddr>) -> Mistakes {
    let (mut names, mut taken) = (BTreeSet::new(), BTreeSet::new());
    let mut mistakes = Vec::new();
    for group in groups {
        if !names.insert(group.group.as_str()) {
            mistakes
                .push(format!("--listen-group names {} twice: give each group one pair of addresses.", group.group));
        }
    }
    let addresses = groups.iter().flat_map(|group| [group.http, group.native]).chain(metrics);
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
        assert_eq!(config.groups[0].native.port(), 9000);
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
