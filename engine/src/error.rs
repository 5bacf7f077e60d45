//! What can go wrong around an engine's process, one variant per thing that the caller or the operator can do about it.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::binary::EngineVersion;
use crate::sql::SqlError;

/// Each text names its remedy: it is shown to people as it is.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("no ClickHouse engine found: no `clickhouse` on PATH and no {}; run `make setup`", libchdb.display())]
    NotFound { libchdb: PathBuf },
    #[error("{} does not exist; run `make setup`, or name another engine", path.display())]
    NoSuchEngine { path: PathBuf },
    #[error("the launcher of the embedded engine is not at {}; run `cargo build`", path.display())]
    NoLauncher { path: PathBuf },
    #[error(
        "{} is ClickHouse {found}, older than {}; install {} or newer, or take it off PATH and run `make setup`",
        path.display(), EngineVersion::OLDEST, EngineVersion::OLDEST
    )]
    TooOld { path: PathBuf, found: EngineVersion },
    #[error("{} did not tell its version ({detail}); is it a ClickHouse binary?", path.display())]
    NotAnEngine { path: PathBuf, detail: String },
    #[error("port {port} of {host} is in use: {source}; stop what uses it or choose another port")]
    PortInUse { host: String, port: u16, source: std::io::Error },
    /// All mistakes at once.
    #[error("the engine's configuration is wrong: {}", .0.join("; "))]
    Config(Vec<String>),
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the engine ended while starting ({status}); the end of its log:\n{log}")]
    Died { status: ExitStatus, log: String },
    #[error("the engine did not answer within {waited:?} of its start ({last}); the end of its log:\n{log}")]
    NotReady { waited: Duration, last: String, log: String },
    #[error("asking the engine failed: {0}")]
    Sql(#[from] SqlError),
}

impl EngineError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
