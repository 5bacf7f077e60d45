//! What can go wrong between a request and its answer, and its gRPC status.

use moorhouse_catalog::state::CatalogError;
use tonic::{Code, Status};

#[derive(Debug, Clone, thiserror::Error)]
pub enum ControllerError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// It may or may not have happened; asking again is right.
    #[error("the catalog's store did not confirm the change ({0}): ask again")]
    Unavailable(String),
    /// It has not happened.
    #[error("{0}")]
    StoreFull(String),
    #[error("the controller is stopping: ask again")]
    Stopping,
    /// The request cannot be read.
    #[error("the request is not valid: {0}")]
    BadRequest(String),
    #[error("too many {0} at once: ask again later")]
    TooMany(&'static str),
}

impl From<ControllerError> for Status {
    fn from(error: ControllerError) -> Status {
        let code = match &error {
            ControllerError::Catalog(refusal) => code_of(refusal),
            ControllerError::Unavailable(_) | ControllerError::Stopping => Code::Unavailable,
            ControllerError::BadRequest(_) => Code::InvalidArgument,
            ControllerError::TooMany(_) | ControllerError::StoreFull(_) => Code::ResourceExhausted,
        };
        Status::new(code, error.to_string())
    }
}

fn code_of(refusal: &CatalogError) -> Code {
    match refusal {
        CatalogError::UnknownGroup(_)
        | CatalogError::UnknownNode(_)
        | CatalogError::UnknownTable(_)
        | CatalogError::UnknownToken(_)
        | CatalogError::UnknownDdl(_) => Code::NotFound,
        CatalogError::NoWarehouse | CatalogError::Fenced(_) | CatalogError::NotNow(_) => Code::FailedPrecondition,
        CatalogError::WarehouseExists(_) => Code::AlreadyExists,
        CatalogError::Stale { .. } => Code::Aborted,
        CatalogError::Sql { .. } | CatalogError::Invalid(_) => Code::InvalidArgument,
        CatalogError::NotLoaded(_) => Code::Unavailable,
        CatalogError::Violated(_) => Code::Internal,
    }
}

/// Reads an id or a record of a request.
pub trait OrBadRequest<T> {
    fn or_bad_request(self) -> Result<T, ControllerError>;
}

impl<T, E: std::fmt::Display> OrBadRequest<T> for Result<T, E> {
    fn or_bad_request(self) -> Result<T, ControllerError> {
        self.map_err(|error| ControllerError::BadRequest(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use moorhouse_catalog::state::Fence;
    use moorhouse_catalog::{GroupName, ShardId};

    use super::*;

    #[test]
    fn a_fence_says_so_first() {
        let group = GroupName::new("etl").expect("valid");
        let fence = CatalogError::Fenced(Fence::Unassigned { group, shard: ShardId(3) });
        let status = Status::from(ControllerError::from(fence));
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().starts_with("fenced:"), "{}", status.message());
    }
}
