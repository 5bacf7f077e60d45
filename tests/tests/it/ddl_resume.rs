//! The controller dies at each step of a DDL task, on real etcd with real engines: the one who waits is told the real outcome,
//! by the next leader.

use std::time::{Duration, Instant};

use moorhouse_tests::binaries::{output, stderr};
use moorhouse_tests::servers::Etcd;
use moorhouse_tests::warehouse::TestWarehouse;

const STEPS: [&str; 5] = ["ddl.queued", "ddl.described", "ddl.changed", "ddl.applied", "ddl.finished"];
const PATIENCE: Duration = Duration::from_secs(60);

struct Scene {
    _etcd: Etcd,
    warehouse: TestWarehouse,
}

impl Scene {
    fn restart(&self, environment: &[(&str, &str)]) {
        for arguments in [["dev", "kill", "controller"], ["dev", "start", "controller"]] {
            if arguments[1] == "kill" && !self.is_alive() {
                continue;
            }
            let done = output(self.warehouse.home.moorctl(&arguments).envs(environment.iter().copied()));
            let started = done.status.success() || !environment.is_empty();
            assert!(started, "{arguments:?}: {}{}", stderr(&done), self.warehouse.home.logs());
        }
    }

    fn is_alive(&self) -> bool {
        self.warehouse.home.is_alive("controller")
    }

    /// Runs a statement into the failpoint, and lets the next leader end it.
    async fn through(&self, step: &str, statement: &str) {
        self.restart(&[("MOORHOUSE_FAILPOINT", step)]);
        let (client, words) = (self.warehouse.client(0), statement.to_owned());
        let running = tokio::spawn(async move { client.execute(&words).await });
        let deadline = Instant::now() + PATIENCE;
        while self.is_alive() {
            assert!(
                Instant::now() < deadline && !running.is_finished(),
                "{step} is never reached{}",
                self.warehouse.home.logs()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.restart(&[]);
        let told = tokio::time::timeout(PATIENCE, running).await.expect("is told in time").expect("no panic");
        told.unwrap_or_else(|error| panic!("{statement} at {step}: {error}{}", self.warehouse.home.logs()));
    }
}

#[tokio::test]
async fn a_statement_outlives_its_controller_at_each_step() {
    let etcd = Etcd::start();
    let warehouse = TestWarehouse::start(&["--store", &etcd.store_url("resume")]);
    let scene = Scene { _etcd: etcd, warehouse };
    let admin = scene.warehouse.client(0);
    for (number, step) in STEPS.into_iter().enumerate() {
        // One whose repetition as another task would fail: without IF NOT EXISTS.
        let create = format!("CREATE TABLE default.t{number} (a UInt64) ENGINE = MergeTree ORDER BY a");
        scene.through(step, &create).await;
        admin.execute(&format!("INSERT INTO default.t{number} VALUES ({number})")).await.expect("it is there");
        let seen = scene.warehouse.client(1).query(&format!("SELECT count() FROM default.t{number}")).await;
        seen.unwrap_or_else(|error| panic!("in the other group too: {error}"));
    }
    scene.through("ddl.changed", "DROP TABLE default.t0").await;
    assert_eq!(admin.query("SELECT sum(a) FROM default.t0").await.expect_err("dropped").code(), Some(60));
    let listed = scene.warehouse.home.json(&["ddl", "list"]);
    let outcomes: Vec<_> = listed.as_array().expect("a list").iter().map(|task| task["outcome"].clone()).collect();
    assert_eq!(outcomes, ["done"; 6], "{listed}");
    let audit = scene.warehouse.home.json(&["audit"]);
    let ended = audit.as_array().expect("a list").iter().filter(|entry| entry["action"] == "create_table");
    assert!(ended.clone().all(|entry| entry["outcome"] == "done" || entry["outcome"] == "running"), "{audit}");
}
