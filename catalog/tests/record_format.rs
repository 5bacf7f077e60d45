//! Golden test of the record format: what older builds have written must stay readable, and be written the same.
//!
//! `record_format.txt` has one record a line: key, then value, as they lie in a store. Changing a line breaks existing
//! warehouses; new fields take a default and appear in new lines.

use std::sync::Arc;

use moorhouse_catalog::entry::Entry;
use moorhouse_catalog::*;
use uuid::Uuid;

const GOLDEN: &str = include_str!("record_format.txt");

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn file(number: u128, path: &str, location: Location) -> FileEntry {
    FileEntry { path: FilePath::new(path).expect("valid"), blob: BlobId(id(number)), bytes: 42, location }
}

fn manifest() -> Manifest {
    let node = NodeName::new("etl-0").expect("valid");
    let object = ObjectKey::new("parts/7/0003/x").expect("valid");
    Manifest {
        part: PartPath::new("all_1_4_1").expect("valid"),
        rows: 1000,
        committed_ms: 1_700_000_000_000,
        files: vec![
            file(11, "data.bin", Location::Staged { node }),
            file(12, "p.proj/data.bin", Location::Stored { object, offset: 4096, crc32c: 305_419_896 }),
        ],
        copies: vec![],
    }
}

fn cluster() -> Vec<Entry> {
    let (etl, node) = (GroupName::new("etl").expect("valid"), NodeName::new("etl-0").expect("valid"));
    let warehouse = Warehouse {
        id: WarehouseId(id(1)),
        shards: ShardCount::new(8).expect("valid"),
        objects_url: "s3://bucket/prefix?region=x".to_owned(),
        cluster_secret: "secret".to_owned(),
        engine_admin_password: "password".to_owned(),
        users: vec![User { name: "admin".to_owned(), password_sha256_hex: "ab".to_owned() }],
    };
    let record = Node {
        name: node.clone(),
        group: etl.clone(),
        agent_address: "127.0.0.1:1".to_owned(),
        engine_http: "127.0.0.1:2".to_owned(),
        engine_native: "127.0.0.1:3".to_owned(),
        incarnation: Incarnation(2),
        draining: false,
    };
    let assignment = Assignment {
        group: etl.clone(),
        shard: ShardId(3),
        node: node.clone(),
        epoch: Epoch(5),
        moving: Some(MoveIntent { to: NodeName::new("etl-1").expect("valid") }),
    };
    vec![
        Entry::Warehouse(Some(warehouse)),
        Entry::Revision(Some(Revision(17))),
        Entry::Group(etl.clone(), Some(Group { name: etl.clone() })),
        Entry::Node(node, Some(record)),
        Entry::Assignment(etl.clone(), ShardId(3), Some(assignment.clone())),
        Entry::Assignment(etl, ShardId(4), Some(Assignment { shard: ShardId(4), moving: None, ..assignment })),
    ]
}

fn tables() -> Vec<Entry> {
    let (sales, orders) = (SqlName::new("sales").expect("valid"), SqlName::new("orders/ü").expect("valid"));
    let etl = GroupName::new("etl").expect("valid");
    let table = Table {
        id: TableId(id(7)),
        database: sales.clone(),
        name: orders.clone(),
        physical: "orders_000000".to_owned(),
        owner: etl.clone(),
        columns: "(`a` UInt64)".to_owned(),
        engine: "MergeTree".to_owned(),
        engine_full: "MergeTree ORDER BY a".to_owned(),
        comment: "says \"hi\"".to_owned(),
        sharding_key: "rand()".to_owned(),
        state: TableState::Active,
        ddl_seq: DdlSeq(9),
        storage: TableStorage::default(),
    };
    let create = DdlStatement::CreateTable {
        group: etl,
        database: sales.clone(),
        name: orders.clone(),
        if_not_exists: true,
        create_tail: "(a UInt64) ENGINE = MergeTree ORDER BY a".to_owned(),
        session_database: sales.clone(),
        sharding_key: Some("a".to_owned()),
    };
    let failed = DdlOutcome::Failed { error: "Code: 57".to_owned() };
    let statements = [
        (DdlStatement::CreateDatabase { database: sales.clone(), if_not_exists: false }, DdlOutcome::Running),
        (DdlStatement::DropDatabase { database: sales.clone(), if_exists: false }, DdlOutcome::Done),
        (create, failed),
        (DdlStatement::DropTable { database: sales.clone(), name: orders, if_exists: true }, DdlOutcome::Done),
    ];
    let task =
        |(seq, (statement, outcome))| Entry::Ddl(DdlSeq(seq), Some(DdlTask { seq: DdlSeq(seq), statement, outcome }));
    let mut entries = vec![
        Entry::Database(sales.clone(), Some(Database { name: sales })),
        Entry::Table(table.id, Some(Table { state: TableState::Creating, ..table.clone() })),
        Entry::Table(table.id, Some(table)),
    ];
    entries.extend((1..).zip(statements).map(task));
    entries
}

fn parts() -> Vec<Entry> {
    let at = TableShard { table: TableId(id(7)), shard: ShardId(3) };
    let path = FilePath::new("deduplication_logs/log.txt").expect("valid");
    let inode = Inode { path: path.clone(), content: b"1\n".to_vec() };
    let object = ObjectKey::new("parts/7/0003/x").expect("valid");
    let change = PartChange {
        removed: vec![PartPath::new("detached/all_9_9_0").expect("valid")],
        added: vec![manifest()],
        relocated: vec![Relocation {
            blob: BlobId(id(11)),
            location: Location::Stored { object: object.clone(), offset: 0, crc32c: 1 },
        }],
        inodes_removed: vec![path.clone()],
        inodes_put: vec![inode.clone()],
    };
    vec![
        Entry::Version(at, Some(Version(12))),
        Entry::Part(at, manifest().part, Some(Arc::new(manifest()))),
        Entry::Inode(at, path, Some(inode)),
        Entry::Change(at, Version(11), Some(Arc::new(PartChange::default()))),
        Entry::Change(at, Version(12), Some(Arc::new(change))),
        Entry::Doomed(object.clone(), Some(DoomedObject { object, not_before_ms: 5 })),
    ]
}

fn line(entry: &Entry) -> String {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("keys and records are text");
    format!("{} {}", text(entry.key()), text(entry.value().expect("present")))
}

#[test]
fn records_are_written_as_ever() {
    let entries: Vec<Entry> = [cluster(), tables(), parts()].concat();
    let written: Vec<String> = entries.iter().map(line).collect();
    if GOLDEN.lines().collect::<Vec<_>>() != written {
        panic!("the format has changed; if that is meant, the file is to be:\n{}\n", written.join("\n"));
    }
}

#[test]
fn records_of_older_builds_are_read() {
    let entries: Vec<Entry> = [cluster(), tables(), parts()].concat();
    for (line, entry) in GOLDEN.lines().zip(entries) {
        // A key may have a blank in an SQL name, but a value begins with the format and a brace or number.
        let (key, value) = line.split_once(" 1").expect("key and value");
        let value = format!("1{value}");
        assert_eq!(Entry::read(key.as_bytes(), value.as_bytes()).expect(line), entry);
    }
}

#[test]
fn what_is_not_known_is_refused() {
    for (key, value) in [
        ("strange/x", "1{}"),
        ("group/No Name", "1{\"name\":\"x\"}"),
        ("group/x", "2{\"name\":\"x\"}"),
        ("group/x", "1{"),
        ("group/x", ""),
        ("part/7/0003/x", "1{}"),
    ] {
        Entry::read(key.as_bytes(), value.as_bytes()).expect_err(&format!("{key} {value}"));
    }
}
