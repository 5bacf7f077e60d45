//! What must survive a loss of power: files, and the directory entries that name them; and whether it did.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use crate::error::CacheError;

/// Above this many files, and up to [`THREADS_MAX`] threads, they are synced in parallel: a journalling file system then
/// commits many of them at once.
const FILES_PER_THREAD: usize = 4;
const THREADS_MAX: usize = 8;
const READ_BACK_BYTES: usize = 1 << 20;

pub(crate) fn sync_file(path: &Path) -> Result<(), CacheError> {
    let file = File::open(path).map_err(|error| CacheError::io("open", path, error))?;
    file.sync_data().map_err(|error| CacheError::io("sync", path, error))
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

/// Does `sync` for each item; the first error of any, after all were tried.
pub(crate) fn sync_each<Item: Sync>(
    items: &[Item],
    sync: impl Fn(&Item) -> Result<(), CacheError> + Sync,
) -> Result<(), CacheError> {
    let sync_chunk = |chunk: &[Item]| chunk.iter().map(&sync).fold(Ok(()), Result::and);
    let threads = items.len().div_ceil(FILES_PER_THREAD).clamp(1, THREADS_MAX);
    if threads == 1 {
        return sync_chunk(items);
    }
    std::thread::scope(|scope| {
        let chunks = items.chunks(items.len().div_ceil(threads));
        let running: Vec<_> = chunks.map(|chunk| scope.spawn(move || sync_chunk(chunk))).collect();
        let ended = running.into_iter().map(|thread| thread.join().expect("syncing does not panic"));
        ended.fold(Ok(()), Result::and)
    })
}
