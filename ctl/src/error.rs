//! What can go wrong, by what the caller should do about it.

use std::process::ExitCode;

#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// The input, or this machine, is not fit for the command: the remedy says what to change.
    #[error("{problem}; {remedy}")]
    BadInput { problem: String, remedy: String },
    /// The command was right, and failed.
    #[error("{0}")]
    Failed(String),
}

impl CtlError {
    pub fn bad_input(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::BadInput { problem: problem.into(), remedy: remedy.into() }
    }

    pub fn failed(what: impl Into<String>) -> Self {
        Self::Failed(what.into())
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::BadInput { .. } => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
        }
    }
}

/// `text` with its line breaks and runs of blanks turned into single spaces.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
