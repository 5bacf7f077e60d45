//! Examples for each command, and a model test: agents with stale and current claims against a plain reference.

mod ddl;
mod documents;
mod model;
mod shared;

use moorhouse_base::secret::Secret;
use std::sync::Arc;

use super::*;
use crate::ddl::DdlOutcome;
use crate::entry::Write;
use crate::ids::{
    DdlToken, Epoch, FilePath, GroupName, Incarnation, NodeName, ShardCount, ShardId, SqlName, WarehouseId,
};
use crate::packed::CommitToken;
use crate::records::{
    DdlStatement, FileEntry, Inode, Location, Manifest, Node, Relocation, Table, TableState, Warehouse,
};
use crate::storage::TableStorage;
use uuid::Uuid;

/// A catalog with what a store would have after its writes.
struct World {
    catalog: Catalog,
    stored: BTreeMap<Vec<u8>, Vec<u8>>,
}

const NOW: u64 = 1_000;
const GRACE: u64 = 3_600_000;

fn group(name: &str) -> GroupName {
    GroupName::new(name).expect("valid")
}
fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("valid")
}
fn sql(name: &str) -> SqlName {
    SqlName::new(name).expect("valid")
}
fn path(name: &str) -> PartPath {
    PartPath::new(name).expect("valid")
}
fn object(name: &str) -> ObjectKey {
    ObjectKey::new(name).expect("valid")
}
fn blob(number: u128) -> BlobId {
    BlobId(Uuid::from_u128(number))
}
fn staged(on: &str) -> Location {
    Location::Staged { node: node(on) }
}
fn stored(key: &str) -> Location {
    Location::Stored { object: object(key), offset: 0, crc32c: 7 }
}

fn part(name: &str, files: &[(u128, Location)]) -> Manifest {
    let file = |(number, location): &(u128, Location)| FileEntry {
        path: FilePath::new(format!("{number}.bin")).expect("valid"),
        blob: blob(*number),
        bytes: 10,
        location: location.clone(),
    };
    Manifest { part: path(name), rows: 1, committed_ms: 5, files: files.iter().map(file).collect(), copies: vec![] }
}

impl World {
    /// Four shards; group etl with nodes a and b, group bi with node r; table `default.t` of etl; shards all on a and r.
    fn new() -> Self {
        let mut world = Self { catalog: Catalog::empty(Limits::default()), stored: BTreeMap::new() };
        world.must(Command::CreateWarehouse(Warehouse {
            id: WarehouseId(Uuid::from_u128(1)),
            shards: ShardCount::new(4).expect("valid"),
            objects_url: "file:///x".to_owned(),
            cluster_secret: Secret::new("s"),
            engine_admin_password: Secret::new("p"),
            users: Vec::new(),
        }));
        world.must(Command::CreateGroup(group("etl")));
        world.must(Command::CreateGroup(group("bi")));
        world.must(register("a", "etl"));
        world.must(register("b", "etl"));
        world.must(register("r", "bi"));
        world.must(create_table("t", 1));
        world.must(Command::ActivateTable(TableId(Uuid::from_u128(1))));
        world
    }

    fn apply(&mut self, command: Command) -> Result<Applied, CatalogError> {
        let before = self.catalog.clone();
        let applied = self.catalog.apply(command, NOW);
        match &applied {
            Ok(applied) => applied.writes.iter().for_each(|write| match write {
                Write::Put { key, value } => drop(self.stored.insert(key.clone(), value.clone())),
                Write::Delete { key } => drop(self.stored.remove(key)),
            }),
            Err(_) => assert_eq!(before, self.catalog, "what is refused changes nothing"),
        }
        invariants::check_all(&self.catalog).expect("the state is sound");
        applied
    }

    fn must(&mut self, command: Command) -> Reply {
        self.apply(command.clone()).unwrap_or_else(|error| panic!("{command:?}: {error}")).reply
    }

    fn clear_leaving(&mut self) {
        while self.must(Command::ClearLeaving) == Reply::Changed(true) {}
    }

    fn refused(&mut self, command: Command) -> CatalogError {
        self.apply(command.clone()).map(|applied| applied.reply).expect_err(&format!("{command:?}"))
    }

    fn reloaded(&self) -> Catalog {
        let records = self.stored.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
        Catalog::load(Limits::default(), records).expect("loads what it wrote")
    }

    fn at(&self, shard: u16) -> TableShard {
        TableShard { table: TableId(Uuid::from_u128(1)), shard: ShardId(shard) }
    }

    fn shard(&self) -> &Shard {
        self.catalog.shard(self.at(0)).expect("known")
    }

    fn names(&self) -> Vec<&str> {
        self.shard().parts.keys().map(PartPath::as_str).collect()
    }

    /// By node a, with the claims that hold.
    fn commit(&mut self, change: PartChange) -> Result<Version, CatalogError> {
        let assignment = self.catalog.directory().assignment(&group("etl"), ShardId(0)).expect("given out").clone();
        let incarnation = self.catalog.directory().nodes[&assignment.node].incarnation;
        let commit = CommitParts {
            node: assignment.node,
            incarnation,
            epoch: assignment.epoch,
            at: self.at(0),
            change,
            token: None,
        };
        match self.apply(Command::CommitParts(commit))?.reply {
            Reply::Committed(version) => Ok(version),
            other => panic!("{other:?}"),
        }
    }

    fn add(&mut self, manifest: Manifest) -> Result<Version, CatalogError> {
        self.commit(PartChange { added: vec![manifest], ..PartChange::default() })
    }

    fn remove(&mut self, names: &[&str]) -> Result<Version, CatalogError> {
        self.commit(PartChange { removed: names.iter().map(|name| path(name)).collect(), ..PartChange::default() })
    }

    fn relocate(&mut self, number: u128, to: Location) -> Result<Version, CatalogError> {
        let relocated = vec![Relocation { blob: blob(number), location: to }];
        self.commit(PartChange { relocated, ..PartChange::default() })
    }
}

fn register(name: &str, of: &str) -> Command {
    Command::RegisterNode(Node {
        name: node(name),
        group: group(of),
        agent_address: "127.0.0.1:1".to_owned(),
        engine_http: "127.0.0.1:2".to_owned(),
        engine_native: "127.0.0.1:3".to_owned(),
        incarnation: Incarnation(0),
        draining: false,
    })
}

fn create_table(name: &str, number: u128) -> Command {
    Command::CreateTable {
        table: Box::new(Table {
            id: TableId(Uuid::from_u128(number)),
            database: sql("default"),
            name: sql(name),
            physical: format!("{name}_{number}"),
            owner: group("etl"),
            columns: "(`a` UInt64)".to_owned(),
            engine: "MergeTree".to_owned(),
            engine_full: "MergeTree ORDER BY a".to_owned(),
            comment: String::new(),
            sharding_key: "rand()".to_owned(),
            state: TableState::Creating,
            ddl_seq: DdlSeq(1),
            storage: TableStorage::default(),
        }),
        if_not_exists: false,
    }
}

fn begin_move(to: &str) -> Command {
    Command::BeginMove { group: group("etl"), shard: ShardId(0), to: node(to) }
}

fn complete_move(epoch: u64, blobs: &[u128]) -> Command {
    let blobs = blobs.iter().map(|number| blob(*number)).collect();
    Command::CompleteMove(CompleteMove { group: group("etl"), shard: ShardId(0), epoch: Epoch(epoch), blobs })
}

#[test]
fn the_first_node_of_a_group_gets_its_shards() {
    let world = World::new();
    let held = |name| world.catalog.directory().assignments_of(&node(name)).count();
    assert_eq!((held("a"), held("b"), held("r")), (4, 0, 4));
    assert_eq!(world.reloaded(), world.catalog);
}

#[test]
fn nothing_happens_without_a_warehouse() {
    let mut world = World { catalog: Catalog::empty(Limits::default()), stored: BTreeMap::new() };
    assert_eq!(world.refused(Command::CreateGroup(group("etl"))), CatalogError::NoWarehouse);
}

#[test]
fn registering_again_fences_the_process_of_before() {
    let mut world = World::new();
    world.add(part("all_1_1_0", &[(1, staged("a"))])).expect("commits");
    let old = CommitParts {
        node: node("a"),
        incarnation: Incarnation(1),
        epoch: Epoch(1),
        at: world.at(0),
        change: PartChange { removed: vec![path("all_1_1_0")], ..PartChange::default() },
        token: None,
    };
    assert_eq!(world.must(register("a", "etl")), Reply::Registered { incarnation: Incarnation(2), took_shards: 0 });
    let fenced = world.refused(Command::CommitParts(old.clone()));
    assert!(matches!(fenced, CatalogError::Fenced(Fence::Incarnation { .. })), "{fenced}");
    let stale_epoch = CommitParts { incarnation: Incarnation(2), ..old };
    let fenced = world.refused(Command::CommitParts(stale_epoch));
    assert!(matches!(fenced, CatalogError::Fenced(Fence::Epoch { .. })), "{fenced}");
    assert!(matches!(world.refused(register("a", "bi")), CatalogError::NotNow(_)));
    assert_eq!(world.refused(register("x", "nope")), CatalogError::UnknownGroup(group("nope")));
}

#[test]
fn only_the_holder_in_the_owner_group_commits() {
    let mut world = World::new();
    let commit = |by: &str, at| {
        let change = PartChange { added: vec![part("all_1_1_0", &[(1, staged(by))])], ..PartChange::default() };
        Command::CommitParts(CommitParts {
            node: node(by),
            incarnation: Incarnation(1),
            epoch: Epoch(1),
            at,
            change,
            token: None,
        })
    };
    let at = world.at(0);
    let refusals = [world.refused(commit("b", at)), world.refused(commit("r", at))];
    assert!(matches!(refusals[0], CatalogError::Fenced(Fence::Holder { .. })), "{}", refusals[0]);
    assert!(matches!(refusals[1], CatalogError::Fenced(Fence::Group { .. })), "{}", refusals[1]);
    assert!(matches!(world.refused(commit("a", world.at(4))), CatalogError::Invalid(_)), "only four shards");
    let unknown = TableShard { table: TableId(Uuid::from_u128(9)), shard: ShardId(0) };
    assert_eq!(world.refused(commit("a", unknown)), CatalogError::UnknownTable(unknown.table));
}

#[test]
fn a_repeated_commit_changes_nothing() {
    let mut world = World::new();
    let insert = part("all_1_1_0", &[(1, staged("a"))]);
    assert_eq!(world.add(insert.clone()), Ok(Version(1)));
    assert_eq!(world.add(insert.clone()), Ok(Version(1)), "the very content");
    assert_eq!(world.relocate(1, stored("o1")), Ok(Version(2)));
    assert_eq!(world.add(insert), Ok(Version(2)), "stored meanwhile: still the same content");
    assert_eq!(world.relocate(1, stored("o1")), Ok(Version(2)));
    assert_eq!(world.remove(&["all_9_9_0"]), Ok(Version(2)));
    assert_eq!(world.remove(&["all_1_1_0"]), Ok(Version(3)));
    assert_eq!(world.remove(&["all_1_1_0"]), Ok(Version(3)));
    assert_eq!(world.reloaded(), world.catalog);
}

#[test]
fn a_merge_and_the_clean_up_after_it() {
    let mut world = World::new();
    for number in 1..=3 {
        world.add(part(&format!("all_{number}_{number}_0"), &[(number, stored(&format!("o{number}")))])).expect("adds");
    }
    world.add(part("all_1_3_1", &[(9, staged("a"))])).expect("merges");
    assert_eq!(world.shard().active(), ["all_1_3_1"]);
    assert_eq!(world.remove(&["all_1_1_0", "all_2_2_0", "all_3_3_0"]), Ok(Version(5)));
    let doomed: Vec<_> = world.catalog.doomed().values().map(|d| (d.object.as_str(), d.not_before_ms)).collect();
    assert_eq!(doomed, [("o1", NOW + GRACE), ("o2", NOW + GRACE), ("o3", NOW + GRACE)]);
    world.must(Command::ForgetDoomed(vec![object("o1"), object("unknown")]));
    assert_eq!(world.catalog.doomed().len(), 2);
    assert_eq!(world.reloaded(), world.catalog);
}

#[test]
fn an_object_lives_as_long_as_one_part_refers_to_it() {
    let mut world = World::new();
    world.add(part("all_1_1_0", &[(1, stored("o")), (2, staged("a"))])).expect("adds");
    // A mutation links the file that it did not change.
    world.add(part("all_1_1_0_2", &[(1, staged("a")), (3, staged("a"))])).expect("mutates");
    let linked = world.shard().manifest(world.at(0), &path("all_1_1_0_2")).expect("there");
    assert_eq!(linked.files[0].location, stored("o"), "what is stored is not staged again by a link");
    world.remove(&["all_1_1_0"]).expect("cleans up");
    assert!(world.catalog.doomed().is_empty());
    world.remove(&["all_1_1_0_2"]).expect("drops");
    assert_eq!(world.catalog.doomed().len(), 1);
    let refused = world.add(part("all_5_5_0", &[(1, stored("o"))])).expect_err("the object is to be deleted");
    assert!(refused.to_string().contains("upload under a new key"), "{refused}");
}

#[test]
fn an_upload_that_lost_its_part_leaves_no_object() {
    let mut world = World::new();
    world.add(part("all_1_1_0", &[(1, staged("a"))])).expect("adds");
    world.remove(&["all_1_1_0"]).expect("removes");
    assert_eq!(world.relocate(1, stored("late")), Ok(Version(2)), "changes no part");
    assert_eq!(world.catalog.doomed().keys().map(ObjectKey::as_str).collect::<Vec<_>>(), ["late"]);
}

#[test]
fn a_renamed_part_keeps_its_object() {
    let mut world = World::new();
    world.add(part("all_1_1_0", &[(1, stored("o"))])).expect("adds");
    let change = PartChange {
        removed: vec![path("all_1_1_0")],
        added: vec![part("detached/all_1_1_0", &[(1, staged("a"))])],
        ..PartChange::default()
    };
    assert_eq!(world.commit(change), Ok(Version(2)));
    assert_eq!(world.names(), ["detached/all_1_1_0"]);
    assert!(world.catalog.doomed().is_empty(), "the link was seen although its source is removed in the same change");
}

#[test]
fn a_part_that_would_be_lost_or_counted_twice_is_refused() {
    let mut world = World::new();
    world.add(part("all_1_4_1", &[(1, staged("a"))])).expect("adds");
    let covered = world.add(part("all_2_2_0", &[(2, staged("a"))])).expect_err("covered");
    assert!(matches!(covered, CatalogError::Invalid(_)), "{covered}");
    let overlapping = world.add(part("all_4_6_1", &[(2, staged("a"))])).expect_err("overlaps");
    assert!(overlapping.to_string().contains("active_parts_are_disjoint"), "{overlapping}");
    let stranger = world.add(part("all_7_7_0", &[(2, staged("nobody"))])).expect_err("unknown node");
    assert_eq!(stranger, CatalogError::UnknownNode(node("nobody")));
    let back = world.relocate(1, staged("b")).expect_err("not by a commit");
    assert!(matches!(back, CatalogError::Invalid(_)), "{back}");
    let large = Inode { path: FilePath::new("f").expect("valid"), content: vec![200; 400_000] };
    let large = world.commit(PartChange { inodes_put: vec![large], ..PartChange::default() }).expect_err("too large");
    assert!(matches!(large, CatalogError::Invalid(_)), "{large}");
}

#[test]
fn the_changelog_tells_a_reader_all_or_sends_it_to_a_snapshot() {
    let mut world = World::new();
    let at = world.at(0);
    let kept = world.catalog.limits().changes_kept;
    let mut reader: BTreeMap<PartPath, Manifest> = BTreeMap::new();
    for number in 1..=u128::from(kept) + 10 {
        world.add(part(&format!("all_{number}_{number}_0"), &[(number, staged("a"))])).expect("adds");
        if number > 3 {
            world.remove(&[&format!("all_{0}_{0}_0", number - 3)]).expect("removes");
        }
        let since = Version(if number > 3 { 2 * number as u64 - 5 } else { number as u64 - 1 });
        let (version, change) = world.catalog.changes_since(at, since).expect("recent");
        assert_eq!(version, world.shard().version);
        change.removed.iter().for_each(|path| drop(reader.remove(path)));
        reader.extend(change.added.iter().map(|part| (part.part.clone(), part.clone())));
        let there: BTreeMap<_, _> = world.shard().manifests(at).map(|m| (m.part.clone(), m)).collect();
        assert_eq!(reader, there);
    }
    assert_eq!(world.shard().changes.len() as u64, kept);
    assert_eq!(world.catalog.changes_since(at, Version(1)), Err(SnapshotRequired));
    assert_eq!(world.catalog.changes_since(at, Version(u64::MAX - 1)), Err(SnapshotRequired));
    assert_eq!(
        world.catalog.changes_since(at, world.shard().version),
        Ok((world.shard().version, PartChange::default()))
    );
    assert_eq!(world.reloaded(), world.catalog);
}

#[test]
fn inodes_come_and_go() {
    let mut world = World::new();
    let file = FilePath::new("format_version.txt").expect("valid");
    let put = |content: &[u8]| PartChange {
        inodes_put: vec![Inode { path: file.clone(), content: content.to_vec() }],
        ..PartChange::default()
    };
    assert_eq!(world.commit(put(b"1")), Ok(Version(1)));
    assert_eq!(world.commit(put(b"1")), Ok(Version(1)));
    assert_eq!(world.commit(put(b"2")), Ok(Version(2)));
    let gone = PartChange { inodes_removed: vec![file.clone()], ..PartChange::default() };
    assert_eq!(world.commit(gone.clone()), Ok(Version(3)));
    assert_eq!(world.commit(gone), Ok(Version(3)));
}

#[test]
fn a_dropped_table_leaves_nothing_but_doomed_objects() {
    let mut world = World::new();
    world.add(part("all_1_1_0", &[(1, stored("o1")), (2, stored("o2"))])).expect("adds");
    world.add(part("all_2_2_0", &[(3, staged("a"))])).expect("adds");
    world.must(Command::DropTable { database: sql("default"), name: sql("t"), if_exists: false });
    world.clear_leaving();
    assert!(world.catalog.shards().is_empty() && world.catalog.directory().tables.is_empty());
    assert_eq!(world.catalog.doomed().len(), 2);
    let of_table = |kind: &str| world.stored.keys().any(|key| key.starts_with(kind.as_bytes()));
    assert!(!["part/", "version/", "change/", "inode/", "table/", "layout/", "leaving/"].into_iter().any(of_table));
    assert_eq!(world.reloaded(), world.catalog);
}

#[test]
fn databases_and_tables_follow_clickhouses_words() {
    let mut world = World::new();
    let create = |name, if_not_exists| Command::CreateDatabase { database: sql(name), if_not_exists };
    let drop = |name, if_exists| Command::DropDatabase { database: sql(name), if_exists };
    let drop_table =
        |database, name, if_exists| Command::DropTable { database: sql(database), name: sql(name), if_exists };
    assert_eq!(world.must(create("sales", false)), Reply::Changed(true));
    assert_eq!(world.must(create("sales", true)), Reply::Changed(false));
    let cases = [
        (create("sales", false), "Code: 82. DB::Exception: Database sales already exists. (DATABASE_ALREADY_EXISTS)"),
        (drop("nope", false), "Code: 81. DB::Exception: Database nope does not exist. (UNKNOWN_DATABASE)"),
        (create_table("t", 7), "Code: 57. DB::Exception: Table default.t already exists. (TABLE_ALREADY_EXISTS)"),
        (drop_table("sales", "x", false), "Code: 60. DB::Exception: Table sales.x does not exist. (UNKNOWN_TABLE)"),
        (drop_table("nope", "x", false), "Code: 81. DB::Exception: Database nope does not exist. (UNKNOWN_DATABASE)"),
    ];
    for (command, words) in cases {
        assert_eq!(world.refused(command).to_string(), words);
    }
    for name in ["system", "information_schema", "INFORMATION_SCHEMA", "shard_3", "moorhouse", "moorhouse_x"] {
        assert!(world.refused(create(name, true)).to_string().starts_with("Code: 36."), "{name}");
    }
    assert!(world.refused(drop("default", false)).to_string().starts_with("Code: 36."));
    for command in [drop("nope", true), drop_table("nope", "x", true), drop_table("sales", "x", true)] {
        assert_eq!(world.must(command), Reply::Changed(false));
    }
    assert_eq!(world.must(drop("sales", false)), Reply::Changed(true));
}

#[test]
fn the_ddl_queue_counts_on_and_forgets_the_oldest() {
    let mut world = World::new();
    world.catalog.limits.ddl_kept = 3;
    let statement = DdlStatement::DropDatabase { database: sql("x"), if_exists: true };
    for seq in 1..=6 {
        let (statement, token) = (statement.clone(), DdlToken::random());
        let submit = Command::SubmitDdl { statement, token, audit: None };
        assert_eq!(world.must(submit), Reply::Submitted(DdlSeq(seq)));
        if seq != 2 {
            world.must(Command::FinishDdl { seq: DdlSeq(seq), outcome: DdlOutcome::Done, nodes: vec![] });
        }
    }
    let left: Vec<u64> = world.catalog.ddl().keys().map(|seq| seq.0).collect();
    assert_eq!(left, [2, 5, 6], "a running task is kept");
    let outcome = DdlOutcome::Failed { error: "late".to_owned() };
    let ended = Command::FinishDdl { seq: DdlSeq(6), outcome, nodes: vec![] };
    assert!(matches!(world.refused(ended), CatalogError::NotNow(_)));
}

#[test]
fn a_move_hands_over_the_active_parts() {
    let mut world = World::new();
    world.add(part("all_1_1_0", &[(1, staged("a"))])).expect("adds");
    world.add(part("all_2_2_0", &[(2, staged("a"))])).expect("adds");
    world.add(part("all_1_2_1", &[(3, staged("a")), (4, stored("o"))])).expect("merges");
    world.add(part("detached/all_9_9_0", &[(5, staged("a"))])).expect("detaches");
    assert_eq!(world.must(begin_move("b")), Reply::MoveBegun { from: node("a"), epoch: Epoch(1) });
    assert!(matches!(world.refused(begin_move("b")), CatalogError::NotNow(_)), "it is moving already");
    let missing = world.refused(complete_move(1, &[1, 2]));
    assert!(missing.to_string().contains("3.bin of part all_1_2_1"), "{missing}");
    assert_eq!(world.must(complete_move(1, &[3])), Reply::Moved { epoch: Epoch(2) });
    assert_eq!(world.names(), ["all_1_2_1", "detached/all_9_9_0"], "covered parts are not taken along");
    let locations: Vec<_> = world.shard().manifests(world.at(0)).flat_map(|p| p.files).map(|f| f.location).collect();
    assert_eq!(locations, [staged("b"), stored("o"), staged("a")]);
    assert_eq!(world.shard().version, Version(5));
    assert_eq!(world.add(part("all_3_3_0", &[(6, staged("b"))])), Ok(Version(6)), "b writes now");
    assert_eq!(world.reloaded(), world.catalog);
}

#[test]
fn a_move_ends_when_one_of_its_nodes_starts_anew() {
    let mut world = World::new();
    for (restarted, epoch) in [("a", 1), ("b", 2)] {
        world.must(begin_move("b"));
        world.must(register(restarted, "etl"));
        assert!(matches!(world.refused(complete_move(epoch, &[])), CatalogError::NotNow(_)), "{restarted}");
    }
    world.must(begin_move("b"));
    let cancel = Command::CancelMove { group: group("etl"), shard: ShardId(0) };
    assert_eq!(world.must(cancel.clone()), Reply::Changed(true));
    assert_eq!(world.must(cancel), Reply::Changed(false));
    assert!(matches!(world.refused(begin_move("r")), CatalogError::NotNow(_)), "of another group");
    world.must(Command::SetDraining { node: node("b"), draining: true });
    assert!(matches!(world.refused(begin_move("b")), CatalogError::NotNow(_)), "it drains");
}

#[test]
fn a_node_leaves_only_when_nothing_is_lost() {
    let mut world = World::new();
    world.add(part("all_1_1_0", &[(1, staged("a"))])).expect("adds");
    let remove = |name| Command::RemoveNode(node(name));
    let drain = |name| Command::SetDraining { node: node(name), draining: true };
    assert!(world.refused(remove("a")).to_string().contains("not drained"));
    world.must(drain("a"));
    assert!(world.refused(remove("a")).to_string().contains("holds 4 shards"));
    for shard in 0..4 {
        world.must(Command::BeginMove { group: group("etl"), shard: ShardId(shard), to: node("b") });
        world.must(Command::CompleteMove(CompleteMove {
            group: group("etl"),
            shard: ShardId(shard),
            epoch: Epoch(1),
            blobs: [blob(1)].into(),
        }));
    }
    assert_eq!(world.catalog.staged_on(&node("b")), [blob(1)]);
    world.add(part("detached/x", &[(2, staged("a"))])).expect("left behind");
    assert!(world.refused(remove("a")).to_string().contains("1 files have their only bytes there"));
    world.remove(&["detached/x"]).expect("dropped");
    assert_eq!(world.must(remove("a")), Reply::Changed(true));
    assert_eq!(world.refused(remove("a")), CatalogError::UnknownNode(node("a")));
    assert_eq!(world.reloaded(), world.catalog);
}

#[test]
fn a_commit_that_is_asked_for_again_gets_the_answer_of_before() {
    let mut world = World::new();
    let commit = |world: &World, token, change| {
        let at = world.at(0);
        let (node, incarnation, epoch) = (node("a"), Incarnation(1), Epoch(1));
        Command::CommitParts(CommitParts { node, incarnation, epoch, at, change, token })
    };
    let add =
        |name: &str, number| PartChange { added: vec![part(name, &[(number, staged("a"))])], ..PartChange::default() };
    let first = commit(&world, Some(CommitToken::random()), add("all_1_1_0", 1));
    assert_eq!(world.must(first.clone()), Reply::Committed(Version(1)));
    let removal = PartChange { removed: vec![path("all_1_1_0")], ..PartChange::default() };
    let second = commit(&world, Some(CommitToken::random()), removal);
    assert_eq!(world.must(second), Reply::Committed(Version(2)));
    world.catalog = world.reloaded();
    assert_eq!(world.must(first.clone()), Reply::Committed(Version(1)), "the next leader knows it, too");
    assert!(world.names().is_empty(), "and it does not come back");
    world.must(register("a", "etl"));
    assert_eq!(world.must(first), Reply::Committed(Version(1)), "whoever holds the shard by now");
}

#[test]
fn a_reader_that_catches_up_gets_one_change() {
    let mut world = World::new();
    let at = world.at(0);
    world.add(part("all_1_1_0", &[(1, staged("a"))])).expect("adds");
    world.add(part("all_2_2_0", &[(2, staged("a"))])).expect("adds");
    world.add(part("all_1_2_1", &[(3, staged("a"))])).expect("merges");
    world.remove(&["all_1_1_0", "all_2_2_0"]).expect("cleans up");
    world.relocate(3, stored("o")).expect("uploads");
    let merged = world.shard().manifest(at, &path("all_1_2_1")).expect("there");
    let since = |version| world.catalog.changes_since(at, Version(version));
    let removed = vec![path("all_1_1_0"), path("all_2_2_0")];
    let change = PartChange { removed, added: vec![merged], ..PartChange::default() };
    assert_eq!(since(1), Ok((Version(5), change.clone())), "what came and went between does not travel");
    assert_eq!(since(0).expect("recent").1.added, change.added);
    let relocated = vec![Relocation { blob: blob(3), location: stored("o") }];
    assert_eq!(since(4), Ok((Version(5), PartChange { relocated, ..PartChange::default() })));
}

#[test]
fn a_large_table_leaves_in_small_steps() {
    let mut world = World::new();
    for number in 1..=300 {
        world.add(part(&format!("all_{number}_{number}_0"), &[(number, stored(&format!("o{number}")))])).expect("adds");
    }
    let limit = world.catalog.limits().drop_step + 4;
    let drop_it = Command::DropTable { database: sql("default"), name: sql("t"), if_exists: false };
    let first = world.apply(drop_it).expect("drops");
    assert!(first.writes.len() <= limit, "{}", first.writes.len());
    assert!(world.catalog.directory().tables.is_empty(), "it is gone for everybody at once");
    assert_eq!(world.catalog.leaving(), 1);
    world.must(create_table("t", 2));
    world.catalog = world.reloaded();
    let mut steps = 0;
    while world.catalog.leaving() > 0 {
        let step = world.apply(Command::ClearLeaving).expect("goes on");
        assert!(step.writes.len() <= limit && !step.writes.is_empty(), "{}", step.writes.len());
        assert_eq!(world.reloaded(), world.catalog);
        steps += 1;
    }
    assert!(steps > 3);
    assert_eq!(world.catalog.doomed().len(), 300);
    assert!(world.catalog.shards().is_empty());
    assert_eq!(world.must(Command::ClearLeaving), Reply::Changed(false));
    let left = |kind: &str| world.stored.keys().filter(|key| key.starts_with(kind.as_bytes())).count();
    assert_eq!(["part/", "version/", "change/", "layout/", "leaving/"].map(left), [0; 5]);
}

#[test]
fn a_broken_invariant_undoes_the_command() {
    // An assignment to a node of another group: no command makes that, so the check is called by hand.
    let mut world = World::new();
    let directory = Arc::make_mut(&mut world.catalog.directory);
    let key = (group("etl"), ShardId(0));
    let before = directory.assignments[&key].clone();
    directory.assignments.get_mut(&key).expect("there").node = node("r");
    let violation = invariants::check_all(&world.catalog).expect_err("unsound");
    assert_eq!(violation.invariant, "assigned_to_node_of_group");
    let old = [Entry::Assignment(key.0.clone(), key.1, Some(before.clone()))];
    let new = [Entry::Assignment(key.0.clone(), key.1, Some(crate::records::Assignment { epoch: Epoch(0), ..before }))];
    let violation = invariants::check_touched(&world.catalog, &old, &new).expect_err("back");
    assert_eq!(violation.invariant, "epoch_never_goes_back");
}

mod trust;
