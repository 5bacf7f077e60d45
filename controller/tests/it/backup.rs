//! A backup is whole, goes into an empty store only, and a store is checked whole.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use moorhouse_base::clock::SystemClock;
use moorhouse_catalog::entry::Write;
use moorhouse_catalog::store::memory::MemoryStore;
use moorhouse_catalog::store::{KeyValue, Leadership, Store, StoreError};
use moorhouse_catalog::*;
use moorhouse_controller::server;
use moorhouse_proto::admin_client::AdminClient;
use moorhouse_proto::{BackupMetaRequest, ChangesRequest, CheckMetaReply, CheckMetaRequest};
use tonic::Code;

use crate::harness::{Cluster, TestNode, WAIT, eventually, sql, staged_part};

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

    // Somebody has been at the store: a changelog entry is gone.
    let Cluster { running, memory, config, .. } = cluster;
    running.stop().await;
    let leader = memory.acquire_leadership("vandal", WAIT).await.expect("leads");
    let key = format!("change/{}/{:04}/{:020}", at.table, at.shard.0, 2).into_bytes();
    memory.commit(&leader, vec![Write::Delete { key }]).await.expect("commits");
    drop(leader);
    let running = server::start_on(&config, Arc::new(memory), Arc::new(SystemClock)).await.expect("starts");
    let mut admin = AdminClient::connect(format!("http://{}", running.address)).await.expect("connects");
    let found = admin.check_meta(CheckMetaRequest {}).await.expect("checks").into_inner();
    let names: Vec<&str> = found.violations.iter().map(|violation| violation.invariant.as_str()).collect();
    assert_eq!(names, ["changelog_has_no_gap"]);
    running.stop().await;
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

/// Takes its time to remove parts, and notes the largest commit.
struct SlowStore {
    memory: MemoryStore,
    most_writes: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Store for SlowStore {
    async fn range(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        self.memory.range(prefix).await
    }
    async fn acquire_leadership(&self, candidate: &str, ttl: Duration) -> Result<Leadership, StoreError> {
        self.memory.acquire_leadership(candidate, ttl).await
    }
    async fn commit(&self, leadership: &Leadership, writes: Vec<Write>) -> Result<(), StoreError> {
        self.most_writes.fetch_max(writes.len(), Ordering::SeqCst);
        if writes.iter().any(|write| matches!(write, Write::Delete { key } if key.starts_with(b"staged/"))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.memory.commit(leadership, writes).await
    }
    async fn settle(&self, leadership: &Leadership) -> Result<(), StoreError> {
        self.memory.settle(leadership).await
    }
    fn describe(&self) -> String {
        "slow".to_owned()
    }
}

#[tokio::test]
async fn a_large_table_leaves_while_others_commit() {
    let (memory, most_writes) = (MemoryStore::new(), Arc::new(AtomicUsize::new(0)));
    let store = SlowStore { memory: memory.clone(), most_writes: Arc::clone(&most_writes) };
    let cluster = Cluster::start_on(Arc::new(store), memory).await;
    let (node, at) = with_parts(&cluster, 500).await;
    cluster.create_table("other").await.expect("made");
    let view = node.view();
    let other = view.tables.iter().find(|table| table.name.as_str() == "other").expect("shown").id;
    let drop_it = DdlStatement::DropTable { database: sql("default"), name: sql("t"), if_exists: false };
    cluster.ddl(drop_it).await.expect("drops");
    let other = TableShard { table: other, shard: at.shard };
    let of_dropped = format!("staged/{}/", at.table);
    let left = || async { cluster.memory.range(of_dropped.as_bytes()).await.expect("answers").len() };
    let (mut between, mut block) = (0, 0);
    while left().await > 0 {
        block += 1;
        let part = staged_part(&format!("all_{block}_{block}_0"), BlobId::random(), "etl-0");
        node.add(&cluster, other, part).await.expect("commits");
        between += usize::from(left().await > 0);
    }
    assert!(between > 0, "a commit went between the steps");
    assert!(most_writes.load(Ordering::SeqCst) <= 127, "every step fits into one etcd transaction");
    eventually("nothing is left", || async { cluster.memory.range(b"leaving/").await.expect("answers").is_empty() })
        .await;
    assert_eq!(check(&cluster).await.violations.len(), 0);
}
