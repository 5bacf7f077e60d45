//! The kernel's requests, one function each.

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::door::{BLOCK, Door, GENERATION, Handle, LONGEST_NAME, errno, utf8};
use crate::fs::error::FsError;
use crate::fs::io::{Opening, OpeningKept, read_local};
use crate::fs::ops::{Attributes, LONG_TTL};
use crate::fs::rename::Renaming;
use crate::fs::tree::Ino;

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
        let unlinked = || {
            let name = utf8(name)?;
            self.fs.unlink(Ino(parent.0), name)?;
            Ok(self.fs.completed_loose(Ino(parent.0), name))
        };
        match unlinked() {
            Ok(None) => reply.ok(),
            Err(error) => reply.error(errno(&error, "unlink", parent)),
            Ok(Some(ts)) => {
                let fs = self.fs.clone();
                self.runtime.spawn(async move {
                    match fs.commit_waiting(ts).await {
                        Ok(()) => reply.ok(),
                        Err(error) => reply.error(errno(&error, "commit", parent)),
                    }
                });
            }
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
        match self.fs.open_or_kept(Ino(ino.0), write, |key| self.registered(key)) {
            Ok(OpeningKept::Kept(backing)) => self.answer_opened(Handle::Passthrough { backing, file: None }, reply),
            Ok(OpeningKept::Opening(Opening::Ready(opened))) => self.answer_open(Ino(ino.0), opened, reply),
            Err(error) => reply.error(errno(&error, "open", ino)),
            Ok(OpeningKept::Opening(Opening::Fetch(wanted))) => {
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
        match opening {
            Opening::Ready(opened) => self.answer_create(&a, opened, reply),
            Opening::Fetch(_) => reply.error(errno(&FsError::Immutable, "create", parent)),
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
            Handle::Local(file) | Handle::Passthrough { file: Some(file), .. } => read_local(file, offset, size),
            Handle::Remote(_) => {
                let door = self.share();
                self.runtime.spawn(async move {
                    let Handle::Remote(remote) = &*handle else { return };
                    if let Some(stage) = remote.note_read(size) {
                        door.fs.read_beside(Ino(ino.0), offset, stage);
                    }
                    let read = match remote.file.read(offset, u64::from(size)).await {
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
            Handle::Dir(_) | Handle::Passthrough { file: None, .. } => Err(FsError::BadHandle),
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
            Handle::Local(file) | Handle::Passthrough { file: Some(file), .. } => Ok(file.write_all_at(data, offset)?),
            Handle::Remote(_) | Handle::Dir(_) | Handle::Passthrough { file: None, .. } => Err(FsError::BadHandle),
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
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.close(fh);
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.handle(fh) {
            Err(error) => reply.error(errno(&error, "fsync", ino)),
            Ok(handle) => match &*handle {
                Handle::Local(file) | Handle::Passthrough { file: Some(file), .. } => match file.sync_data() {
                    Ok(()) => reply.ok(),
                    Err(error) => reply.error(errno(&error.into(), "fsync", ino)),
                },
                Handle::Small => self.flush(_req, ino, fh, LockOwner(0), reply),
                // Sealed bytes are on the disk already.
                Handle::Remote(_) | Handle::Dir(_) | Handle::Passthrough { file: None, .. } => reply.ok(),
            },
        }
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.when_loaded(ino, move |door, loaded| match loaded.and_then(|()| door.fs.list(Ino(ino.0))) {
            Ok(entries) => reply.opened(door.keep(Handle::Dir(entries)), FopenFlags::empty()),
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
        self.close(fh);
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
        let free = stats.budget_bytes.saturating_sub(stats.staged_used_bytes) / block;
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
