//! `embedded:PATH`, `etcd://host:port[,host:port]/prefix`, `memory:`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Which store, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// Forgets everything when the process ends.
    Memory,
    /// One file.
    Embedded(PathBuf),
    /// `endpoints` are `host:port`; `prefix` neither begins nor ends with a slash.
    Etcd { endpoints: Vec<String>, prefix: String },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no store: {problem}; use embedded:PATH, etcd://HOST:PORT[,HOST:PORT]/PREFIX or memory:")]
pub struct InvalidStoreUrl {
    text: String,
    problem: &'static str,
}

impl FromStr for StoreUrl {
    type Err = InvalidStoreUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStoreUrl> {
        let invalid = |problem| InvalidStoreUrl { text: text.to_owned(), problem };
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        if let Some(path) = text.strip_prefix("embedded:") {
            return if path.is_empty() { Err(invalid("the path is missing")) } else { Ok(Self::Embedded(path.into())) };
        }
        let rest = text.strip_prefix("etcd://").ok_or_else(|| invalid("the kind is unknown"))?;
        let (hosts, prefix) = rest.split_once('/').ok_or_else(|| invalid("the prefix is missing"))?;
        let prefix = prefix.trim_matches('/');
        if prefix.is_empty() {
            return Err(invalid("the prefix is missing"));
        }
        let has_port = |endpoint: &str| {
            endpoint.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        let endpoints: Vec<String> = hosts.split(',').map(str::to_owned).collect();
        if !endpoints.iter().all(|endpoint| has_port(endpoint)) {
            return Err(invalid("each endpoint takes a host and a port"));
        }
        Ok(Self::Etcd { endpoints, prefix: prefix.to_owned() })
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Embedded(path) => write!(f, "embedded:{}", path.display()),
            Self::Etcd { endpoints, prefix } => write!(f, "etcd://{}/{prefix}", endpoints.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        for text in
            ["memory:", "embedded:/var/lib/moorhouse.redb", "etcd://a:2379,b:2379/prod/eu", "etcd://[::1]:2379/p"]
        {
            assert_eq!(text.parse::<StoreUrl>().map(|url| url.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let cases = [
            ("embedded:", "path"),
            ("etcd://a:1", "prefix"),
            ("etcd://a:1/", "prefix"),
            ("etcd://a/p", "port"),
            ("etcd:///p", "port"),
            ("etcd://a:1,/p", "port"),
            ("zookeeper://a:1/p", "kind"),
            ("", "kind"),
        ];
        for (text, word) in cases {
            let error = text.parse::<StoreUrl>().expect_err(text).to_string();
            assert!(error.contains(word) && error.contains("embedded:PATH"), "{error}");
        }
    }
}
