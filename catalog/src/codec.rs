//! The one encoding of catalog records, on disk and on the wire: a format version byte, then JSON.
//!
//! JSON because an operator can read it with `etcdctl get`, and because fields can be added with a default. A record of a
//! newer format is refused, never guessed at.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The format that this build writes, and the newest that it reads.
pub const FORMAT: u8 = b'1';

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("the record is empty")]
    Empty,
    #[error("the record has format {found:?}, newer than this build's {:?}: upgrade this process", FORMAT as char)]
    NewerFormat { found: char },
    #[error("the record is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
}

/// Never fails for the catalog's own records: they hold no maps with non-text keys.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, record).expect("catalog records are plain data");
    bytes
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty),
        Some((&FORMAT, body)) => Ok(serde_json::from_slice(body)?),
        Some((&found, _)) => Err(CodecError::NewerFormat { found: found as char }),
    }
}
