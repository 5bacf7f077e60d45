//! A backup is whole, goes into an empty store only, and a store is checked whole.

use std::path::Path;
use std::sync::Arc;

use moorhouse_catalog::entry::Write;
use moorhouse_catalog::store::Store;
use moorhouse_catalog::store::memory::MemoryStore;
use moorhouse_catalog::*;
use moorhouse_proto::{BackupMetaRequest, ChangesRequest, CheckMetaReply, CheckMetaRequest};
use tonic::Code;

use crate::harness::{Cluster, TestNode, WAIT, eventually, staged_part};

async fn backup(cluster: &Cluster) -> Vec<u8> {
    let mut pieces = cluster.admin().await.backup_meta(BackupMetaRequest {}).await.expect("begins").into_inner();
    let mut file = Vec::new();
    while let Some(piece) = pieces.message().await.expect("goes on") {
        file.extend_from_slice(&piece.data);
    }
    file
}

async fn check(cluster: &Cluster) -> CheckMetaReply {
    cluster.admin().await.check_meta(CheckMetaRequest {}).await.expect("checks").into_inner()
}

async fn with_parts(cluster: &Cluster, parts: u64) -> (TestNode, TableShard) {
    let node = cluster.node("etl-0", "etl").await;
    cluster.create_table("t").await.expect("made");
    let at = TableShard { table: node.view().tables[0].id, shard: ShardId(1) };
    for block in 1..=parts {
        let part = staged_part(&format!("all_{block}_{block}_0"), BlobId::random(), "etl-0");
        node.add(cluster, at, part).await.expect("commits");
    }
    (node, at)
}

fn controller(directory: &Path, file: &Path, store: &Path) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_moorhouse-controller"));
    command.arg("--restore").arg(file).arg("--store").arg(format!("embedded:{}", store.display()));
    command.arg("--objects").arg(format!("file://{}", directory.join("objects").display()));
    command.output().expect("runs")
}

#[tokio::test]
async fn a_backup_is_restored_into_an_empty_store_only() {
    let cluster = Cluster::start().await;
    with_parts(&cluster, 20).await;
    let file = backup(&cluster).await;
    let records = moorhouse_catalog::backup::read(&file).expect("whole");
    assert_eq!(records, cluster.memory.range(b"").await.expect("answers"));

    let directory = tempfile::tempdir().expect("a directory");
    let (good, bad) = (directory.path().join("good"), directory.path().join("bad"));
    std::fs::write(&good, &file).expect("writes");
    std::fs::write(&bad, &file[..file.len() - 1]).expect("writes");
    let store = directory.path().join("store.redb");
    let refused = controller(directory.path(), &bad, &store);
    assert_eq!(refused.status.code(), Some(2));
    let restored = controller(directory.path(), &good, &store);
    assert!(restored.status.success(), "{restored:?}");
    let again = controller(directory.path(), &good, &store);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"), "{again:?}");
    let opened = moorhouse_catalog::store::embedded::EmbeddedStore::open(&store).expect("opens");
    assert_eq!(opened.range(b"").await.expect("answers"), records);
}

#[tokio::test]
async fn a_check_names_what_is_wrong() {
    let cluster = Cluster::start().await;
    let (_node, at) = with_parts(&cluster, 3).await;
    let sound = check(&cluster).await;
    assert_eq!((sound.violations.len(), sound.parts), (0, 3), "{sound:?}");

    // Somebody has been at the store: a changelog entry is gone, and a group that has nodes.
    let Cluster { running, memory, .. } = cluster;
    running.stop().await;
    let leader = memory.acquire_leadership("vandal", WAIT).await.expect("leads");
    let key = format!("change/{}/{:04}/{:020}", at.table, at.shard.0, 2);
    let gone = [key.into_bytes(), b"group/etl".to_vec()].map(|key| Write::Delete { key });
    memory.commit(&leader, gone.into()).await.expect("commits");
    drop(leader);
    let damaged: MemoryStore = memory.clone();
    let cluster = Cluster::start_on(Arc::new(damaged), memory).await;
    let found = check(&cluster).await;
    let names: Vec<&str> = found.violations.iter().map(|violation| violation.invariant.as_str()).collect();
    assert!(names.contains(&"changelog_has_no_gap"), "{names:?}");
}

#[tokio::test]
async fn a_reader_catches_up_from_its_number_or_is_sent_to_a_snapshot() {
    let cluster = Cluster::start().await;
    let (node, at) = with_parts(&cluster, 5).await;
    let request = |version| ChangesRequest { table: at.table.to_wire().into(), shard: at.shard.0.into(), version };
    let reply = cluster.controller().await.get_changes(request(3)).await.expect("recent").into_inner();
    let change: PartChange = codec::decode(&reply.change_record).expect("a change");
    let names: Vec<&str> = change.added.iter().map(|part| part.part.as_str()).collect();
    assert_eq!((reply.version, names), (5, vec!["all_4_4_0", "all_5_5_0"]));
    let ahead = cluster.controller().await.get_changes(request(9)).await.expect_err("it is ahead of the catalog");
    assert_eq!(ahead.code(), Code::OutOfRange);
    assert_eq!(cluster.snapshot(at).await.parts.len(), 5);
    drop(node);
}

#[tokio::test]
async fn a_large_table_leaves_while_others_commit() {
    let cluster = Cluster::start().await;
    let (node, at) = with_parts(&cluster, 400).await;
    cluster.create_table("other").await.expect("made");
    let view = node.view();
    let other = view.tables.iter().find(|table| table.name.as_str() == "other").expect("shown").id;
    let drop_it = DdlStatement::DropTable {
        database: crate::harness::sql("default"),
        name: crate::harness::sql("t"),
        if_exists: false,
    };
    cluster.ddl(drop_it).await.expect("drops");
    let other = TableShard { table: other, shard: at.shard };
    let left = || async { cluster.memory.range(b"part/").await.expect("answers").len() };
    let (mut between, mut block) = (0, 0);
    while left().await > block {
        block += 1;
        let part = staged_part(&format!("all_{block}_{block}_0"), BlobId::random(), "etl-0");
        node.add(&cluster, other, part).await.expect("commits");
        between += usize::from(left().await > block);
    }
    assert!(between > 1, "commits went between the steps");
    eventually("nothing is left", || async { cluster.memory.range(b"leaving/").await.expect("answers").is_empty() }).await;
    assert_eq!(check(&cluster).await.violations.len(), 0);
}
