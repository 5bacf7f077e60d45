//! The cache against a plain reference: any sequence of operations, with a crash anywhere in it.
//!
//! After every step: the same blobs with the same bytes in the same tenants, on disk too; the budget is kept unless the
//! staged blobs alone exceed it, and then nothing cached is left. Which blobs are evicted is the policy's business (it has a
//! reference of its own): here, none may go that need not.

mod common;

use std::collections::BTreeMap;
use std::io::Write;

use common::{BLOCK, bucket, charge, content, copy_tree, files, filling_count, key, open, read, read_checked};
use moorhouse_cache::{BlobCache, CacheError, Fill, Tenant};
use proptest::prelude::*;
use tempfile::TempDir;

const BUDGET_BLOCKS: u64 = 10;
const KEYS: u128 = 7;

#[derive(Clone, Debug)]
enum Op {
    Create(u128),
    Append(u128, usize),
    Account(u128),
    Sync,
    Stored(u128),
    Remove(u128),
    Read(u128),
    Fill(u128, usize),
    FillStaged(u128, usize),
    /// A fill that is dropped half-way.
    Abandon(u128, usize),
    /// The process ends in the middle of a fill: what it leaves is opened.
    CrashInFill(u128, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let len = || prop_oneof![0..3000_usize, 4000..4200_usize, 4000..30_000_usize];
    prop_oneof![
        3 => (0..KEYS).prop_map(Op::Create),
        3 => (0..KEYS, len()).prop_map(|(key, len)| Op::Append(key, len)),
        3 => (0..KEYS).prop_map(Op::Account),
        1 => Just(Op::Sync),
        3 => (0..KEYS).prop_map(Op::Stored),
        2 => (0..KEYS).prop_map(Op::Remove),
        3 => (0..KEYS).prop_map(Op::Read),
        6 => (0..KEYS, len()).prop_map(|(key, len)| Op::Fill(key, len)),
        2 => (0..KEYS, len()).prop_map(|(key, len)| Op::FillStaged(key, len)),
        1 => (0..KEYS, len()).prop_map(|(key, len)| Op::Abandon(key, len)),
        1 => (0..KEYS, len()).prop_map(|(key, len)| Op::CrashInFill(key, len)),
    ]
}

/// The reference.
#[derive(Default, Debug)]
struct Model {
    /// Length on disk, and length as last accounted.
    staged: BTreeMap<u128, (usize, usize)>,
    /// Key and length.
    cached: Vec<(u128, usize)>,
    /// What may have gone since the last look at the cache, because this much room was wanted beside the staged blobs.
    pressed_by: Option<u64>,
}

impl Model {
    fn staged_charge(&self) -> u64 {
        self.staged.values().map(|(_, accounted)| charge(*accounted as u64)).sum()
    }

    fn cached_charge(&self) -> u64 {
        self.cached.iter().map(|(_, len)| charge(*len as u64)).sum()
    }

    /// The cache had to fit this much in beside what is there.
    fn evict(&mut self, reserved: u64) {
        self.pressed_by = Some(reserved);
    }

    fn reserve(&mut self, len: usize) -> bool {
        let fits = self.staged_charge() + charge(len as u64) <= BUDGET_BLOCKS * BLOCK;
        if fits {
            self.evict(charge(len as u64));
        }
        fits
    }

    fn is_cached(&self, number: u128) -> bool {
        self.cached.iter().any(|(cached, _)| *cached == number)
    }

    fn drop_cached(&mut self, number: u128) {
        self.cached.retain(|(cached, _)| *cached != number);
    }

    fn len(&self, number: u128) -> Option<usize> {
        let staged = self.staged.get(&number).map(|(len, _)| *len);
        staged.or_else(|| self.cached.iter().find(|(cached, _)| *cached == number).map(|(_, len)| *len))
    }
}

struct Run {
    dir: TempDir,
    cache: BlobCache,
    model: Model,
}

impl Run {
    fn new() -> Self {
        let dir = quick_dir();
        let cache = open(dir.path(), BUDGET_BLOCKS);
        Self { dir, cache, model: Model::default() }
    }

    fn apply(&mut self, op: &Op) {
        self.step(op);
        self.settle();
    }

    /// Takes over what the cache chose to evict, after a look whether it had to.
    fn settle(&mut self) {
        let Some(reserved) = self.model.pressed_by.take() else { return };
        let staged = self.model.staged_charge();
        let before = self.model.cached_charge();
        let stayed = |number: u128| self.cache.tenant(key(number)) == Some(Tenant::Cached);
        let (kept, gone): (Vec<_>, Vec<_>) = self.model.cached.iter().partition(|(number, _)| stayed(*number));
        self.model.cached = kept;
        let fitted = staged + before + reserved <= BUDGET_BLOCKS * BLOCK;
        assert!(gone.is_empty() || !fitted, "{gone:?} need not go");
        // The last one to go was needed: without it, all of the others and the newcomer would not have been enough.
        let largest = gone.iter().map(|(_, len)| charge(*len as u64)).max().unwrap_or(0);
        let left = self.model.cached_charge();
        assert!(gone.is_empty() || staged + left + largest + reserved > BUDGET_BLOCKS * BLOCK, "{gone:?} is too much");
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Create(number) => self.create(number),
            Op::Append(number, len) => self.append(number, len),
            Op::Account(number) => self.account(number),
            Op::Sync => {
                let keys: Vec<_> = self.model.staged.keys().map(|number| key(*number)).collect();
                let lengths = self.cache.sync_staged(&keys).expect("syncs");
                assert_eq!(lengths, self.model.staged.values().map(|(len, _)| *len as u64).collect::<Vec<_>>());
                self.model.staged.values_mut().for_each(|(len, known)| *known = *len);
                self.model.evict(0);
            }
            Op::Stored(number) => self.stored(number),
            Op::Remove(number) => {
                self.cache.remove(key(number)).expect("removes");
                self.model.staged.remove(&number);
                self.model.drop_cached(number);
            }
            Op::Read(number) => self.read(number),
            Op::Fill(number, len) => self.fill(number, len),
            Op::FillStaged(number, len) => self.fill_staged(number, len),
            Op::Abandon(number, len) => drop(self.half_a_fill(number, len)),
            Op::CrashInFill(number, len) => {
                let under_way = self.half_a_fill(number, len);
                self.settle();
                let left = quick_dir();
                copy_tree(self.dir.path(), left.path());
                drop(under_way);
                let model = std::mem::take(&mut self.model);
                self.reopened(left, model);
            }
        }
    }

    fn create(&mut self, number: u128) {
        let created = self.cache.create_staged(key(number));
        if self.model.len(number).is_some() {
            assert!(matches!(created, Err(CacheError::Exists { .. })));
        } else if self.model.staged_charge() >= BUDGET_BLOCKS * BLOCK {
            assert!(matches!(created, Err(CacheError::Full { .. })));
        } else {
            created.expect("creates");
            self.model.staged.insert(number, (0, 0));
            self.model.evict(0);
        }
    }

    /// Writes past the cache's eyes, as the kernel does.
    fn append(&mut self, number: u128, len: usize) {
        let Some((before, _)) = self.model.staged.get_mut(&number) else { return };
        let file = self.cache.open_file(key(number), true).expect("opens").expect("is there");
        let whole = content(number, *before + len);
        std::os::unix::fs::FileExt::write_all_at(&file, &whole[*before..], *before as u64).expect("writes");
        *before += len;
    }

    fn account(&mut self, number: u128) {
        let accounted = self.cache.account_staged(key(number));
        match self.model.staged.get_mut(&number) {
            Some((len, known)) => {
                assert_eq!(accounted.expect("accounts"), *len as u64);
                *known = *len;
                self.model.evict(0);
            }
            None => assert!(matches!(accounted, Err(CacheError::NoBlob { .. }))),
        }
    }

    fn stored(&mut self, number: u128) {
        let stored = self.cache.stored(key(number));
        if let Some((len, _)) = self.model.staged.remove(&number) {
            self.model.cached.push((number, len));
            self.model.evict(0);
        }
        match stored {
            Ok(()) => {}
            Err(CacheError::NoBlob { .. }) => assert_eq!(self.model.len(number), None),
            Err(error) => panic!("{error}"),
        }
    }

    fn read(&mut self, number: u128) {
        let expected = self.model.len(number).map(|len| content(number, len));
        assert_eq!(read(&self.cache, number), expected);
    }

    fn fill(&mut self, number: u128, len: usize) {
        let fits = self.model.reserve(len);
        match self.cache.fill(key(number), len as u64) {
            Ok(fill) => {
                assert!(fits);
                self.settle();
                complete(fill, number, len);
                if self.model.len(number).is_none() {
                    self.model.cached.push((number, len));
                }
            }
            Err(CacheError::NoRoom { .. }) => assert!(!fits),
            Err(error) => panic!("{error}"),
        }
    }

    fn fill_staged(&mut self, number: u128, len: usize) {
        let fits = self.model.reserve(len);
        match self.cache.fill_staged(key(number), len as u64) {
            Ok(fill) => {
                assert!(fits);
                self.settle();
                complete(fill, number, len);
                self.model.drop_cached(number);
                self.model.staged.entry(number).or_insert((len, len));
            }
            Err(CacheError::Full { .. }) => assert!(!fits),
            Err(error) => panic!("{error}"),
        }
    }

    fn half_a_fill(&mut self, number: u128, len: usize) -> Option<Fill> {
        let fits = self.model.reserve(len);
        let mut fill = self.cache.fill(key(number), len as u64).ok();
        assert_eq!(fill.is_some(), fits);
        if let Some(fill) = &mut fill {
            fill.write_all(&content(number, len / 2)).expect("writes");
        }
        fill
    }

    /// Opening accounts what is staged, and evicts what does not fit; what is cached is seen once it is checked.
    fn reopened(&mut self, dir: TempDir, mut model: Model) {
        self.cache = open(dir.path(), BUDGET_BLOCKS);
        self.dir = dir;
        model.staged.values_mut().for_each(|(len, accounted)| *accounted = *len);
        let had_to_evict = model.staged_charge() + model.cached_charge() > BUDGET_BLOCKS * BLOCK;
        let stayed = |number: u128| self.cache.tenant(key(number)) == Some(Tenant::Cached);
        assert!(had_to_evict || model.cached.iter().all(|(number, _)| stayed(*number)));
        model.cached.retain(|(number, _)| stayed(*number));
        self.model = model;
        for (number, len) in self.model.cached.clone() {
            assert_eq!(read_checked(&self.cache, number, len), Some(content(number, len)));
        }
        (0..KEYS).for_each(|number| self.read(number));
    }

    /// Of the buckets that the keys can be in: listing all of them after each step takes too long.
    fn on_disk(&self, tenant: Tenant) -> BTreeMap<String, u64> {
        let buckets = (0..KEYS).map(|number| bucket(self.dir.path(), tenant, number));
        buckets.flat_map(|bucket| files(&bucket)).collect()
    }

    fn check(&self) {
        let stats = self.cache.stats();
        let (staged, cached) = (&self.model.staged, &self.model.cached);
        assert_eq!((stats.staged_blobs, stats.cached_blobs), (staged.len() as u64, cached.len() as u64));
        assert_eq!(stats.used_bytes, self.model.staged_charge() + self.model.cached_charge());
        assert!(stats.used_bytes <= stats.budget_bytes || stats.cached_blobs == 0, "{stats:?}");
        let names = |blobs: &mut dyn Iterator<Item = (u128, usize)>| -> BTreeMap<String, u64> {
            blobs.map(|(number, len)| (key(number).to_string(), len as u64)).collect()
        };
        let expected = names(&mut staged.iter().map(|(number, (len, _))| (*number, *len)));
        assert_eq!(self.on_disk(Tenant::Staged), expected);
        assert_eq!(self.on_disk(Tenant::Cached), names(&mut cached.iter().copied()));
        assert_eq!(filling_count(self.dir.path()), 0);
        assert!((0..KEYS).all(|number| self.cache.tenant(key(number)).is_some() == self.model.len(number).is_some()));
        assert!(!staged.keys().any(|number| self.model.is_cached(*number)));
    }
}

/// In memory: the histories are about names and sizes, and a disk makes them ten times slower.
fn quick_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a directory")
}

fn complete(mut fill: Fill, number: u128, len: usize) {
    let bytes = content(number, len);
    fill.write_all(&bytes).expect("writes");
    fill.complete(Some(crc32c::crc32c(&bytes))).expect("completes");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn any_history_is_as_in_the_reference(ops in prop::collection::vec(op(), 1..60)) {
        let mut run = Run::new();
        for op in &ops {
            run.apply(op);
            run.check();
        }
    }
}
