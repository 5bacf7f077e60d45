//! Shards move: when a node joins, when one drains, and not when something fails.

use moorhouse_catalog::*;
use moorhouse_proto::*;
use tonic::Status;

use crate::harness::{Cluster, eventually, staged_part};

#[tokio::test]
async fn a_node_that_joins_gets_its_share_in_the_order_of_a_move() {
    let cluster = Cluster::start().await;
    let old = cluster.node("etl-0", "etl").await;
    cluster.create_table("t").await.expect("made");
    let table = old.view().tables[0].id;
    // Placement gives away the last shards.
    let (at, blob) = (TableShard { table, shard: ShardId(2) }, BlobId::random());
    old.add(&cluster, at, staged_part("all_1_1_0", blob, "etl-0")).await.expect("commits");
    let new = cluster.node("etl-1", "etl").await;
    new.script.lock().expect("no panic").blobs = vec![blob];
    eventually("two shards have moved", || async {
        cluster.held_by("etl-1").await == 2 && cluster.moves().await.iter().all(|m| m.outcome == "done")
    })
    .await;
    let of_shard_2 = |calls: Vec<String>| -> Vec<String> {
        let second = |call: &String| call.split(' ').nth(1) == Some("2");
        calls.into_iter().filter(second).collect()
    };
    assert_eq!(of_shard_2(old.calls()), ["hold 2", "detach 2 at 1", "release 2 to etl-1:9000"]);
    let steps = ["pre-copy 2", "hold 2", "pre-copy 2", "attach 2 at 2", "release 2 to etl-1:9000"];
    let mut taken = of_shard_2(new.calls());
    // How often it copies before the hold is the mover's business.
    taken.dedup();
    assert_eq!(taken, steps);
    let snapshot = cluster.snapshot(at).await;
    assert_eq!(snapshot.parts[0].files[0].location, Location::Staged { node: new.name.clone() });
    let moves = cluster.moves().await;
    assert_eq!((moves.len(), moves[0].from.as_str()), (2, "etl-0"));
    assert!(moves[0].copied_bytes >= 10, "both copies are counted");
    eventually("the new holder knows", || async { new.epoch(2) == 2 }).await;
    new.add(&cluster, at, staged_part("all_2_2_0", BlobId::random(), "etl-1")).await.expect("the new holder commits");
    let late = old.commit(&cluster, at, 1, PartChange::default()).await.expect_err("the old one does not");
    assert!(late.message().starts_with("fenced:"), "{late}");
}

#[tokio::test]
async fn a_move_that_fails_leaves_the_shard_where_it_was() {
    let cluster = Cluster::start().await;
    let old = cluster.node("etl-0", "etl").await;
    old.fail("detach", Some(Status::internal("a merge is stuck")));
    let new = cluster.node("etl-1", "etl").await;
    eventually("a move was cancelled", || async {
        cluster.moves().await.iter().any(|m| m.outcome == "cancelled" && m.reason.contains("a merge is stuck"))
    })
    .await;
    assert_eq!(cluster.held_by("etl-0").await, 4);
    assert!(cluster.shards().await.iter().all(|shard| shard.epoch == 1));
    let back =
        |calls: Vec<String>| calls.iter().any(|call| call.starts_with("release") && call.ends_with("to etl-0:9000"));
    eventually("both nodes were told", || async { back(old.calls()) && back(new.calls()) }).await;
    old.fail("detach", None);
    eventually("the next attempt moves them", || async { cluster.held_by("etl-1").await == 2 }).await;
}

#[tokio::test]
async fn bytes_that_did_not_arrive_stop_the_move() {
    let cluster = Cluster::start().await;
    let old = cluster.node("etl-0", "etl").await;
    cluster.create_table("t").await.expect("made");
    let at = TableShard { table: old.view().tables[0].id, shard: ShardId(3) };
    old.add(&cluster, at, staged_part("all_1_1_0", BlobId::random(), "etl-0")).await.expect("commits");
    let _new = cluster.node("etl-1", "etl").await;
    eventually("it was refused", || async {
        cluster.moves().await.iter().any(|m| m.shard == 3 && m.reason.contains("no copy of data.bin of part all_1_1_0"))
    })
    .await;
    let shard = cluster.shards().await.remove(3);
    assert_eq!((shard.node.as_str(), shard.epoch), ("etl-0", 1));
    old.add(&cluster, at, staged_part("all_2_2_0", BlobId::random(), "etl-0")).await.expect("the holder goes on");
}

#[tokio::test]
async fn a_drained_node_can_be_removed() {
    let cluster = Cluster::start().await;
    let first = cluster.node("etl-0", "etl").await;
    let second = cluster.node("etl-1", "etl").await;
    eventually("the shards are spread", || async { cluster.held_by("etl-1").await == 2 }).await;
    let mut admin = cluster.admin().await;
    let remove = || RemoveNodeRequest { node: "etl-0".to_owned() };
    let busy = admin.remove_node(remove()).await.expect_err("not drained");
    assert!(busy.message().contains("drain it first"), "{busy}");
    let request = DrainNodeRequest { node: "etl-0".to_owned() };
    let mut progress = admin.drain_node(request).await.expect("drains").into_inner();
    let mut last = None;
    while let Some(step) = progress.message().await.expect("no error") {
        last = Some(step);
    }
    let last = last.expect("at least the end");
    assert_eq!((last.finished, last.moves_done, last.error.as_str()), (true, 2, ""));
    assert_eq!(cluster.held_by("etl-1").await, 4);
    admin.remove_node(remove()).await.expect("empty");
    assert_eq!(first.session_end().await.code(), tonic::Code::NotFound);

    let request = DrainNodeRequest { node: "etl-1".to_owned() };
    let mut progress = admin.drain_node(request).await.expect("begins").into_inner();
    let stuck = progress.message().await.expect("no error").expect("the end");
    assert!(stuck.finished && stuck.error.contains("node etl-1 still holds 4 shards"), "{stuck:?}");
    drop(second);
}

#[tokio::test]
async fn readers_move_too() {
    let cluster = Cluster::start().await;
    let _writer = cluster.node("etl-0", "etl").await;
    cluster.create_table("t").await.expect("made");
    let _first = cluster.node("bi-0", "bi").await;
    let second = cluster.node("bi-1", "bi").await;
    eventually("bi is spread", || async {
        let moves = cluster.moves().await;
        moves.len() == 2 && moves.iter().all(|m| m.group == "bi" && m.outcome == "done")
    })
    .await;
    assert!(second.calls().iter().any(|call| call.starts_with("attach")));
}
