//! Two tables of one shard whose parts share blobs, as REPLACE PARTITION and its like leave them, against what must hold
//! whatever happens: a blob is in one place for everybody, and an object that a part names is not doomed.

use proptest::prelude::*;

use super::*;

/// What an agent does; numbers choose among what is there.
#[derive(Debug, Clone)]
enum Op {
    /// A new part of a table, with new staged blobs.
    Add(usize),
    /// The other table gets a part with the blobs of one of this table's, where they are by now.
    Share(usize, usize),
    /// A part's staged blobs are in the object store.
    Store(usize, usize),
    Remove(usize, usize),
    /// The table goes with all its parts, and comes back empty.
    Drop(usize),
    Move,
}

fn op() -> impl Strategy<Value = Op> {
    let table = 0..2usize;
    prop_oneof![
        3 => table.clone().prop_map(Op::Add),
        3 => (table.clone(), any::<usize>()).prop_map(|(t, n)| Op::Share(t, n)),
        3 => (table.clone(), any::<usize>()).prop_map(|(t, n)| Op::Store(t, n)),
        2 => (table.clone(), any::<usize>()).prop_map(|(t, n)| Op::Remove(t, n)),
        1 => table.prop_map(Op::Drop),
        1 => Just(Op::Move),
    ]
}

/// An agent that is always in step with the catalog.
struct Agent {
    world: World,
    /// Ids of the two tables: a dropped one comes back under another.
    tables: [u128; 2],
    next: u128,
}

impl Agent {
    fn new() -> Self {
        let mut world = World::new();
        world.must(create_table("u", 2));
        Self { world, tables: [1, 2], next: 100 }
    }

    fn number(&mut self) -> u128 {
        self.next += 1;
        self.next
    }

    fn at(&self, table: usize) -> TableShard {
        TableShard { table: TableId(Uuid::from_u128(self.tables[table])), shard: ShardId(0) }
    }

    fn holder(&self) -> NodeName {
        self.world.catalog.directory().assignment(&group("etl"), ShardId(0)).expect("given out").node.clone()
    }

    fn part(&self, table: usize, choice: usize) -> Option<Manifest> {
        let at = self.at(table);
        let parts: Vec<Manifest> = self.world.catalog.shard(at).expect("known").manifests(at).collect();
        parts.get(choice.checked_rem(parts.len())?).cloned()
    }

    fn commit(&mut self, table: usize, change: PartChange) {
        let at = self.at(table);
        let assignment =
            self.world.catalog.directory().assignment(&group("etl"), ShardId(0)).expect("given out").clone();
        let incarnation = self.world.catalog.directory().nodes[&assignment.node].incarnation;
        let commit =
            CommitParts { node: assignment.node, incarnation, epoch: assignment.epoch, at, change, token: None };
        self.world.must(Command::CommitParts(commit));
    }

    fn add(&mut self, table: usize, files: Vec<FileEntry>) {
        let number = self.number();
        let manifest = Manifest { files, ..part(&format!("all_{number}_{number}_0"), &[]) };
        self.commit(table, PartChange { added: vec![manifest], ..PartChange::default() });
    }

    fn perform(&mut self, op: &Op) {
        match *op {
            Op::Add(table) => {
                let place = Location::Staged { node: self.holder() };
                let files = part("all_1_1_0", &[(self.number(), place.clone()), (self.number(), place)]).files;
                self.add(table, files);
            }
            Op::Share(table, choice) => {
                let Some(shared) = self.part(table, choice) else { return };
                self.add(1 - table, shared.files);
            }
            Op::Store(table, choice) => {
                let Some(settled) = self.part(table, choice) else { return };
                let place = stored(&format!("o{}", self.number()));
                let staged = settled.files.iter().filter(|file| matches!(file.location, Location::Staged { .. }));
                let relocated = staged.map(|file| Relocation { blob: file.blob, location: place.clone() }).collect();
                self.commit(table, PartChange { relocated, ..PartChange::default() });
            }
            Op::Remove(table, choice) => {
                let Some(gone) = self.part(table, choice) else { return };
                self.commit(table, PartChange { removed: vec![gone.part], ..PartChange::default() });
            }
            Op::Drop(table) => {
                let name = ["t", "u"][table];
                self.world.must(Command::DropTable { database: sql("default"), name: sql(name), if_exists: false });
                self.world.clear_leaving();
                self.tables[table] = self.number();
                self.world.must(create_table(name, self.tables[table]));
            }
            Op::Move => self.relocate_shard(),
        }
    }

    fn relocate_shard(&mut self) {
        let to = if self.holder() == node("a") { node("b") } else { node("a") };
        self.world.must(Command::BeginMove { group: group("etl"), shard: ShardId(0), to: to.clone() });
        let epoch = self.world.catalog.directory().assignment(&group("etl"), ShardId(0)).expect("given out").epoch;
        let files = self.manifests().into_iter().flat_map(|part| part.files);
        let blobs = files.map(|file| file.blob).collect();
        let complete = CompleteMove { group: group("etl"), shard: ShardId(0), epoch, blobs };
        self.world.must(Command::CompleteMove(complete));
    }

    /// Of tables that are not dropped.
    fn manifests(&self) -> Vec<Manifest> {
        let opened = |(at, shard): (TableShard, &Shard)| shard.manifests(at).collect::<Vec<_>>();
        self.world.catalog.live_shards().flat_map(opened).collect()
    }

    fn check(&self) {
        let mut places: BTreeMap<BlobId, Location> = BTreeMap::new();
        for file in self.manifests().iter().flat_map(|part| &part.files) {
            let known = places.entry(file.blob).or_insert(file.location.clone());
            assert_eq!(*known, file.location, "{} is in two places", file.blob);
            match &file.location {
                Location::Staged { node } => assert_eq!(*node, self.holder(), "left behind by a move"),
                Location::Stored { object, .. } => {
                    assert!(!self.world.catalog.doomed().contains_key(object), "{object}")
                }
            }
        }
        assert_eq!(self.world.reloaded(), self.world.catalog, "what is counted is counted again while loading");
    }
}

proptest! {
    #[test]
    fn shared_blobs_are_in_one_place_and_never_doomed(ops in proptest::collection::vec(op(), 1..40)) {
        let mut agent = Agent::new();
        for op in &ops {
            agent.perform(op);
            agent.check();
        }
    }
}

#[test]
fn an_object_lives_until_the_last_table_lets_go() {
    let mut agent = Agent::new();
    for op in [Op::Add(0), Op::Share(0, 0), Op::Store(0, 0), Op::Drop(0)] {
        agent.perform(&op);
        agent.check();
    }
    assert!(agent.world.catalog.doomed().is_empty(), "the other table still has it");
    agent.perform(&Op::Remove(1, 0));
    assert_eq!(agent.world.catalog.doomed().len(), 1);
}
