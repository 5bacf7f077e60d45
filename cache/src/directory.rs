//! [`Directory`]: the names on disk. Opens and repairs the layout, and knows where each blob's file is.

use std::collections::BTreeSet;
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
        let mut made = this.dir_and_parent();
        for tenant in [Tenant::Staged, Tenant::Cached] {
            for bucket in 0..=u8::MAX {
                let path = this.bucket_dir(tenant, bucket);
                fs::create_dir_all(&path).map_err(|error| CacheError::io("create", &path, error))?;
            }
            made.push(this.tenant_dir(tenant));
        }
        // From the top: a name lasts only in a directory that does.
        made.iter().try_for_each(|dir| durable::sync_dir(dir))?;
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

    /// Every blob of one tenant, each in its bucket afterwards. Files with foreign names are left alone, and said.
    pub fn scan(&self, tenant: Tenant) -> Result<Vec<Found>, CacheError> {
        let mut found = Vec::new();
        let mut strays = Vec::new();
        for bucket in 0..=u8::MAX {
            let path = self.bucket_dir(tenant, bucket);
            let before = found.len();
            scan_bucket(&path, &mut found).map_err(|error| CacheError::io("list", &path, error))?;
            let here = found[before..].iter().map(|found| found.key);
            strays.extend(here.filter(|key| key.bucket() != bucket).map(|key| (bucket, key)));
        }
        self.bring_home(tenant, &strays)?;
        Ok(found)
    }

    /// Moves blobs out of the buckets in which an earlier version kept them. A loss of power leaves each in one or the other.
    fn bring_home(&self, tenant: Tenant, strays: &[(u8, BlobKey)]) -> Result<(), CacheError> {
        for (bucket, key) in strays {
            let from = self.bucket_dir(tenant, *bucket).join(key.to_string());
            let moved = fs::rename(&from, self.path(tenant, *key));
            moved.map_err(|error| CacheError::io("rename", &from, error))?;
        }
        let (to, from): (BTreeSet<u8>, BTreeSet<u8>) =
            strays.iter().map(|(bucket, key)| (key.bucket(), *bucket)).unzip();
        to.into_iter().chain(from).try_for_each(|bucket| durable::sync_dir(&self.bucket_dir(tenant, bucket)))
    }

    fn dir_and_parent(&self) -> Vec<PathBuf> {
        let parent =
            self.dir.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        parent.into_iter().chain([self.dir.as_path()]).map(Path::to_owned).collect()
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
