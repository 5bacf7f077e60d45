//! The door to `fuser`, and the only one: kernel requests in, answers out, nothing decided here.
//!
//! [`requests`] has one function a request, [`door`] what they share, [`backings`] the files that the kernel reads and writes
//! without us, [`writeback`] sees to it that what it writes so is on its way to the disk before somebody waits for it.

mod backings;
mod door;
mod requests;
mod writeback;

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, Session, SessionACL};
use tokio::runtime::Handle as Runtime;

use super::tree::Ino;
use super::{KernelCache, ShardFs};
use crate::limits;
use door::Door;

/// A mount that lasts as long as this value.
pub struct Mount {
    session: BackgroundSession,
    passthrough: Arc<AtomicBool>,
}

impl Mount {
    /// Mounts at `at` (an existing, empty directory) and wires the kernel's cache to the file system's changes.
    pub fn new(fs: Arc<ShardFs>, at: &Path, name: &str, runtime: Runtime) -> std::io::Result<Self> {
        let door = Door::new(fs.clone(), runtime);
        let passthrough = door.passthrough.clone();
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
        match self.session.umount_and_join() {
            // What the kernel answers to a thread that was just taking a request when the connection ended (Linux,
            // fs/fuse/dev.c, fuse_dev_do_read): the mount has gone all the same.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
            ended => ended,
        }
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

/// The read-ahead of daemon-served files; INIT alone caps it at 128 KiB.
pub fn raise_read_ahead(at: &Path) -> std::io::Result<()> {
    use std::os::linux::fs::MetadataExt;
    let device = std::fs::metadata(at)?.st_dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    std::fs::write(path, limits::READ_AHEAD_KB.to_string())
}
