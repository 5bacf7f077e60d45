//! An object store that is ill: uploads wait and go on, reads fail or are right, and nothing wrong is ever served.

use std::fs;
use std::time::{Duration, Instant};

use moorhouse_engine::SqlClient;
use moorhouse_tests::binaries::{output, stderr, stdout};
use moorhouse_tests::proxy::{Fault, FaultProxy};
use moorhouse_tests::servers::Garage;
use moorhouse_tests::warehouse::TestWarehouse;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);
/// Reads every byte of both columns.
const SUM: &str = "SELECT count(), sum(id), sum(cityHash64(note)) FROM ill.events";

struct Scene {
    warehouse: TestWarehouse,
    proxy: FaultProxy,
    _garage: Garage,
    rows: u64,
}

impl Scene {
    async fn start() -> Self {
        let garage = Garage::start();
        let proxy = FaultProxy::start(garage.s3_port());
        let objects = Garage::objects_url_at(proxy.port(), "ill");
        let shape = ["--shards", "1", "--group", "etl=1", "--group", "bi=1"];
        let warehouse = TestWarehouse::start_with(&shape, &["--objects", &objects], &garage.credentials());
        let scene = Self { warehouse, proxy, _garage: garage, rows: 0 };
        let etl = scene.client(0);
        etl.execute("CREATE DATABASE ill").await.expect("CREATE DATABASE");
        let create = "CREATE TABLE ill.events (id UInt64, note String) ENGINE = MergeTree ORDER BY id";
        etl.execute(create).await.expect("CREATE TABLE");
        scene
    }

    fn client(&self, group: u16) -> SqlClient {
        let port = self.warehouse.http_port(group);
        SqlClient::new(&format!("127.0.0.1:{port}"), "admin", &self.warehouse.password)
    }

    async fn insert(&mut self) {
        // More than what attaching a part reads along.
        let (from, rows) = (self.rows, 100_000);
        let insert =
            format!("INSERT INTO ill.events SELECT number, hex(MD5(toString(number))) FROM numbers({from}, {rows})");
        self.client(0).execute(&insert).await.expect("an INSERT needs no object store");
        self.rows += rows;
    }

    /// What the writer answers from its own disk.
    async fn right(&self) -> String {
        let answer = self.client(0).query(SUM).await.expect("the writer has all of it");
        let beginning = format!("{}\t{}\t", self.rows, self.rows * (self.rows - 1) / 2);
        assert!(answer.starts_with(&beginning), "{answer} instead of {beginning}");
        answer
    }

    fn staged(&self) -> u64 {
        self.warehouse.home.json(&["status"])["parts_staged"].as_u64().expect("a number")
    }

    async fn wait(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "it never came true that {what}{}", self.warehouse.home.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The readers' node has nothing in its cache, and its engine has opened no part.
    fn empty_reader(&self) {
        self.warehouse.home.run(&["dev", "kill", "bi-0"]);
        let blobs = self.warehouse.home.path().join("nodes/bi-0/blobs");
        fs::remove_dir_all(blobs).expect("it was there");
        let started = output(self.warehouse.home.moorctl(&["dev", "start", "bi-0"]).envs(self._garage.credentials()));
        assert!(started.status.success(), "{}", stderr(&started));
    }

    fn fsck(&self) -> (bool, Value) {
        let done = output(&mut self.warehouse.home.moorctl(&["fsck", "--deep", "--output", "json"]));
        let document = serde_json::from_str(&stdout(&done)).unwrap_or_else(|_| panic!("{}", stderr(&done)));
        (done.status.success(), document)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_go_on_after_an_illness_and_reads_are_never_wrong() {
    let mut scene = Scene::start().await;
    for fault in [Fault::Down, Fault::Overloaded, Fault::Slow(Duration::from_millis(300)), Fault::CorruptPuts] {
        scene.proxy.set(fault);
        scene.insert().await;
        scene.wait(&format!("{fault:?} hits an upload"), || scene.proxy.hit() > 0).await;
        scene.right().await;
        scene.proxy.set(Fault::None);
        scene.wait(&format!("all is stored after {fault:?}"), || scene.staged() == 0).await;
    }
    let right = scene.right().await;
    let (clean, found) = scene.fsck();
    assert!(clean && found["bytes_read"].as_u64() > Some(0), "{found:#}");

    for fault in [Fault::Truncated, Fault::CorruptReads, Fault::Vanished, Fault::Overloaded, Fault::Down] {
        scene.empty_reader();
        scene.proxy.set(fault);
        let bi = scene.client(1);
        let deadline = Instant::now() + PATIENCE;
        while scene.proxy.hit() == 0 {
            // An error is clean, whatever its words: it is no answer.
            if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, bi.query(SUM)).await {
                assert_eq!(answer, right, "{fault:?} was served");
            }
            assert!(Instant::now() < deadline, "{fault:?} never hits a read{}", scene.warehouse.home.logs());
        }
        scene.proxy.set(Fault::None);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match bi.query(SUM).await {
                Ok(answer) => {
                    assert_eq!(answer, right, "after {fault:?}");
                    break;
                }
                Err(error) => {
                    assert!(Instant::now() < deadline, "after {fault:?}: {error:?}{}", scene.warehouse.home.logs())
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    assert!(scene.fsck().0);
}
