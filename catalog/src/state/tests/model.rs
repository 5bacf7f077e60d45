//! Random commands from agents whose claims may be stale, against a plain reference of who may write and what is there.
//! After each command: the invariants hold, what was refused changed nothing, and what was written loads to the same state.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Register(usize),
    Insert { by: usize, stale: bool, block: u8 },
    Merge { by: usize, stale: bool },
    Clean { by: usize },
    Upload { by: usize, pick: usize },
    Repeat,
    Begin { to: usize },
    Complete { with_all: bool },
    Cancel,
    Drain(usize, bool),
    Leave(usize),
    Recreate,
}

const NODES: [&str; 3] = ["a", "b", "c"];

fn op() -> impl Strategy<Value = Op> {
    let node = 0..NODES.len();
    prop_oneof![
        1 => node.clone().prop_map(Op::Register),
        6 => (node.clone(), prop::bool::weighted(0.2), 1..30u8).prop_map(|(by, stale, block)| Op::Insert { by, stale, block }),
        3 => (node.clone(), prop::bool::weighted(0.2)).prop_map(|(by, stale)| Op::Merge { by, stale }),
        3 => node.clone().prop_map(|by| Op::Clean { by }),
        3 => (node.clone(), 0..8usize).prop_map(|(by, pick)| Op::Upload { by, pick }),
        1 => Just(Op::Repeat),
        2 => node.clone().prop_map(|to| Op::Begin { to }),
        2 => prop::bool::weighted(0.8).prop_map(|with_all| Op::Complete { with_all }),
        1 => Just(Op::Cancel),
        1 => (node.clone(), any::<bool>()).prop_map(|(n, on)| Op::Drain(n, on)),
        1 => node.prop_map(Op::Leave),
        1 => Just(Op::Recreate),
    ]
}

/// What an agent believes, and the model's own idea of the truth.
struct Model {
    world: World,
    /// By node: incarnation, and the epoch that it knows for shard 0.
    claims: BTreeMap<usize, (Incarnation, Epoch)>,
    next_blob: u128,
    /// Rows of the table shard by block: what a reader must find, whatever was merged or moved.
    blocks: BTreeSet<u8>,
    /// The last command that was committed, for repeating.
    last: Option<Command>,
    table: u128,
}

impl Model {
    fn new() -> Self {
        let mut world = World::new();
        world.must(register("c", "etl"));
        let claims = (0..3).map(|n| (n, (Incarnation(1), Epoch(1)))).collect();
        Self { world, claims, next_blob: 1, blocks: BTreeSet::new(), last: None, table: 1 }
    }

    fn at(&self) -> TableShard {
        TableShard { table: TableId(Uuid::from_u128(self.table)), shard: ShardId(0) }
    }

    fn shard(&self) -> Shard {
        self.world.catalog.shard(self.at()).expect("the table is there").clone()
    }

    fn holds(&self, by: usize, claim: (Incarnation, Epoch)) -> bool {
        let directory = self.world.catalog.directory();
        let assignment = directory.assignment(&group("etl"), ShardId(0)).expect("given out");
        let known = directory.nodes.get(&node(NODES[by]));
        assignment.node.as_str() == NODES[by]
            && assignment.epoch == claim.1
            && known.is_some_and(|known| known.incarnation == claim.0)
    }

    /// True if it was accepted. The model says beforehand whether the fence lets it through.
    fn commit(&mut self, by: usize, stale: bool, change: PartChange) -> bool {
        if !self.claims.contains_key(&by) {
            return false;
        }
        let mut claim = self.claims[&by];
        if stale {
            claim.1 = Epoch(claim.1.0.saturating_sub(1));
        } else if let Some(a) = self.world.catalog.directory().assignment(&group("etl"), ShardId(0)) {
            claim.1 = a.epoch;
        }
        let command = Command::CommitParts(CommitParts {
            node: node(NODES[by]),
            incarnation: claim.0,
            epoch: claim.1,
            at: self.at(),
            change,
            token: None,
        });
        let may = self.holds(by, claim);
        let applied = self.world.apply(command.clone());
        match applied {
            Ok(applied) => {
                assert!(may, "the fence let a stale writer through");
                assert_eq!(applied.changes.is_empty(), applied.writes.iter().all(|w| w.key().starts_with(b"doomed/")));
                self.last = Some(command);
                true
            }
            Err(CatalogError::Fenced(_)) => {
                assert!(!may, "the fence stopped the holder");
                false
            }
            Err(CatalogError::Invalid(_) | CatalogError::UnknownNode(_)) => false,
            Err(other) => panic!("{other}"),
        }
    }

    fn fresh(&mut self, by: usize) -> (u128, Location) {
        self.next_blob += 1;
        (self.next_blob, staged(NODES[by]))
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Register(n) => {
                let reply = self.world.must(register(NODES[n], "etl"));
                let Reply::Registered { incarnation, .. } = reply else { panic!("{reply:?}") };
                self.claims.insert(n, (incarnation, Epoch(1)));
            }
            Op::Insert { by, stale, block } => self.insert(by, stale, block),
            Op::Merge { by, stale } => self.merge(by, stale),
            Op::Clean { by } => self.clean(by),
            Op::Upload { by, pick } => self.upload(by, pick),
            Op::Repeat => self.repeat(),
            Op::Begin { to } => drop(self.world.apply(begin_move(NODES[to]))),
            Op::Complete { with_all } => self.complete(with_all),
            Op::Cancel => {
                self.world.must(Command::CancelMove { group: group("etl"), shard: ShardId(0) });
            }
            Op::Drain(n, draining) => {
                let _ = self.world.apply(Command::SetDraining { node: node(NODES[n]), draining });
            }
            Op::Leave(n) => {
                if self.world.apply(Command::RemoveNode(node(NODES[n]))).is_ok() {
                    self.claims.remove(&n);
                }
            }
            Op::Recreate => self.recreate(),
        }
    }

    fn insert(&mut self, by: usize, stale: bool, block: u8) {
        let file = self.fresh(by);
        let added = vec![part(&format!("all_{block}_{block}_0"), &[file])];
        let taken = self.blocks.contains(&block);
        if self.commit(by, stale, PartChange { added, ..PartChange::default() }) && !taken {
            self.blocks.insert(block);
        }
    }

    /// All active parts into one; half of the files are linked, as a mutation would.
    fn merge(&mut self, by: usize, stale: bool) {
        use crate::parts::PartInfo;
        let shard = self.shard();
        let read: Vec<PartInfo> = shard.active().into_iter().filter_map(PartInfo::parse).collect();
        let (Some(first), Some(last)) = (read.first(), read.last()) else { return };
        let level = read.iter().map(|p| p.level).max().unwrap_or(0) + 1;
        let linked = shard.manifest(self.at(), &path(shard.active()[0])).and_then(|part| part.files.first().cloned());
        let own = self.fresh(by);
        let mut merged = part(&format!("all_{}_{}_{level}", first.min_block, last.max_block), &[own]);
        merged.files.extend(linked.map(|file| FileEntry { location: staged(NODES[by]), ..file }));
        self.commit(by, stale, PartChange { added: vec![merged], ..PartChange::default() });
    }

    fn clean(&mut self, by: usize) {
        let shard = self.shard();
        let active = shard.active();
        let removed = shard.parts.keys().filter(|p| !active.contains(&p.as_str())).cloned().collect();
        self.commit(by, false, PartChange { removed, ..PartChange::default() });
    }

    fn upload(&mut self, by: usize, pick: usize) {
        let shard = self.shard();
        let Some(chosen) = shard.manifests(self.at()).nth(pick) else { return };
        let number = self.next_blob;
        self.next_blob += 1;
        let place = |file: &FileEntry| Relocation { blob: file.blob, location: stored(&format!("object-{number}")) };
        let relocated = chosen.files.iter().map(place).collect();
        self.commit(by, false, PartChange { relocated, ..PartChange::default() });
    }

    fn repeat(&mut self) {
        let Some(command) = self.last.clone() else { return };
        let before = self.shard();
        match self.world.apply(command) {
            // Something else may have come between: then it is a new change.
            Ok(applied) => assert_eq!(applied.changes.is_empty(), before.version == self.shard().version),
            Err(CatalogError::Fenced(_) | CatalogError::Invalid(_) | CatalogError::UnknownNode(_)) => {}
            Err(CatalogError::UnknownTable(_)) => {}
            Err(other) => panic!("{other}"),
        }
        self.blocks = self.visible();
    }

    fn complete(&mut self, with_all: bool) {
        let Some(assignment) = self.world.catalog.directory().assignment(&group("etl"), ShardId(0)).cloned() else {
            return;
        };
        let shard = self.shard();
        let active = shard.active();
        let files = shard.manifests(self.at()).flat_map(|part| part.files);
        let blobs = if with_all { files.map(|file| file.blob.0.as_u128()).collect() } else { Vec::new() };
        let moved = self.world.apply(complete_move(assignment.epoch.0, &blobs)).is_ok();
        if moved {
            let to = assignment.moving.expect("only a begun move completes").to;
            let after = self.shard();
            assert_eq!(after.active(), active, "a move loses no active part");
            let elsewhere = |l: &Location| matches!(l, Location::Staged { node } if *node != to);
            assert!(!after.manifests(self.at()).flat_map(|p| p.files).any(|file| elsewhere(&file.location)));
        }
    }

    fn recreate(&mut self) {
        self.world.must(Command::DropTable { database: sql("default"), name: sql("t"), if_exists: false });
        self.world.clear_leaving();
        self.table += 1;
        self.world.must(create_table("t", self.table));
        self.blocks.clear();
    }

    /// Blocks that a reader finds in the active parts. Merges here span gaps: those blocks never were there.
    fn visible(&self) -> BTreeSet<u8> {
        use crate::parts::PartInfo;
        let shard = self.shard();
        let read: Vec<PartInfo> = shard.active().into_iter().filter_map(PartInfo::parse).collect();
        let spans = |block: u8| read.iter().any(|p| (p.min_block..=p.max_block).contains(&i64::from(block)));
        (1..30).filter(|block| spans(*block)).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn agents_with_stale_claims_break_nothing(ops in proptest::collection::vec(op(), 1..60)) {
        let mut model = Model::new();
        let mut epoch = Epoch(0);
        for op in ops {
            model.run(op);
            let now = model.world.catalog.directory().assignment(&group("etl"), ShardId(0)).expect("given out").epoch;
            prop_assert!(now >= epoch, "an epoch went back");
            epoch = now;
            prop_assert!(model.blocks.is_subset(&model.visible()), "acknowledged rows are gone");
            prop_assert_eq!(&model.world.reloaded(), &model.world.catalog);
        }
    }
}
