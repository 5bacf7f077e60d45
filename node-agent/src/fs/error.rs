//! Why the file system refuses, by what the engine should make of it.

use moorhouse_cache::CacheError;

use super::tree::TreeError;

#[derive(Debug, thiserror::Error)]
pub enum FsError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("this group does not write this table")]
    ReadOnly,
    #[error("committed parts do not change")]
    Immutable,
    #[error("another group's bytes cannot be shared")]
    OtherDevice,
    #[error("the name is not UTF-8")]
    BadName,
    #[error("the name is longer than 255 bytes")]
    LongName,
    #[error("the file is not open")]
    BadHandle,
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    #[error("the staging budget is full: {0}")]
    NoSpace(String),
    /// Another node writes this shard now. Final.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The controller will never carry this out as it is.
    #[error("refused: {0}")]
    Refused(String),
    /// The controller, a peer or the object store did not do it in time.
    #[error("unavailable: {0}")]
    Unavailable(String),
    #[error("the bytes of blob {0} are lost")]
    Lost(moorhouse_catalog::BlobId),
    /// The local disk, or a promise between us and the cache, broke.
    #[error(transparent)]
    Cache(CacheError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl FsError {
    /// The one translation to errno.
    pub fn errno(&self) -> i32 {
        match self {
            FsError::Tree(TreeError::NotFound) => libc::ENOENT,
            FsError::Tree(TreeError::Exists) => libc::EEXIST,
            FsError::Tree(TreeError::NotEmpty) => libc::ENOTEMPTY,
            FsError::Tree(TreeError::NotDirectory) => libc::ENOTDIR,
            FsError::Tree(TreeError::IsDirectory) => libc::EISDIR,
            FsError::Tree(TreeError::TooLarge) => libc::EFBIG,
            FsError::Tree(TreeError::IntoItself) => libc::EINVAL,
            FsError::ReadOnly => libc::EROFS,
            FsError::Immutable => libc::EPERM,
            FsError::OtherDevice => libc::EXDEV,
            FsError::BadName => libc::EILSEQ,
            FsError::LongName => libc::ENAMETOOLONG,
            FsError::BadHandle => libc::EBADF,
            FsError::Unsupported(_) => libc::EOPNOTSUPP,
            FsError::NoSpace(_) => libc::ENOSPC,
            FsError::Fenced(_) | FsError::Refused(_) | FsError::Unavailable(_) => libc::EIO,
            FsError::Lost(_) | FsError::Cache(_) => libc::EIO,
            FsError::Io(error) => error.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    /// Whether a person should hear of it: everything that is not an everyday answer of a file system.
    pub fn is_trouble(&self) -> bool {
        match self {
            FsError::Tree(_) | FsError::ReadOnly | FsError::BadName | FsError::Unsupported(_) => false,
            FsError::OtherDevice | FsError::LongName => false,
            FsError::Immutable | FsError::BadHandle | FsError::NoSpace(_) | FsError::Fenced(_) => true,
            FsError::Refused(_) | FsError::Unavailable(_) => true,
            FsError::Lost(_) | FsError::Cache(_) | FsError::Io(_) => true,
        }
    }
}

impl From<CacheError> for FsError {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Full { .. } | CacheError::NoRoom { .. } => FsError::NoSpace(error.to_string()),
            CacheError::Immutable { .. } => FsError::Immutable,
            CacheError::Sick => FsError::Unavailable(error.to_string()),
            CacheError::Fetch { .. } | CacheError::WrongLength { .. } | CacheError::WrongChecksum { .. } => {
                FsError::Unavailable(error.to_string())
            }
            CacheError::NoBlob { .. }
            | CacheError::Exists { .. }
            | CacheError::InUse { .. }
            | CacheError::Io { .. } => FsError::Cache(error),
        }
    }
}
