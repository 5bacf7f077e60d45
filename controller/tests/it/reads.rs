//! Reads that a controller answers which does not lead.

use std::sync::Arc;

use moorhouse_base::clock::SystemClock;
use moorhouse_catalog::*;
use moorhouse_controller::config::Config;
use moorhouse_controller::server;
use moorhouse_proto::controller_client::ControllerClient;
use moorhouse_proto::reads_client::ReadsClient;
use moorhouse_proto::{SnapshotRequest, StaleChangesRequest, StaleSnapshotRequest};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::harness::*;

struct Standby(ReadsClient<Channel>, TableShard);

impl Standby {
    async fn snapshot(&mut self, floor: u64) -> Result<TableShardSnapshot, Status> {
        let Self(client, at) = self;
        let request = StaleSnapshotRequest { table: at.table.to_wire().into(), shard: at.shard.0.into(), floor };
        let mut pages = client.stream_snapshot(request).await?.into_inner();
        let page = pages.message().await?.expect("one page");
        Ok(codec::decode(&page.snapshot_record).expect("reads"))
    }

    async fn changes(&mut self, version: u64, floor: u64) -> Result<(u64, PartChange), Status> {
        let Self(client, at) = self;
        let (table, shard) = (at.table.to_wire().into(), at.shard.0.into());
        let reply = client.get_changes(StaleChangesRequest { table, shard, version, floor }).await?.into_inner();
        Ok((reply.version, codec::decode(&reply.change_record).expect("reads")))
    }
}

#[tokio::test]
async fn a_standby_answers_with_what_is_confirmed_and_refuses_what_is_before_the_floor() {
    let cluster = Cluster::start().await;
    let node = cluster.node("a", "etl").await;
    cluster.create_table("t").await.expect("made");
    let at = TableShard { table: node.view().tables[0].id, shard: ShardId(1) };
    let part = |name: &str| staged_part(name, BlobId::random(), "a");
    node.add(&cluster, at, part("all_1_1_0")).await.expect("commits");

    let port = moorhouse_base::ports::free_row(1).expect("a free port");
    let config = Config { listen: ([127, 0, 0, 1], port).into(), ..cluster.config.clone() };
    let store = Arc::clone(&cluster.store);
    let waiting = tokio::spawn(async move { server::start_on(&config, store, Arc::new(SystemClock)).await.map(drop) });
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("an address");
    eventually("the standby listens", || async { endpoint.connect().await.is_ok() }).await;
    let channel = endpoint.connect().await.expect("connects");
    let mut standby = Standby(ReadsClient::new(channel.clone()), at);

    let first = standby.snapshot(1).await.expect("answers");
    assert_eq!((first.version, first.parts.len()), (Version(1), 1));
    assert_eq!(standby.snapshot(2).await.expect_err("not yet").code(), Code::Unavailable);
    let second = part("all_2_2_0");
    let floor = node.add(&cluster, at, second.clone()).await.expect("commits");
    assert_eq!(standby.snapshot(floor).await.expect("what was written is read"), cluster.snapshot(at).await);
    let (version, change) = standby.changes(1, floor).await.expect("recent");
    assert_eq!((version, change.added), (2, vec![second]));
    assert_eq!(standby.changes(7, 0).await.expect_err("from the future").code(), Code::OutOfRange);
    let mut unknown = Standby(standby.0.clone(), TableShard { table: TableId::random(), ..at });
    assert_eq!(unknown.snapshot(0).await.expect_err("no such table").code(), Code::NotFound);

    let request = SnapshotRequest { table: at.table.to_wire().into(), shard: at.shard.0.into() };
    let refusal = ControllerClient::new(channel).get_snapshot(request).await.expect_err("it does not lead");
    assert_eq!(refusal.code(), Code::Unavailable);
    waiting.abort();
}
