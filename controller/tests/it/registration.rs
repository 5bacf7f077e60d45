//! Nodes come, go, and come back.

use moorhouse_catalog::{ClusterView, codec};
use moorhouse_proto::*;
use tonic::Code;

use crate::harness::{Cluster, eventually, register};

#[tokio::test]
async fn the_first_node_gets_all_shards_and_a_view_of_them() {
    let cluster = Cluster::start().await;
    let node = cluster.node("etl-0", "etl").await;
    assert_eq!(node.incarnation, 1);
    let view = node.view();
    assert_eq!((view.node.as_str(), view.group.as_str(), view.shards.get()), ("etl-0", "etl", 4));
    assert!(view.assignments.iter().all(|a| a.node == node.name && a.epoch.0 == 1));
    assert_eq!(view.databases.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["default"]);
    let status = cluster.admin().await.status(StatusRequest {}).await.expect("answers").into_inner();
    assert_eq!((status.groups[1].nodes_up, status.groups[1].shards_assigned, status.object_puts), (1, 4, 3));
}

#[tokio::test]
async fn a_new_process_of_a_node_ends_the_session_of_the_old() {
    let cluster = Cluster::start().await;
    let node = cluster.node("etl-0", "etl").await;
    assert_eq!(register(&cluster, &node.record).await, 2);
    let ended = node.session_end().await;
    assert_eq!(ended.code(), Code::FailedPrecondition);
    assert!(ended.message().starts_with("fenced:"), "{ended}");
    assert!(cluster.shards().await.iter().all(|shard| shard.epoch == 2));
}

#[tokio::test]
async fn a_registration_that_cannot_be_says_why() {
    let cluster = Cluster::start().await;
    let node = cluster.node("etl-0", "etl").await;
    let mut record = node.record.clone();
    record.group = crate::harness::group("nope");
    let request = |record: &moorhouse_catalog::Node| RegisterRequest { node_record: codec::encode(record).into() };
    let unknown = cluster.controller().await.register(request(&record)).await.expect_err("no such group");
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "there is no group nope"));
    record.group = crate::harness::group("bi");
    let other = cluster.controller().await.register(request(&record)).await.expect_err("of etl");
    assert_eq!(other.code(), Code::FailedPrecondition);
    let garbage = RegisterRequest { node_record: b"9{}".to_vec().into() };
    let garbage = cluster.controller().await.register(garbage).await.expect_err("not a node");
    assert_eq!(garbage.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_gateway_sees_who_is_ready() {
    let cluster = Cluster::start().await;
    let mut views =
        cluster.controller().await.watch_cluster(WatchClusterRequest {}).await.expect("watches").into_inner();
    let first: ClusterView = next(&mut views).await;
    assert_eq!(first.groups.len(), 2);
    let node = cluster.node("etl-0", "etl").await;
    while !ready(&next(&mut views).await, "etl-0") {}
    node.kill();
    while ready(&next(&mut views).await, "etl-0") {}
    eventually("the node is down", || async {
        let nodes = cluster.admin().await.list_nodes(ListNodesRequest::default()).await.expect("lists").into_inner();
        !nodes.nodes[0].up
    })
    .await;
}

async fn next(views: &mut tonic::Streaming<ViewUpdate>) -> ClusterView {
    let update = tokio::time::timeout(crate::harness::WAIT, views.message()).await.expect("a view comes");
    codec::decode(&update.expect("no error").expect("goes on").view_record).expect("a view")
}

fn ready(view: &ClusterView, node: &str) -> bool {
    view.groups.iter().flat_map(|group| &group.nodes).any(|n| n.node.as_str() == node && n.ready)
}
