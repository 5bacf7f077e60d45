//! The command line: read whole, all mistakes reported at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use moorhouse_base::secret::Secret;
use moorhouse_catalog::store::{StoreAccess, StoreUrl};
use moorhouse_catalog::{GroupName, ShardCount, User};
use moorhouse_objects::ObjectsUrl;
use moorhouse_security::{Lifetime, TlsFlags};

/// Keeps the metadata of one Moorhouse warehouse.
#[derive(Debug, Parser)]
#[command(name = "moorhouse-controller", version)]
pub struct Args {
    /// HOST:PORT of the gRPC services, for agents, gateways and moorctl.
    #[arg(long, env = "MOORHOUSE_LISTEN", default_value = "127.0.0.1:7400")]
    listen: String,
    /// HOST:PORT of /metrics and /healthz.
    #[arg(long, env = "MOORHOUSE_METRICS", default_value = "127.0.0.1:7401")]
    metrics: String,
    /// `embedded:PATH`, `etcd://HOST:PORT,HOST:PORT/PREFIX`, or `memory:` (forgets all at the end).
    #[arg(long, env = "MOORHOUSE_STORE")]
    store: String,
    /// Directory with etcd's ca.crt, and tls.crt and tls.key if etcd asks for a certificate: speak TLS to etcd. Read again
    /// when the files change.
    #[arg(long, env = "MOORHOUSE_STORE_TLS", value_name = "DIR")]
    store_tls: Option<PathBuf>,
    /// Name of the etcd user that this controller is.
    #[arg(long, env = "MOORHOUSE_STORE_USER", value_name = "NAME")]
    store_user: Option<String>,
    /// File with that user's password. Read again when it changes.
    #[arg(long, env = "MOORHOUSE_STORE_PASSWORD_FILE", value_name = "FILE")]
    store_password_file: Option<PathBuf>,
    /// file:///DIR or s3://BUCKET/PREFIX?endpoint=…&region=…
    #[arg(long, env = "MOORHOUSE_OBJECTS")]
    objects: String,
    /// Number of shards, fixed when the warehouse is made.
    #[arg(long, env = "MOORHOUSE_SHARDS")]
    shards: Option<String>,
    /// NAME:SHA256_OF_PASSWORD_IN_HEX of a SQL user, used when the warehouse is made; repeatable.
    #[arg(long = "user", env = "MOORHOUSE_USERS", value_delimiter = ',')]
    users: Vec<String>,
    /// Name of a compute group to make if it is not there; repeatable.
    #[arg(long = "group", env = "MOORHOUSE_GROUPS", value_delimiter = ',')]
    groups: Vec<String>,
    /// A node that is silent for so long is down.
    #[arg(long, env = "MOORHOUSE_LEASE_TTL_MS", default_value = "5000")]
    lease_ttl_ms: String,
    /// HOST:PORT at which the others reach this controller; without it, the one of --listen.
    #[arg(long, env = "MOORHOUSE_ADVERTISE")]
    advertise: Option<String>,
    /// How long a leader that does not answer keeps the leadership. What it does later is refused by the store.
    #[arg(long, env = "MOORHOUSE_LEADER_TTL_MS", default_value = "3000")]
    leader_ttl_ms: String,
    /// Put this backup into the empty store, and end.
    #[arg(long, value_name = "FILE")]
    restore: Option<PathBuf>,
    /// How long an object is kept after nothing refers to it any more.
    #[arg(long, env = "MOORHOUSE_DELETE_GRACE_MS", default_value = "3600000")]
    delete_grace_ms: String,
    /// How long an object may lie in the bucket before anything refers to it; after that it is swept.
    #[arg(long, env = "MOORHOUSE_ORPHAN_GRACE_MS", default_value = "7200000")]
    orphan_grace_ms: String,
    /// Memory for part lists; those used longest ago are dropped beyond it, and loaded again when they are needed.
    #[arg(long, env = "MOORHOUSE_PARTS_MEMORY_MIB", default_value_t = 2_048, value_parser = clap::value_parser!(u32).range(1..))]
    parts_memory_mib: u32,
    #[command(flatten)]
    tls: TlsFlags,
    /// Directory with ca.crt and ca.key: give certificates to nodes that join by token, and renew them.
    #[arg(long, env = "MOORHOUSE_ISSUER", value_name = "DIR")]
    issuer: Option<PathBuf>,
    /// How long the certificates are good for that this controller issues: 90d, 12h, 30m.
    #[arg(long, env = "MOORHOUSE_ISSUE_FOR", default_value = "90d")]
    issue_for: String,
}

/// Checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub metrics: SocketAddr,
    pub store: StoreUrl,
    /// What the store asks for.
    pub store_access: StoreAccess,
    pub objects: ObjectsUrl,
    /// As the operator wrote it: what agents are told.
    pub objects_text: String,
    /// `None`: whatever the warehouse has; [`Config::DEFAULT_SHARDS`] for a new one.
    pub shards: Option<ShardCount>,
    pub users: Vec<User>,
    pub groups: Vec<GroupName>,
    pub lease: Duration,
    pub delete_grace_ms: u64,
    pub orphan_grace_ms: u64,
    /// `None`: `listen`.
    pub advertise: Option<String>,
    pub leader_ttl: Duration,
    /// `None`: lead, and serve.
    pub restore: Option<PathBuf>,
    /// For part lists, about.
    pub lists_bytes: usize,
    pub tls: TlsFlags,
    /// `None`: joining by token is not offered.
    pub issuer: Option<PathBuf>,
    pub issue_for: Lifetime,
}

impl Config {
    pub const DEFAULT_SHARDS: u16 = 16;

    /// Every mistake, one line each.
    pub fn check(args: Args) -> Result<Self, Vec<String>> {
        let mut mistakes = Mistakes(Vec::new());
        let listen = mistakes.parse::<SocketAddr>("--listen", &args.listen, "use IP:PORT");
        let metrics = mistakes.parse::<SocketAddr>("--metrics", &args.metrics, "use IP:PORT");
        let store = mistakes.parse::<StoreUrl>("--store", &args.store, "");
        let objects = mistakes.parse::<ObjectsUrl>("--objects", &args.objects, "");
        let shards = args.shards.as_deref().map(|text| mistakes.shards(text));
        let users: Vec<_> = args.users.iter().map(|text| mistakes.user(text)).collect();
        let groups: Vec<_> = args.groups.iter().map(|text| mistakes.parse::<GroupName>("--group", text, "")).collect();
        let lease = mistakes.milliseconds("--lease-ttl-ms", &args.lease_ttl_ms, 500..=600_000);
        let grace = mistakes.milliseconds("--delete-grace-ms", &args.delete_grace_ms, 0..=u64::from(u32::MAX));
        let orphan = mistakes.milliseconds("--orphan-grace-ms", &args.orphan_grace_ms, 1_000..=u64::from(u32::MAX));
        let leader_ttl = mistakes.milliseconds("--leader-ttl-ms", &args.leader_ttl_ms, 2_000..=60_000);
        let issue_for = mistakes.parse::<Lifetime>("--issue-for", &args.issue_for, "");
        let (store_tls, store_user) = (args.store_tls, args.store_user);
        let store_access = StoreAccess { tls: store_tls, user: store_user, password_file: args.store_password_file };
        mistakes.0.extend(store.iter().flat_map(|url| store_access.mistakes(url)));
        mistakes.0.extend(args.tls.mistakes(listen, None));
        if args.issuer.is_some() && args.tls.tls.is_none() {
            mistakes.0.push("--issuer: certificates are of use with TLS only: give --tls DIR too".to_owned());
        }
        if !mistakes.0.is_empty() {
            return Err(mistakes.0);
        }
        let checked = (|| {
            Some(Self {
                listen: listen?,
                metrics: metrics?,
                store: store?,
                store_access,
                objects: objects?,
                objects_text: args.objects,
                shards: match shards {
                    Some(shards) => Some(shards?),
                    None => None,
                },
                users: users.into_iter().collect::<Option<_>>()?,
                groups: groups.into_iter().collect::<Option<_>>()?,
                lease: Duration::from_millis(lease?),
                delete_grace_ms: grace?,
                orphan_grace_ms: orphan?,
                lists_bytes: (args.parts_memory_mib as usize) << 20,
                advertise: args.advertise,
                leader_ttl: Duration::from_millis(leader_ttl?),
                restore: args.restore,
                tls: args.tls,
                issuer: args.issuer,
                issue_for: issue_for?,
            })
        })();
        checked.ok_or_else(|| vec!["the configuration is not valid".to_owned()])
    }
}

struct Mistakes(Vec<String>);

impl Mistakes {
    fn parse<T: FromStr>(&mut self, flag: &str, text: &str, remedy: &str) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) if remedy.is_empty() => self.note(format!("{flag}: {error}")),
            Err(error) => self.note(format!("{flag}: {text:?} is not valid ({error}): {remedy}")),
        }
    }

    fn milliseconds(&mut self, flag: &str, text: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        match text.parse() {
            Ok(value) if range.contains(&value) => Some(value),
            _ => self.note(format!(
                "{flag}: {text:?} is not valid: use {} to {} milliseconds",
                range.start(),
                range.end()
            )),
        }
    }

    fn shards(&mut self, text: &str) -> Option<ShardCount> {
        match text.parse().ok().and_then(|count| ShardCount::new(count).ok()) {
            Some(shards) => Some(shards),
            None => self.note(format!("--shards: {text:?} is not valid: use 1 to {}", ShardCount::MAX)),
        }
    }

    fn user(&mut self, text: &str) -> Option<User> {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && !name.starts_with("moorhouse")
        };
        let is_hash = |hash: &str| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        match text.split_once(':') {
            Some((name, hash)) if is_name(name) && name != "default" && is_hash(hash) => {
                Some(User { name: name.to_owned(), password_sha256_hex: Secret::new(hash.to_ascii_lowercase()) })
            }
            // The text may hold a password by mistake: it is not repeated.
            _ => self.note(
                "--user: use NAME:SHA256_HEX with a NAME of letters, digits and '_', not default and not moorhouse…"
                    .to_owned(),
            ),
        }
    }

    fn note<T>(&mut self, mistake: String) -> Option<T> {
        self.0.push(mistake);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str]) -> Result<Config, Vec<String>> {
        Config::check(Args::try_parse_from([&["moorhouse-controller"], args].concat()).expect("known flags"))
    }

    #[test]
    fn reads_all_flags() {
        let user = format!("ada:{}", "A".repeat(64));
        let config = check(&[
            "--listen",
            "127.0.0.1:1",
            "--metrics",
            "127.0.0.1:2",
            "--store",
            "embedded:/x",
            "--objects",
            "file:///y",
            "--shards",
            "8",
            "--user",
            &user,
            "--group",
            "etl",
            "--group",
            "bi",
            "--lease-ttl-ms",
            "3000",
        ])
        .expect("valid");
        assert_eq!(config.shards, ShardCount::new(8).ok());
        assert_eq!(config.users, [User { name: "ada".to_owned(), password_sha256_hex: Secret::new("a".repeat(64)) }]);
        assert_eq!(config.groups.len(), 2);
        assert_eq!(config.lease, Duration::from_secs(3));
    }

    #[test]
    fn tells_all_mistakes_at_once() {
        let mistakes = check(&[
            "--listen",
            "nowhere",
            "--metrics",
            "1",
            "--store",
            "etcd://x",
            "--objects",
            "ftp://x",
            "--shards",
            "0",
            "--user",
            "ada:secret",
            "--group",
            "No Group",
            "--lease-ttl-ms",
            "1",
            "--delete-grace-ms",
            "soon",
        ])
        .expect_err("all wrong");
        assert_eq!(mistakes.len(), 9, "{mistakes:#?}");
        assert!(mistakes.iter().all(|line| line.starts_with("--") && !line.contains('\n')), "{mistakes:#?}");
        assert!(!mistakes.iter().any(|line| line.contains("secret")), "{mistakes:#?}");
    }
}
