//! Processes that die at each step of a part's life, and volumes that are thrown away. Afterwards nothing acknowledged is
//! lost, nothing that was not committed is visible, and catalog, bucket and staging agree.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use moorhouse_tests::binaries::{output, stderr, stdout};
use moorhouse_tests::warehouse::TestWarehouse;
use serde_json::Value;

const CREATE: &str = "CREATE TABLE crash.events (id UInt64, note String) ENGINE = MergeTree ORDER BY id \
     SETTINGS old_parts_lifetime = 1 SHARD BY id";
/// Short, so that a test sees the end of it; long enough for an upload on a busy machine.
const SHORT_GRACES: [(&str, &str); 2] = [("MOORHOUSE_DELETE_GRACE_MS", "3000"), ("MOORHOUSE_ORPHAN_GRACE_MS", "8000")];
/// Uploads begin soon after a part was written.
const SETTLE: &str = "settle_ms=200";
const LOOK: Duration = Duration::from_millis(20);
/// A failpoint is reached, a killed process is back, a sweeper has been through: each within this.
const PATIENCE: Duration = Duration::from_secs(90);

struct Scene {
    warehouse: TestWarehouse,
    began: Instant,
    next: u64,
    acknowledged: BTreeSet<u64>,
    /// Failed, and may have happened all the same.
    uncertain: BTreeSet<u64>,
}

/// A moorctl that need not come to its end.
struct Starting(Child);

impl Drop for Starting {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Scene {
    async fn start(shape: &[&str], environment: &[(&str, &str)]) -> Self {
        let warehouse = TestWarehouse::start_with(shape, &[], environment);
        let scene = Self {
            warehouse,
            began: Instant::now(),
            next: 0,
            acknowledged: BTreeSet::new(),
            uncertain: BTreeSet::new(),
        };
        let etl = scene.warehouse.client(0);
        etl.execute("CREATE DATABASE crash").await.expect("CREATE DATABASE");
        etl.execute(CREATE).await.expect("CREATE TABLE");
        scene
    }

    fn say(&self, what: &str) {
        println!("{:5.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// One row a statement: it is there or not.
    async fn insert(&mut self) -> bool {
        let (id, statement) = self.next_insert();
        let done = self.warehouse.client(0).execute(&statement).await.is_ok();
        self.note_insert(id, done);
        done
    }

    fn next_insert(&mut self) -> (u64, String) {
        let id = self.next;
        self.next += 1;
        (id, format!("INSERT INTO crash.events VALUES ({id}, 'row {id}')"))
    }

    fn note_insert(&mut self, id: u64, acknowledged: bool) {
        let rows = if acknowledged { &mut self.acknowledged } else { &mut self.uncertain };
        rows.insert(id);
    }

    fn moorctl(&self, arguments: &[&str]) {
        let done = output(&mut self.warehouse.home.moorctl(arguments));
        assert!(done.status.success(), "{arguments:?}: {}{}", stderr(&done), self.warehouse.home.logs());
    }

    /// How often the process has ended at a failpoint.
    fn deaths(&self, process: &str) -> usize {
        let log = self.warehouse.home.path().join("logs").join(format!("{process}.log"));
        fs::read_to_string(log).unwrap_or_default().matches("the failpoint is reached").count()
    }

    /// Lets a process run into a failpoint, under INSERTs, and starts it again.
    async fn crash_at(&mut self, process: &str, failpoint: &str) {
        self.moorctl(&["dev", "kill", process]);
        let deaths = self.deaths(process);
        let deadline = Instant::now() + PATIENCE;
        let mut starting = self.start_armed(process, failpoint);
        let before = self.acknowledged.len();
        while self.deaths(process) == deaths {
            assert!(Instant::now() < deadline, "{failpoint} is never reached{}", self.warehouse.home.logs());
            // The engine of the agent that was killed still has its ports for a moment.
            let failed = starting.0.try_wait().expect("it is a child").is_some_and(|status| !status.success());
            if failed && self.deaths(process) == deaths {
                starting = self.start_armed(process, failpoint);
            }
            self.insert_until_death(process, deaths).await;
        }
        // It would wait a minute for the process to come up.
        drop(starting);
        self.say(&format!("{process} died at {failpoint} after {} rows", self.acknowledged.len() - before));
        self.start_again(process).await;
        self.works_again().await;
    }

    /// moorctl is not waited for: the process may end before it is up.
    fn start_armed(&self, process: &str, failpoint: &str) -> Starting {
        let mut command = self.warehouse.home.moorctl(&["dev", "start", process]);
        command.envs(SHORT_GRACES).env("MOORHOUSE_FAILPOINT", failpoint).stdout(Stdio::null()).stderr(Stdio::null());
        Starting(command.spawn().expect("moorctl starts"))
    }

    /// An INSERT whose process has died may wait for a while: it is given up, and may have happened.
    async fn insert_until_death(&mut self, process: &str, deaths: usize) {
        let (id, statement) = self.next_insert();
        let client = self.warehouse.client(0);
        let mut looks = tokio::time::interval(LOOK);
        let insert = client.execute(&statement);
        tokio::pin!(insert);
        let acknowledged = loop {
            tokio::select! {
                done = &mut insert => break done.is_ok(),
                _ = looks.tick() => if self.deaths(process) > deaths { break false },
            }
        };
        self.note_insert(id, acknowledged);
        if !acknowledged {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The engine of an agent that died ends a moment later: until then its ports are taken.
    async fn start_again(&self, process: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let start = output(self.warehouse.home.moorctl(&["dev", "start", process]).envs(SHORT_GRACES));
            if start.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "{}{}", stderr(&start), self.warehouse.home.logs());
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn works_again(&self) {
        let deadline = Instant::now() + PATIENCE;
        let etl = self.warehouse.client(0);
        while let Err(error) = etl.query("SELECT count() FROM crash.events").await {
            assert!(Instant::now() < deadline, "no recovery: {error:?}{}", self.warehouse.home.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What is visible is what was acknowledged and perhaps what is uncertain; each row once.
    async fn check_rows(&self, group: u16) {
        let found =
            self.warehouse.client(group).query("SELECT id FROM crash.events ORDER BY id").await.expect("answers");
        let found: Vec<u64> = found.lines().map(|line| line.parse().expect("a number")).collect();
        let visible: BTreeSet<u64> = found.iter().copied().collect();
        assert_eq!(visible.len(), found.len(), "a row is there twice");
        let lost: Vec<_> = self.acknowledged.difference(&visible).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}{}", self.warehouse.home.logs());
        let known: BTreeSet<u64> = self.acknowledged.union(&self.uncertain).copied().collect();
        assert!(visible.is_subset(&known), "visible and never asked for");
    }

    /// Readers may be a moment behind, never wrong.
    async fn readers_see_all(&self) {
        let deadline = Instant::now() + PATIENCE;
        let count = |group| async move { self.warehouse.client(group).query("SELECT count() FROM crash.events").await };
        while count(1).await != count(0).await {
            assert!(Instant::now() < deadline, "readers stay behind{}", self.warehouse.home.logs());
            tokio::time::sleep(LOOK).await;
        }
        self.check_rows(1).await;
    }

    fn fsck(&self, arguments: &[&str]) -> (bool, Value) {
        let asked = [&["fsck", "--output", "json"], arguments].concat();
        let done = output(&mut self.warehouse.home.moorctl(&asked));
        let text = stdout(&done);
        let document = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{}{text}", stderr(&done)));
        (done.status.success(), document)
    }

    /// Until everything is stored and nothing else is in the bucket.
    async fn becomes_clean(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (clean, found) = self.fsck(&["--deep"]);
            let rest = ["files_staged", "objects_fresh", "objects_doomed"].map(|what| found[what].as_u64());
            if clean && rest == [Some(0); 3] {
                assert!(found["bytes_read"].as_u64() > Some(0), "{found}");
                return self.say(&format!("clean: {found}"));
            }
            assert!(Instant::now() < deadline, "never clean: {found:#}{}", self.warehouse.home.logs());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

const SHAPE: [&str; 6] = ["--shards", "1", "--group", "etl=1", "--group", "bi=1"];

/// What an agent does with a part, step by step, and an engine that dies alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_step_of_a_part_loses_nothing() {
    let mut scene = Scene::start(&SHAPE, &SHORT_GRACES).await;
    scene.set_table(&[SETTLE]).await;
    for failpoint in [
        "seal.before_sync@3",
        "commit.before@3",
        "commit.after@3",
        "upload.before_put",
        "upload.after_put",
        "upload.after_commit",
        "upload.after_release",
        "letting.before_remove",
    ] {
        scene.crash_at("etl-0", failpoint).await;
        scene.check_rows(0).await;
    }
    scene.warehouse.home.kill_engine("etl-0");
    scene.works_again().await;
    scene.check_rows(0).await;
    scene.readers_see_all().await;
}

/// The controller's sweepers, and an agent that dies between an upload and its commit: what nothing refers to goes, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_a_sweeper_leaves_nothing_and_takes_nothing() {
    let mut scene = Scene::start(&SHAPE, &SHORT_GRACES).await;
    scene.set_table(&[SETTLE]).await;
    // Leaves the orphan that the controller then sweeps.
    scene.crash_at("etl-0", "upload.after_put").await;
    for failpoint in ["sweep.after_orphan", "sweep.after_delete"] {
        scene.crash_at("controller", failpoint).await;
        scene.check_rows(0).await;
    }
    scene.becomes_clean().await;
    scene.check_rows(0).await;
    scene.readers_see_all().await;
}

/// An acknowledged row outlives its writer's disk where the table asks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_volume_loses_nothing_that_is_replicated_or_stored() {
    // Nothing settles by itself.
    let mut scene = Scene::start(&SHAPE, &[("MOORHOUSE_SETTLE_LEVEL", "4000000000")]).await;
    scene.set_table(&["settle_ms=3600000", "durability=replicated"]).await;
    for _ in 0..5 {
        assert!(scene.insert().await, "{}", scene.warehouse.home.logs());
    }
    let (clean, found) = scene.fsck(&[]);
    assert!(clean && found["files_staged"].as_u64() > Some(0) && found["files_stored"] == 0, "{found}");
    scene.throw_away_volume("etl-0").await;
    scene.check_rows(0).await;
    scene.readers_see_all().await;

    scene.set_table(&["durability=object"]).await;
    for _ in 0..5 {
        assert!(scene.insert().await, "{}", scene.warehouse.home.logs());
    }
    let (clean, found) = scene.fsck(&[]);
    assert!(clean && found["files_stored"].as_u64() > Some(0), "{found}");
    scene.throw_away_volume("etl-0").await;
    scene.check_rows(0).await;
    scene.readers_see_all().await;
    assert!(scene.fsck(&["--deep"]).0);
}

impl Scene {
    /// Returns when every node has the view with the new settings.
    async fn set_table(&self, settings: &[&str]) {
        let home = &self.warehouse.home;
        home.run(&[&["table", "set", "crash.events"], settings].concat());
        let revision = home.json(&["status"])["revision"].as_u64();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let nodes = home.json(&["node", "list"]);
            if nodes.as_array().is_some_and(|nodes| nodes.iter().all(|n| n["view_revision"].as_u64() >= revision)) {
                return;
            }
            assert!(Instant::now() < deadline, "a node stays behind: {nodes}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn throw_away_volume(&self, node: &str) {
        self.moorctl(&["dev", "kill", node]);
        fs::remove_dir_all(self.warehouse.home.path().join("nodes").join(node)).expect("it was there");
        self.moorctl(&["dev", "start", node]);
        self.works_again().await;
        self.say(&format!("{node} is back without its volume"));
    }
}
