//! Part lists that are left in the store until they are needed.

use std::sync::Arc;

use moorhouse_catalog::store::memory::MemoryStore;
use moorhouse_catalog::*;
use moorhouse_controller::config::Config;
use moorhouse_proto::{ChangesRequest, CheckMetaRequest, ListPartsRequest, ShowTableRequest, StatusRequest};

use crate::harness::*;

/// So little that no two lists have room.
const TINY: usize = 1;

async fn tiny_cluster() -> Cluster {
    let memory = MemoryStore::new();
    let set = |config: &mut Config| {
        config.lists_bytes = TINY;
        // A new object may be referred to for as long.
        config.delete_grace_ms = 60_000;
    };
    Cluster::start_with(Arc::new(memory.clone()), memory, set).await
}

fn parts(range: std::ops::Range<u32>, partition: u32, node: &str) -> Vec<Manifest> {
    range.map(|block| staged_part(&format!("p{partition}_{block}_{block}_0"), BlobId::random(), node)).collect()
}

fn names(snapshot: &TableShardSnapshot) -> Vec<&str> {
    snapshot.parts.iter().map(|part| part.part.as_str()).collect()
}

async fn table_of(node: &TestNode, name: &str) -> TableId {
    let revision = node.view().revision.0;
    node.applied(revision).await;
    node.view().tables.iter().find(|table| table.name.as_str() == name).expect("it is shown").id
}

#[tokio::test]
async fn lists_come_and_go_and_nobody_notices() {
    let cluster = tiny_cluster().await;
    let a = cluster.node("a", "etl").await;
    cluster.create_table("t").await.expect("made");
    let table = table_of(&a, "t").await;
    let at = |shard| TableShard { table, shard: ShardId(shard) };
    for round in 1..4u32 {
        for shard in 0..4 {
            let change = PartChange { added: parts(round..round + 1, 0, "a"), ..PartChange::default() };
            let version = a.commit(&cluster, at(shard), a.epoch(shard), change).await.expect("commits");
            assert_eq!(version, u64::from(round));
        }
    }
    // What was stored lies elsewhere from now on, and is loaded to be removed.
    let first = cluster.snapshot(at(2)).await.parts.remove(0);
    let object = minted::mint(at(2), 1, uuid::Uuid::from_u128(5)).expect("valid");
    let location = Location::Stored { object: object.clone(), offset: 0, crc32c: 7 };
    let relocated = vec![Relocation { blob: first.files[0].blob, location }];
    let stored = PartChange { relocated, ..PartChange::default() };
    a.commit(&cluster, at(2), a.epoch(2), stored).await.expect_err("minted too long ago");
    let object = minted::mint(at(2), now_ms(), uuid::Uuid::from_u128(5)).expect("valid");
    let location = Location::Stored { object: object.clone(), offset: 0, crc32c: 7 };
    let relocated = vec![Relocation { blob: first.files[0].blob, location: location.clone() }];
    let stored = PartChange { relocated, ..PartChange::default() };
    a.commit(&cluster, at(2), a.epoch(2), stored).await.expect("commits");
    assert_eq!(cluster.snapshot(at(0)).await.parts.len(), 3);
    let snapshot = cluster.snapshot(at(2)).await;
    assert_eq!(names(&snapshot), ["p0_1_1_0", "p0_2_2_0", "p0_3_3_0"]);
    assert_eq!(snapshot.parts[0].files[0].location, location);

    let request = |version| ChangesRequest { table: table.to_wire().into(), shard: 2, version };
    let changes = cluster.controller().await.get_changes(request(1)).await.expect("recent").into_inner();
    assert_eq!(changes.version, 4);
    let change: PartChange = codec::decode(&changes.change_record).expect("reads");
    assert_eq!((change.added.len(), change.removed.len()), (2, 0));
    let nothing = cluster.controller().await.get_changes(request(4)).await.expect("newest").into_inner();
    assert_eq!(codec::decode::<PartChange>(&nothing.change_record), Ok(PartChange::default()));

    let removed = PartChange { removed: vec![first.part], ..PartChange::default() };
    a.commit(&cluster, at(2), a.epoch(2), removed).await.expect("commits");
    let doomed = cluster.store.range(b"doomed/").await.expect("answers");
    assert_eq!(doomed.len(), 1, "the last reference has gone");
    let status = cluster.admin().await.status(StatusRequest {}).await.expect("answers").into_inner();
    assert_eq!((status.parts_active, status.parts_staged), (11, 11));
    let request = ShowTableRequest { database: "default".to_owned(), table: "t".to_owned() };
    let shown = cluster.admin().await.show_table(request).await.expect("it is there").into_inner();
    assert_eq!((shown.owner.as_str(), shown.shards.len()), ("etl", 4));
    let third = &shown.shards[2];
    assert_eq!((third.node.as_str(), third.epoch, third.version, third.parts, third.rows), ("a", 1, 5, 2, 2));
    assert_eq!((third.bytes_staged, third.bytes_stored), (10, 0));
    let request = ListPartsRequest { database: "default".to_owned(), table: "t".to_owned(), all: true };
    assert_eq!(cluster.admin().await.list_parts(request).await.expect("lists").into_inner().parts.len(), 11);
    let checked = cluster.admin().await.check_meta(CheckMetaRequest {}).await.expect("reads").into_inner();
    assert_eq!((checked.parts, checked.violations), (11, vec![]));
}

#[tokio::test]
async fn lists_that_are_needed_together_find_room() {
    let cluster = tiny_cluster().await;
    let a = cluster.node("a", "etl").await;
    cluster.create_table("t").await.expect("made");
    let table = table_of(&a, "t").await;
    let at = |shard| TableShard { table, shard: ShardId(shard) };
    // Of no table shard, so that the lists of all who refer to it tell when it goes.
    let shared = ObjectKey::new("shared/x").expect("valid");
    let part = |name: &str| {
        let mut part = staged_part(name, BlobId::random(), "a");
        part.files[0].location = Location::Stored { object: shared.clone(), offset: 0, crc32c: 7 };
        part
    };
    let commit = async |shard, change| {
        let committed = tokio::time::timeout(WAIT, a.commit(&cluster, at(shard), a.epoch(shard), change)).await;
        committed.expect("it does not wait for ever").expect("commits");
    };
    for name in ["all_1_1_0", "all_2_2_0"] {
        for shard in 0..4 {
            commit(shard, PartChange { added: vec![part(name)], ..PartChange::default() }).await;
        }
    }
    let doomed = async || cluster.store.range(b"doomed/").await.expect("answers").len();
    for name in ["all_1_1_0", "all_2_2_0"] {
        for shard in 0..4 {
            assert_eq!(doomed().await, 0);
            let removed = vec![PartPath::new(name).expect("valid")];
            commit(shard, PartChange { removed, ..PartChange::default() }).await;
        }
    }
    assert_eq!(doomed().await, 1, "the last reference has gone");
}

#[tokio::test]
async fn a_large_table_is_dropped_while_others_go_on() {
    let cluster = Cluster::start().await;
    let a = cluster.node("a", "etl").await;
    cluster.create_table("large").await.expect("made");
    cluster.create_table("small").await.expect("made");
    let (large, small) = (table_of(&a, "large").await, table_of(&a, "small").await);
    let shard = |table| TableShard { table, shard: ShardId(0) };
    for partition in 0..100 {
        let change = PartChange { added: parts(0..1_000, partition, "a"), ..PartChange::default() };
        a.commit(&cluster, shard(large), a.epoch(0), change).await.expect("commits");
    }
    drop(a);
    let cluster = cluster.restart().await;
    let a = cluster.node("a", "etl").await;
    let drop = DdlStatement::DropTable { database: sql("default"), name: sql("large"), if_exists: false };
    cluster.ddl(drop).await.expect("dropped");
    for block in 0..50 {
        let change = PartChange { added: parts(block..block + 1, 0, "a"), ..PartChange::default() };
        a.commit(&cluster, shard(small), a.epoch(0), change).await.expect("commits");
    }
    // Each step of clearing takes some thirty parts: far more steps than those commits have waited for.
    let left = cluster.store.range(format!("staged/{large}/").as_bytes()).await.expect("answers").len();
    assert!(left > 50_000, "{left} parts are left");
}
