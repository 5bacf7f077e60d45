//! Uploads that are broken off, and rows that come faster than the object store takes them.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use moorhouse_engine::SqlClient;
use moorhouse_objects::Objects;
use moorhouse_tests::binaries::{output, stderr, stdout};
use moorhouse_tests::proxy::{Fault, FaultProxy};
use moorhouse_tests::servers::Garage;
use moorhouse_tests::warehouse::TestWarehouse;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);
/// For this long an object may wait for its first reference; twice as long until it is swept.
const ORPHAN_GRACE_MS: u64 = 60_000;

struct Scene {
    warehouse: TestWarehouse,
    proxy: FaultProxy,
    garage: Garage,
    url: String,
}

impl Scene {
    /// One shard; its writer has an SSD of so many bytes.
    async fn start(cache_bytes: u64) -> Self {
        let garage = Garage::start();
        let proxy = FaultProxy::start(garage.s3_port());
        let url = Garage::objects_url_at(proxy.port(), "uploads");
        let shape = ["--shards", "1", "--group", "etl=1", "--group", "bi=1"];
        let grace = ORPHAN_GRACE_MS.to_string();
        let mut environment = garage.credentials().to_vec();
        environment.extend([("MOORHOUSE_ORPHAN_GRACE_MS", grace.as_str()), ("MOORHOUSE_STAGING_PATIENCE_MS", "1000")]);
        let more = ["--objects", &url, "--cache-bytes", &cache_bytes.to_string()];
        let warehouse = TestWarehouse::start_with(&shape, &more, &environment);
        let scene = Self { warehouse, proxy, garage, url };
        scene.etl().execute("CREATE DATABASE up").await.expect("CREATE DATABASE");
        // No merges: each INSERT is one part, and one upload.
        let create = "CREATE TABLE up.events (id UInt64, note String) ENGINE = MergeTree ORDER BY id \
             SETTINGS max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1";
        scene.etl().execute(create).await.expect("CREATE TABLE");
        scene
    }

    fn etl(&self) -> SqlClient {
        self.warehouse.client(0)
    }

    /// Incompressible rows of 1,000 bytes, in one part.
    async fn insert(&self, rows: u64) -> Result<(), String> {
        let whole = "SETTINGS max_block_size = 1000000, min_insert_block_size_rows = 1000000";
        let insert = format!("INSERT INTO up.events SELECT number, randomString(1000) FROM numbers({rows}) {whole}");
        self.etl().execute(&insert).await.map_err(|error| format!("{error:?}"))
    }

    async fn count(&self) -> u64 {
        let count = self.etl().query("SELECT count() FROM up.events").await.expect("the writer has all of it");
        count.trim().parse().expect("a number")
    }

    fn staged(&self) -> u64 {
        self.warehouse.home.json(&["status"])["parts_staged"].as_u64().expect("a number")
    }

    fn cache(&self, field: &str) -> u64 {
        self.warehouse.home.json(&["cache", "stat", "etl-0"])[0][field].as_u64().expect("a number")
    }

    async fn wait(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds().await {
            assert!(Instant::now() < deadline, "it never came true that {what}{}", self.warehouse.home.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn objects(&self) -> Objects {
        let [(_, key), (_, secret)] = self.garage.credentials();
        let credentials =
            moorhouse_objects::S3Credentials { access_key_id: key.to_owned(), secret_access_key: secret.to_owned() };
        Objects::open_with_credentials(&self.url.parse().expect("a URL"), credentials).await.expect("opens the bucket")
    }

    /// Starts the writer, which has died, with these variables too.
    async fn start_writer(&self, more: &[(&str, &str)]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut command = self.warehouse.home.moorctl(&["dev", "start", "etl-0"]);
            let started = output(command.envs(self.garage.credentials()).envs(more.iter().copied()));
            if started.status.success() {
                return;
            }
            // The engine of an agent that died ends a moment later: until then its ports are taken.
            assert!(Instant::now() < deadline, "{}{}", stderr(&started), self.warehouse.home.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn is_clean(&self) -> bool {
        let done = output(&mut self.warehouse.home.moorctl(&["fsck", "--deep", "--output", "json"]));
        let found: Value = serde_json::from_str(&stdout(&done)).unwrap_or_else(|_| panic!("{}", stderr(&done)));
        assert_eq!(found["findings"], 0, "{found:#}");
        done.status.success()
    }
}

/// How many uploads were begun, and the numbers of the pieces that were sent, in order.
fn pieces(lines: &[String]) -> (usize, Vec<usize>) {
    let begun = lines.iter().filter(|line| line.contains("?uploads")).count();
    let number = |line: &String| line.split_once("partNumber=")?.1.split(['&', ' ']).next()?.parse().ok();
    let mut numbers: Vec<usize> = lines.iter().filter_map(number).collect();
    numbers.sort_unstable();
    (begun, numbers)
}

/// 140 MB: nine pieces of 16 MiB.
const ROWS: u64 = 140_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_goes_on_where_it_was_broken_off() {
    let scene = Scene::start(2 << 30).await;
    // The connection is lost in the midst; and then the bytes of some pieces are spoilt on their way.
    scene.proxy.set(Fault::Slow(Duration::from_millis(400)));
    scene.insert(ROWS).await.expect("an INSERT needs no object store");
    let mut lines = Vec::new();
    scene
        .wait("pieces are sent", async || {
            lines.extend(scene.proxy.take_lines());
            pieces(&lines).1.len() >= 2
        })
        .await;
    for fault in [Fault::Down, Fault::CorruptPuts] {
        scene.proxy.set(fault);
        scene.wait("the upload breaks off", async || scene.proxy.hit() > 0).await;
    }
    scene.proxy.take_lines();
    scene.proxy.set(Fault::None);
    scene.wait("it is stored", async || scene.staged() == 0).await;
    let ((begun, before), (begun_anew, after)) = (pieces(&lines), pieces(&scene.proxy.take_lines()));
    assert_eq!((begun, begun_anew), (1, 0), "one upload");
    assert!(before.iter().all(|piece| !after.contains(piece)), "sent twice: {before:?}, then {after:?}");

    // The agent dies in the midst.
    scene.warehouse.home.run(&["dev", "kill", "etl-0"]);
    scene.start_writer(&[("MOORHOUSE_FAILPOINT", "upload.after_piece@3")]).await;
    scene.wait("the writer is back", async || scene.etl().query("SELECT count() FROM up.events").await.is_ok()).await;
    scene.insert(ROWS).await.expect("acknowledged before its upload");
    scene
        .wait("the agent has died", async || {
            let log = scene.warehouse.home.path().join("logs/etl-0.log");
            fs::read_to_string(log).unwrap_or_default().contains("the failpoint is reached")
        })
        .await;
    scene.start_writer(&[]).await;
    scene.wait("the writer is back", async || scene.etl().query("SELECT count() FROM up.events").await.is_ok()).await;
    scene.wait("it is stored", async || scene.staged() == 0).await;
    let (begun, mut sent) = pieces(&scene.proxy.take_lines());
    let total = sent.len();
    sent.dedup();
    assert_eq!((begun, sent.len()), (1, 9), "one upload, each piece of it");
    assert!(total <= 9 + 3, "only pieces that were under way at its death are sent again: {total}");
    assert_eq!(scene.count().await, 2 * ROWS);
    assert_eq!(scene.objects().await.unfinished().await.expect("lists"), []);
    assert!(scene.is_clean());

    sweeps_what_nobody_resumes(&scene).await;
}

async fn sweeps_what_nobody_resumes(scene: &Scene) {
    let objects = scene.objects().await;
    let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    let key = |minted_ms: u64| format!("parts/{0:032x}/0/{minted_ms:012x}-{0:032x}", 7);
    let (old, young) = (key(now_ms - 2 * ORPHAN_GRACE_MS), key(now_ms + ORPHAN_GRACE_MS));
    for key in [&old, &young] {
        objects.begin(key, 100 << 20).await.expect("begins");
    }
    let left = async || {
        let unfinished = objects.unfinished().await.expect("lists");
        unfinished.into_iter().map(|upload| upload.key).collect::<Vec<_>>()
    };
    assert!(left().await.contains(&young));
    scene.wait("the old one is swept", async || !left().await.contains(&old)).await;
    assert_eq!(left().await, [young], "somebody may resume it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_find_room_again_when_the_store_is_back() {
    const BUDGET: u64 = 64 << 20;
    const ROWS: u64 = 3_000;
    let scene = Scene::start(BUDGET).await;
    scene.proxy.set(Fault::Down);
    let mut inserts = 0;
    let refused = loop {
        match scene.insert(ROWS).await {
            Ok(()) => inserts += 1,
            Err(error) => break error,
        }
        assert!(scene.cache("used_bytes") <= BUDGET);
        assert!(inserts < 100, "the budget is never full{}", scene.warehouse.home.logs());
    };
    assert!(refused.contains("No space left") || refused.contains("NOT_ENOUGH_SPACE"), "{refused}");
    assert!(inserts >= 4, "{inserts} INSERTs of 3 MB found room in 64 MiB");
    assert!(scene.cache("used_bytes") <= BUDGET);
    assert_eq!(scene.count().await, inserts * ROWS, "what was refused is not there, what was not is");
    let free = "SELECT total_space, free_space FROM system.disks WHERE type = 'Local' AND path LIKE '%/0/'";
    println!("{inserts} INSERTs, then: {refused}; disks: {:?}", scene.etl().query(free).await);

    scene.proxy.set(Fault::None);
    scene.wait("there is room again", async || scene.cache("staged_used_bytes") < BUDGET / 2).await;
    for _ in 0..3 {
        scene.insert(ROWS).await.expect("there is room");
    }
    assert_eq!(scene.count().await, (inserts + 3) * ROWS);
    scene.wait("all is stored", async || scene.staged() == 0).await;
    assert!(scene.is_clean());
}
