//! Groups grow, shrink, and lose processes under continuous INSERTs and SELECTs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use moorhouse_engine::SqlClient;
use moorhouse_tests::load::{self, Inventory, Lane, Load, Tally, Work, take_inventory};
use moorhouse_tests::warehouse::TestWarehouse;

const SHARDS: u64 = 4;
/// A reader may lag behind the last INSERT.
const READERS_CATCH_UP: Duration = Duration::from_secs(10);
/// After a crash, until every statement works again.
const RECOVERY: Duration = Duration::from_secs(20);
/// How long the load goes on before and after a change.
const CALM: Duration = Duration::from_millis(500);

struct Scene {
    warehouse: TestWarehouse,
    began: Instant,
    acknowledged: BTreeSet<u64>,
    phases: u64,
}

impl Scene {
    fn start() -> Self {
        let warehouse =
            TestWarehouse::start_shaped(&["--shards", &SHARDS.to_string(), "--group", "etl=2", "--group", "bi=1"], &[]);
        Self { warehouse, began: Instant::now(), acknowledged: BTreeSet::new(), phases: 0 }
    }

    /// A client of its own, as another program would have.
    fn client(&self, group: &str) -> SqlClient {
        self.warehouse.client(u16::from(group == "bi"))
    }

    fn load(&mut self) -> Load {
        self.phases += 1;
        let lane = |name, group, work| Lane { name, sql: self.client(group), work };
        let lanes = vec![
            lane("insert 1 through etl", "etl", Work::Insert),
            lane("insert 2 through etl", "etl", Work::Insert),
            lane("insert 3 through etl", "etl", Work::Insert),
            lane("insert 4 through bi", "bi", Work::Insert),
            lane("count on etl", "etl", Work::Count { never_less: true }),
            lane("halves on etl", "etl", Work::Halves),
            lane("halves on bi", "bi", Work::Halves),
        ];
        Load::start(lanes, SHARDS, self.phases)
    }

    async fn finish(&mut self, load: Load, during: &str) -> Tally {
        tokio::time::sleep(CALM).await;
        let mut tally = load.finish().await;
        self.acknowledged.append(&mut tally.acknowledged.clone());
        self.say(&format!(
            "{during}: {} statements, {} failed, the slowest took {} ms {:#?}",
            tally.statements,
            tally.failed,
            tally.slowest.as_millis(),
            tally.errors
        ));
        tally.acknowledged.clear();
        tally
    }

    fn say(&self, what: &str) {
        println!("{:5.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// moorctl, while the load goes on.
    async fn moorctl(&self, arguments: &[&str]) {
        let mut command = self.warehouse.home.moorctl(arguments);
        let done = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it starts");
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        self.say(&format!("moorctl {}: {}", arguments.join(" "), said.trim().replace('\n', " | ")));
        assert!(done.status.success(), "{arguments:?}: {said}{}", self.warehouse.home.logs());
    }

    /// Waits until a query of each group reaches every shard.
    async fn recovered(&mut self) {
        let deadline = Instant::now() + RECOVERY;
        let (etl, bi) = (self.client("etl"), self.client("bi"));
        let asked = "SELECT uniqExact(_shard_num) FROM load.events";
        let whole = format!("{SHARDS}\n");
        while etl.query(asked).await.as_ref() != Ok(&whole) || bi.query(asked).await.as_ref() != Ok(&whole) {
            assert!(Instant::now() < deadline, "no recovery: {:?} {:?}", etl.query(asked).await, bi.query(asked).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.say("works again");
    }

    /// Both groups hold what was acknowledged, exactly once, and nothing by halves.
    async fn check_inventory(&self) {
        let found = take_inventory(&self.client("etl"), SHARDS, &self.acknowledged).await.expect("etl answers");
        let none = Inventory { unacknowledged_visible: found.unacknowledged_visible, ..Inventory::default() };
        assert_eq!(found, none, "{}", self.warehouse.home.logs());
        self.say(&format!(
            "etl has {} acknowledged statements and {} others",
            self.acknowledged.len(),
            found.unacknowledged_visible
        ));
        let deadline = Instant::now() + READERS_CATCH_UP;
        loop {
            let read = take_inventory(&self.client("bi"), SHARDS, &self.acknowledged).await.expect("bi answers");
            if read == found {
                return self.say("bi has the same");
            }
            assert!(Instant::now() < deadline, "the readers stay behind: {read:?}{}", self.warehouse.home.logs());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_grow_shrink_and_lose_processes_under_load() {
    let mut scene = Scene::start();
    let etl = scene.client("etl");
    etl.execute(load::CREATE_DATABASE).await.expect("CREATE DATABASE");
    etl.execute(load::CREATE_EVENTS).await.expect("CREATE TABLE");

    planned_changes(&mut scene).await;
    crashes(&mut scene).await;
    controller_away(&mut scene).await;

    println!("{}", scene.warehouse.home.run(&["move", "list"]));
    scene.warehouse.home.run(&["dev", "down"]);
    scene.warehouse.home.assert_nothing_left();
    scene.say("nothing is left");
}

async fn planned_changes(scene: &mut Scene) {
    let load = scene.load();
    tokio::time::sleep(CALM).await;
    scene.moorctl(&["node", "add", "--group", "etl", "--wait"]).await;
    scene.moorctl(&["node", "add", "--group", "etl", "--wait"]).await;
    scene.moorctl(&["node", "add", "--group", "bi", "--wait"]).await;
    for leaving in ["etl-0", "bi-0", "etl-1"] {
        scene.moorctl(&["node", "drain", leaving]).await;
        scene.moorctl(&["node", "remove", leaving]).await;
    }
    let tally = scene.finish(load, "planned changes").await;
    println!("{}", scene.warehouse.home.run(&["move", "list"]));
    tally.assert_flawless("planned changes");
    scene.check_inventory().await;
}

async fn crashes(scene: &mut Scene) {
    let load = scene.load();
    tokio::time::sleep(CALM).await;
    scene.moorctl(&["dev", "kill", "etl-2"]).await;
    tokio::time::sleep(CALM).await;
    scene.moorctl(&["dev", "start", "etl-2"]).await;
    scene.recovered().await;
    scene.warehouse.home.kill_engine("etl-3");
    scene.say("the engine of etl-3 is killed");
    tokio::time::sleep(CALM).await;
    scene.recovered().await;
    let tally = scene.finish(load, "crashes").await;
    tally.assert_right("crashes");
    scene.check_inventory().await;
}

async fn controller_away(scene: &mut Scene) {
    let load = scene.load();
    tokio::time::sleep(CALM).await;
    scene.moorctl(&["dev", "kill", "controller"]).await;
    tokio::time::sleep(CALM * 2).await;
    scene.moorctl(&["dev", "start", "controller"]).await;
    scene.recovered().await;
    let tally = scene.finish(load, "the controller away").await;
    tally.assert_flawless("the controller away");
    scene.check_inventory().await;
}
