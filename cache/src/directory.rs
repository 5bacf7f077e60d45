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

/// Changes at every start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

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
    /// Makes the layout where it is missing, wipes `filling/`, and wipes `cached/` if the machine was started anew since
    /// the last open: cached files are renamed into place without fsync, so only a crash of the process leaves them whole.
    pub fn open(dir: &Path) -> Result<Self, CacheError> {
        fs::create_dir_all(dir).map_err(|error| CacheError::io("create", dir, error))?;
        let lock = lock(dir)?;
        let this = Self { dir: dir.to_owned(), next_filling: AtomicU64::new(0), _lock: lock };
        wipe(&this.filling_dir())?;
        if !this.is_same_boot()? {
            wipe(&this.tenant_dir(Tenant::Cached))?;
        }
        for tenant in [Tenant::Staged, Tenant::Cached] {
            for bucket in 0..=u8::MAX {
                let path = this.bucket_dir(tenant, bucket);
                fs::create_dir_all(&path).map_err(|error| CacheError::io("create", &path, error))?;
            }
            durable::sync_dir(&this.tenant_dir(tenant))?;
        }
        this.note_boot()?;
        Ok(this)
    }

    pub fn path(&self, tenant: Tenant, key: BlobKey) -> PathBuf {
        self.bucket_dir(tenant, key.bucket()).join(key.to_string())
    }

    pub fn bucket_dir(&self, tenant: Tenant, bucket: u8) -> PathBuf {
        self.tenant_dir(tenant).join(format!("{bucket:02x}"))
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

    fn boot_path(&self) -> PathBuf {
        self.dir.join("boot")
    }

    fn is_same_boot(&self) -> Result<bool, CacheError> {
        match fs::read_to_string(self.boot_path()) {
            Ok(noted) => Ok(noted == boot_id()?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(CacheError::io("read", &self.boot_path(), error)),
        }
    }

    /// After `cached/` was wiped, and before anything is cached under this boot.
    fn note_boot(&self) -> Result<(), CacheError> {
        let path = self.boot_path();
        fs::write(&path, boot_id()?).map_err(|error| CacheError::io("write", &path, error))?;
        durable::sync_file(&path)?;
        durable::sync_dir(&self.dir)
    }
}

fn boot_id() -> Result<String, CacheError> {
    fs::read_to_string(BOOT_ID).map_err(|error| CacheError::io("read", Path::new(BOOT_ID), error))
}

fn lock(dir: &Path) -> Result<File, CacheError> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| CacheError::io("open", &path, error))?;
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
