//! Why something could not be measured: what was tried, and what came of it.

use moorhouse_engine::{EngineError, SqlError};

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{what}: {source}")]
    Sql { what: String, source: SqlError },
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("moorctl {command}: {said}")]
    Moorctl { command: String, said: String },
    /// Something answered, but not what was expected.
    #[error("{0}")]
    Unexpected(String),
    #[error("stopped by a signal")]
    Stopped,
}

impl BenchError {
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }

    pub fn sql(what: impl Into<String>) -> impl FnOnce(SqlError) -> Self {
        move |source| Self::Sql { what: what.into(), source }
    }
}
