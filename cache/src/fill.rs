//! [`Fill`]: a blob on its way in. Its room is reserved; nobody sees it before it is complete.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cache::Tenant;
use crate::durable;
use crate::error::CacheError;
use crate::inner::Inner;
use crate::key::BlobKey;

/// Write the announced bytes, in order through [`Write`] or anywhere with [`Fill::write_at`], then [`Fill::complete`].
/// Dropped before that, it leaves nothing behind.
pub struct Fill {
    inner: Arc<Inner>,
    key: BlobKey,
    tenant: Tenant,
    bytes: u64,
    path: PathBuf,
    file: File,
    written: u64,
    /// Where [`Write`] goes on.
    position: u64,
    /// Of all bytes so far, while they came in order.
    crc32c: Option<u32>,
    /// False when the room belongs to the blob, and no longer to its fill.
    holds_room: bool,
}

impl Fill {
    /// The caller has reserved the room; it is released when the fill ends, whatever its end.
    pub(crate) fn start(inner: Arc<Inner>, key: BlobKey, tenant: Tenant, bytes: u64) -> Result<Self, CacheError> {
        let path = inner.directory.filling_path(key);
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                let crc32c = Some(0);
                Ok(Self { inner, key, tenant, bytes, path, file, written: 0, position: 0, crc32c, holds_room: true })
            }
            Err(error) => {
                inner.release(tenant, bytes);
                if tenant == Tenant::Cached {
                    inner.health.report("create", &path, &error);
                }
                Err(CacheError::io("create", &path, error))
            }
        }
    }

    pub fn key(&self) -> BlobKey {
        self.key
    }

    /// The announced length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes all of `buffer` at `offset`. Each byte must be written once. Writing behind the announced length is an error.
    pub fn write_at(&mut self, buffer: &[u8], offset: u64) -> io::Result<()> {
        let len = buffer.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.bytes) {
            let message = format!("the blob {} was announced with {} bytes", self.key, self.bytes);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        self.file.write_all_at(buffer, offset).inspect_err(|error| self.blame("write", error))?;
        self.crc32c = match self.crc32c {
            Some(crc) if offset == self.written => Some(crc32c::crc32c_append(crc, buffer)),
            _ => None,
        };
        self.written += len;
        Ok(())
    }

    /// Checks the length, and the checksum if one is expected, gives the blob its name, and returns it open for reading:
    /// good also if it is evicted at once. A staged blob is durable then: that blocks for as long as the disk needs. If
    /// the same blob came in meanwhile, that one stays and this is Ok.
    /// Errors: [`CacheError::WrongLength`], [`CacheError::WrongChecksum`]; the fill is gone then.
    pub fn complete(mut self, expected_crc32c: Option<u32>) -> Result<File, CacheError> {
        if self.written != self.bytes {
            return Err(CacheError::WrongLength { key: self.key, expected: self.bytes, found: self.written });
        }
        if let Some(expected) = expected_crc32c {
            let found = match self.crc32c {
                Some(crc) => crc,
                None => {
                    let read = durable::length_and_crc32c(&self.file).inspect_err(|error| self.blame("read", error));
                    read.map_err(|error| CacheError::io("read", &self.path, error))?.1
                }
            };
            if found != expected {
                self.inner.count_checksum_failure(self.key, expected, found, "where it came from");
                return Err(CacheError::WrongChecksum { key: self.key, expected, found });
            }
        }
        if self.tenant == Tenant::Staged {
            self.file.sync_data().map_err(|error| CacheError::io("sync", &self.path, error))?;
        }
        let reader = File::open(&self.path).map_err(|error| CacheError::io("open", &self.path, error))?;
        self.holds_room = false;
        self.inner.adopt(self.key, self.tenant, self.bytes, &self.path)?;
        Ok(reader)
    }

    /// Only the read cache has a disk that may be taken out of use.
    fn blame(&self, op: &'static str, error: &io::Error) {
        if self.tenant == Tenant::Cached {
            self.inner.health.report(op, &self.path, error);
        }
    }
}

impl Write for Fill {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.write_at(buffer, self.position)?;
        self.position += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        // Absent if the blob took the file over; and what cannot be removed is wiped at the next open.
        let _ = std::fs::remove_file(&self.path);
        if self.holds_room {
            self.inner.release(self.tenant, self.bytes);
        }
    }
}

impl std::fmt::Debug for Fill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fill")
            .field("key", &self.key)
            .field("tenant", &self.tenant)
            .field("bytes", &self.bytes)
            .finish()
    }
}
