//! What ends the demo early. Wrong answers and lost rows do not: they are counted in the report.

use moorhouse_engine::{EngineError, SqlError};

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// `code` is moorctl's exit code; none if a signal ended it.
    #[error("moorctl {command}: {said}")]
    Moorctl { command: String, code: Option<i32>, said: String },
    #[error("{what}: {source}")]
    Sql { what: String, source: SqlError },
    #[error("the plain ClickHouse for comparison: {0}")]
    Reference(#[from] EngineError),
    #[error("{0}")]
    TooLate(String),
    /// The demo starts in an empty directory, and removes only its own.
    #[error("{0} is not empty and not a demo's; name another with --dir, or remove it")]
    NotMine(String),
    #[error("{0} is still there after everything was stopped")]
    LeftBehind(String),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("stopped by a signal; the warehouse is stopped too")]
    Interrupted,
}

impl DemoError {
    pub fn sql(what: impl Into<String>) -> impl FnOnce(SqlError) -> Self {
        let what = what.into();
        move |source| Self::Sql { what, source }
    }

    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
