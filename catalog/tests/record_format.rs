//! Golden test of the record formats: what older builds have written must stay readable, and what this build writes is written
//! the same by the next.
//!
//! `record_format.txt` has the records that are JSON, those of older builds among them, one a line: key, then value, as
//! they lie in a store. `packed_format.txt` has the packed ones, values in hex. Changing a line breaks existing warehouses;
//! new fields take a default and appear in new lines.

use std::collections::BTreeMap;

use moorhouse_base::secret::Secret;
use moorhouse_catalog::entry::{Entry, Write};
use moorhouse_catalog::links::{ObjectLink, StoreForm};
use moorhouse_catalog::packed::Layouts;
use moorhouse_catalog::state::{Catalog, Command, CommitParts, Limits};
use moorhouse_catalog::*;
use uuid::Uuid;

const GOLDEN: &str = include_str!("record_format.txt");
const PACKED: &str = include_str!("packed_format.txt");

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
        cluster_secret: Secret::new("secret"),
        engine_admin_password: Secret::new("password"),
        users: vec![User { name: "admin".to_owned(), password_sha256_hex: Secret::new("ab") }],
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
    let task = |(seq, (statement, outcome))| {
        Entry::Ddl(DdlSeq(seq), Some(DdlTask { outcome, ..DdlTask::new(DdlSeq(seq), statement) }))
    };
    let mut entries = vec![
        Entry::Database(sales.clone(), Some(Database { name: sales })),
        Entry::Table(table.id, Some(Table { state: TableState::Creating, ..table.clone() })),
        Entry::Table(table.id, Some(table)),
    ];
    entries.extend((1..).zip(statements).map(task));
    entries
}

fn at() -> TableShard {
    TableShard { table: TableId(id(7)), shard: ShardId(3) }
}

fn inode() -> Inode {
    Inode { path: FilePath::new("deduplication_logs/log.txt").expect("valid"), content: b"1\n".to_vec() }
}

fn change() -> PartChange {
    let object = ObjectKey::new("parts/7/0003/x").expect("valid");
    PartChange {
        removed: vec![PartPath::new("detached/all_9_9_0").expect("valid")],
        added: vec![manifest()],
        relocated: vec![Relocation {
            blob: BlobId(id(11)),
            location: Location::Stored { object, offset: 0, crc32c: 1 },
        }],
        inodes_removed: vec![inode().path],
        inodes_put: vec![inode()],
    }
}

fn trust() -> Vec<Entry> {
    let hash = TokenHash::new("ab".repeat(32)).expect("a hash");
    let node = NodeName::new("etl-7").expect("valid");
    let token = |state| {
        let group = GroupName::new("etl").expect("valid");
        let token = JoinToken { hash: hash.clone(), group, created_ms: 1, expires_ms: 2, state };
        Entry::Token(hash.clone(), Some(token))
    };
    let audit = |seq, user: Option<&str>, outcome| {
        let text = str::to_owned;
        let deed = Deed {
            identity: text("gateway/edge"),
            user: user.map(text),
            from: text("10.0.0.1:5"),
            action: text("drop_table"),
            target: text("sales.orders"),
        };
        Entry::Audit(AuditSeq(seq), Some(AuditRecord { seq: AuditSeq(seq), at_ms: 3, deed, outcome }))
    };
    vec![
        token(TokenState::Open),
        token(TokenState::Used { node, request_sha256: "cd".repeat(32) }),
        token(TokenState::Revoked),
        audit(1, Some("ada"), AuditOutcome::Running),
        audit(2, None, AuditOutcome::Done),
        audit(3, None, AuditOutcome::Failed { error: "Code: 60".to_owned() }),
    ]
}

fn small() -> Vec<Entry> {
    let object = ObjectKey::new("parts/7/0003/x").expect("valid");
    vec![
        Entry::Version(at(), Some(Version(12))),
        Entry::Doomed(object.clone(), Some(DoomedObject { object, not_before_ms: 5 })),
        Entry::Leaving(TableId(id(9)), Some(LeavingTable { id: TableId(id(9)) })),
        Entry::Form(Some(StoreForm(2))),
        Entry::Link(ObjectLink { home: None, user: at() }, true),
        Entry::Link(ObjectLink { home: Some(TableShard { table: TableId(id(9)), ..at() }), user: at() }, true),
    ]
}

/// Key and value of each line.
fn lines(golden: &str) -> Vec<(&str, &str)> {
    // A key may have a blank in an SQL name, but a value begins with the format and a brace or number.
    golden.lines().map(|line| line.split_once(" 1").expect("key and value")).collect()
}

fn golden(key: &str) -> Vec<u8> {
    let found = lines(GOLDEN).into_iter().find(|(k, _)| *k == key).unwrap_or_else(|| panic!("{key}"));
    format!("1{}", found.1).into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16));
    digits.collect::<Result<_, _>>().expect("hex digits")
}

#[test]
fn records_are_written_as_ever() {
    let line = |entry: &Entry| {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("keys and records are text");
        format!("{} {}", text(entry.key()), text(entry.value().expect("present")))
    };
    let written: Vec<String> = [cluster(), tables(), small(), trust()].concat().iter().map(line).collect();
    let known: Vec<&str> = GOLDEN.lines().collect();
    let missing: Vec<&String> = written.iter().filter(|line| !known.contains(&line.as_str())).collect();
    assert!(missing.is_empty(), "the format has changed; if that is meant, the file is to have:\n{missing:#?}");
}

#[test]
fn records_of_older_builds_are_read() {
    let audit = trust().split_off(3);
    let entries: Vec<Entry> = [cluster(), tables(), small(), audit].concat();
    for entry in entries.iter().filter(|entry| !matches!(entry, Entry::Table(..))) {
        let key = String::from_utf8(entry.key()).expect("text");
        assert_eq!(Entry::read(&entry.key(), &golden(&key), &Layouts::default()).expect(&key), *entry);
    }
    let part = "part/00000000-0000-0000-0000-000000000007/0003/all_1_4_1";
    let Ok(Entry::Part(_, path, Some(packed))) = Entry::read(part.as_bytes(), &golden(part), &Layouts::default())
    else {
        panic!("a part of an older build");
    };
    assert_eq!(packed.open(at(), &path), manifest());
    let file = "inode/00000000-0000-0000-0000-000000000007/0003/deduplication_logs/log.txt";
    let read = Entry::read(file.as_bytes(), &golden(file), &Layouts::default()).expect("an inode");
    assert_eq!(read, Entry::Inode(at(), inode().path, Some(inode())));
    let entry = "change/00000000-0000-0000-0000-000000000007/0003/00000000000000000012";
    let Ok(Entry::Change(_, _, Some(read))) = Entry::read(entry.as_bytes(), &golden(entry), &Layouts::default()) else {
        panic!("a change of an older build");
    };
    assert!(read.opaque, "it has relocations without the names of their parts");
    assert_eq!(read.added, [manifest().part]);
    assert_eq!(codec::decode::<PartChange>(&golden(entry)).expect("as it travelled"), change());
}

#[test]
fn packed_records_are_written_and_read_as_ever() {
    let mut catalog = Catalog::empty(Limits::default());
    let mut written = Vec::new();
    let mut apply = |command| {
        let applied = catalog.apply(command, 5).expect("applies");
        written.extend(applied.writes.into_iter().filter_map(|write| match write {
            Write::Put { key, value } => Some((String::from_utf8(key).expect("text"), value)),
            Write::Delete { .. } => None,
        }));
    };
    let entries = [cluster(), tables()].concat();
    let warehouse = entries.iter().find_map(|e| if let Entry::Warehouse(w) = e { w.clone() } else { None });
    apply(Command::CreateWarehouse(warehouse.expect("among them")));
    apply(Command::CreateGroup(GroupName::new("etl").expect("valid")));
    let node = entries.iter().find_map(|e| if let Entry::Node(_, n) = e { n.clone() } else { None });
    apply(Command::RegisterNode(node.expect("among them")));
    let table = entries.iter().find_map(|e| if let Entry::Table(_, t) = e { t.clone() } else { None });
    let table = Table { database: SqlName::new("default").expect("valid"), ..table.expect("among them") };
    apply(Command::CreateTable { table: Box::new(table), if_not_exists: false });
    let own = minted::mint(at(), 1_700_000_000_000, id(99)).expect("valid");
    let stored = |offset| Location::Stored { object: own.clone(), offset, crc32c: 77 };
    let whole = Manifest {
        part: PartPath::new("all_5_5_0").expect("valid"),
        files: vec![file(21, "b.bin", stored(42)), file(22, "a.txt", stored(0)), file(23, "c.bin", stored(84))],
        ..manifest()
    };
    let change =
        PartChange { added: vec![manifest(), whole.clone()], inodes_put: vec![inode()], ..PartChange::default() };
    let token = CommitToken::from_wire(&[7; 16]).expect("16 bytes");
    let (node, incarnation) = (NodeName::new("etl-0").expect("valid"), Incarnation(1));
    apply(Command::CommitParts(CommitParts { node, incarnation, epoch: Epoch(1), at: at(), change, token }));
    let packed =
        |key: &str| ["layout/", "part/", "staged/", "inode/", "change/"].iter().any(|kind| key.starts_with(kind));
    let lines: Vec<String> =
        written.iter().filter(|(key, _)| packed(key)).map(|(key, value)| format!("{key} {}", hex(value))).collect();
    assert_eq!(
        PACKED.lines().collect::<Vec<_>>(),
        lines,
        "if that is meant, the file is to be:\n{}\n",
        lines.join("\n")
    );

    let golden: Vec<(String, Vec<u8>)> = PACKED
        .lines()
        .map(|line| line.split_once(' ').expect("key and value"))
        .map(|(key, value)| (key.to_owned(), unhex(value)))
        .collect();
    let rest = written.iter().filter(|(key, _)| !packed(key)).cloned();
    let records: Vec<(String, Vec<u8>)> = rest.chain(golden).collect();
    let records = records.iter().map(|(key, value)| (key.as_bytes(), value.as_slice()));
    let loaded = Catalog::load(Limits::default(), records).expect("loads");
    assert_eq!(loaded, catalog);
    assert_eq!(catalog.upgrade(), []);

    // Builds of before kept staged parts with the others, and wrote neither links nor a form.
    let is_newer = |key: &str| key.starts_with("link/") || key == "form";
    let older = written.iter().filter(|(key, _)| !is_newer(key));
    let mut older: BTreeMap<String, Vec<u8>> =
        older.map(|(key, value)| (key.replace("staged/", "part/"), value.clone())).collect();
    let read = |records: &BTreeMap<String, Vec<u8>>| {
        let records = records.iter().map(|(key, value)| (key.as_bytes(), value.as_slice()));
        Catalog::load(Limits::default(), records).expect("loads")
    };
    let found = read(&older);
    assert_eq!(found.form(), None);
    // Twice: the first time may be broken off.
    for write in found.upgrade().into_iter().take(2).chain(found.upgrade()) {
        let text = |key: Vec<u8>| String::from_utf8(key).expect("text");
        match write {
            Write::Put { key, value } => drop(older.insert(text(key), value)),
            Write::Delete { key } => drop(older.remove(&text(key))),
        }
        let between = read(&older);
        assert_eq!(between.shards(), catalog.shards());
        assert_eq!(between.links(), catalog.links());
    }
    assert_eq!(read(&older), catalog);
    let shard = loaded.shard(at()).expect("there");
    assert_eq!(shard.manifests(at()).collect::<Vec<_>>(), [manifest(), whole]);
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
        ("part/00000000-0000-0000-0000-000000000007/0003/all_1_1_0", "2short"),
        ("part/00000000-0000-0000-0000-000000000007/0003/all_1_1_0", "3{}"),
    ] {
        Entry::read(key.as_bytes(), value.as_bytes(), &Layouts::default()).expect_err(&format!("{key} {value}"));
    }
    let newer = Entry::read(b"inode/00000000-0000-0000-0000-000000000007/0003/f", b"3", &Layouts::default());
    assert!(newer.expect_err("newer").to_string().contains("upgrade this process"));
}
