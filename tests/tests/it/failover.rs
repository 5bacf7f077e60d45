//! A node that never comes back: tables that are kept on two nodes lose nothing, and other tables are not given up in silence.

use std::fs;
use std::time::{Duration, Instant};

use moorhouse_tests::binaries::{output, stderr, stdout};
use moorhouse_tests::warehouse::TestWarehouse;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);
const SHAPE: [&str; 6] = ["--shards", "2", "--group", "etl=2", "--group", "bi=1"];

struct Scene {
    warehouse: TestWarehouse,
    rows: u64,
}

impl Scene {
    async fn start(durability: &str) -> Self {
        let mut scene = Self { warehouse: TestWarehouse::start_shaped(&SHAPE, &[]), rows: 0 };
        let etl = scene.warehouse.client(0);
        etl.execute("CREATE DATABASE kept").await.expect("CREATE DATABASE");
        let create = "CREATE TABLE kept.events (id UInt64, note String) ENGINE = MergeTree ORDER BY id SHARD BY id";
        etl.execute(create).await.expect("CREATE TABLE");
        let home = &scene.warehouse.home;
        home.run(&["table", "set", "kept.events", "settle_ms=3600000", &format!("durability={durability}")]);
        let revision = home.json(&["status"])["revision"].as_u64();
        scene
            .wait("every node has the table's settings", async || {
                let nodes = scene.warehouse.home.json(&["node", "list"]);
                nodes.as_array().is_some_and(|nodes| nodes.iter().all(|n| n["view_revision"].as_u64() >= revision))
            })
            .await;
        scene.wait("each writer has a shard", async || scene.shards_of("etl-0") == 1).await;
        for _ in 0..6 {
            scene.insert().await;
        }
        scene
    }

    async fn insert(&mut self) {
        // One column of a part is larger than what peers send many to a request.
        let (from, rows) = (self.rows, 20_000);
        let insert =
            format!("INSERT INTO kept.events SELECT number, hex(MD5(toString(number))) FROM numbers({from}, {rows})");
        self.warehouse.client(0).execute(&insert).await.expect("acknowledged");
        self.rows += rows;
    }

    async fn wait(&self, what: &str, holds: impl AsyncFnMut() -> bool) {
        let came_true = self.comes_true(holds).await;
        assert!(came_true, "it never came true that {what}{}", self.warehouse.home.logs());
    }

    async fn comes_true(&self, mut holds: impl AsyncFnMut() -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !holds().await {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        true
    }

    /// All acknowledged rows, each once and right, as the group sees them.
    async fn has_all(&self, group: u16) -> bool {
        let wrong = "countIf(note != hex(MD5(toString(id))))";
        let sum = format!("SELECT count(), uniqExact(id), max(id), {wrong} FROM kept.events");
        let right = format!("{0}\t{0}\t{1}\t0", self.rows, self.rows - 1);
        self.warehouse.client(group).query(&sum).await.is_ok_and(|answer| answer.trim() == right)
    }

    /// The node dies, and its volume with it.
    fn lose(&self, node: &str) {
        self.warehouse.home.run(&["dev", "kill", node]);
        fs::remove_dir_all(self.warehouse.home.path().join("nodes").join(node)).expect("it was there");
    }

    fn shards_of(&self, node: &str) -> usize {
        let shards = self.warehouse.home.json(&["shard", "list"]);
        shards.as_array().expect("a list").iter().filter(|shard| shard["node"] == node).count()
    }

    fn fsck(&self) -> (bool, Value) {
        let done = output(&mut self.warehouse.home.moorctl(&["fsck", "--deep", "--output", "json"]));
        let document = serde_json::from_str(&stdout(&done)).unwrap_or_else(|_| panic!("{}", stderr(&done)));
        (done.status.success(), document)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_loses_nothing_of_what_two_nodes_keep() {
    let mut scene = Scene::start("replicated").await;
    assert!(scene.has_all(0).await);
    let (clean, found) = scene.fsck();
    assert!(clean && found["files_staged"].as_u64() > Some(0) && found["files_stored"] == 0, "{found:#}");

    scene.lose("etl-0");
    // Readers go on with the copies, wherever they are.
    scene.wait("the readers have all rows", async || scene.has_all(1).await).await;
    let told = output(&mut scene.warehouse.home.moorctl(&["node", "drain", "etl-0"]));
    assert!(told.status.success(), "{}{}{}", stdout(&told), stderr(&told), scene.warehouse.home.logs());
    assert_eq!((scene.shards_of("etl-0"), scene.shards_of("etl-1")), (0, 2));
    scene.wait("the writers have all rows", async || scene.has_all(0).await).await;
    scene.insert().await;
    assert!(scene.has_all(0).await);
    scene.wait("the readers have all rows", async || scene.has_all(1).await).await;
    let mut found = Value::Null;
    // It kept copies for the other writer: they are gone until those parts are merged or stored.
    let nothing_else_is_missing = async || {
        found = scene.fsck().1;
        let list = found["finding_list"].as_array().expect("a list");
        list.iter().all(|finding| {
            finding["subject"] == "node etl-0"
                && finding["detail"].as_str().is_some_and(|said| said.starts_with("0 files"))
        })
    };
    if !scene.comes_true(nothing_else_is_missing).await {
        panic!("something is missing: {found:#}{}", scene.warehouse.home.logs());
    }
    // What the other writer has there must be stored before the node may go.
    scene.warehouse.home.run(&["table", "set", "kept.events", "settle_ms=100"]);
    scene
        .wait("the lost node can be removed", async || {
            output(&mut scene.warehouse.home.moorctl(&["node", "remove", "etl-0"])).status.success()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_lost_node_had_is_not_given_up_in_silence() {
    let scene = Scene::start("local").await;
    scene.warehouse.home.run(&["dev", "kill", "etl-0"]);
    let told = output(&mut scene.warehouse.home.moorctl(&["node", "drain", "etl-0"]));
    assert!(!told.status.success(), "{}", stdout(&told));
    let said = format!("{}{}", stdout(&told), stderr(&told));
    assert!(said.contains("whose only bytes are on node etl-0"), "{said}");
    assert_eq!(scene.shards_of("etl-0"), 1);
    // It comes back with its volume, and the drain goes on.
    scene.warehouse.home.run(&["dev", "start", "etl-0"]);
    scene
        .wait("it gives its shard away", async || {
            output(&mut scene.warehouse.home.moorctl(&["node", "drain", "etl-0"])).status.success()
        })
        .await;
    scene.wait("the writers have all rows", async || scene.has_all(0).await).await;
}
