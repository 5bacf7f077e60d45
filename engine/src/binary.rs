//! Which engine to run: a `clickhouse` on PATH if there is one, else the embedded engine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use crate::config::EngineKind;
use crate::error::EngineError;

/// The embedded engine's place below the cache directory; the setup script puts it there.
const EMBEDDED: &str = "moorhouse/chdb-26.7.3-stable.1/libchdb.so";
/// Names another `libchdb.so`.
const EMBEDDED_VARIABLE: &str = "MOORHOUSE_CHDB";
const LAUNCHER: &str = "moorhouse-embedded-engine";

/// What the operator asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineChoice {
    /// `clickhouse` on PATH if there, else the embedded engine.
    Auto,
    /// A `clickhouse` binary, or a `libchdb.so` if it ends in `.so`.
    Path(PathBuf),
}

impl FromStr for EngineChoice {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "auto" { Self::Auto } else { Self::Path(text.into()) })
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// Year and month of a ClickHouse release, as in `25.8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EngineVersion {
    pub major: u32,
    pub minor: u32,
}

impl EngineVersion {
    /// What Moorhouse needs is tested from here on.
    pub const OLDEST: Self = Self { major: 25, minor: 8 };

    /// Finds the version in a text such as `ClickHouse local version 25.8.2.29 (official build).`
    pub fn parse(text: &str) -> Option<Self> {
        text.split(|c: char| !(c.is_ascii_digit() || c == '.')).find_map(|word| {
            let mut numbers = word.split('.');
            let version = Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? };
            Some(version)
        })
    }
}

impl fmt::Display for EngineVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// An engine that exists and, if it is a server, is new enough. (The embedded one tells its version once it runs.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineBinary {
    Server { clickhouse: PathBuf },
    Embedded { libchdb: PathBuf, launcher: PathBuf },
}

impl EngineBinary {
    /// Runs `clickhouse --version` of a server, so it may take a second. Errors name the remedy.
    pub fn find(choice: &EngineChoice) -> Result<Self, EngineError> {
        match choice {
            EngineChoice::Auto => match on_path("clickhouse") {
                Some(clickhouse) => Self::server(clickhouse),
                None => Self::embedded(embedded_path(), |libchdb| EngineError::NotFound { libchdb }),
            },
            EngineChoice::Path(path) if path.extension().is_some_and(|ext| ext == "so") => {
                Self::embedded(path.clone(), |path| EngineError::NoSuchEngine { path })
            }
            EngineChoice::Path(path) if path.is_file() => Self::server(path.clone()),
            EngineChoice::Path(path) => Err(EngineError::NoSuchEngine { path: path.clone() }),
        }
    }

    pub fn kind(&self) -> EngineKind {
        match self {
            Self::Server { .. } => EngineKind::Server,
            Self::Embedded { .. } => EngineKind::Embedded,
        }
    }

    /// The file that decides the version.
    pub fn path(&self) -> &Path {
        match self {
            Self::Server { clickhouse } => clickhouse,
            Self::Embedded { libchdb, .. } => libchdb,
        }
    }

    fn server(clickhouse: PathBuf) -> Result<Self, EngineError> {
        let found = server_version(&clickhouse)?;
        if found < EngineVersion::OLDEST {
            return Err(EngineError::TooOld { path: clickhouse, found });
        }
        Ok(Self::Server { clickhouse })
    }

    fn embedded(libchdb: PathBuf, absent: fn(PathBuf) -> EngineError) -> Result<Self, EngineError> {
        if !libchdb.is_file() {
            return Err(absent(libchdb));
        }
        Ok(Self::Embedded { libchdb, launcher: launcher()? })
    }
}

fn embedded_path() -> PathBuf {
    if let Some(path) = std::env::var_os(EMBEDDED_VARIABLE) {
        return path.into();
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from).or_else(home);
    cache.unwrap_or_else(|| PathBuf::from("/root/.cache")).join(EMBEDDED)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Beside this program; a test program lies one directory below its siblings.
fn launcher() -> Result<PathBuf, EngineError> {
    let exe = std::env::current_exe().map_err(EngineError::io("find the path of", "/proc/self/exe"))?;
    let dir = exe.parent().unwrap_or(Path::new("/"));
    let beside = dir.join(LAUNCHER);
    let above = dir.parent().unwrap_or(dir).join(LAUNCHER);
    if beside.is_file() {
        Ok(beside)
    } else if dir.ends_with("deps") && above.is_file() {
        Ok(above)
    } else {
        Err(EngineError::NoLauncher { path: beside })
    }
}

/// `clickhouse --version` is known to the newer multi-tools only; the older ones answer below `local`.
fn server_version(clickhouse: &Path) -> Result<EngineVersion, EngineError> {
    let mut detail = String::new();
    for arguments in [&["--version"][..], &["local", "--version"][..]] {
        match Command::new(clickhouse).args(arguments).stdin(std::process::Stdio::null()).output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                if let Some(version) = EngineVersion::parse(&text).filter(|_| output.status.success()) {
                    return Ok(version);
                }
                detail = format!("{}, said {:?}", output.status, text.trim());
            }
            Err(error) => detail = error.to_string(),
        }
    }
    Err(EngineError::NotAnEngine { path: clickhouse.to_path_buf(), detail })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn fake_clickhouse(dir: &Path, script: &str) -> PathBuf {
        let path = dir.join("clickhouse");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        path
    }

    #[test]
    fn versions_are_found_in_what_binaries_say() {
        let version = |major, minor| Some(EngineVersion { major, minor });
        assert_eq!(EngineVersion::parse("ClickHouse local version 25.8.2.29 (official build)."), version(25, 8));
        assert_eq!(EngineVersion::parse("ClickHouse client version 18.16.1."), version(18, 16));
        assert_eq!(EngineVersion::parse("26.7.2.1"), version(26, 7));
        assert_eq!(EngineVersion::parse("no version here."), None);
        assert!(EngineVersion { major: 26, minor: 1 } > EngineVersion::OLDEST);
        assert!(EngineVersion { major: 25, minor: 7 } < EngineVersion::OLDEST);
    }

    #[test]
    fn an_old_server_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().expect("tempdir");
        let old = fake_clickhouse(dir.path(), "echo 'ClickHouse local version 24.3.1.1 (official build).'");
        let error = EngineBinary::find(&EngineChoice::Path(old)).expect_err("too old");
        assert!(matches!(error, EngineError::TooOld { .. }));
        let text = error.to_string();
        assert!(text.contains("24.3") && text.contains("25.8") && text.contains("make setup"), "{text}");
    }

    #[test]
    fn a_new_server_is_taken_also_when_only_local_tells_the_version() {
        let dir = tempfile::tempdir().expect("tempdir");
        let script = r#"[ "$1" = local ] || exit 1; echo "ClickHouse local version 25.8.2.29.""#;
        let clickhouse = fake_clickhouse(dir.path(), script);
        let found = EngineBinary::find(&EngineChoice::Path(clickhouse.clone())).expect("found");
        assert_eq!(found, EngineBinary::Server { clickhouse });
    }

    #[test]
    fn what_is_not_an_engine_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let broken = fake_clickhouse(dir.path(), "exit 3");
        assert!(matches!(EngineBinary::find(&EngineChoice::Path(broken)), Err(EngineError::NotAnEngine { .. })));
        let absent = EngineBinary::find(&EngineChoice::Path(dir.path().join("libchdb.so"))).expect_err("absent");
        assert!(absent.to_string().contains("make setup"), "{absent}");
    }
}
