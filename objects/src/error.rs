//! [`ObjectsError`]: variants by what the caller should do; each message is one line and names the remedy.

use std::path::PathBuf;

use uuid::Uuid;

/// Why the object store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The directory of a `file://` URL cannot be made or used. A start-up mistake.
    #[error("cannot use the directory {}: {reason}; create it, or choose another in --objects", path.display())]
    Directory { path: PathBuf, reason: String },

    /// A start-up mistake.
    #[error("no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")]
    NoCredentials,

    /// A start-up mistake.
    #[error("the bucket {bucket} does not exist at {place}; create it, or correct --objects")]
    NoBucket { bucket: String, place: String },

    /// The credentials are wrong or lack a right; trying again does not help.
    #[error("{place} refuses to {op} {key}: {reason}; check the credentials, their rights and the region in --objects")]
    Denied { place: String, op: &'static str, key: String, reason: String },

    /// Nothing answered, or it answered that it is overloaded or broken. Trying again later may help.
    #[error("cannot reach the object store {place}: {reason}; check that it runs, and the endpoint in --objects")]
    Unreachable { place: String, reason: String },

    /// The object does not exist.
    #[error("no object {key} in {place}")]
    NotFound { place: String, key: String },

    /// The object ends before the asked range does: it is not the object that the caller thinks it is.
    #[error("the object {key} in {place} gave {found} bytes from offset {offset} where {expected} were asked for")]
    Short { place: String, key: String, offset: u64, expected: u64, found: u64 },

    /// A key must be relative, without empty, `.` or `..` segments.
    #[error("the key {key:?} is not usable: {reason}")]
    BadKey { key: String, reason: String },

    /// Another warehouse lives below this prefix.
    #[error("{place} belongs to the warehouse {found}, not to {wanted}; choose another prefix in --objects")]
    OtherWarehouse { place: String, found: Uuid, wanted: Uuid },

    /// The marker object is there but this version cannot read it.
    #[error("cannot read the marker moorhouse.json in {place}: {reason}; choose another prefix, or a newer Moorhouse")]
    BadMarker { place: String, reason: String },

    /// Anything else, in the store's words.
    #[error("{place} failed to {op} {key}: {reason}")]
    Failed { place: String, op: &'static str, key: String, reason: String },
}

impl ObjectsError {
    /// True where the same request may succeed later without anybody changing anything.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Failed { .. } => true,
            Self::Directory { .. }
            | Self::NoCredentials
            | Self::NoBucket { .. }
            | Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::Short { .. }
            | Self::BadKey { .. }
            | Self::OtherWarehouse { .. }
            | Self::BadMarker { .. } => false,
        }
    }
}
