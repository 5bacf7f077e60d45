//! The shard file system: every shard of the node under one mount, as ClickHouse expects a local disk.
//!
//! The committed tree comes from the catalog; over it lies the overlay of names in progress, which nobody else ever sees.
//! The commit point is the directory rename `tmp_… → part` ([`rename`]). Reading order below.
//!
//! Rules: no lock is held over I/O or an await; a kernel notification is sent only without a lock; lock order is
//! `mounted`, then `tree`.

mod beside;
pub mod error;
mod follow;
mod frozen;
pub mod fuse;
mod generations;
pub mod io;
mod letting;
pub mod load;
pub mod ops;
pub mod place;
pub mod rename;
mod secure;
pub mod settle;
pub mod stale;
pub mod tree;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Instant, SystemTime};

use moorhouse_base::clock::Clock;
use moorhouse_cache::{BlobCache, CacheStats};
use moorhouse_catalog::{BlobId, Epoch, NodeName, NodeView, PartPath, ShardId, Table, TableId, TableShard};

use crate::blobs::{BlobSource, key};
use crate::controller::ControllerClient;
use crate::policy::Policy;
use crate::upload::Uploads;
use error::FsError;
use generations::Generations;
use letting::{Attaching, Letting};
use load::ShardSync;
use stale::Stale;
use tree::{Body, Ino, ROOT, Small, Tree};

/// What this node may do with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its group owns the table.
    Writer,
    Reader,
}

impl Role {
    /// The role of the view's own group.
    pub fn of(table: &Table, view: &NodeView) -> Self {
        if table.owner == view.group { Role::Writer } else { Role::Reader }
    }
}

/// Tells the kernel that what it remembers is no longer so. Never called with a lock held.
pub trait KernelCache: Send + Sync {
    fn forget_entry(&self, parent: Ino, name: &str);
    fn forget_listing(&self, dir: Ino);
}

/// What the newest view gives this node.
#[derive(Default)]
struct Mounted {
    epochs: BTreeMap<ShardId, Epoch>,
    roles: HashMap<TableId, Role>,
}

pub struct ShardFs {
    pub(crate) node: NodeName,
    pub(crate) cache: BlobCache,
    pub(crate) source: BlobSource,
    pub(crate) controller: ControllerClient,
    pub(crate) clock: Arc<dyn Clock>,
    /// How each table's bytes are kept.
    pub policy: Policy,
    /// What all uploads of this node share.
    pub uploads: Uploads,
    /// Where locks nest, the order is `tree`, then `mounted`, `retired` or `generations`.
    tree: RwLock<Tree>,
    mounted: RwLock<Mounted>,
    syncs: Mutex<HashMap<TableShard, Arc<tokio::sync::Mutex<ShardSync>>>>,
    /// Parts that a reader no longer lists but still opens, with the time when the catalog dropped them.
    retired: Mutex<HashMap<(TableShard, PartPath), Instant>>,
    letting: Mutex<HashMap<TableShard, Letting>>,
    habits: beside::Habits,
    attaching: Mutex<HashMap<Ino, Attaching>>,
    /// Held alone while a part is committed that has bytes of another table; shared while blobs are relocated.
    sharing: tokio::sync::RwLock<()>,
    kernel: OnceLock<Box<dyn KernelCache>>,
    /// Of readers; one that has none has the first.
    generations: Mutex<HashMap<TableShard, Generations>>,
    /// Readers whose engine must look again.
    pub stale: Stale,
}

impl ShardFs {
    pub fn new(node: NodeName, source: BlobSource, controller: ControllerClient, clock: Arc<dyn Clock>) -> Self {
        Self {
            node,
            cache: source.cache().clone(),
            source,
            controller,
            clock,
            policy: Policy::default(),
            uploads: Uploads::default(),
            tree: RwLock::new(Tree::new()),
            mounted: RwLock::default(),
            syncs: Mutex::default(),
            retired: Mutex::default(),
            letting: Mutex::default(),
            habits: beside::Habits::default(),
            attaching: Mutex::default(),
            sharing: tokio::sync::RwLock::default(),
            kernel: OnceLock::new(),
            generations: Mutex::default(),
            stale: Stale::default(),
        }
    }

    /// Where to send invalidations, once mounted.
    pub fn set_kernel_cache(&self, kernel: Box<dyn KernelCache>) {
        let _ = self.kernel.set(kernel);
    }

    /// Shows every assigned shard and every table of the view. What the view no longer has stays until the engine has let
    /// go of it: see [`Self::unmount_shard`] and [`Self::unmount_table`].
    pub fn apply_view(&self, view: &NodeView) -> Result<(), FsError> {
        self.policy.apply_view(view);
        let mine = || view.assignments.iter().filter(|a| a.node == self.node);
        let mut made = Vec::new();
        {
            let mut tree = self.tree.write().expect("lock");
            let mut mounted = self.mounted.write().expect("lock");
            mounted.epochs.extend(mine().map(|a| (a.shard, a.epoch)));
            mounted.roles.extend(view.tables.iter().map(|table| (table.id, Role::of(table, view))));
            for shard in mine().map(|a| a.shard) {
                show_shard(&mut tree, shard, &mut made)?;
                for table in &view.tables {
                    let path = self.shown_path(TableShard { table: table.id, shard });
                    show_table(&mut tree, shard, &path, Role::of(table, view), &mut made)?;
                }
            }
        }
        self.forget_entries(made);
        Ok(())
    }

    /// Takes a shard out of the mount: its writer can no longer commit from here. Answers with the staged blobs of its
    /// committed parts, which the caller releases once another node holds the shard.
    pub fn unmount_shard(&self, shard: ShardId) -> Vec<BlobId> {
        let orphans = {
            let mut tree = self.tree.write().expect("lock");
            self.mounted.write().expect("lock").epochs.remove(&shard);
            tree.remove_subtree(ROOT, &shard.to_string()).unwrap_or_default()
        };
        self.syncs.lock().expect("lock").retain(|ts, _| ts.shard != shard);
        self.retired.lock().expect("lock").retain(|(ts, _), _| ts.shard != shard);
        self.forget_attaching(|ts| ts.shard == shard);
        self.habits.forget(|ts| ts.shard == shard);
        self.forget_generations(|ts| ts.shard == shard);
        self.stale.forget(|ts| ts.shard == shard);
        self.forget_entries(vec![(ROOT, shard.to_string())]);
        // What was never committed is of no use to anybody.
        let (committed, overlay): (Vec<_>, Vec<_>) = orphans.into_iter().partition(|blob| blob.sealed.is_some());
        self.remove_local(overlay.into_iter().map(|blob| blob.id));
        committed.into_iter().map(|blob| blob.id).collect()
    }

    /// Drops what the engine had let go of in a shard that another node has now: the catalog has forgotten those parts, but
    /// for the bytes that it still looks for here.
    pub fn forget_letting(&self, shard: ShardId, still_ours: &HashSet<BlobId>) {
        let gone: Vec<Letting> = {
            let mut letting = self.letting.lock().expect("lock");
            letting.extract_if(|ts, _| ts.shard == shard).map(|(_, letting)| letting).collect()
        };
        let blobs = gone.into_iter().flat_map(|letting| letting.blobs);
        self.remove_local(blobs.filter(|blob| !still_ours.contains(blob)));
    }

    /// The blobs that the catalog looks for on this node alone.
    pub async fn staged_here(&self) -> Result<Vec<BlobId>, FsError> {
        let staged = self.controller.staged().await;
        let staged = staged.map_err(|status| FsError::Unavailable(status.message().to_string()))?;
        Ok(staged.own.into_iter().chain(staged.copies).collect())
    }

    fn remove_local(&self, blobs: impl IntoIterator<Item = BlobId>) {
        for blob in blobs {
            if let Err(error) = self.cache.remove(key(blob)) {
                tracing::warn!(%blob, %error, "a useless file stays until the next start");
            }
        }
    }

    /// Forgets everything in progress; the next view shows what is committed.
    pub fn unmount_all(&self) {
        let shards: Vec<ShardId> = self.mounted.read().expect("lock").epochs.keys().copied().collect();
        for shard in shards {
            self.unmount_shard(shard);
        }
    }

    /// Takes a dropped table out of the mount, with the local bytes that only it had.
    pub fn unmount_table(&self, table: TableId) {
        let mut gone = Vec::new();
        let mut orphans = Vec::new();
        {
            let mut tree = self.tree.write().expect("lock");
            let mut mounted = self.mounted.write().expect("lock");
            mounted.roles.remove(&table);
            for shard in mounted.epochs.keys() {
                let ts = TableShard { table, shard: *shard };
                let path = table_path(ts);
                let Ok(parent) = tree.resolve(ROOT, &path[..3]) else { continue };
                for [.., name] in self.all_paths(ts) {
                    orphans.extend(tree.remove_subtree(parent, &name).unwrap_or_default());
                    gone.push((parent, name));
                }
                for parent in frozen_of(&tree, *shard, &path) {
                    orphans.extend(tree.remove_subtree(parent, &path[3]).unwrap_or_default());
                    gone.push((parent, path[3].clone()));
                }
            }
        }
        self.forget_attaching(|ts| ts.table == table);
        self.habits.forget(|ts| ts.table == table);
        self.forget_generations(|ts| ts.table == table);
        self.stale.forget(|ts| ts.table == table);
        self.syncs.lock().expect("lock").retain(|ts, _| ts.table != table);
        self.retired.lock().expect("lock").retain(|(ts, _), _| ts.table != table);
        self.letting.lock().expect("lock").retain(|ts, _| ts.table != table);
        // A table that is not loaded may share them: then they stay until the next start.
        let shards: Vec<ShardId> = self.mounted.read().expect("lock").epochs.keys().copied().collect();
        if shards.into_iter().all(|shard| self.all_loaded(shard)) {
            self.remove_local(orphans.into_iter().map(|blob| blob.id));
        }
        self.forget_entries(gone);
    }

    /// The path of a table shard's directory below the mount.
    pub fn relative_path(ts: TableShard) -> String {
        table_path(ts).join("/")
    }

    pub(crate) fn epoch(&self, shard: ShardId) -> Option<Epoch> {
        self.mounted.read().expect("lock").epochs.get(&shard).copied()
    }

    /// How many blobs are here that could be had again.
    pub fn cached_blobs(&self) -> u64 {
        self.cache.stats().cached_blobs
    }

    /// A look at what is on this node's SSD.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// What this node may do with a table shard; None if the shard or the table is not shown here.
    pub fn role(&self, ts: TableShard) -> Option<Role> {
        let mounted = self.mounted.read().expect("lock");
        mounted.epochs.get(&ts.shard)?;
        mounted.roles.get(&ts.table).copied()
    }

    fn sync_of(&self, ts: TableShard) -> Arc<tokio::sync::Mutex<ShardSync>> {
        self.syncs.lock().expect("lock").entry(ts).or_default().clone()
    }

    /// Every table shard in this role whose content is loaded.
    pub(crate) fn loaded(&self, role: Role) -> Vec<TableShard> {
        let all: Vec<_> = self.syncs.lock().expect("lock").keys().copied().collect();
        all.into_iter().filter(|ts| self.role(*ts) == Some(role) && self.is_loaded(*ts)).collect()
    }

    fn is_loaded(&self, ts: TableShard) -> bool {
        let tree = self.tree.read().expect("lock");
        tree.resolve(ROOT, &self.shown_path(ts)).and_then(|ino| tree.dir(ino).map(|dir| dir.loaded)).unwrap_or(false)
    }

    fn forget_entries(&self, entries: Vec<(Ino, String)>) {
        self.tell_kernel(|kernel| {
            for (parent, name) in entries {
                kernel.forget_entry(parent, &name);
            }
        });
    }

    /// The kernel waits for the directory's lock, and who holds that may wait for an answer that a task of this runtime
    /// gives: so the thread is not one that tasks wait for meanwhile.
    fn tell_kernel(&self, tell: impl FnOnce(&dyn KernelCache)) {
        if let Some(kernel) = self.kernel.get() {
            tokio::task::block_in_place(|| tell(&**kernel));
        }
    }

    fn let_go(&self, ts: TableShard, add: impl FnOnce(&mut Letting)) {
        add(self.letting.lock().expect("lock").entry(ts).or_default());
    }

    /// Bytes of staged blobs become evictable: they are stored, or another node has them.
    pub fn release_staged(&self, blobs: &[BlobId]) {
        for blob in blobs {
            if let Err(error) = self.cache.stored(key(*blob)) {
                tracing::debug!(%blob, %error, "a released blob was not staged here");
            }
        }
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(self.clock.now_ms())
    }
}

/// `<shard>/store/<3 hex>/<uuid>`, as ClickHouse's Atomic databases lay tables out.
fn table_path(ts: TableShard) -> [String; 4] {
    let uuid = ts.engine_uuid().to_string();
    [ts.shard.to_string(), "store".to_string(), uuid[..3].to_string(), uuid]
}

/// The directories in which each backup of the shard has what was frozen of the table at this path, if it has something.
fn frozen_of(tree: &Tree, shard: ShardId, table: &[String; 4]) -> Vec<Ino> {
    let shadow = tree.resolve(ROOT, &[shard.to_string(), place::SHADOW.to_string()]);
    let backups = shadow.and_then(|shadow| tree.entries(shadow)).unwrap_or_default();
    backups.iter().filter_map(|backup| tree.resolve(backup.ino, &table[1..3]).ok()).collect()
}

/// Makes what is missing of `k/store`, noting each name that the kernel may remember as absent.
fn show_shard(tree: &mut Tree, shard: ShardId, made: &mut Vec<(Ino, String)>) -> Result<Ino, FsError> {
    let mut at = ROOT;
    for name in [shard.to_string(), "store".to_string()] {
        at = show_dir(tree, at, &name, made)?;
    }
    Ok(at)
}

fn show_dir(tree: &mut Tree, parent: Ino, name: &str, made: &mut Vec<(Ino, String)>) -> Result<Ino, FsError> {
    if tree.child(parent, name).is_err() {
        made.push((parent, name.to_string()));
    }
    Ok(tree.ensure_dir(parent, name)?)
}

/// Makes a table shard's directory, its content still to be fetched on first use.
fn show_table(
    tree: &mut Tree,
    shard: ShardId,
    [_, _, prefix, uuid]: &[String; 4],
    role: Role,
    made: &mut Vec<(Ino, String)>,
) -> Result<(), FsError> {
    let store = show_shard(tree, shard, made)?;
    let prefix = show_dir(tree, store, prefix, made)?;
    if tree.child(prefix, uuid).is_ok() {
        return Ok(());
    }
    let table = show_dir(tree, prefix, uuid, made)?;
    tree.dir_mut(table)?.loaded = false;
    let format = Small { content: place::FORMAT_VERSION_CONTENT.to_vec(), ..Small::default() };
    tree.make_file(table, place::FORMAT_VERSION, 0o644, SystemTime::UNIX_EPOCH, Body::Small(format))?;
    if role == Role::Writer {
        tree.ensure_dir(table, place::DETACHED)?;
    }
    Ok(())
}
