//! A disk that forgets what was not synced: a file system of its own, mounted below a node's volume.
//!
//! Each file has the bytes that a reader sees and those that last, each directory the same of its names. fsync of a file makes
//! its bytes last, fsync of a directory its names, and nothing else does; that is less than any journalling file system
//! promises. When the power goes, everything goes back to what lasts, but for what happens to have reached the disk all the
//! same: of every name and every file that a seed decides. From then on each request fails.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const TTL: Duration = Duration::ZERO;
const ROOT: u64 = 1;

type Names = BTreeMap<String, u64>;

/// The present state, and what lasts.
#[derive(Clone)]
enum Node {
    File { bytes: Vec<u8>, lasting: Vec<u8> },
    Dir { names: Names, lasting: Names },
}

/// Which syncs do what they should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heeds {
    All,
    FilesAlone,
    DirectoriesAlone,
}

struct State {
    heeds: Heeds,
    nodes: HashMap<u64, Node>,
    next: u64,
    /// Changes and syncs until the power goes.
    left: u64,
    is_off: bool,
}

/// What is on the disk when the power comes back.
pub struct Platter {
    heeds: Heeds,
    nodes: HashMap<u64, Node>,
}

pub struct Disk {
    state: Arc<Mutex<State>>,
    session: Option<BackgroundSession>,
}

impl Platter {
    pub fn empty(heeds: Heeds) -> Self {
        let root = Node::Dir { names: Names::new(), lasting: Names::new() };
        Self { heeds, nodes: HashMap::from([(ROOT, root)]) }
    }
}

impl Disk {
    /// Mounts what is on the platter; the power goes at the change or sync after `left` others.
    pub fn mount(platter: Platter, at: &Path, left: u64) -> Self {
        let Platter { heeds, nodes } = platter;
        let next = nodes.keys().max().unwrap() + 1;
        let state = Arc::new(Mutex::new(State { heeds, nodes, next, left, is_off: false }));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("forgetful".to_string())];
        config.n_threads = Some(2);
        config.clone_fd = true;
        let session = Session::new(Requests(state.clone()), at, &config).unwrap().spawn().unwrap();
        Self { state, session: Some(session) }
    }

    pub fn cut(&self) {
        self.state.lock().unwrap().is_off = true;
    }

    pub fn is_off(&self) -> bool {
        self.state.lock().unwrap().is_off
    }

    /// Cuts the power, unless it has gone already, and gives what is left. `chance` decides which unsynced changes are.
    pub fn power_loss(mut self, chance: u64) -> Platter {
        self.cut();
        let (heeds, nodes) = {
            let state = self.state.lock().unwrap();
            (state.heeds, state.nodes.clone())
        };
        self.session.take().unwrap().umount_and_join().unwrap();
        let mut random = StdRng::seed_from_u64(chance);
        let mut left: HashMap<u64, Node> =
            nodes.into_iter().map(|(ino, node)| (ino, node.without_power(&mut random))).collect();
        let mut reached = HashSet::new();
        reach(&left, ROOT, &mut reached);
        left.retain(|ino, _| reached.contains(ino));
        Platter { heeds, nodes: left }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}

fn reach(nodes: &HashMap<u64, Node>, ino: u64, reached: &mut HashSet<u64>) {
    if reached.insert(ino)
        && let Some(Node::Dir { names, .. }) = nodes.get(&ino)
    {
        names.values().for_each(|ino| reach(nodes, *ino, reached));
    }
}

impl Node {
    fn without_power(self, random: &mut StdRng) -> Self {
        match self {
            Node::Dir { names, lasting } => {
                let mut left = Names::new();
                for name in names.keys().chain(lasting.keys()).collect::<HashSet<_>>() {
                    let (now, lasted) = (names.get(name), lasting.get(name));
                    let stays = if now == lasted || random.random_bool(0.5) { lasted } else { now };
                    left.extend(stays.map(|ino| (name.clone(), *ino)));
                }
                Node::Dir { names: left.clone(), lasting: left }
            }
            Node::File { bytes, lasting } => {
                let left = match random.random_range(0..4) {
                    _ if bytes == lasting => lasting,
                    0 => lasting,
                    1 => bytes,
                    // The length came, the bytes did not.
                    2 => vec![0; bytes.len()],
                    _ => bytes[..bytes.len() / 2].to_vec(),
                };
                Node::File { bytes: left.clone(), lasting: left }
            }
        }
    }

    fn names(&mut self) -> Result<&mut Names, Errno> {
        match self {
            Node::Dir { names, .. } => Ok(names),
            Node::File { .. } => Err(Errno::ENOTDIR),
        }
    }

    fn attr(&self, ino: u64) -> FileAttr {
        let (kind, size) = match self {
            Node::File { bytes, .. } => (FileType::RegularFile, bytes.len() as u64),
            Node::Dir { .. } => (FileType::Directory, 4096),
        };
        let time = UNIX_EPOCH;
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl State {
    fn node(&mut self, ino: INodeNo) -> Result<&mut Node, Errno> {
        if self.is_off {
            return Err(Errno::EIO);
        }
        self.nodes.get_mut(&ino.0).ok_or(Errno::ENOENT)
    }

    /// A change, or a sync: one step nearer to the end.
    fn step(&mut self) -> Result<(), Errno> {
        self.is_off |= self.left == 0;
        self.left = self.left.saturating_sub(1);
        if self.is_off { Err(Errno::EIO) } else { Ok(()) }
    }

    fn find(&mut self, parent: INodeNo, name: &OsStr) -> Result<u64, Errno> {
        self.node(parent)?.names()?.get(text(name)).copied().ok_or(Errno::ENOENT)
    }

    fn make(&mut self, parent: INodeNo, name: &OsStr, node: Node) -> Result<FileAttr, Errno> {
        self.step()?;
        let ino = self.next;
        if self.node(parent)?.names()?.contains_key(text(name)) {
            return Err(Errno::EEXIST);
        }
        self.node(parent)?.names()?.insert(text(name).to_string(), ino);
        let attr = node.attr(ino);
        self.nodes.insert(ino, node);
        self.next += 1;
        Ok(attr)
    }

    fn take(&mut self, parent: INodeNo, name: &OsStr) -> Result<u64, Errno> {
        self.step()?;
        self.node(parent)?.names()?.remove(text(name)).ok_or(Errno::ENOENT)
    }

    fn rename(&mut self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr)) -> Result<(), Errno> {
        let ino = self.take(from.0, from.1)?;
        self.node(to.0)?.names()?.insert(text(to.1).to_string(), ino);
        Ok(())
    }

    fn sync(&mut self, ino: INodeNo) -> Result<(), Errno> {
        self.step()?;
        let heeds = self.heeds;
        match self.node(ino)? {
            Node::File { bytes, lasting } if heeds != Heeds::DirectoriesAlone => *lasting = bytes.clone(),
            Node::Dir { names, lasting } if heeds != Heeds::FilesAlone => *lasting = names.clone(),
            Node::File { .. } | Node::Dir { .. } => {}
        }
        Ok(())
    }

    fn with_bytes<T>(&mut self, ino: INodeNo, then: impl FnOnce(&mut Vec<u8>) -> T) -> Result<T, Errno> {
        match self.node(ino)? {
            Node::File { bytes, .. } => Ok(then(bytes)),
            Node::Dir { .. } => Err(Errno::EISDIR),
        }
    }
}

fn text(name: &OsStr) -> &str {
    name.to_str().unwrap()
}

struct Requests(Arc<Mutex<State>>);

impl Requests {
    fn with<T>(&self, then: impl FnOnce(&mut State) -> Result<T, Errno>) -> Result<T, Errno> {
        then(&mut self.0.lock().unwrap())
    }
}

fn answer(outcome: Result<(), Errno>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn answer_entry(outcome: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match outcome {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

fn answer_attr(outcome: Result<FileAttr, Errno>, reply: ReplyAttr) {
    match outcome {
        Ok(attr) => reply.attr(&TTL, &attr),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Requests {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.with(|state| {
            let ino = state.find(parent, name)?;
            Ok(state.node(INodeNo(ino))?.attr(ino))
        });
        answer_entry(found, reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer_attr(self.with(|state| Ok(state.node(ino)?.attr(ino.0))), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.with(|state| {
            if let Some(size) = size {
                state.step()?;
                state.with_bytes(ino, |bytes| bytes.resize(size as usize, 0))?;
            }
            Ok(state.node(ino)?.attr(ino.0))
        });
        answer_attr(set, reply);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let dir = Node::Dir { names: Names::new(), lasting: Names::new() };
        answer_entry(self.with(|state| state.make(parent, name, dir)), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.with(|state| state.take(parent, name).map(drop)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.with(|state| {
            let ino = state.find(parent, name)?;
            if !state.node(INodeNo(ino))?.names()?.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            state.take(parent, name).map(drop)
        });
        answer(removed, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        answer(self.with(|state| state.rename((parent, name), (new_parent, new_name))), reply);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let file = Node::File { bytes: Vec::new(), lasting: Vec::new() };
        match self.with(|state| state.make(parent, name, file)) {
            Ok(attr) => reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.with(|state| {
            state.with_bytes(ino, |bytes| {
                let start = bytes.len().min(offset as usize);
                bytes[start..bytes.len().min(start + size as usize)].to_vec()
            })
        });
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.with(|state| {
            state.step()?;
            state.with_bytes(ino, |bytes| {
                let (start, end) = (offset as usize, offset as usize + data.len());
                bytes.resize(bytes.len().max(end), 0);
                bytes[start..end].copy_from_slice(data);
            })
        });
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.with(|state| state.sync(ino)), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.with(|state| state.sync(ino)), reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.with(|state| {
            let names: Vec<(String, u64)> =
                state.node(ino)?.names()?.iter().map(|(name, ino)| (name.clone(), *ino)).collect();
            let kind = |ino: u64| state.nodes[&ino].attr(ino).kind;
            Ok(names.into_iter().map(|(name, ino)| (kind(ino), name, ino)).collect::<Vec<_>>())
        });
        let names = match listed {
            Ok(names) => names,
            Err(errno) => return reply.error(errno),
        };
        let dots = [".", ".."].map(|name| (FileType::Directory, name.to_string(), ino.0));
        for (at, (kind, name, ino)) in dots.into_iter().chain(names).enumerate().skip(offset as usize) {
            if reply.add(INodeNo(ino), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
