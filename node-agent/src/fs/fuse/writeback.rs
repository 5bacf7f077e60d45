//! [`Writeback`]: what the kernel writes past us starts its way to the disk while the part is still being written.
//!
//! The commit waits until a part's bytes are on the disk. Linux by itself begins to write them after some seconds, so the
//! commit would wait for all of them; and a disk that was idle meanwhile would have had the time.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, Weak};

use tokio::runtime::Handle as Runtime;

use super::door::Handle;
use crate::limits;

/// Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub(super) struct Writeback {
    runtime: Runtime,
    watched: Arc<Mutex<Watched>>,
}

#[derive(Default)]
struct Watched {
    files: Vec<Growing>,
    /// A task looks at them, until there are none.
    is_running: bool,
}

struct Growing {
    handle: Weak<Handle>,
    /// Up to here the disk has been told to write.
    started: u64,
}

impl Writeback {
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime, watched: Arc::default() }
    }

    /// Looks after an open file until it is closed.
    pub fn watch(&self, handle: &Arc<Handle>) {
        let mut watched = self.watched.lock().expect("lock");
        watched.files.push(Growing { handle: Arc::downgrade(handle), started: 0 });
        if !std::mem::replace(&mut watched.is_running, true) {
            self.runtime.spawn(look_after(self.watched.clone()));
        }
    }
}

async fn look_after(watched: Arc<Mutex<Watched>>) {
    loop {
        tokio::time::sleep(limits::WRITEBACK_LOOK).await;
        let files = {
            let mut watched = watched.lock().expect("lock");
            watched.files.retain(|growing| growing.handle.strong_count() > 0);
            if watched.files.is_empty() {
                watched.is_running = false;
                return;
            }
            std::mem::take(&mut watched.files)
        };
        // The disk may be too busy to take more at once.
        let looked =
            tokio::task::spawn_blocking(move || files.into_iter().filter_map(Growing::start).collect::<Vec<_>>());
        match looked.await {
            Ok(files) => watched.lock().expect("lock").files.extend(files),
            Err(error) => tracing::error!(%error, "files are not written ahead of their commit any more"),
        }
    }
}

impl Growing {
    /// Has the disk begin with what is new. None if the file was closed.
    fn start(mut self) -> Option<Self> {
        let handle = self.handle.upgrade()?;
        if let Handle::Passthrough { file: Some(file), .. } = &*handle
            && let Ok(metadata) = file.metadata()
            && metadata.len() >= self.started + limits::WRITEBACK_BYTES
        {
            // The last page is still written to.
            let whole = metadata.len() - metadata.len() % 4096;
            start_writing(file, self.started, whole - self.started);
            self.started = whole;
        }
        Some(self)
    }
}

/// Waits for nothing. Where that cannot be had it changes nothing, and an error of the disk is told by the sync at the commit.
fn start_writing(file: &File, offset: u64, bytes: u64) {
    let (Ok(offset), Ok(bytes)) = (libc::off64_t::try_from(offset), libc::off64_t::try_from(bytes)) else { return };
    // SAFETY: takes numbers alone, and the descriptor is open.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
}
