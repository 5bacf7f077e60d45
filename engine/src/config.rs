//! How one engine is to run, and the two XML files that say so.
//!
//! [`EngineConfig`] is what callers fill in; [`EngineConfig::render`] checks it and makes the files' text without touching
//! the disk. Everything below `dir/data` is disposable: an engine starts with empty metadata and its tables are attached
//! again by whoever knows them. Only what lies under `disks_base` outlives a start.

mod access;
mod server;
mod users;
mod xml;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::EngineError;
pub use access::{EngineAccess, GrantedUser, QuotaLimits, RowFilter};

/// Which program reads the files: the two differ in a few elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// The official `clickhouse server`.
    Server,
    /// `libchdb.so` behind the launcher.
    Embedded,
}

/// One engine: ports, people, cluster. Ports are TCP ports of `listen_host`.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Belongs to this engine alone; made if absent. `data` below it is wiped at each start.
    pub dir: PathBuf,
    /// An IP address.
    pub listen_host: String,
    pub http_port: u16,
    pub native_port: u16,
    pub admin: Admin,
    pub users: Vec<SqlUser>,
    pub cluster: Option<ClusterConfig>,
    /// Tables may name local disks below this path; none may when absent.
    pub disks_base: Option<PathBuf>,
    /// The whole engine's limit; absent: ClickHouse's own (90% of the machine).
    pub max_memory_bytes: Option<u64>,
    /// Users with rights of their own, and settings of all.
    pub access: EngineAccess,
}

/// The user that administers the engine, from this machine only. Has every right.
#[derive(Clone)]
pub struct Admin {
    pub name: String,
    pub password: String,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A user of the warehouse: reads and writes every table, changes no definition.
#[derive(Clone)]
pub struct SqlUser {
    pub name: String,
    /// 64 hexadecimal digits.
    pub password_sha256_hex: String,
}

impl fmt::Debug for SqlUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The cluster that Distributed tables name. Remote statements run as the user who sent them (`secret` vouches for him).
#[derive(Clone)]
pub struct ClusterConfig {
    pub name: String,
    pub secret: String,
    pub shards: Vec<ClusterShard>,
}

impl fmt::Debug for ClusterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterConfig").field("name", &self.name).field("shards", &self.shards).finish_non_exhaustive()
    }
}

/// The only replica of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterShard {
    pub host: String,
    pub port: u16,
    /// A Distributed table with an empty database name finds its table there.
    pub default_database: String,
}

/// The files' text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub config_xml: String,
    pub users_xml: String,
}

impl EngineConfig {
    /// Checks everything, reports all mistakes at once.
    pub fn render(&self, kind: EngineKind) -> Result<Rendered, EngineError> {
        let mistakes = self.mistakes();
        if !mistakes.is_empty() {
            return Err(EngineError::Config(mistakes));
        }
        Ok(Rendered { config_xml: server::render(self, kind), users_xml: users::render(self, kind) })
    }

    /// `config.xml`.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("config.xml")
    }
    /// `users.xml`, found by the engine beside `config.xml`.
    pub fn users_path(&self) -> PathBuf {
        self.dir.join("users.xml")
    }
    /// The engine's own files; wiped at each start.
    pub fn data_path(&self) -> PathBuf {
        self.dir.join("data")
    }
    /// The engine's log and its standard output; kept over starts, bounded by rotation.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut names = vec![("admin name", &self.admin.name)];
        names.extend(self.users.iter().map(|user| ("user name", &user.name)));
        names.extend(self.access.users.iter().map(|user| ("user name", &user.name)));
        names.extend(self.cluster.iter().map(|cluster| ("cluster name", &cluster.name)));
        for (what, name) in names {
            if !is_element_name(name) {
                mistakes.push(format!("{what} {name:?}: use a letter or '_', then letters, digits, '_' and '-'"));
            }
        }
        for user in &self.users {
            if user.name == self.admin.name || user.name == users::EMBEDDED_LOGIN {
                mistakes.push(format!("user name {:?} is reserved: choose another", user.name));
            }
            if user.password_sha256_hex.len() != 64 || !user.password_sha256_hex.bytes().all(|b| b.is_ascii_hexdigit())
            {
                mistakes.push(format!("user {:?}: the password's SHA-256 takes 64 hexadecimal digits", user.name));
            }
        }
        mistakes.extend(self.access.mistakes());
        if self.listen_host.parse::<std::net::IpAddr>().is_err() {
            mistakes.push(format!("listen host {:?} is not an IP address", self.listen_host));
        }
        let paths = std::iter::once(&self.dir).chain(&self.disks_base);
        for path in paths.filter(|path| !is_plain_absolute(path)) {
            mistakes.push(format!("path {} must be absolute, in UTF-8, without control characters", path.display()));
        }
        mistakes
    }
}

/// Names become XML elements and configuration keys, where '.' and '[' mean something else.
pub(crate) fn is_element_name(name: &str) -> bool {
    let first = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    name.len() <= 128
        && name.bytes().next().is_some_and(first)
        && name.bytes().all(|b| first(b) || b.is_ascii_digit() || b == b'-')
}

fn is_plain_absolute(path: &Path) -> bool {
    path.is_absolute() && path.to_str().is_some_and(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests;
