//! Three controllers on a real etcd: one leads, and whoever is taken for dead and wakes writes nothing.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moorhouse_catalog::state::{Catalog, Command as Order, Limits};
use moorhouse_catalog::store::Store;
use moorhouse_catalog::store::etcd::EtcdStore;
use moorhouse_catalog::*;
use moorhouse_proto::admin_client::AdminClient;
use moorhouse_proto::controller_client::ControllerClient;
use moorhouse_proto::{CommitPartsRequest, CreateGroupRequest, ListMovesRequest, SnapshotRequest};
use moorhouse_security::{Dialer, LEADER_HEADER, LeaderChannel};
use tonic::Code;
use tonic::transport::Endpoint;

use crate::harness;

/// Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends the process however the test ends.
struct Process(Child);

impl Process {
    fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> String {
    format!("127.0.0.1:{}", moorhouse_base::ports::free_row(1).expect("a free port"))
}

async fn etcd(directory: &Path) -> (Process, EtcdStore, String) {
    let (client, peer) = (free_address(), free_address());
    let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
    let mut command = Command::new(if Path::new("/usr/bin/etcd").exists() { "/usr/bin/etcd" } else { "etcd" });
    command.arg("--data-dir").arg(directory).args(["--log-level", "error", "--unsafe-no-fsync"]);
    command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
    command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
    command.args(["--initial-cluster", &format!("default={peer_url}")]);
    let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let process = Process(process.expect("etcd is needed for this test: run scripts/setup.sh (Debian's etcd-server)"));
    let begun = Instant::now();
    loop {
        match EtcdStore::connect(std::slice::from_ref(&client), "wh").await {
            Ok(store) => return (process, store, client),
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
    }
}

fn controller(directory: &Path, etcd: &str, listen: &str) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorhouse-controller"));
    command.args(["--listen", listen, "--metrics", &free_address(), "--leader-ttl-ms", "3000"]);
    command.args(["--store", &format!("etcd://{etcd}/wh"), "--shards", "2", "--group", "etl"]);
    command.arg("--objects").arg(format!("file://{}", directory.join("objects").display()));
    Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts"))
}

fn tune(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_millis(500))
        .keep_alive_timeout(Duration::from_millis(500))
}

fn client(addresses: &[String]) -> (LeaderChannel, AdminClient<LeaderChannel>) {
    let channel = LeaderChannel::new(Dialer::plaintext(), addresses.iter().map(String::as_str), tune);
    let channel = channel.expect("addresses");
    (channel.clone(), AdminClient::new(channel))
}

async fn create_group(client: &mut AdminClient<LeaderChannel>, group: &str) {
    let begun = Instant::now();
    while let Err(status) = client.create_group(CreateGroupRequest { group: group.to_owned() }).await {
        assert!(begun.elapsed() < PATIENCE, "{status}");
        assert!(matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled), "{status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn has_group(store: &EtcdStore, group: &str) -> bool {
    !store.range(format!("group/{group}").as_bytes()).await.expect("answers").is_empty()
}

#[tokio::test]
async fn a_leader_that_was_paused_past_its_lease_writes_nothing_when_it_wakes() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_etcd, store, etcd) = etcd(&directory.path().join("etcd")).await;
    let addresses: Vec<String> = (0..3).map(|_| free_address()).collect();
    let mut controllers: Vec<Process> = addresses.iter().map(|a| controller(directory.path(), &etcd, a)).collect();
    let (channel, mut followers) = client(&addresses);
    create_group(&mut followers, "one").await;
    let leader = channel.address();
    let old = addresses.iter().position(|address| *address == leader).expect("one of them");
    assert_eq!(store.leader().await.expect("answers"), Some(leader.clone()));

    let standby = addresses.iter().position(|address| *address != leader).expect("two of them");
    let (_, mut of_standby) = client(&addresses[standby..=standby]);
    let begun = Instant::now();
    loop {
        // It may not have looked yet who leads.
        let refusal = of_standby.list_moves(ListMovesRequest {}).await.expect_err("a standby");
        if refusal.metadata().get(LEADER_HEADER).is_some_and(|named| named == leader.as_str()) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{refusal}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    of_standby.list_moves(ListMovesRequest {}).await.expect("followed to the leader");

    controllers[old].signal("-STOP");
    // The kernel takes this request, and the old leader will find it when it wakes.
    let (_, mut of_old) = client(&addresses[old..=old]);
    let ghost =
        tokio::spawn(async move { of_old.create_group(CreateGroupRequest { group: "ghost".to_owned() }).await });
    let paused = Instant::now();
    create_group(&mut followers, "two").await;
    eprintln!("clients went on {:?} after the leader was paused", paused.elapsed());
    let new = store.leader().await.expect("answers").expect("somebody leads");
    assert_ne!(new, leader);

    controllers[old].signal("-CONT");
    let ended = controllers[old].0.wait().expect("ends by itself");
    assert_eq!(ended.code(), Some(1), "it may not go on");
    assert!(ghost.await.expect("no panic").is_err(), "nothing was acknowledged");
    create_group(&mut followers, "three").await;
    assert!(!has_group(&store, "ghost").await);
    for group in ["one", "two", "three"] {
        assert!(has_group(&store, group).await, "{group}");
    }
}

/// A warehouse with one node, which holds everything, and one table.
async fn with_a_table(store: &EtcdStore, objects: &Path) -> TableShard {
    let at = TableShard { table: TableId(uuid::Uuid::from_u128(7)), shard: ShardId(0) };
    let table = Table {
        id: at.table,
        database: harness::sql("default"),
        name: harness::sql("t"),
        physical: "t_7".to_owned(),
        owner: harness::group("etl"),
        columns: "(`a` UInt64)".to_owned(),
        engine: "MergeTree".to_owned(),
        engine_full: "MergeTree ORDER BY a".to_owned(),
        comment: String::new(),
        sharding_key: "rand()".to_owned(),
        state: TableState::Creating,
        ddl_seq: DdlSeq(0),
        storage: TableStorage::default(),
    };
    let node = Node {
        name: NodeName::new("a").expect("valid"),
        group: harness::group("etl"),
        agent_address: "127.0.0.1:1".to_owned(),
        engine_http: "127.0.0.1:1".to_owned(),
        engine_native: "127.0.0.1:1".to_owned(),
        incarnation: Incarnation(0),
        draining: false,
    };
    let warehouse = Warehouse {
        id: WarehouseId::random(),
        shards: ShardCount::new(2).expect("valid"),
        objects_url: format!("file://{}", objects.display()),
        cluster_secret: "s".to_owned().into(),
        engine_admin_password: "p".to_owned().into(),
        users: Vec::new(),
    };
    let leadership = store.acquire_leadership("test", Duration::from_secs(5)).await.expect("leads");
    let mut catalog = Catalog::empty(Limits::default());
    for command in [
        Order::CreateWarehouse(warehouse),
        Order::CreateGroup(harness::group("etl")),
        Order::RegisterNode(node),
        Order::CreateTable { table: Box::new(table), if_not_exists: false },
        Order::ActivateTable(at.table),
    ] {
        let writes = catalog.apply(command, 1).expect("is legal").writes;
        store.commit(&leadership, writes).await.expect("commits");
    }
    store.resign(leadership).await;
    at
}

async fn add_part(client: &mut ControllerClient<LeaderChannel>, at: TableShard, part: &str) -> u64 {
    let change = PartChange { added: vec![harness::staged_part(part, BlobId::random(), "a")], ..PartChange::default() };
    let token = CommitToken::random();
    let request = || CommitPartsRequest {
        node: "a".to_owned(),
        incarnation: 1,
        table: at.table.to_wire().into(),
        shard: at.shard.0.into(),
        epoch: 1,
        change_record: codec::encode(&change).into(),
        token: token.to_wire().into(),
    };
    let begun = Instant::now();
    loop {
        match client.commit_parts(request()).await {
            Ok(reply) => return reply.into_inner().version,
            Err(status) => assert!(begun.elapsed() < PATIENCE, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn snapshot_of(at: TableShard) -> SnapshotRequest {
    SnapshotRequest { table: at.table.to_wire().into(), shard: at.shard.0.into() }
}

#[tokio::test]
async fn a_leader_that_was_paused_past_its_lease_tells_nothing_old_when_it_wakes() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_etcd, store, etcd) = etcd(&directory.path().join("etcd")).await;
    let at = with_a_table(&store, &directory.path().join("objects")).await;
    let addresses: Vec<String> = (0..2).map(|_| free_address()).collect();
    let controllers: Vec<Process> = addresses.iter().map(|a| controller(directory.path(), &etcd, a)).collect();
    let (channel, _) = client(&addresses);
    let mut follower = ControllerClient::new(channel.clone());
    assert_eq!(add_part(&mut follower, at, "all_1_1_0").await, 1);
    let leader = channel.address();
    let old = addresses.iter().position(|address| *address == leader).expect("one of them");
    // A connection to the old leader alone, that does not give up on it while it is stopped.
    let endpoint = Endpoint::from_shared(format!("http://{leader}")).expect("an address");
    let mut of_old = ControllerClient::new(endpoint.connect().await.expect("connects"));
    of_old.get_snapshot(snapshot_of(at)).await.expect("it leads");

    controllers[old].signal("-STOP");
    // The kernel takes these requests, and the old leader finds them when it wakes, before anything else.
    let ghosts: Vec<_> = (0..16)
        .map(|_| {
            let mut of_old = of_old.clone();
            tokio::spawn(async move { of_old.get_snapshot(snapshot_of(at)).await })
        })
        .collect();
    assert_eq!(add_part(&mut follower, at, "all_2_2_0").await, 2);
    controllers[old].signal("-CONT");
    for ghost in ghosts {
        let answer = ghost.await.expect("no panic");
        let told = answer.map(|reply| {
            let snapshot: TableShardSnapshot = codec::decode(&reply.into_inner().snapshot_record).expect("reads");
            snapshot.version
        });
        assert!(told.is_err(), "it told of {told:?} although another has gone on to version 2");
    }
    let newest = follower.get_snapshot(snapshot_of(at)).await.expect("the new leader").into_inner();
    let newest: TableShardSnapshot = codec::decode(&newest.snapshot_record).expect("reads");
    assert_eq!((newest.version, newest.parts.len()), (Version(2), 2));
}
