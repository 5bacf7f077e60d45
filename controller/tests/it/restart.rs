//! A controller ends and another goes on from the store.

use std::sync::Arc;

use moorhouse_catalog::state::{Catalog, Command, Limits};
use moorhouse_catalog::store::Store;
use moorhouse_catalog::store::embedded::EmbeddedStore;
use moorhouse_catalog::store::memory::MemoryStore;
use moorhouse_catalog::*;

use crate::harness::{Cluster, WAIT, eventually, group, sql, staged_part};

#[tokio::test]
async fn a_restart_keeps_everything() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = EmbeddedStore::open(&directory.path().join("catalog.redb")).expect("opens");
    let cluster = Cluster::start_on(Arc::new(store), MemoryStore::new()).await;
    let node = cluster.node("etl-0", "etl").await;
    cluster.create_table("t").await.expect("made");
    let at = TableShard { table: node.view().tables[0].id, shard: ShardId(1) };
    let part = staged_part("all_1_1_0", BlobId::random(), "etl-0");
    node.add(&cluster, at, part.clone()).await.expect("commits");
    let (before, shards) = (cluster.snapshot(at).await, cluster.shards().await);

    let cluster = cluster.restart().await;
    assert_eq!(cluster.snapshot(at).await, before);
    assert_eq!(cluster.shards().await, shards);
    // The same process of the node goes on: no new epoch.
    eventually("the node is back", || async {
        let nodes = cluster.admin().await.list_nodes(moorhouse_proto::ListNodesRequest::default()).await;
        nodes.expect("lists").into_inner().nodes[0].up
    })
    .await;
    assert_eq!(node.add(&cluster, at, part).await.expect("a repetition"), 1);
    assert_eq!(node.add(&cluster, at, staged_part("all_2_2_0", BlobId::random(), "etl-0")).await.expect("commits"), 2);
    assert_eq!(cluster.create_table("u").await, Ok(2), "the DDL queue counts on");
}

#[tokio::test]
async fn what_an_earlier_leader_left_half_done_is_cancelled_or_finished() {
    let cluster = Cluster::start().await;
    let old = cluster.node("etl-0", "etl").await;
    let new = cluster.node("etl-1", "etl").await;
    eventually("the shards are spread", || async { cluster.held_by("etl-1").await == 2 }).await;
    let Cluster { running, memory, config, .. } = cluster;
    running.stop().await;
    // As a leader would have left it that died in the middle of a move and of a CREATE TABLE.
    let leader = memory.acquire_leadership("dies", WAIT).await.expect("leads");
    let records = memory.range(b"").await.expect("answers");
    let records = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
    let mut catalog = Catalog::load(Limits::default(), records).expect("loads");
    let (statement, token) = (crate::harness::create_table("half", false), DdlToken::random());
    let table = Table {
        id: TableId::random(),
        database: sql("default"),
        name: sql("half"),
        physical: "half_1".to_owned(),
        owner: group("etl"),
        columns: String::new(),
        engine: "MergeTree".to_owned(),
        engine_full: "MergeTree".to_owned(),
        comment: String::new(),
        sharding_key: "rand()".to_owned(),
        state: TableState::Creating,
        ddl_seq: DdlSeq(1),
        storage: TableStorage::default(),
    };
    for command in [
        Command::BeginMove { group: group("etl"), shard: ShardId(0), to: new.name.clone() },
        Command::SubmitDdl { statement, token, audit: None },
        // As an older build did it: beside the task, not by it.
        Command::CreateTable { table: Box::new(table), if_not_exists: false },
    ] {
        let writes = catalog.apply(command, 0).expect("applies").writes;
        memory.commit(&leader, writes).await.expect("commits");
    }
    drop(leader);

    let config = moorhouse_controller::config::Config { listen: old.controller_address, ..config };
    let clock = Arc::new(moorhouse_base::clock::SystemClock);
    let running =
        moorhouse_controller::server::start_on(&config, Arc::new(memory.clone()), clock).await.expect("starts");
    let told = |node: &crate::harness::TestNode| node.calls().contains(&"release 0 to etl-0:9000".to_owned());
    eventually("the cancelled move is released on both nodes", || async { told(&old) && told(&new) }).await;
    eventually("the table is made and its task has ended", || async {
        let records = memory.range(b"").await.expect("answers");
        let has = |prefix: &str, text: &str| {
            records.iter().any(|(k, v)| k.starts_with(prefix.as_bytes()) && String::from_utf8_lossy(v).contains(text))
        };
        assert!(!has("assignment/", "\"to\""));
        has("table/", "half") && has("table/", "\"active\"") && has("ddl/", "\"kind\":\"done\"")
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_deposed_leader_ends() {
    let mut cluster = Cluster::start().await;
    cluster.memory.depose();
    let end = tokio::time::timeout(WAIT, cluster.running.ended()).await.expect("ends");
    assert!(end.to_string().contains("leadership"), "{end}");
}
