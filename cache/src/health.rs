//! [`Health`]: whether the disk may be used as a read cache.
//!
//! An error of the disk must not become an error of a query whose bytes are in the object store too. So the first one takes
//! the read cache out of use, with an alarm; a probe that succeeds, tried now and then, takes it in again. Staging has no
//! other place to go: there an error is the writer's.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::limits::{PROBE_BYTES, PROBE_EVERY};
use crate::metrics;

pub(crate) struct Health {
    probe_path: PathBuf,
    is_sick: AtomicBool,
    errors: AtomicU64,
    probed: Mutex<Instant>,
}

impl Health {
    pub fn new(probe_path: PathBuf) -> Self {
        metrics::DISK_SICK.set(0);
        Self {
            probe_path,
            is_sick: AtomicBool::new(false),
            errors: AtomicU64::new(0),
            probed: Mutex::new(Instant::now()),
        }
    }

    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    pub fn is_sick(&self) -> bool {
        self.is_sick.load(Ordering::Relaxed)
    }

    /// Whether cached bytes may be read and written. A sick disk is tried again, by whoever asks first when it is due.
    pub fn is_usable(&self) -> bool {
        if !self.is_sick() {
            return true;
        }
        {
            let mut probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
            if probed.elapsed() < PROBE_EVERY {
                return false;
            }
            *probed = Instant::now();
        }
        self.probe()
    }

    /// Writes and reads some bytes; a disk that does that right is in use afterwards, any other is not.
    pub fn probe(&self) -> bool {
        let outcome = write_and_read(&self.probe_path);
        // What cannot be removed now is overwritten by the next probe.
        let _ = fs::remove_file(&self.probe_path);
        match outcome {
            Ok(()) => {
                if self.is_sick.swap(false, Ordering::SeqCst) {
                    tracing::warn!("the cache's disk works again: it is in use again");
                }
                metrics::DISK_SICK.set(0);
                true
            }
            Err(error) => {
                self.report("probe", &self.probe_path, &error);
                false
            }
        }
    }

    /// An operation on cached bytes failed. What the disk is not to blame for changes nothing.
    pub fn report(&self, op: &'static str, path: &Path, error: &io::Error) {
        if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Interrupted | ErrorKind::UnexpectedEof) {
            return;
        }
        self.errors.fetch_add(1, Ordering::Relaxed);
        metrics::DISK_ERRORS.inc();
        metrics::DISK_SICK.set(1);
        *self.probed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if !self.is_sick.swap(true, Ordering::SeqCst) {
            let path = path.display();
            tracing::error!(op, %path, %error, "the cache's disk fails: reads go past it until it works again");
        }
    }
}

fn write_and_read(path: &Path) -> io::Result<()> {
    let written: Vec<u8> = (0..PROBE_BYTES).map(|at| (at / 4096) as u8 ^ 0xa5).collect();
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all(&written)?;
    file.sync_data()?;
    file.rewind()?;
    let mut read = Vec::with_capacity(PROBE_BYTES);
    file.read_to_end(&mut read)?;
    if read == written { Ok(()) } else { Err(io::Error::other("the disk gave back other bytes than it was given")) }
}
