//! What must survive a loss of power: files, and the directory entries that name them; and whether it did.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;

use crate::error::CacheError;
use crate::limits::SYNCED_AT_ONCE;

const READ_BACK_BYTES: usize = 1 << 20;

/// Makes files' bytes last, however they were written, and gives their lengths. The disk gets all of them to write before one
/// is waited for, and all are written before one is synced: a journalling file system then commits once, because what it
/// notes of a file when its bytes have arrived is in the same transaction for all. (12 files of 400 bytes on ext4: 1.0 ms, one
/// after another 3.3. On a disk with other writers each further commit took 2 to 4 ms.)
pub(crate) fn sync_files(paths: &[PathBuf]) -> Result<Vec<u64>, CacheError> {
    let mut lengths = Vec::with_capacity(paths.len());
    for paths in paths.chunks(SYNCED_AT_ONCE) {
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let file = File::open(path).map_err(|error| CacheError::io("open", path, error))?;
            let metadata = file.metadata().map_err(|error| CacheError::io("look at", path, error))?;
            lengths.push(metadata.len());
            write_out(&file, libc::SYNC_FILE_RANGE_WRITE).map_err(|error| CacheError::io("write out", path, error))?;
            files.push(file);
        }
        for (file, path) in files.iter().zip(paths) {
            let until_written = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
            write_out(file, until_written).map_err(|error| CacheError::io("write out", path, error))?;
        }
        for (file, path) in files.iter().zip(paths) {
            file.sync_data().map_err(|error| CacheError::io("sync", path, error))?;
        }
    }
    Ok(lengths)
}

/// sync_file_range(2) over all of a file. It makes nothing last; but an error of the disk that it tells is told once, so it must
/// be heard. A file system without it goes without.
fn write_out(file: &File, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes numbers alone, and the descriptor is open.
    let outcome = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    match Errno::result(outcome) {
        Ok(_) | Err(Errno::ENOSYS | Errno::EINVAL | Errno::ESPIPE | Errno::EOPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

pub(crate) fn sync_dir(path: &Path) -> Result<(), CacheError> {
    let dir = File::open(path).map_err(|error| CacheError::io("open", path, error))?;
    dir.sync_all().map_err(|error| CacheError::io("sync", path, error))
}

/// A file's length and checksum. Leaves the file at its beginning.
pub(crate) fn length_and_crc32c(mut file: &File) -> io::Result<(u64, u32)> {
    file.rewind()?;
    let mut buffer = vec![0; READ_BACK_BYTES];
    let (mut length, mut crc) = (0, 0);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                crc = crc32c::crc32c_append(crc, &buffer[..read]);
                length += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.rewind()?;
    Ok((length, crc))
}
