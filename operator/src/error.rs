//! What can go wrong besides bad input: all of it is tried again, with back-off.

use crate::conditions::Problem;

/// Bad input is no error: it becomes a condition (see [`crate::conditions::Problem`]).
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    #[error("{kind} {name} is there already and belongs to {owner}: rename or delete it")]
    Taken { kind: &'static str, name: String, owner: String },
    #[error("the controller: {0}")]
    Controller(#[from] crate::controller::ControllerError),
    #[error("the object has no {0}, which the API server always gives")]
    Incomplete(&'static str),
    #[error("cannot be written as YAML: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
    #[error("cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("cannot be written: {0}")]
    File(#[source] std::io::Error),
}

impl OperatorError {
    /// What another attempt alone will not mend, and the user must know of; None for the rest.
    pub fn as_problem(&self) -> Option<Problem> {
        match self {
            // Invalid, forbidden, malformed: not a conflict, and not an API server that is busy.
            Self::Api(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                Some(Problem::new("ObjectRefused", status.message.clone()))
            }
            Self::Taken { .. } => Some(Problem::new("NameTaken", self.to_string())),
            Self::Api(_)
            | Self::Controller(_)
            | Self::Incomplete(_)
            | Self::Yaml(_)
            | Self::Json(_)
            | Self::File(_) => None,
        }
    }

    /// For the log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Api(_) => "ApiServerRefused",
            Self::Taken { .. } => "NameTaken",
            Self::Controller(_) => "ControllerSilent",
            Self::Incomplete(_) | Self::Yaml(_) | Self::Json(_) | Self::File(_) => "Internal",
        }
    }
}
