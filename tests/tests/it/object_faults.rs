//! An object store that is ill: uploads wait and go on, reads fail or are right, and nothing wrong is ever served.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use moorhouse_objects::{Objects, S3Credentials};
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
    garage: Garage,
    rows: u64,
}

impl Scene {
    async fn start() -> Self {
        let garage = Garage::start();
        let proxy = FaultProxy::start(garage.s3_port());
        let objects = Garage::objects_url_at(proxy.port(), "ill");
        let shape = ["--shards", "1", "--group", "etl=1", "--group", "bi=1"];
        let warehouse = TestWarehouse::start_with(&shape, &["--objects", &objects], &garage.credentials());
        let scene = Self { warehouse, proxy, garage, rows: 0 };
        let etl = scene.warehouse.client(0);
        etl.execute("CREATE DATABASE ill").await.expect("CREATE DATABASE");
        let create = "CREATE TABLE ill.events (id UInt64, note String) ENGINE = MergeTree ORDER BY id";
        etl.execute(create).await.expect("CREATE TABLE");
        scene
    }

    async fn insert(&mut self) {
        // More than what attaching a part reads along.
        let (from, rows) = (self.rows, 100_000);
        let insert =
            format!("INSERT INTO ill.events SELECT number, hex(MD5(toString(number))) FROM numbers({from}, {rows})");
        self.warehouse.client(0).execute(&insert).await.expect("an INSERT needs no object store");
        self.rows += rows;
    }

    /// What the writer answers from its own disk.
    async fn right(&self) -> String {
        let answer = self.warehouse.client(0).query(SUM).await.expect("the writer has all of it");
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
        let started = output(self.warehouse.home.moorctl(&["dev", "start", "bi-0"]).envs(self.garage.credentials()));
        assert!(started.status.success(), "{}", stderr(&started));
    }

    /// The bucket itself, past the proxy.
    async fn objects(&self) -> Objects {
        let [(_, key), (_, secret)] = self.garage.credentials();
        let credentials = S3Credentials { access_key_id: key.to_owned(), secret_access_key: secret.to_owned() };
        let url = self.garage.objects_url("ill").parse().expect("a URL");
        Objects::open_with_credentials(&url, credentials).await.expect("opens the bucket")
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
        let bi = scene.warehouse.client(1);
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
    repairs_only_what_it_was_told_to(&scene).await;
    tells_what_has_vanished(&scene).await;
}

/// An object that nothing refers to: shown, shown with what would be done, and deleted when asked for.
async fn repairs_only_what_it_was_told_to(scene: &Scene) {
    let objects = scene.objects().await;
    let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    let day_ago = now_ms - 86_400_000;
    let orphan = format!("parts/{0:032x}/0/{day_ago:012x}-{0:032x}", 7);
    objects.put(&orphan, vec!["nobody's".into()]).await.expect("puts");
    for (flags, is_there) in
        [(&["fsck"][..], true), (&["fsck", "--repair"], true), (&["fsck", "--repair", "--yes"], false)]
    {
        let done = output(&mut scene.warehouse.home.moorctl(flags));
        let said = stdout(&done);
        assert!(said.contains("orphan") && said.contains(&orphan) && said.contains("delete the object"), "{said}");
        assert_eq!(said.contains("nothing was changed"), flags == ["fsck", "--repair"], "{said}");
        assert_eq!(objects.size(&orphan).await.expect("asks").is_some(), is_there, "{flags:?}: {said}");
        assert_eq!(done.status.success(), !is_there, "{said}");
    }
    assert!(scene.fsck().0);
}

/// An object that is gone for good: the check names the files; nothing else of it is an error, and it may come back.
async fn tells_what_has_vanished(scene: &Scene) {
    let objects = scene.objects().await;
    let listed = objects.list("parts").await.expect("lists");
    let (key, bytes) = listed.first().expect("parts are stored");
    let content = objects.get_range(key, 0, *bytes).await.expect("reads");
    objects.delete(key).await.expect("deletes");
    let (clean, found) = scene.fsck();
    let findings = found["finding_list"].as_array().expect("a list");
    let names_it = |f: &Value| f["kind"] == "missing" && f["detail"].as_str().is_some_and(|d| d.contains(key.as_str()));
    assert!(!clean && !findings.is_empty() && findings.iter().all(names_it), "{found:#}");
    objects.put(key, vec![content]).await.expect("puts");
    assert!(scene.fsck().0);
}
