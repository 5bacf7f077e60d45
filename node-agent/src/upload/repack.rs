//! Which stored files are worth moving into new objects. Pure.
//!
//! Two things go wrong as parts are merged away. An object that parts share keeps all its bytes until the last of them is gone:
//! so one that is *mostly dead* gives its live files to a new one. And the small files that opening a part needs lie, for parts
//! that were uploaded at different times, in as many objects: so those of *scattered* parts are gathered in one.
//!
//! With every object at least half alive, a table shard's objects take at most twice the bytes of its live files. Scattered heads
//! are gathered in tiers, as a log-structured merge tree does with its runs (O'Neil et al. 1996; "size-tiered"): an object that has
//! the heads of fewer than 1/24 of the parts is small, and 16 small ones become one. So opening all parts takes at most 23 large
//! and 15 small objects, whatever the history, and a head is moved a logarithmic number of times.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use moorhouse_catalog::{BlobId, Location, ObjectKey, PartPath, TableShard};

use super::pack::is_head;
use crate::fs::io::RemoteBlob;
use crate::fs::settle::{StagedFile, StagedPart};
use crate::limits;

/// A part with files in the object store.
#[derive(Debug, Clone)]
pub struct StoredPart {
    pub part: PartPath,
    pub age: Duration,
    /// No other part covers it, and it is not loose: the engine opens it.
    pub is_active: bool,
    pub files: Vec<StoredFile>,
}

#[derive(Debug, Clone)]
pub struct StoredFile {
    pub path: String,
    pub blob: BlobId,
    pub bytes: u64,
    pub object: ObjectKey,
    pub offset: u64,
    pub crc32c: u32,
    /// It has several names.
    pub is_linked: bool,
    /// Some of them outside the table's parts: another table tells the catalog where it lies.
    pub is_shared: bool,
}

impl StoredFile {
    fn place(&self) -> RemoteBlob {
        let location = Location::Stored { object: self.object.clone(), offset: self.offset, crc32c: self.crc32c };
        RemoteBlob { blob: self.blob, bytes: self.bytes, location }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    MostlyDead,
    Scattered,
}

/// What to do next in one table shard: move what is alive in these objects, or the heads that they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub reason: Reason,
    objects: BTreeSet<ObjectKey>,
}

/// The files that a choice is about, with the parts that they are of.
#[derive(Debug, Default)]
pub struct Picked {
    pub parts: Vec<StagedPart>,
    pub places: HashMap<BlobId, RemoteBlob>,
}

/// A table shard's objects, as its parts are told one by one: it keeps a few numbers of each.
#[derive(Debug)]
pub struct Tally {
    settled: Duration,
    objects: HashMap<ObjectKey, Object>,
    /// Files with several names, which count once.
    seen: HashSet<BlobId>,
    active_parts: usize,
}

#[derive(Debug, Default)]
struct Object {
    live_bytes: u64,
    /// Active parts with heads in it, and the bytes of those.
    heads_of: usize,
    head_bytes: u64,
    /// A young part has files in it, or one is shared: it stays as it is.
    is_fixed: bool,
}

impl Tally {
    /// Parts younger than `settled` are left alone.
    pub fn new(settled: Duration) -> Self {
        Self { settled, objects: HashMap::new(), seen: HashSet::new(), active_parts: 0 }
    }

    pub fn add(&mut self, part: &StoredPart) {
        self.active_parts += usize::from(part.is_active);
        let mut counted: HashSet<&ObjectKey> = HashSet::new();
        for file in &part.files {
            let is_new = !file.is_linked || self.seen.insert(file.blob);
            if !self.objects.contains_key(&file.object) {
                self.objects.insert(file.object.clone(), Object::default());
            }
            let Some(object) = self.objects.get_mut(&file.object) else { continue };
            object.is_fixed |= file.is_shared || part.age < self.settled;
            object.live_bytes += if is_new { file.bytes } else { 0 };
            if part.is_active && is_head(&file.path) {
                object.head_bytes += file.bytes;
                object.heads_of += usize::from(counted.insert(&file.object));
            }
        }
    }

    pub fn objects(&self) -> impl Iterator<Item = &ObjectKey> {
        self.objects.keys()
    }

    /// Files of at most [`limits::PACKED_BYTES`], unless one object has more; `None` if all is well. `sizes` are of the table
    /// shard's own objects.
    pub fn choose(&self, sizes: &HashMap<ObjectKey, u64>) -> Option<Choice> {
        let dead = self.mostly_dead(sizes).map(|objects| Choice { reason: Reason::MostlyDead, objects });
        dead.or_else(|| self.scattered().map(|objects| Choice { reason: Reason::Scattered, objects }))
    }

    /// Objects whose live bytes are fewer than [`limits::REPACK_LIVE_PERCENT`] of theirs, the deadest first.
    fn mostly_dead(&self, sizes: &HashMap<ObjectKey, u64>) -> Option<BTreeSet<ObjectKey>> {
        let is_dead =
            |live: u64, size: u64| live.saturating_mul(100) < size.saturating_mul(limits::REPACK_LIVE_PERCENT);
        let movable = self.objects.iter().filter(|(_, object)| !object.is_fixed);
        let mut dead: Vec<(&ObjectKey, u64, u64)> = movable
            .filter_map(|(key, object)| Some((key, object.live_bytes, *sizes.get(key)?)))
            .filter(|(_, live, size)| is_dead(*live, *size))
            .collect();
        dead.sort_by_key(|(key, live, size)| (Reverse(size - live), *key));
        let first = dead.first().map(|(key, ..)| (*key).clone())?;
        let mut bytes = 0;
        let fits = |(_, live, _): &&(&ObjectKey, u64, u64)| {
            bytes += live;
            bytes <= limits::PACKED_BYTES
        };
        let others = dead.iter().take_while(fits).map(|(key, ..)| (*key).clone());
        Some(others.chain([first]).collect())
    }

    /// Objects that have the heads of few active parts, if there are many of them; those with the fewest first.
    fn scattered(&self) -> Option<BTreeSet<ObjectKey>> {
        let is_small = |object: &Object| (1..).contains(&object.heads_of) && !object.is_fixed;
        let few = |object: &Object| object.heads_of * limits::LARGE_HOLDERS < self.active_parts;
        let mut small: Vec<(&ObjectKey, &Object)> =
            self.objects.iter().filter(|(_, object)| is_small(object) && few(object)).collect();
        if small.len() < limits::SMALL_HOLDERS {
            return None;
        }
        small.sort_by_key(|(key, object)| (object.heads_of, *key));
        let mut bytes = 0;
        let fits = |(_, object): &&(&ObjectKey, &Object)| {
            bytes += object.head_bytes;
            bytes <= limits::PACKED_BYTES
        };
        let chosen: BTreeSet<ObjectKey> = small.iter().take_while(fits).map(|(key, _)| (*key).clone()).collect();
        // One alone would only be copied.
        (chosen.len() > 1).then_some(chosen)
    }
}

impl Choice {
    /// Adds those files of the part that are to be moved.
    pub fn pick(&self, shard: TableShard, part: &StoredPart, picked: &mut Picked) {
        let is_wanted = |file: &&StoredFile| {
            let is_asked_for = self.reason == Reason::MostlyDead || is_head(&file.path);
            is_asked_for && !file.is_shared && self.objects.contains(&file.object)
        };
        let mut files = Vec::new();
        for file in part.files.iter().filter(is_wanted) {
            picked.places.insert(file.blob, file.place());
            files.push(StagedFile { path: file.path.clone(), blob: file.blob, bytes: file.bytes });
        }
        if !files.is_empty() {
            picked.parts.push(StagedPart { shard, part: part.part.clone(), age: part.age, is_leaving: false, files });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use moorhouse_catalog::{ShardId, TableId};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::upload::pack::pack;

    const OLD: Duration = Duration::from_secs(3_600);

    fn shard() -> TableShard {
        TableShard { table: TableId(Uuid::from_u128(1)), shard: ShardId(0) }
    }

    /// A table shard and its objects, as the catalog would have them.
    #[derive(Default)]
    struct Store {
        parts: BTreeMap<u64, StoredPart>,
        sizes: HashMap<ObjectKey, u64>,
        next: u64,
        written: u64,
    }

    fn choose<'a>(parts: impl Iterator<Item = &'a StoredPart>, sizes: &HashMap<ObjectKey, u64>) -> Option<Choice> {
        let mut tally = Tally::new(OLD);
        parts.for_each(|part| tally.add(part));
        tally.choose(sizes)
    }

    impl Store {
        fn object(&mut self) -> ObjectKey {
            self.next += 1;
            ObjectKey::new(format!("parts/t/0/{}", self.next)).expect("valid")
        }

        /// Parts of so many bytes of data, uploaded together.
        fn upload(&mut self, data: &[u64]) {
            let staged: Vec<StagedPart> = data
                .iter()
                .map(|bytes| {
                    self.next += 1;
                    let files = [("data.bin", *bytes), ("data.cmrk4", 100), ("count.txt", 10), ("checksums.txt", 300)];
                    let file =
                        |(path, bytes): (&str, u64)| StagedFile { path: path.into(), blob: BlobId::random(), bytes };
                    let part = PartPath::new(format!("all_{0}_{0}_0", self.next)).expect("valid");
                    let files = files.map(file).into();
                    StagedPart { shard: shard(), part, age: OLD, is_leaving: false, files }
                })
                .collect();
            for part in &staged {
                let number = part.part.as_str().split('_').nth(1).and_then(|n| n.parse().ok()).expect("a number");
                let stored = StoredPart { part: part.part.clone(), age: OLD, is_active: true, files: Vec::new() };
                self.parts.insert(number, stored);
            }
            self.store(&staged);
        }

        fn store(&mut self, staged: &[StagedPart]) {
            for packed in pack(staged) {
                let object = self.object();
                self.written += packed.bytes();
                self.sizes.insert(object.clone(), packed.bytes());
                for placed in &packed.files {
                    let part = &staged[placed.part];
                    let file = part.files.iter().find(|file| file.blob == placed.blob).expect("its part has it");
                    let all = self.parts.values_mut().find(|stored| stored.part == part.part).expect("it is there");
                    all.files.retain(|there| there.blob != file.blob);
                    let (path, blob, bytes) = (file.path.clone(), file.blob, file.bytes);
                    let object = object.clone();
                    let (offset, crc32c) = (placed.offset, 0);
                    let (is_linked, is_shared) = (false, false);
                    all.files.push(StoredFile { path, blob, bytes, object, offset, crc32c, is_linked, is_shared });
                }
            }
            let live: BTreeSet<&ObjectKey> = self.parts.values().flat_map(|p| &p.files).map(|f| &f.object).collect();
            self.sizes.retain(|object, _| live.contains(object));
        }

        fn drop_part(&mut self, nth: usize) {
            if let Some(number) = self.parts.keys().nth(nth % self.parts.len().max(1)).copied() {
                self.parts.remove(&number);
                self.store(&[]);
            }
        }

        fn choose(&self) -> Option<Choice> {
            choose(self.parts.values(), &self.sizes)
        }

        /// Until nothing is left to do.
        fn repack(&mut self) {
            let mut rounds = 0;
            while let Some(choice) = self.choose() {
                let mut picked = Picked::default();
                self.parts.values().for_each(|part| choice.pick(shard(), part, &mut picked));
                rounds += 1;
                assert!(!picked.parts.is_empty() && rounds < 1_000, "it never ends: {choice:?}");
                self.store(&picked.parts);
            }
        }

        fn live_bytes(&self) -> u64 {
            self.parts.values().flat_map(|part| &part.files).map(|file| file.bytes).sum()
        }

        /// Objects that opening every part reads.
        fn head_objects(&self) -> usize {
            let files = self.parts.values().flat_map(|part| &part.files).filter(|file| is_head(&file.path));
            files.map(|file| &file.object).collect::<BTreeSet<_>>().len()
        }
    }

    #[test]
    fn a_thousand_parts_uploaded_one_by_one_open_with_few_requests() {
        let mut store = Store::default();
        for _ in 0..1_000 {
            store.upload(&[5_000]);
            // As they come, not once at the end: that is the expensive way.
            store.repack();
        }
        assert!(store.head_objects() <= 50, "{}", store.head_objects());
        let heads = 1_000 * 410;
        assert!(store.written < store.live_bytes() + 6 * heads, "each head is moved few times: {}", store.written);
    }

    #[test]
    fn young_and_shared_files_stay_where_they_are() {
        let mut store = Store::default();
        store.upload(&[1_000, 9_000]);
        store.drop_part(1);
        let mut parts: Vec<StoredPart> = store.parts.values().cloned().collect();
        let reason = |parts: &[StoredPart]| choose(parts.iter(), &store.sizes).map(|choice| choice.reason);
        assert_eq!(reason(&parts), Some(Reason::MostlyDead));
        parts[0].age = OLD / 2;
        assert_eq!(reason(&parts), None);
        parts[0].age = OLD;
        parts[0].files[0].is_shared = true;
        assert_eq!(reason(&parts), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever is uploaded and merged away: the objects take at most twice the live bytes, and their number is bounded.
        #[test]
        fn garbage_and_scatter_are_bounded(
            steps in prop::collection::vec((prop::collection::vec(0..200_000_u64, 1..6), 0..5_usize, any::<usize>()), 1..80)
        ) {
            let mut store = Store::default();
            for (data, drops, which) in steps {
                store.upload(&data);
                (0..drops).for_each(|n| store.drop_part(which.wrapping_add(n * 7)));
                store.repack();
                let bytes: u64 = store.sizes.values().sum();
                prop_assert!(bytes <= 2 * store.live_bytes(), "{bytes} of {}", store.live_bytes());
                prop_assert!(store.head_objects() < limits::LARGE_HOLDERS + limits::SMALL_HOLDERS);
            }
        }
    }
}
