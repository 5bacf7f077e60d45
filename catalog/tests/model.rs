//! Random commands against a plain reference: several groups, tables and shards; moves, relocations, drops, doomed objects,
//! files beside the parts, and blobs that are hard-linked over parts and tables.
//!
//! The reference is maps and loops and knows nothing of plans, records or counts. After each command: it was accepted exactly if
//! the reference accepts it, the whole state is what the reference has, what was written loads to the same state, and a reader
//! who applies the changes has the same parts.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use moorhouse_catalog::state::{Applied, Catalog, CatalogError, Command, CommitParts, CompleteMove, LISTS, Limits};
use moorhouse_catalog::*;
use proptest::prelude::*;
use uuid::Uuid;

const NODES: [(&str, &str); 4] = [("a", "etl"), ("b", "etl"), ("c", "etl"), ("r", "bi")];
const GROUPS: [&str; 2] = ["etl", "bi"];
const SHARDS: u16 = 2;
const TABLES: usize = 3;
const OBJECTS: u8 = 4;

/// Where something is done: which of the tables, which shard, by which node.
#[derive(Debug, Clone, Copy)]
struct Place {
    table: usize,
    shard: u16,
    by: usize,
    /// How far the writer's epoch lags.
    stale: u64,
}

#[derive(Debug, Clone)]
enum Op {
    Register(usize),
    /// A part of one new blob and, if there is one, a linked file of the table shard that is named.
    Insert {
        at: Place,
        block: u8,
        link: Option<(usize, u16)>,
    },
    Merge(Place),
    Remove {
        at: Place,
        pick: usize,
    },
    /// All files of a part go to an object; few keys, so that some are doomed and some shared.
    Upload {
        at: Place,
        pick: usize,
        object: u8,
    },
    Inode {
        at: Place,
        name: u8,
        content: Option<u8>,
    },
    Begin {
        group: usize,
        shard: u16,
        to: usize,
    },
    Complete {
        group: usize,
        shard: u16,
        stale: u64,
        with_all: bool,
    },
    Cancel {
        group: usize,
        shard: u16,
    },
    Leave(usize),
    Drop(usize),
    Create {
        table: usize,
        owner: usize,
    },
    Forget(u8),
}

fn place() -> impl Strategy<Value = Place> {
    let stale = prop_oneof![8 => Just(0u64), 1 => Just(1u64)];
    (0..TABLES, 0..SHARDS, 0..NODES.len(), stale).prop_map(|(table, shard, by, stale)| Place {
        table,
        shard,
        by,
        stale,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let link = prop::option::weighted(0.4, (0..TABLES, 0..SHARDS));
    prop_oneof![
        1 => (0..NODES.len()).prop_map(Op::Register),
        8 => (place(), 1..9u8, link).prop_map(|(at, block, link)| Op::Insert { at, block, link }),
        3 => place().prop_map(Op::Merge),
        3 => (place(), 0..4usize).prop_map(|(at, pick)| Op::Remove { at, pick }),
        5 => (place(), 0..4usize, 0..OBJECTS).prop_map(|(at, pick, object)| Op::Upload { at, pick, object }),
        2 => (place(), 0..3u8, prop::option::of(any::<u8>())).prop_map(|(at, name, content)| Op::Inode { at, name, content }),
        2 => (0..GROUPS.len(), 0..SHARDS, 0..NODES.len()).prop_map(|(group, shard, to)| Op::Begin { group, shard, to }),
        2 => (0..GROUPS.len(), 0..SHARDS, prop_oneof![6 => Just(0u64), 1 => Just(1u64)], prop::bool::weighted(0.8))
            .prop_map(|(group, shard, stale, with_all)| Op::Complete { group, shard, stale, with_all }),
        1 => (0..GROUPS.len(), 0..SHARDS).prop_map(|(group, shard)| Op::Cancel { group, shard }),
        1 => (0..NODES.len()).prop_map(Op::Leave),
        1 => (0..TABLES).prop_map(Op::Drop),
        2 => (0..TABLES, 0..GROUPS.len()).prop_map(|(table, owner)| Op::Create { table, owner }),
        2 => (0..OBJECTS).prop_map(Op::Forget),
    ]
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Home {
    Staged(usize),
    Stored(u8),
}

/// Blob and home of each file, in order of their names.
type Files = Vec<(u128, Home)>;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Content {
    /// By first block, last block and level.
    parts: BTreeMap<(u8, u8, u32), Files>,
    inodes: BTreeMap<u8, u8>,
}

#[derive(Debug, Clone)]
struct Held {
    node: usize,
    epoch: u64,
    moving: Option<usize>,
}

#[derive(Debug, Default, Clone)]
struct Reference {
    /// Number of the newest process of each node.
    runs: BTreeMap<usize, u64>,
    held: BTreeMap<(usize, u16), Held>,
    /// Number of the table that has the name now, and its owner.
    tables: BTreeMap<usize, (u128, usize)>,
    contents: BTreeMap<(u128, u16), Content>,
    doomed: BTreeSet<u8>,
}

impl Reference {
    fn referenced(&self) -> BTreeSet<u8> {
        let files = self.contents.values().flat_map(|content| content.parts.values()).flatten();
        files.filter_map(|(_, home)| if let Home::Stored(object) = home { Some(*object) } else { None }).collect()
    }

    /// What nothing refers to any more, of that to which something referred or that was spoken of, is to be deleted.
    fn doom(&mut self, before: &BTreeSet<u8>, spoken_of: &[u8]) {
        let now = self.referenced();
        self.doomed.extend(before.iter().chain(spoken_of).filter(|object| !now.contains(object)));
    }

    /// Other tables in which a blob is still staged have it in the object, too: the node lets go of its bytes.
    fn store_elsewhere(&mut self, blobs: &[u128], number: u8) {
        for content in self.contents.values_mut() {
            for blob in blobs {
                let having = |(other, _): &&mut (u128, Home)| other == blob;
                let mut files = content.parts.values_mut().flatten();
                if files.any(|(other, home)| other == blob && matches!(home, Home::Staged(_))) {
                    let files = content.parts.values_mut().flatten().filter(having);
                    files.for_each(|(_, home)| *home = Home::Stored(number));
                }
            }
        }
    }

    fn may_write(&self, at: Place) -> bool {
        let Some((_, owner)) = self.tables.get(&at.table) else { return false };
        let held = self.held.get(&(*owner, at.shard));
        self.runs.contains_key(&at.by) && at.stale == 0 && held.is_some_and(|held| held.node == at.by)
    }

    fn content(&mut self, at: Place) -> Option<&mut Content> {
        let (table, _) = self.tables.get(&at.table)?;
        Some(self.contents.entry((*table, at.shard)).or_default())
    }
}

fn covers(a: (u8, u8, u32), b: (u8, u8, u32)) -> bool {
    a == b || (a.0 <= b.0 && b.1 <= a.1 && a.2 > b.2)
}

fn active(content: &Content) -> Vec<(u8, u8, u32)> {
    let names = content.parts.keys();
    names.clone().filter(|name| !names.clone().any(|other| other != *name && covers(*other, **name))).copied().collect()
}

fn group_of(node: usize) -> usize {
    GROUPS.iter().position(|group| *group == NODES[node].1).expect("a known group")
}
fn node(index: usize) -> NodeName {
    NodeName::new(NODES[index].0).expect("valid")
}
fn group(index: usize) -> GroupName {
    GroupName::new(GROUPS[index]).expect("valid")
}
fn sql(name: &str) -> SqlName {
    SqlName::new(name).expect("valid")
}
/// Some belong to the first tables, the others to none.
fn object(number: u8) -> ObjectKey {
    match number % 2 {
        0 => ObjectKey::new(format!("objects/{number}")).expect("valid"),
        _ => {
            let home = TableShard { table: TableId(Uuid::from_u128(100 + u128::from(number))), shard: ShardId(0) };
            minted::mint(home, 1, Uuid::from_u128(number.into())).expect("valid")
        }
    }
}
fn blob(number: u128) -> BlobId {
    BlobId(Uuid::from_u128(number))
}
fn inode_path(name: u8) -> FilePath {
    FilePath::new(format!("mutation_{name}.txt")).expect("valid")
}
fn part_path((first, last, level): (u8, u8, u32)) -> PartPath {
    PartPath::new(format!("all_{first}_{last}_{level}")).expect("valid")
}

fn location(home: &Home) -> Location {
    match home {
        Home::Staged(on) => Location::Staged { node: node(*on) },
        Home::Stored(number) => Location::Stored { object: object(*number), offset: 0, crc32c: 7 },
    }
}

fn manifest(name: (u8, u8, u32), files: &Files) -> Manifest {
    let file = |(index, (number, home)): (usize, &(u128, Home))| FileEntry {
        path: FilePath::new(format!("{index}.bin")).expect("valid"),
        blob: blob(*number),
        bytes: 10,
        location: location(home),
    };
    Manifest {
        part: part_path(name),
        rows: 1,
        committed_ms: 5,
        files: files.iter().enumerate().map(file).collect(),
        copies: Vec::new(),
    }
}

/// A reader of one table shard: what the changes made of what it had.
#[derive(Debug, Clone)]
struct Reader {
    version: Version,
    parts: BTreeMap<PartPath, Manifest>,
    inodes: BTreeMap<FilePath, Vec<u8>>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { version: Version(0), parts: BTreeMap::new(), inodes: BTreeMap::new() }
    }
}

impl Reader {
    fn apply(&mut self, version: Version, change: &PartChange) {
        change.removed.iter().for_each(|path| drop(self.parts.remove(path)));
        self.parts.extend(change.added.iter().map(|part| (part.part.clone(), part.clone())));
        let places: BTreeMap<BlobId, &Location> = change.relocated.iter().map(|r| (r.blob, &r.location)).collect();
        for file in self.parts.values_mut().flat_map(|part| &mut part.files) {
            if let Some(place) = places.get(&file.blob) {
                file.location = Location::clone(place);
            }
        }
        change.inodes_removed.iter().for_each(|path| drop(self.inodes.remove(path)));
        self.inodes.extend(change.inodes_put.iter().map(|inode| (inode.path.clone(), inode.content.clone())));
        self.version = version;
    }
}

struct World {
    catalog: Catalog,
    /// The same, but for part lists that it has left in the store.
    lazy: Catalog,
    commands: usize,
    stored: BTreeMap<Vec<u8>, Vec<u8>>,
    reference: Reference,
    /// Every change as it came.
    readers: BTreeMap<TableShard, Reader>,
    /// The same, some commands ago: it must catch up in one step.
    lagging: BTreeMap<TableShard, Reader>,
    next: u128,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            catalog: Catalog::empty(Limits::default()),
            lazy: Catalog::empty(Limits::default()),
            commands: 0,
            stored: BTreeMap::new(),
            reference: Reference::default(),
            readers: BTreeMap::new(),
            lagging: BTreeMap::new(),
            next: 100,
        };
        let warehouse = Warehouse {
            id: WarehouseId(Uuid::from_u128(1)),
            shards: ShardCount::new(SHARDS).expect("valid"),
            objects_url: "file:///x".to_owned(),
            cluster_secret: "s".to_owned().into(),
            engine_admin_password: "p".to_owned().into(),
            users: Vec::new(),
        };
        world.must(Command::CreateWarehouse(warehouse));
        (0..GROUPS.len()).for_each(|index| world.must(Command::CreateGroup(group(index))));
        (0..NODES.len()).for_each(|index| world.run(&Op::Register(index)));
        world.run(&Op::Create { table: 0, owner: 0 });
        world.run(&Op::Create { table: 1, owner: 0 });
        world.run(&Op::Create { table: 2, owner: 1 });
        world
    }

    fn apply(&mut self, command: Command) -> Result<(), CatalogError> {
        let before = self.catalog.clone();
        let lazily = self.apply_lazily(&command);
        let applied = match self.catalog.apply(command, 1_000) {
            Ok(applied) => applied,
            Err(error) => {
                assert_eq!(before, self.catalog, "what is refused changes nothing");
                assert_eq!(lazily.map(|lazily| lazily.reply), Err(error.clone()), "loading makes no difference");
                return Err(error);
            }
        };
        let lazily = lazily.expect("loading makes no difference");
        assert_eq!((lazily.writes, lazily.changes), (applied.writes.clone(), applied.changes.clone()));
        for write in applied.writes {
            match write {
                moorhouse_catalog::entry::Write::Put { key, value } => drop(self.stored.insert(key, value)),
                moorhouse_catalog::entry::Write::Delete { key } => drop(self.stored.remove(&key)),
            }
        }
        for (at, version, change) in applied.changes {
            let reader = self.readers.entry(at).or_default();
            assert_eq!(version, reader.version.next(), "a changelog has no gap");
            reader.apply(version, &change);
        }
        Ok(())
    }

    /// By a catalog that has dropped some of its part lists, and reads those that it needs from the store.
    fn apply_lazily(&mut self, command: &Command) -> Result<Applied, CatalogError> {
        self.commands += 1;
        let lists: Vec<TableShard> = self.lazy.shards().keys().copied().collect();
        for (number, at) in lists.into_iter().enumerate() {
            if !(self.commands + number).is_multiple_of(3) {
                self.lazy.drop_list(at);
            }
        }
        loop {
            let needed = match self.lazy.apply(command.clone(), 1_000) {
                Err(CatalogError::NotLoaded(needed)) => needed.0,
                other => return other,
            };
            assert!(needed.iter().any(|at| self.lazy.seed(*at).is_some()), "something was missing");
            for at in needed {
                let Some(seed) = self.lazy.seed(at) else { continue };
                let below = |key: &[u8]| seed.prefixes().iter().any(|prefix| key.starts_with(prefix));
                let records = self.stored.iter().filter(|(key, _)| below(key));
                let records: Vec<(&[u8], &[u8])> = records.map(|(k, v)| (k.as_slice(), v.as_slice())).collect();
                let list = seed.read(records).expect("it reads what was written");
                self.lazy.install(list);
            }
        }
    }

    fn must(&mut self, command: Command) {
        self.apply(command.clone()).unwrap_or_else(|error| panic!("{command:?}: {error}"));
    }

    /// The catalog accepts it exactly if the reference does. A bug found by an invariant is never a refusal.
    fn expect(&mut self, accepted: bool, command: Command) {
        match self.apply(command.clone()) {
            Ok(()) => assert!(accepted, "the reference refuses {command:?}"),
            Err(CatalogError::Violated(violation)) => panic!("{command:?}: {violation}"),
            Err(error) => assert!(!accepted, "the reference accepts {command:?}: {error}"),
        }
    }

    fn fresh(&mut self) -> u128 {
        self.next += 1;
        self.next
    }

    fn commit(&mut self, accepted: bool, at: Place, change: PartChange) {
        let Some((table, owner)) = self.reference.tables.get(&at.table).copied() else { return };
        let held = self.reference.held.get(&(owner, at.shard));
        let command = Command::CommitParts(CommitParts {
            node: node(at.by),
            incarnation: Incarnation(self.reference.runs.get(&at.by).copied().unwrap_or(0)),
            epoch: Epoch(held.map_or(0, |held| held.epoch) - at.stale.min(held.map_or(0, |held| held.epoch))),
            at: TableShard { table: TableId(Uuid::from_u128(table)), shard: ShardId(at.shard) },
            change,
            token: None,
        });
        self.expect(accepted, command);
    }

    fn run(&mut self, op: &Op) {
        let referenced = self.reference.referenced();
        let mut spoken_of = Vec::new();
        match *op {
            Op::Register(index) => self.register(index),
            Op::Insert { at, block, link } => self.insert(at, block, link, &mut spoken_of),
            Op::Merge(at) => self.merge(at, &mut spoken_of),
            Op::Remove { at, pick } => self.remove(at, pick),
            Op::Upload { at, pick, object } => self.upload(at, pick, object, &mut spoken_of),
            Op::Inode { at, name, content } => self.inode(at, name, content),
            Op::Begin { group, shard, to } => self.begin(group, shard, to),
            Op::Complete { group, shard, stale, with_all } => self.complete(group, shard, stale, with_all),
            Op::Cancel { group: index, shard } => {
                let held = self.reference.held.get_mut(&(index, shard));
                let known = held.map(|held| held.moving = None).is_some();
                self.expect(known, Command::CancelMove { group: group(index), shard: ShardId(shard) });
            }
            Op::Leave(index) => self.leave(index),
            Op::Drop(index) => self.drop_table(index),
            Op::Create { table, owner } => self.create(table, owner),
            Op::Forget(number) => {
                self.reference.doomed.remove(&number);
                self.must(Command::ForgetDoomed(vec![object(number)]));
            }
        }
        self.reference.doom(&referenced, &spoken_of);
    }

    fn register(&mut self, index: usize) {
        let (name, own) = (node(index), group_of(index));
        *self.reference.runs.entry(index).or_insert(0) += 1;
        for held in self.reference.held.values_mut() {
            if held.node == index {
                held.epoch += 1;
                held.moving = None;
            } else if held.moving == Some(index) {
                held.moving = None;
            }
        }
        for shard in 0..SHARDS {
            self.reference.held.entry((own, shard)).or_insert(Held { node: index, epoch: 1, moving: None });
        }
        self.must(Command::RegisterNode(Node {
            name,
            group: group(own),
            agent_address: format!("{index}:1"),
            engine_http: format!("{index}:2"),
            engine_native: format!("{index}:3"),
            incarnation: Incarnation(0),
            draining: false,
        }));
    }

    /// Asks for a part, and has it in the reference if it may be.
    fn add(&mut self, at: Place, name: (u8, u8, u32), asked: Files, spoken_of: &mut Vec<u8>) {
        let may = self.reference.may_write(at);
        let Some(content) = self.reference.content(at) else { return };
        let covered = content.parts.keys().any(|other| *other != name && covers(*other, name));
        let accepted = may && !covered;
        if accepted {
            let mut by_name: Vec<_> = content.parts.iter().collect();
            by_name.sort_by_key(|(name, _)| part_path(**name));
            let known: Files = by_name.into_iter().flat_map(|(_, files)| files.clone()).collect();
            // What is stored here already does not become staged again.
            let home = |(blob, home): &(u128, Home)| {
                let stored = known.iter().rfind(|(b, home)| b == blob && matches!(home, Home::Stored(_)));
                let staged = matches!(home, Home::Staged(_));
                (*blob, stored.filter(|_| staged).map_or_else(|| home.clone(), |(_, stored)| stored.clone()))
            };
            content.parts.insert(name, asked.iter().map(home).collect());
            spoken_of.extend(asked.iter().filter_map(|(_, home)| match home {
                Home::Stored(object) => Some(*object),
                Home::Staged(_) => None,
            }));
        }
        let added = vec![manifest(name, &asked)];
        self.commit(accepted, at, PartChange { added, ..PartChange::default() });
    }

    fn insert(&mut self, at: Place, block: u8, link: Option<(usize, u16)>, spoken_of: &mut Vec<u8>) {
        let linked = link.and_then(|(table, shard)| {
            let (id, _) = self.reference.tables.get(&table)?;
            let content = self.reference.contents.get(&(*id, shard))?;
            content.parts.values().next_back()?.first().cloned()
        });
        let own = (self.fresh(), Home::Staged(at.by));
        self.add(at, (block, block, 0), std::iter::once(own).chain(linked).collect(), spoken_of);
    }

    fn merge(&mut self, at: Place, spoken_of: &mut Vec<u8>) {
        let Some(content) = self.reference.content(at) else { return };
        let active = active(content);
        let (Some(first), Some(last)) = (active.first(), active.iter().max_by_key(|name| name.1)) else { return };
        let level = active.iter().map(|name| name.2).max().unwrap_or(0) + 1;
        let name = (first.0, last.1, level);
        let linked = content.parts[first].first().cloned();
        let own = (self.fresh(), Home::Staged(at.by));
        self.add(at, name, std::iter::once(own).chain(linked).collect(), spoken_of);
    }

    fn remove(&mut self, at: Place, pick: usize) {
        let may = self.reference.may_write(at);
        let Some(content) = self.reference.content(at) else { return };
        let Some(name) = content.parts.keys().nth(pick).copied() else { return };
        if may {
            content.parts.remove(&name);
        }
        self.commit(may, at, PartChange { removed: vec![part_path(name)], ..PartChange::default() });
    }

    fn upload(&mut self, at: Place, pick: usize, number: u8, spoken_of: &mut Vec<u8>) {
        let accepted = self.reference.may_write(at) && !self.reference.doomed.contains(&number);
        let Some(content) = self.reference.content(at) else { return };
        let Some(blobs) = content.parts.values().nth(pick).map(|files| files.iter().map(|f| f.0).collect::<Vec<_>>())
        else {
            return;
        };
        if accepted {
            let files = content.parts.values_mut().flatten();
            files.filter(|(blob, _)| blobs.contains(blob)).for_each(|(_, home)| *home = Home::Stored(number));
            self.reference.store_elsewhere(&blobs, number);
            spoken_of.push(number);
        }
        let place = |number_of_blob: &u128| Relocation {
            blob: blob(*number_of_blob),
            location: location(&Home::Stored(number)),
        };
        let relocated = blobs.iter().map(place).collect();
        self.commit(accepted, at, PartChange { relocated, ..PartChange::default() });
    }

    fn inode(&mut self, at: Place, name: u8, content: Option<u8>) {
        let may = self.reference.may_write(at);
        let Some(known) = self.reference.content(at) else { return };
        let path = inode_path(name);
        let change = match content {
            Some(byte) => PartChange { inodes_put: vec![Inode { path, content: vec![byte] }], ..PartChange::default() },
            None => PartChange { inodes_removed: vec![path], ..PartChange::default() },
        };
        if may {
            match content {
                Some(byte) => drop(known.inodes.insert(name, byte)),
                None => drop(known.inodes.remove(&name)),
            }
        }
        self.commit(may, at, change);
    }

    fn begin(&mut self, index: usize, shard: u16, to: usize) {
        let fit = self.reference.runs.contains_key(&to) && group_of(to) == index;
        let held = self.reference.held.get_mut(&(index, shard));
        let accepted = held.is_some_and(|held| {
            let may = fit && held.node != to && held.moving.is_none();
            if may {
                held.moving = Some(to);
            }
            may
        });
        self.expect(accepted, Command::BeginMove { group: group(index), shard: ShardId(shard), to: node(to) });
    }

    fn complete(&mut self, index: usize, shard: u16, stale: u64, with_all: bool) {
        let Some(held) = self.reference.held.get(&(index, shard)).cloned() else { return };
        let owned = |reference: &Reference| -> Vec<u128> {
            reference.tables.values().filter(|(_, owner)| *owner == index).map(|(id, _)| *id).collect()
        };
        let tables = owned(&self.reference);
        let mut after = self.reference.contents.clone();
        let mut copied = HashSet::new();
        let mut whole = true;
        for (_, content) in after.iter_mut().filter(|((table, s), _)| *s == shard && tables.contains(table)) {
            let live = active(content);
            let staged = |files: &Files| files.iter().any(|(_, home)| matches!(home, Home::Staged(_)));
            content.parts.retain(|name, files| live.contains(name) || !staged(files));
            for (number, home) in content.parts.values_mut().flatten() {
                if let (Home::Staged(on), Some(to)) = (&*home, held.moving)
                    && *on != to
                {
                    whole &= with_all;
                    copied.insert(blob(*number));
                    *home = Home::Staged(to);
                }
            }
        }
        let accepted = held.moving.is_some() && stale == 0 && whole;
        if let (true, Some(to)) = (accepted, held.moving) {
            self.reference.contents = after;
            self.reference.held.insert((index, shard), Held { node: to, epoch: held.epoch + 1, moving: None });
        }
        let blobs = if with_all { copied } else { HashSet::new() };
        let epoch = Epoch(held.epoch - stale.min(held.epoch));
        let complete = CompleteMove { group: group(index), shard: ShardId(shard), epoch, blobs };
        self.expect(accepted, Command::CompleteMove(complete));
    }

    /// Drains and removes a node, or leaves it as it was.
    fn leave(&mut self, index: usize) {
        if !self.reference.runs.contains_key(&index) {
            return;
        }
        let used = |held: &Held| held.node == index || held.moving == Some(index);
        let files = self.reference.contents.values().flat_map(|content| content.parts.values()).flatten();
        let staged = files.into_iter().any(|(_, home)| *home == Home::Staged(index));
        let accepted = !staged && !self.reference.held.values().any(used);
        self.must(Command::SetDraining { node: node(index), draining: true });
        self.expect(accepted, Command::RemoveNode(node(index)));
        if accepted {
            self.reference.runs.remove(&index);
        } else {
            self.must(Command::SetDraining { node: node(index), draining: false });
        }
    }

    fn drop_table(&mut self, index: usize) {
        let command =
            Command::DropTable { database: sql("default"), name: sql(&format!("t{index}")), if_exists: false };
        let dropped = self.reference.tables.remove(&index);
        if let Some((id, _)) = dropped {
            self.reference.contents.retain(|(table, _), _| *table != id);
            self.readers.retain(|at, _| at.table != TableId(Uuid::from_u128(id)));
            self.lagging.retain(|at, _| at.table != TableId(Uuid::from_u128(id)));
        }
        self.expect(dropped.is_some(), command);
        while self.catalog.leaving() > 0 {
            self.must(Command::ClearLeaving);
        }
    }

    fn create(&mut self, index: usize, owner: usize) {
        let id = self.fresh();
        let table = Table {
            id: TableId(Uuid::from_u128(id)),
            database: sql("default"),
            name: sql(&format!("t{index}")),
            physical: format!("t{index}_{id}"),
            owner: group(owner),
            columns: "(`a` UInt64)".to_owned(),
            engine: "MergeTree".to_owned(),
            engine_full: "MergeTree ORDER BY a".to_owned(),
            comment: String::new(),
            sharding_key: "rand()".to_owned(),
            state: TableState::Creating,
            ddl_seq: DdlSeq(1),
            storage: TableStorage::default(),
        };
        let free = !self.reference.tables.contains_key(&index);
        self.expect(free, Command::CreateTable { table: Box::new(table), if_not_exists: false });
        if free {
            self.reference.tables.insert(index, (id, owner));
            self.must(Command::ActivateTable(TableId(Uuid::from_u128(id))));
        }
    }

    /// Everything that the catalog has, against the reference, the store and the readers.
    fn check(&self) {
        moorhouse_catalog::invariants::check_all(&self.catalog).expect("the state is sound");
        let records = self.stored.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
        let loaded = Catalog::load(Limits::default(), records).expect("loads what it wrote");
        assert_eq!(loaded, self.catalog, "a later leader finds the same");
        let is_small = |key: &[u8]| !LISTS.iter().any(|list| key.starts_with(list));
        let small = self.stored.iter().filter(|(key, _)| is_small(key)).map(|(k, v)| (k.as_slice(), v.as_slice()));
        let heads = Catalog::load_without_lists(Limits::default(), small).expect("loads without its lists");
        let mut lazy = self.lazy.clone();
        let lists: Vec<TableShard> = lazy.shards().keys().copied().collect();
        for at in lists {
            lazy.drop_list(at);
        }
        assert_eq!(heads, lazy, "a later leader begins with what a lazy one keeps");
        let doomed: BTreeSet<ObjectKey> = self.reference.doomed.iter().map(|number| object(*number)).collect();
        assert_eq!(self.catalog.doomed().keys().cloned().collect::<BTreeSet<_>>(), doomed);
        for (&(index, shard), held) in &self.reference.held {
            let assignment = self.catalog.directory().assignment(&group(index), ShardId(shard)).expect("held");
            assert_eq!(assignment.node, node(held.node));
            assert_eq!(assignment.epoch, Epoch(held.epoch));
            assert_eq!(assignment.moving.as_ref().map(|intent| intent.to.clone()), held.moving.map(node));
        }
        for (id, _) in self.reference.tables.values() {
            (0..SHARDS).for_each(|shard| self.check_shard(*id, shard));
        }
    }

    fn check_shard(&self, table: u128, shard: u16) {
        let at = TableShard { table: TableId(Uuid::from_u128(table)), shard: ShardId(shard) };
        let content = self.reference.contents.get(&(table, shard)).cloned().unwrap_or_default();
        let there = self.catalog.shard(at).expect("a known table");
        let parts: BTreeMap<PartPath, Manifest> = there.manifests(at).map(|part| (part.part.clone(), part)).collect();
        let expected = content.parts.iter().map(|(name, files)| (part_path(*name), manifest(*name, files))).collect();
        assert_eq!(parts, expected, "the parts of {at}");
        let inodes: BTreeMap<FilePath, Vec<u8>> =
            there.inodes.values().map(|inode| (inode.path.clone(), inode.content.clone())).collect();
        let expected = content.inodes.iter().map(|(name, byte)| (inode_path(*name), vec![*byte])).collect();
        assert_eq!(inodes, expected, "the files of {at}");
        let reader = self.readers.get(&at).cloned().unwrap_or_default();
        assert_eq!(
            (reader.version, &reader.parts, &reader.inodes),
            (there.version, &parts, &inodes),
            "a reader of {at}"
        );
        let mut lagging = self.lagging.get(&at).cloned().unwrap_or_default();
        let (version, change) = self.catalog.changes_since(at, lagging.version).expect("it reaches back so far");
        lagging.apply(version, &change);
        assert_eq!(
            (lagging.version, lagging.parts, lagging.inodes),
            (there.version, parts, inodes),
            "catching up {at}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]
    #[test]
    fn the_catalog_is_what_the_reference_is(ops in proptest::collection::vec(op(), 1..50)) {
        let mut world = World::new();
        for (number, op) in ops.iter().enumerate() {
            world.run(op);
            world.check();
            if number % 7 == 0 {
                world.lagging = world.readers.clone();
            }
        }
    }
}
