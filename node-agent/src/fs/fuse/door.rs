//! What requests share: open files, attributes as the kernel wants them, answers that take several steps.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use fuser::{
    BackingId, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyCreate, ReplyEntry,
    ReplyOpen,
};
use moorhouse_cache::BlobKey;
use tokio::runtime::Handle as Runtime;

use super::backings::Backings;
use super::writeback::Writeback;
use crate::blobs::remote::RemoteFile;
use crate::fs::ShardFs;
use crate::fs::beside::Stage;
use crate::fs::error::FsError;
use crate::fs::io::{Opened, read_local};
use crate::fs::ops::{Attributes, LONG_TTL, Ready};
use crate::fs::tree::{Entry, Ino, TreeError};
use crate::limits;
use crate::metrics;

pub(super) const GENERATION: Generation = Generation(0);
pub(super) const BLOCK: u32 = 4096;
/// Bytes, as statfs tells.
pub(super) const LONGEST_NAME: usize = 255;

/// One open file or directory.
pub(super) enum Handle {
    Small,
    /// The kernel reads and writes the blob's file itself; we keep it registered. `file`: ours, unless the blob is sealed.
    Passthrough {
        backing: Arc<Backing>,
        file: Option<File>,
    },
    Local(File),
    Remote(Remote),
    Dir(Vec<Entry>),
}

/// A file that is not whole here.
pub(super) struct Remote {
    pub file: RemoteFile,
    /// Bytes that were read of it.
    read: AtomicU64,
    is_scanned: AtomicBool,
}

impl Remote {
    fn new(file: RemoteFile) -> Self {
        Self { file, read: AtomicU64::new(0), is_scanned: AtomicBool::new(false) }
    }

    /// Notes a read; tells if what lies beside the file should be looked at.
    pub fn note_read(&self, bytes: u32) -> Option<Stage> {
        let before = self.read.fetch_add(u64::from(bytes), Ordering::Relaxed);
        if before == 0 {
            return Some(Stage::First);
        }
        let goes_on = before + u64::from(bytes) >= limits::SCANNED_AFTER_BYTES;
        (goes_on && !self.is_scanned.swap(true, Ordering::Relaxed)).then_some(Stage::Onward)
    }
}

/// A blob's file, registered with the kernel. Dropping it asks the kernel to let go, which must not be done under a lock.
pub(super) struct Backing {
    pub id: BackingId,
    pub key: BlobKey,
}

/// The file system as fuser knows it. Requests that need the controller, a peer or the object store are answered from the
/// runtime, so that a slow answer never holds a FUSE thread.
pub(super) struct Door {
    pub fs: Arc<ShardFs>,
    pub runtime: Runtime,
    handles: Arc<Mutex<HashMap<u64, Arc<Handle>>>>,
    backings: Arc<Mutex<Backings<Backing>>>,
    writeback: Writeback,
    next_handle: Arc<AtomicU64>,
    pub passthrough: Arc<AtomicBool>,
    owner: (u32, u32),
}

impl Handle {
    fn flags(&self) -> FopenFlags {
        match self {
            Self::Small => FopenFlags::FOPEN_DIRECT_IO,
            Self::Passthrough { .. } => FopenFlags::FOPEN_NOFLUSH,
            Self::Local(_) | Self::Remote(_) | Self::Dir(_) => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH,
        }
    }

    fn backing(&self) -> Option<Arc<Backing>> {
        match self {
            Self::Passthrough { backing, .. } => Some(backing.clone()),
            Self::Small | Self::Local(_) | Self::Remote(_) | Self::Dir(_) => None,
        }
    }
}

pub(super) fn errno(error: &FsError, what: &str, ino: INodeNo) -> Errno {
    if error.is_trouble() {
        metrics::FUSE_ERRORS.inc();
        tracing::warn!(%error, what, ino = ino.0, "a file system request failed");
    }
    Errno::from_i32(error.errno())
}

pub(super) fn utf8(name: &OsStr) -> Result<&str, FsError> {
    if name.len() > LONGEST_NAME {
        return Err(FsError::LongName);
    }
    name.to_str().ok_or(FsError::BadName)
}

impl Door {
    pub fn new(fs: Arc<ShardFs>, runtime: Runtime) -> Self {
        let backings = Arc::new(Mutex::new(Backings::new(limits::KEPT_BACKINGS)));
        let kept = Arc::downgrade(&backings);
        fs.cache.on_gone(move |key| {
            let gone =
                kept.upgrade().and_then(|kept: Arc<Mutex<Backings<Backing>>>| kept.lock().expect("lock").forget(key));
            drop(gone);
        });
        Self {
            fs,
            writeback: Writeback::new(runtime.clone()),
            runtime,
            handles: Arc::default(),
            backings,
            next_handle: Arc::new(AtomicU64::new(1)),
            passthrough: Arc::new(AtomicBool::new(false)),
            owner: (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw()),
        }
    }

    pub fn attr(&self, a: &Attributes) -> FileAttr {
        let kind = if a.is_dir { FileType::Directory } else { FileType::RegularFile };
        FileAttr {
            ino: INodeNo(a.ino.0),
            size: a.bytes,
            blocks: a.bytes.div_ceil(512),
            atime: a.mtime,
            mtime: a.mtime,
            ctime: a.mtime,
            crtime: a.mtime,
            kind,
            perm: a.mode as u16,
            nlink: a.nlink,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }

    /// Remembered by the kernel as "no such name".
    pub fn negative(&self) -> FileAttr {
        let absent =
            Attributes { ino: Ino(0), is_dir: false, bytes: 0, mode: 0, nlink: 0, mtime: UNIX_EPOCH, ttl: LONG_TTL };
        self.attr(&absent)
    }

    pub fn keep(&self, handle: Handle) -> FileHandle {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let handle = Arc::new(handle);
        if let Handle::Passthrough { file: Some(_), .. } = &*handle {
            self.writeback.watch(&handle);
        }
        self.handles.lock().expect("lock").insert(number, handle);
        FileHandle(number)
    }

    pub fn handle(&self, number: FileHandle) -> Result<Arc<Handle>, FsError> {
        self.handles.lock().expect("lock").get(&number.0).cloned().ok_or(FsError::BadHandle)
    }

    pub fn close(&self, number: FileHandle) {
        let handle = self.handles.lock().expect("lock").remove(&number.0);
        let key = match handle.as_deref() {
            Some(Handle::Passthrough { backing, .. }) => Some(backing.key),
            _ => None,
        };
        drop(handle);
        if let Some(key) = key {
            self.backings.lock().expect("lock").closed(key);
        }
    }

    /// One that is registered for a sealed blob, and whether somebody has it open.
    pub fn registered(&self, key: BlobKey) -> Option<(Arc<Backing>, bool)> {
        self.backings.lock().expect("lock").get(key)
    }

    /// Registers the file for passthrough; or serves it ourselves where that is not to be had.
    fn pass_through(&self, ino: Ino, file: File, register: impl FnOnce(&File) -> std::io::Result<BackingId>) -> Handle {
        if !self.passthrough.load(Ordering::Relaxed) {
            return Handle::Local(file);
        }
        let Ok((key, is_sealed)) = self.fs.blob_of(ino) else { return Handle::Local(file) };
        let in_use = self.backings.lock().expect("lock").in_use(key);
        let backing = match in_use {
            Some(backing) => backing,
            None => match register(&file) {
                Ok(id) => self.add_backing(Backing { id, key }, is_sealed),
                Err(error) => {
                    // Without CAP_SYS_ADMIN no file can be registered; anything else concerns this file alone.
                    if error.raw_os_error() == Some(libc::EPERM) {
                        self.passthrough.store(false, Ordering::SeqCst);
                    }
                    tracing::warn!(%error, "no kernel passthrough: the agent serves the file itself");
                    return Handle::Local(file);
                }
            },
        };
        Handle::Passthrough { backing, file: (!is_sealed).then_some(file) }
    }

    fn add_backing(&self, backing: Backing, is_sealed: bool) -> Arc<Backing> {
        let key = backing.key;
        let (backing, gone) = self.backings.lock().expect("lock").add(key, backing, is_sealed);
        drop(gone);
        // If it left the SSD just before it was kept, nobody else would let go of it.
        if is_sealed && self.fs.cache.tenant(key).is_none() {
            let gone = self.backings.lock().expect("lock").forget(key);
            drop(gone);
        }
        backing
    }

    pub fn answer_open(&self, ino: Ino, opened: Opened, reply: ReplyOpen) {
        let handle = match opened {
            Opened::Small => Handle::Small,
            Opened::Remote(remote) => Handle::Remote(Remote::new(remote)),
            Opened::Local(file) => self.pass_through(ino, file, |file| reply.open_backing(file)),
        };
        self.answer_opened(handle, reply);
    }

    pub fn answer_opened(&self, handle: Handle, reply: ReplyOpen) {
        let flags = handle.flags();
        match handle.backing() {
            Some(backing) => reply.opened_passthrough(self.keep(handle), flags, &backing.id),
            None => reply.opened(self.keep(handle), flags),
        }
    }

    pub fn answer_create(&self, a: &Attributes, opened: Opened, reply: ReplyCreate) {
        let handle = match opened {
            Opened::Small => Handle::Small,
            Opened::Local(file) => self.pass_through(a.ino, file, |file| reply.open_backing(file)),
            Opened::Remote(_) => return reply.error(errno(&FsError::Immutable, "create", INodeNo(a.ino.0))),
        };
        let (attr, flags) = (self.attr(a), handle.flags());
        match handle.backing() {
            Some(backing) => {
                reply.created_passthrough(&LONG_TTL, &attr, GENERATION, self.keep(handle), flags, &backing.id);
            }
            None => reply.created(&LONG_TTL, &attr, GENERATION, self.keep(handle), flags),
        }
    }

    pub fn share(&self) -> Self {
        Self {
            fs: self.fs.clone(),
            runtime: self.runtime.clone(),
            handles: self.handles.clone(),
            backings: self.backings.clone(),
            writeback: self.writeback.clone(),
            next_handle: self.next_handle.clone(),
            passthrough: self.passthrough.clone(),
            owner: self.owner,
        }
    }

    /// Reads on from where the bytes are now. The handle stays what the kernel was told: served by the agent.
    pub async fn read_moved(
        &self,
        ino: INodeNo,
        fh: FileHandle,
        (offset, size): (u64, u32),
        error: FsError,
    ) -> Result<Bytes, FsError> {
        let handle = match self.fs.open_moved(Ino(ino.0), error).await? {
            Opened::Small => return Err(FsError::BadHandle),
            Opened::Local(file) => Handle::Local(file),
            Opened::Remote(remote) => Handle::Remote(Remote::new(remote)),
        };
        let read = match &handle {
            Handle::Local(file) => read_local(file, offset, size).map(Bytes::from),
            Handle::Remote(remote) => remote.file.read(offset, u64::from(size)).await,
            Handle::Small | Handle::Passthrough { .. } | Handle::Dir(_) => Err(FsError::BadHandle),
        };
        if let Some(known) = self.handles.lock().expect("lock").get_mut(&fh.0) {
            *known = Arc::new(handle);
        }
        read
    }

    /// Runs `then` once the directory's names are known: at once, or from the runtime after fetching them.
    pub fn when_loaded(&self, dir: INodeNo, then: impl FnOnce(&Door, Result<(), FsError>) + Send + 'static) {
        match self.fs.readiness(Ino(dir.0)) {
            Ok(Ready::Yes) => then(self, Ok(())),
            Err(error) => then(self, Err(error)),
            Ok(Ready::Load(ts)) => {
                let door = self.share();
                self.runtime.spawn(async move {
                    let loaded = door.fs.load(ts).await;
                    then(&door, loaded);
                });
            }
        }
    }

    pub fn answer_lookup(&self, parent: INodeNo, name: &str, reply: ReplyEntry) {
        match self.fs.lookup(Ino(parent.0), name) {
            Ok(a) => reply.entry_with_ttls(&LONG_TTL, &a.ttl, &self.attr(&a), GENERATION),
            Err(FsError::Tree(TreeError::NotFound)) => reply.entry(&LONG_TTL, &self.negative(), GENERATION),
            Err(error) => reply.error(errno(&error, "lookup", parent)),
        }
    }
}
