//! [`Directory`]: the names on disk. Opens and repairs the layout, and knows where each blob's file is.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::cache::Tenant;
use crate::durable;
use crate::error::CacheError;
use crate::key::BlobKey;

pub(crate) struct Directory {
    dir: PathBuf,
    next_filling: AtomicU64,
    /// Held as long as the directory is in use; the kernel frees it when the process ends, however it ends.
    _lock: File,
}

/// A blob's file found at open.
pub(crate) struct Found {
    pub key: BlobKey,
    pub bytes: u64,
    pub last_used: SystemTime,
}

impl Directory {
    /// Makes the layout where it is missing, and wipes what was incomplete: `filling/`, and `partial/`, of which nothing could
    /// tell any more which blocks had reached the disk. (A journal could; but the blocks can be had again, and by then the
    /// wholes, which stay, are the larger part.)
    pub fn open(dir: &Path) -> Result<Self, CacheError> {
        fs::create_dir_all(dir).map_err(|error| CacheError::io("create", dir, error))?;
        let lock = lock(dir)?;
        let this = Self { dir: dir.to_owned(), next_filling: AtomicU64::new(0), _lock: lock };
        wipe(&this.filling_dir())?;
        wipe(&this.partial_dir())?;
        for tenant in [Tenant::Staged, Tenant::Cached] {
            for bucket in 0..=u8::MAX {
                let path = this.bucket_dir(tenant, bucket);
                fs::create_dir_all(&path).map_err(|error| CacheError::io("create", &path, error))?;
            }
            durable::sync_dir(&this.tenant_dir(tenant))?;
        }
        Ok(this)
    }

    pub fn path(&self, tenant: Tenant, key: BlobKey) -> PathBuf {
        self.bucket_dir(tenant, key.bucket()).join(key.to_string())
    }

    pub fn bucket_dir(&self, tenant: Tenant, bucket: u8) -> PathBuf {
        self.tenant_dir(tenant).join(format!("{bucket:02x}"))
    }

    /// A new name below `partial/`.
    pub fn partial_path(&self, key: BlobKey) -> PathBuf {
        let number = self.next_filling.fetch_add(1, Ordering::Relaxed);
        self.partial_dir().join(format!("{key}-{number}"))
    }

    /// Where the disk is tried.
    pub fn probe_path(&self) -> PathBuf {
        self.filling_dir().join("probe")
    }

    /// A new name below `filling/`.
    pub fn filling_path(&self, key: BlobKey) -> PathBuf {
        let number = self.next_filling.fetch_add(1, Ordering::Relaxed);
        self.filling_dir().join(format!("{key}-{number}"))
    }

    /// Every blob of one tenant. Files with foreign names are left alone, and said.
    pub fn scan(&self, tenant: Tenant) -> Result<Vec<Found>, CacheError> {
        let mut found = Vec::new();
        for bucket in 0..=u8::MAX {
            let path = self.bucket_dir(tenant, bucket);
            scan_bucket(&path, &mut found).map_err(|error| CacheError::io("list", &path, error))?;
        }
        Ok(found)
    }

    fn tenant_dir(&self, tenant: Tenant) -> PathBuf {
        self.dir.join(match tenant {
            Tenant::Staged => "staged",
            Tenant::Cached => "cached",
        })
    }

    fn filling_dir(&self) -> PathBuf {
        self.dir.join("filling")
    }

    fn partial_dir(&self) -> PathBuf {
        self.dir.join("partial")
    }
}

fn lock(dir: &Path) -> Result<File, CacheError> {
    let path = dir.join("lock");
    let made = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    made.map_err(|error| CacheError::io("create", &path, error))?;
    // Open for reading alone, so that the lock does not keep a sick file system from going read-only.
    let file = File::open(&path).map_err(|error| CacheError::io("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CacheError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(CacheError::io("lock", &path, error)),
    }
}

/// Leaves an empty directory.
fn wipe(dir: &Path) -> Result<(), CacheError> {
    match fs::remove_dir_all(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(CacheError::io("wipe", dir, error)),
    }
    fs::create_dir_all(dir).map_err(|error| CacheError::io("create", dir, error))
}

fn scan_bucket(dir: &Path, found: &mut Vec<Found>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        match entry.file_name().to_str().and_then(BlobKey::from_file_name) {
            Some(key) if meta.is_file() => {
                let last_used = meta.modified()?.max(meta.accessed()?);
                found.push(Found { key, bytes: meta.len(), last_used });
            }
            _ => tracing::warn!(path = %entry.path().display(), "not a blob; left alone, and not in the budget"),
        }
    }
    Ok(())
}
