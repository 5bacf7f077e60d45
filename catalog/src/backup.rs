//! The file of a backup: every record of a store at one moment.
//!
//! A line that names the format, then each record as its key and value with their lengths, then an end mark, the number of
//! records, and the SHA-256 of all before it. Nothing in it depends on the kind of the store.

use sha2::{Digest, Sha256};

use crate::store::KeyValue;

const HEAD: &[u8] = b"moorhouse metadata backup, format 1\n";
/// Where a key's length stands after the last record: no key is so long.
const END: u32 = u32::MAX;
const DIGEST_BYTES: usize = 32;

/// Why a file is no whole backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    #[error("it is no backup of this format")]
    UnknownFormat,
    #[error("it is cut short")]
    Short,
    #[error("its checksum is wrong: it is damaged")]
    Damaged,
}

/// Writes a backup piece by piece.
pub struct Writer {
    digest: Sha256,
    records: u64,
    piece: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        Self { digest: Sha256::new(), records: 0, piece: HEAD.to_vec() }
    }
}

impl Writer {
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.records += 1;
        for field in [key, value] {
            self.piece.extend_from_slice(&(field.len() as u32).to_be_bytes());
            self.piece.extend_from_slice(field);
        }
    }

    /// Bytes of the piece that [`Writer::take`] would give.
    pub fn waiting(&self) -> usize {
        self.piece.len()
    }

    /// What was pushed since the last time.
    pub fn take(&mut self) -> Vec<u8> {
        self.digest.update(&self.piece);
        std::mem::take(&mut self.piece)
    }

    /// The last piece.
    pub fn end(mut self) -> Vec<u8> {
        self.piece.extend_from_slice(&END.to_be_bytes());
        self.piece.extend_from_slice(&self.records.to_be_bytes());
        let mut last = self.take();
        last.extend_from_slice(&self.digest.finalize());
        last
    }
}

/// Every record, in the order of their keys. Checks the whole file first.
pub fn read(file: &[u8]) -> Result<Vec<KeyValue>, BackupError> {
    let (content, digest) = file.split_last_chunk::<DIGEST_BYTES>().ok_or(BackupError::Short)?;
    let mut rest = content.strip_prefix(HEAD).ok_or(BackupError::UnknownFormat)?;
    if Sha256::digest(content)[..] != digest[..] {
        return Err(BackupError::Damaged);
    }
    let mut records = Vec::new();
    loop {
        let length = take_length(&mut rest)?;
        if length == END {
            let (count, after) = rest.split_first_chunk::<8>().ok_or(BackupError::Short)?;
            let whole = after.is_empty() && u64::from_be_bytes(*count) == records.len() as u64;
            return if whole { Ok(records) } else { Err(BackupError::Damaged) };
        }
        let key = take(&mut rest, length)?;
        let length = take_length(&mut rest)?;
        records.push((key, take(&mut rest, length)?));
    }
}

fn take_length(rest: &mut &[u8]) -> Result<u32, BackupError> {
    let (length, after) = rest.split_first_chunk::<4>().ok_or(BackupError::Short)?;
    *rest = after;
    Ok(u32::from_be_bytes(*length))
}

fn take(rest: &mut &[u8], length: u32) -> Result<Vec<u8>, BackupError> {
    let (field, after) = rest.split_at_checked(length as usize).ok_or(BackupError::Short)?;
    *rest = after;
    Ok(field.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(records: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = Writer::default();
        let mut file = Vec::new();
        for (key, value) in records {
            writer.push(key.as_bytes(), value.as_bytes());
            file.extend(writer.take());
        }
        file.extend(writer.end());
        file
    }

    #[test]
    fn what_is_written_is_read() {
        for records in [&[][..], &[("a", "1"), ("b/\u{fc}", "")]] {
            let expected: Vec<KeyValue> =
                records.iter().map(|(k, v)| (k.as_bytes().into(), v.as_bytes().into())).collect();
            assert_eq!(read(&backup(records)), Ok(expected));
        }
    }

    #[test]
    fn no_byte_can_change_or_be_missing_unseen() {
        let file = backup(&[("key", "value"), ("other", "text")]);
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            read(&damaged).expect_err("damaged");
            read(&file[..at]).expect_err("short");
        }
    }
}
