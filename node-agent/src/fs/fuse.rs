//! The door to `fuser`, and the only one: kernel requests in, answers out, nothing decided here.
//!
//! Requests that need the controller, a peer or the object store are answered from the runtime, so that a slow answer
//! never holds a FUSE thread.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    BackgroundSession, BackingId, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, Notifier, OpenAccMode, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle as Runtime;

use super::error::FsError;
use super::io::{Opened, Opening, read_local};
use super::ops::{Attributes, LONG_TTL, Ready};
use super::rename::Renaming;
use super::tree::{Entry, Ino};
use super::{KernelCache, ShardFs};
use crate::blobs::remote::RemoteFile;
use crate::limits;
use crate::metrics;

const GENERATION: Generation = Generation(0);
const BLOCK: u32 = 4096;
/// Bytes, as statfs tells.
const LONGEST_NAME: usize = 255;

/// One open file or directory.
enum Handle {
    Small,
    /// The kernel reads and writes the backing file itself; we keep it registered.
    Passthrough {
        _backing: Arc<BackingId>,
        file: File,
    },
    Local(File),
    Remote(RemoteFile),
    Dir(Vec<Entry>),
}

#[derive(Default)]
struct Handles {
    open: HashMap<u64, Arc<Handle>>,
    /// The kernel wants one backing per inode for as long as any open file uses it.
    backings: HashMap<Ino, Weak<BackingId>>,
}

struct Door {
    fs: Arc<ShardFs>,
    runtime: Runtime,
    handles: Arc<Mutex<Handles>>,
    next_handle: Arc<AtomicU64>,
    passthrough: Arc<AtomicBool>,
    owner: (u32, u32),
}

/// A mount that lasts as long as this value.
pub struct Mount {
    session: BackgroundSession,
    passthrough: Arc<AtomicBool>,
}

impl Mount {
    /// Mounts at `at` (an existing, empty directory) and wires the kernel's cache to the file system's changes.
    pub fn new(fs: Arc<ShardFs>, at: &Path, name: &str, runtime: Runtime) -> std::io::Result<Self> {
        let passthrough = Arc::new(AtomicBool::new(false));
        let door = Door {
            fs: fs.clone(),
            runtime,
            handles: Arc::default(),
            next_handle: Arc::new(AtomicU64::new(1)),
            passthrough: passthrough.clone(),
            owner: (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw()),
        };
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(name.to_string()),
            MountOption::Subtype("moorhouse".to_string()),
            MountOption::NoAtime,
            MountOption::NoDev,
            MountOption::NoSuid,
        ];
        // The engine may run as another user, which only root may allow.
        config.acl = if nix::unistd::geteuid().is_root() { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(limits::FUSE_THREADS);
        // Each thread's own descriptor is opened by this process; the mount itself may come from fusermount3.
        config.clone_fd = File::options().read(true).write(true).open("/dev/fuse").is_ok();
        let session = Session::new(door, at, &config)?.spawn()?;
        fs.set_kernel_cache(Box::new(Kernel(session.notifier())));
        Ok(Self { session, passthrough })
    }

    /// Whether the kernel reads complete local files without asking us.
    pub fn has_passthrough(&self) -> bool {
        self.passthrough.load(Ordering::SeqCst)
    }

    /// Unmounts and waits for the last request.
    pub fn unmount(self) -> std::io::Result<()> {
        self.session.umount_and_join()
    }
}

struct Kernel(Notifier);

impl KernelCache for Kernel {
    fn forget_entry(&self, parent: Ino, name: &str) {
        quiet(self.0.inval_entry(INodeNo(parent.0), OsStr::new(name)));
    }
    fn forget_listing(&self, dir: Ino) {
        quiet(self.0.inval_inode(INodeNo(dir.0), 0, 0));
    }
}

/// ENOENT: the kernel did not remember it in the first place.
fn quiet(outcome: std::io::Result<()>) {
    if let Err(error) = outcome
        && error.raw_os_error() != Some(libc::ENOENT)
    {
        tracing::warn!(%error, "the kernel refused an invalidation");
    }
}

fn errno(error: &FsError, what: &str, ino: INodeNo) -> Errno {
    if error.is_trouble() {
        metrics::FUSE_ERRORS.inc();
        tracing::warn!(%error, what, ino = ino.0, "a file system request failed");
    }
    Errno::from_i32(error.errno())
}

fn utf8(name: &OsStr) -> Result<&str, FsError> {
    if name.len() > LONGEST_NAME {
        return Err(FsError::LongName);
    }
    name.to_str().ok_or(FsError::BadName)
}

impl Door {
    fn attr(&self, a: &Attributes) -> FileAttr {
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
    fn negative(&self) -> FileAttr {
        let absent =
            Attributes { ino: Ino(0), is_dir: false, bytes: 0, mode: 0, nlink: 0, mtime: UNIX_EPOCH, ttl: LONG_TTL };
        self.attr(&absent)
    }

    fn keep(&self, handle: Handle) -> u64 {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles.lock().expect("lock").open.insert(number, Arc::new(handle));
        number
    }

    fn handle(&self, number: FileHandle) -> Result<Arc<Handle>, FsError> {
        self.handles.lock().expect("lock").open.get(&number.0).cloned().ok_or(FsError::BadHandle)
    }

    /// Registers the file for passthrough, or None where that is not to be had.
    fn backing(&self, ino: Ino, file: File, register: impl FnOnce(&File) -> std::io::Result<BackingId>) -> Handle {
        if !self.passthrough.load(Ordering::Relaxed) {
            return Handle::Local(file);
        }
        let mut handles = self.handles.lock().expect("lock");
        if let Some(backing) = handles.backings.get(&ino).and_then(Weak::upgrade) {
            return Handle::Passthrough { _backing: backing, file };
        }
        match register(&file) {
            Ok(backing) => {
                let backing = Arc::new(backing);
                handles.backings.insert(ino, Arc::downgrade(&backing));
                Handle::Passthrough { _backing: backing, file }
            }
            Err(error) => {
                // Without CAP_SYS_ADMIN no file can be registered; anything else concerns this file alone.
                if error.raw_os_error() == Some(libc::EPERM) {
                    self.passthrough.store(false, Ordering::SeqCst);
                }
                tracing::warn!(%error, "no kernel passthrough: the agent serves the file itself");
                Handle::Local(file)
            }
        }
    }

    fn answer_open(&self, ino: Ino, opened: Opened, reply: ReplyOpen) {
        let handle = match opened {
            Opened::Small => Handle::Small,
            Opened::Remote(remote) => Handle::Remote(remote),
            Opened::Local(file) => self.backing(ino, file, |file| reply.open_backing(file)),
        };
        match &handle {
            Handle::Passthrough { _backing: backing, .. } => {
                let backing = backing.clone();
                let number = self.keep(handle);
                reply.opened_passthrough(FileHandle(number), FopenFlags::FOPEN_NOFLUSH, &backing);
            }
            Handle::Small => reply.opened(FileHandle(self.keep(handle)), FopenFlags::FOPEN_DIRECT_IO),
            Handle::Local(_) | Handle::Remote(_) | Handle::Dir(_) => {
                reply.opened(FileHandle(self.keep(handle)), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
            }
        }
    }

    fn share(&self) -> Self {
        Self {
            fs: self.fs.clone(),
            runtime: self.runtime.clone(),
            handles: self.handles.clone(),
            next_handle: self.next_handle.clone(),
            passthrough: self.passthrough.clone(),
            owner: self.owner,
        }
    }

    /// Reads on from where the bytes are now. The handle stays what the kernel was told: served by the agent.
    async fn read_moved(
        &self,
        ino: INodeNo,
        fh: FileHandle,
        (offset, size): (u64, u32),
        error: FsError,
    ) -> Result<Bytes, FsError> {
        let handle = match self.fs.open_moved(Ino(ino.0), error).await? {
            Opened::Small => return Err(FsError::BadHandle),
            Opened::Local(file) => Handle::Local(file),
            Opened::Remote(remote) => Handle::Remote(remote),
        };
        let read = match &handle {
            Handle::Local(file) => read_local(file, offset, size).map(Bytes::from),
            Handle::Remote(remote) => remote.read(offset, u64::from(size)).await,
            Handle::Small | Handle::Passthrough { .. } | Handle::Dir(_) => Err(FsError::BadHandle),
        };
        if let Some(known) = self.handles.lock().expect("lock").open.get_mut(&fh.0) {
            *known = Arc::new(handle);
        }
        read
    }

    /// Runs `then` once the directory's names are known: at once, or from the runtime after fetching them.
    fn when_loaded(&self, dir: INodeNo, then: impl FnOnce(&Door, Result<(), FsError>) + Send + 'static) {
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

    fn answer_lookup(&self, parent: INodeNo, name: &str, reply: ReplyEntry) {
        match self.fs.lookup(Ino(parent.0), name) {
            Ok(a) => reply.entry_with_ttls(&LONG_TTL, &a.ttl, &self.attr(&a), GENERATION),
            Err(FsError::Tree(super::tree::TreeError::NotFound)) => {
                reply.entry(&LONG_TTL, &self.negative(), GENERATION)
            }
            Err(error) => reply.error(errno(&error, "lookup", parent)),
        }
    }
}

impl Filesystem for Door {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let passthrough =
            config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() && config.set_max_stack_depth(1).is_ok();
        self.passthrough.store(passthrough, Ordering::SeqCst);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = match utf8(name) {
            Ok(name) => name.to_string(),
            Err(error) => return reply.error(errno(&error, "lookup", parent)),
        };
        self.when_loaded(parent, move |door, loaded| match loaded {
            Ok(()) => door.answer_lookup(parent, &name, reply),
            Err(error) => reply.error(errno(&error, "load", parent)),
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(Ino(ino.0), nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs.attributes(Ino(ino.0)) {
            Ok(a) => reply.attr(&a.ttl, &self.attr(&a)),
            Err(error) => reply.error(errno(&error, "getattr", ino)),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let at = Ino(ino.0);
        let set = || -> Result<Attributes, FsError> {
            if let Some(mode) = mode {
                self.fs.set_mode(at, mode)?;
            }
            if let Some(bytes) = size {
                self.fs.truncate(at, bytes)?;
            }
            match mtime {
                Some(TimeOrNow::SpecificTime(time)) => self.fs.set_mtime(at, time)?,
                Some(TimeOrNow::Now) => self.fs.set_mtime(at, SystemTime::now())?,
                None => {}
            }
            self.fs.attributes(at)
        };
        match set() {
            Ok(a) => reply.attr(&a.ttl, &self.attr(&a)),
            Err(error) => reply.error(errno(&error, "setattr", ino)),
        }
    }

    fn mkdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        match utf8(name).and_then(|name| self.fs.make_dir(Ino(parent.0), name, mode & !umask)) {
            Ok(a) => reply.entry(&LONG_TTL, &self.attr(&a), GENERATION),
            Err(error) => reply.error(errno(&error, "mkdir", parent)),
        }
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match utf8(name).and_then(|name| self.fs.unlink(Ino(parent.0), name)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error, "unlink", parent)),
        }
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match utf8(name).and_then(|name| self.fs.remove_dir(Ino(parent.0), name)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error, "rmdir", parent)),
        }
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let begun = || -> Result<Renaming, FsError> {
            let (from, to) = ((Ino(parent.0), utf8(name)?), (Ino(newparent.0), utf8(newname)?));
            if flags.contains(RenameFlags::RENAME_EXCHANGE) {
                self.fs.exchange(from, to)?;
                return Ok(Renaming::Done);
            }
            self.fs.begin_rename(from, to, flags.contains(RenameFlags::RENAME_NOREPLACE))
        };
        match begun() {
            Ok(Renaming::Done) => reply.ok(),
            Err(error) => reply.error(errno(&error, "rename", parent)),
            Ok(Renaming::Commit(commit)) => {
                let fs = self.fs.clone();
                self.runtime.spawn(async move {
                    match fs.commit_rename(*commit).await {
                        Ok(()) => reply.ok(),
                        Err(error) => reply.error(errno(&error, "commit", parent)),
                    }
                });
            }
        }
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        match utf8(newname).and_then(|name| self.fs.link(Ino(ino.0), Ino(newparent.0), name)) {
            Ok(a) => reply.entry_with_ttls(&LONG_TTL, &a.ttl, &self.attr(&a), GENERATION),
            Err(error) => reply.error(errno(&error, "link", newparent)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let write = flags.acc_mode() != OpenAccMode::O_RDONLY;
        match self.fs.open(Ino(ino.0), write) {
            Ok(Opening::Ready(opened)) => self.answer_open(Ino(ino.0), opened, reply),
            Err(error) => reply.error(errno(&error, "open", ino)),
            Ok(Opening::Fetch(wanted)) => {
                let door = self.share();
                self.runtime.spawn(async move {
                    let opened = match door.fs.fetch(wanted).await {
                        Err(error) => door.fs.open_moved(Ino(ino.0), error).await,
                        opened => opened,
                    };
                    match opened {
                        Ok(opened) => door.answer_open(Ino(ino.0), opened, reply),
                        Err(error) => reply.error(errno(&error, "fetch", ino)),
                    }
                });
            }
        }
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let (a, opening) = match utf8(name).and_then(|name| self.fs.create(Ino(parent.0), name, mode & !umask)) {
            Ok(created) => created,
            Err(error) => return reply.error(errno(&error, "create", parent)),
        };
        let attr = self.attr(&a);
        let handle = match opening {
            Opening::Ready(Opened::Local(file)) => self.backing(a.ino, file, |file| reply.open_backing(file)),
            Opening::Ready(Opened::Small) => Handle::Small,
            Opening::Ready(Opened::Remote(_)) | Opening::Fetch(_) => {
                return reply.error(errno(&FsError::Immutable, "create", parent));
            }
        };
        match &handle {
            Handle::Passthrough { _backing: backing, .. } => {
                let backing = backing.clone();
                let number = FileHandle(self.keep(handle));
                reply.created_passthrough(&LONG_TTL, &attr, GENERATION, number, FopenFlags::FOPEN_NOFLUSH, &backing);
            }
            Handle::Small => {
                reply.created(&LONG_TTL, &attr, GENERATION, FileHandle(self.keep(handle)), FopenFlags::FOPEN_DIRECT_IO);
            }
            Handle::Local(_) | Handle::Remote(_) | Handle::Dir(_) => {
                let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
                reply.created(&LONG_TTL, &attr, GENERATION, FileHandle(self.keep(handle)), flags);
            }
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let handle = match self.handle(fh) {
            Ok(handle) => handle,
            Err(error) => return reply.error(errno(&error, "read", ino)),
        };
        let read = match &*handle {
            Handle::Small => self.fs.read_small(Ino(ino.0), offset, size),
            Handle::Local(file) | Handle::Passthrough { file, .. } => read_local(file, offset, size),
            Handle::Remote(_) => {
                let door = self.share();
                self.runtime.spawn(async move {
                    let Handle::Remote(remote) = &*handle else { return };
                    let read = match remote.read(offset, u64::from(size)).await {
                        Err(error) => door.read_moved(ino, fh, (offset, size), error).await,
                        read => read,
                    };
                    match read {
                        Ok(data) => reply.data(&data),
                        Err(error) => reply.error(errno(&error, "read", ino)),
                    }
                });
                return;
            }
            Handle::Dir(_) => Err(FsError::BadHandle),
        };
        match read {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(errno(&error, "read", ino)),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = |handle: Arc<Handle>| match &*handle {
            Handle::Small => self.fs.write_small(Ino(ino.0), offset, data),
            Handle::Local(file) | Handle::Passthrough { file, .. } => Ok(file.write_all_at(data, offset)?),
            Handle::Remote(_) | Handle::Dir(_) => Err(FsError::BadHandle),
        };
        match self.handle(fh).and_then(write) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(&error, "write", ino)),
        }
    }

    fn flush(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.runtime.spawn(async move {
            match fs.commit_small(Ino(ino.0)).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error, "flush", ino)),
            }
        });
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let released = {
            let mut handles = self.handles.lock().expect("lock");
            let released = handles.open.remove(&fh.0);
            if let Some(handle) = &released
                && let Handle::Passthrough { _backing: backing, .. } = &**handle
                && Arc::strong_count(backing) == 1
                && Arc::strong_count(handle) == 1
            {
                handles.backings.remove(&Ino(ino.0));
            }
            released
        };
        drop(released);
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.handle(fh) {
            Err(error) => reply.error(errno(&error, "fsync", ino)),
            Ok(handle) => match &*handle {
                Handle::Local(file) | Handle::Passthrough { file, .. } => match file.sync_data() {
                    Ok(()) => reply.ok(),
                    Err(error) => reply.error(errno(&error.into(), "fsync", ino)),
                },
                Handle::Small => self.flush(_req, ino, fh, LockOwner(0), reply),
                Handle::Remote(_) | Handle::Dir(_) => reply.ok(),
            },
        }
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.when_loaded(ino, move |door, loaded| match loaded.and_then(|()| door.fs.list(Ino(ino.0))) {
            Ok(entries) => reply.opened(FileHandle(door.keep(Handle::Dir(entries))), FopenFlags::empty()),
            Err(error) => reply.error(errno(&error, "opendir", ino)),
        });
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let handle = match self.handle(fh) {
            Ok(handle) => handle,
            Err(error) => return reply.error(errno(&error, "readdir", ino)),
        };
        let Handle::Dir(entries) = &*handle else { return reply.error(errno(&FsError::BadHandle, "readdir", ino)) };
        let dots = [(ino, FileType::Directory, "."), (ino, FileType::Directory, "..")].into_iter();
        let named = entries.iter().map(|entry| {
            let kind = if entry.is_dir { FileType::Directory } else { FileType::RegularFile };
            (INodeNo(entry.ino.0), kind, entry.name.as_str())
        });
        for (at, (ino, kind, name)) in dots.chain(named).enumerate().skip(offset as usize) {
            if reply.add(ino, at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.handles.lock().expect("lock").open.remove(&fh.0);
        reply.ok();
    }

    /// Names are made durable by the commit alone.
    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let stats = self.fs.cache.stats();
        let block = u64::from(BLOCK);
        let total = stats.budget_bytes / block;
        let free = stats.budget_bytes.saturating_sub(stats.staged_bytes) / block;
        reply.statfs(total, free, free, 1 << 32, 1 << 31, BLOCK, LONGEST_NAME as u32, BLOCK);
    }

    /// ENOSYS: the kernel asks once and never again.
    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    /// ENOSYS: the kernel takes it for "yes" and never asks again.
    fn access(&self, _req: &Request, _ino: INodeNo, _mask: fuser::AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
}

/// The read-ahead of daemon-served files; INIT alone caps it at 128 KiB.
pub fn raise_read_ahead(at: &Path) -> std::io::Result<()> {
    use std::os::linux::fs::MetadataExt;
    let device = std::fs::metadata(at)?.st_dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    std::fs::write(path, limits::READ_AHEAD_KB.to_string())
}
