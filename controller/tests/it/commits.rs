//! Commits of parts: the fence, the changelog, and a store that fails.

use std::collections::BTreeMap;
use std::sync::Arc;

use moorhouse_catalog::store::memory::Failure;
use moorhouse_catalog::*;
use moorhouse_proto::*;
use tonic::{Code, Status};

use crate::harness::{Cluster, TestNode, eventually, register, staged_part};

/// A cluster with a table, and the node that holds all of it.
async fn with_table() -> (Cluster, TestNode, TableId) {
    let cluster = Cluster::start().await;
    let node = cluster.node("etl-0", "etl").await;
    cluster.create_table("t").await.expect("made");
    let table = node.view().tables[0].id;
    (cluster, node, table)
}

fn shard_of(table: TableId, shard: u16) -> TableShard {
    TableShard { table, shard: ShardId(shard) }
}

fn add(name: &str) -> PartChange {
    PartChange { added: vec![staged_part(name, BlobId::random(), "etl-0")], ..PartChange::default() }
}

fn fenced(result: Result<u64, Status>) {
    let status = result.expect_err("fenced");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().starts_with("fenced:"), "{status}");
}

#[tokio::test]
async fn only_the_holder_commits() {
    let (cluster, mut node, table) = with_table().await;
    let at = shard_of(table, 0);
    assert_eq!(node.commit(&cluster, at, 1, add("all_1_1_0")).await.expect("commits"), 1);
    fenced(node.commit(&cluster, at, 0, add("all_2_2_0")).await);
    fenced(node.commit(&cluster, at, 2, add("all_2_2_0")).await);
    let reader = cluster.node("bi-0", "bi").await;
    fenced(reader.commit(&cluster, at, 1, add("all_2_2_0")).await);
    assert_eq!(register(&cluster, &node.record).await, 2);
    fenced(node.commit(&cluster, at, 1, add("all_2_2_0")).await);
    fenced(node.commit(&cluster, at, 2, add("all_2_2_0")).await);
    node.incarnation = 2;
    assert_eq!(node.commit(&cluster, at, 2, add("all_2_2_0")).await.expect("the new process commits"), 2);
    let unknown = node.commit(&cluster, shard_of(TableId::random(), 0), 2, add("all_3_3_0")).await;
    assert_eq!(unknown.expect_err("no table").code(), Code::NotFound);
}

#[tokio::test]
async fn the_changelog_has_no_gap_and_the_snapshot_fits() {
    let (cluster, node, table) = with_table().await;
    let watch = WatchChangelogRequest { node: "bi-0".to_owned() };
    let mut changes = cluster.controller().await.watch_changelog(watch).await.expect("watches").into_inner();
    let (cluster, node) = (Arc::new(cluster), Arc::new(node));
    let mut writers = Vec::new();
    for writer in 0..8_u16 {
        let (cluster, node) = (Arc::clone(&cluster), Arc::clone(&node));
        writers.push(tokio::spawn(async move {
            for block in 0..25 {
                let block = u32::from(writer) * 100 + block;
                let at = shard_of(table, writer % 4);
                node.commit(&cluster, at, 1, add(&format!("all_{block}_{block}_0"))).await.expect("commits");
            }
        }));
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
    let mut seen: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for _ in 0..200 {
        let update = changes.message().await.expect("no error").expect("goes on");
        let change: PartChange = codec::decode(&update.change_record).expect("a change");
        assert_eq!((update.table, change.added.len()), (table.to_wire().into(), 1));
        seen.entry(update.shard).or_default().push(update.version);
    }
    for shard in 0..4 {
        assert_eq!(seen[&u32::from(shard)], (1..=50).collect::<Vec<_>>());
        let snapshot = cluster.snapshot(shard_of(table, shard)).await;
        assert_eq!((snapshot.version.0, snapshot.parts.len()), (50, 50));
    }
    let staged = ListStagedRequest { node: "etl-0".to_owned() };
    let mut staged = cluster.controller().await.list_staged(staged).await.expect("lists").into_inner();
    assert_eq!(staged.message().await.expect("no error").expect("one message").blobs.len(), 200);
    let parts = ListPartsRequest { database: "default".to_owned(), table: "t".to_owned(), all: false };
    let parts = cluster.admin().await.list_parts(parts).await.expect("lists").into_inner().parts;
    assert!(parts.len() == 200 && parts.iter().all(|part| part.node == "etl-0" && !part.stored));
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_can_be_repeated() {
    for (failure, version_of_repeat) in [(Failure::Lost, 1), (Failure::Unanswered, 1)] {
        let (cluster, node, table) = with_table().await;
        let watch = WatchChangelogRequest { node: "bi-0".to_owned() };
        let mut changes = cluster.controller().await.watch_changelog(watch).await.expect("watches").into_inner();
        let (at, change) = (shard_of(table, 0), add("all_1_1_0"));
        cluster.memory.fail_next(failure);
        let unknown = node.commit(&cluster, at, 1, change.clone()).await.expect_err("the store did not answer");
        assert_eq!(unknown.code(), Code::Unavailable);
        let broken = changes.message().await.expect_err("a reader must not believe that nothing happened");
        assert_eq!(broken.code(), Code::DataLoss);
        assert_eq!(node.commit(&cluster, at, 1, change).await.expect("commits"), version_of_repeat);
        assert_eq!(cluster.snapshot(at).await.version.0, 1, "{failure:?}");
    }
}

#[tokio::test]
async fn an_object_without_references_is_deleted() {
    let (cluster, node, table) = with_table().await;
    let place = cluster.config.objects_text.trim_start_matches("file://").to_owned();
    let object = std::path::Path::new(&place).join("parts/x");
    std::fs::create_dir_all(object.parent().expect("a parent")).expect("made");
    std::fs::write(&object, b"bytes").expect("written");
    let (at, blob) = (shard_of(table, 0), BlobId::random());
    node.add(&cluster, at, staged_part("all_1_1_0", blob, "etl-0")).await.expect("commits");
    let key = ObjectKey::new("parts/x").expect("valid");
    let location = Location::Stored { object: key, offset: 0, crc32c: 0 };
    let upload = PartChange { relocated: vec![Relocation { blob, location }], ..PartChange::default() };
    assert_eq!(node.commit(&cluster, at, 1, upload).await.expect("commits"), 2);
    let status = cluster.admin().await.status(StatusRequest {}).await.expect("answers").into_inner();
    assert_eq!((status.parts_active, status.parts_stored, status.bytes_stored), (1, 1, 5));
    let removed = vec![PartPath::new("all_1_1_0").expect("valid")];
    node.commit(&cluster, at, 1, PartChange { removed, ..PartChange::default() }).await.expect("commits");
    eventually("the object is deleted", || async { !object.exists() }).await;
}
