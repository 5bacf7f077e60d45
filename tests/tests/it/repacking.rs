//! An object that has lost most of its parts gives the rest to a new one, and goes.

use std::time::{Duration, Instant};

use moorhouse_tests::binaries::{output, stderr, stdout};
use moorhouse_tests::engines::engine_of;
use moorhouse_tests::warehouse::TestWarehouse;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);
const SHAPE: [&str; 6] = ["--shards", "1", "--group", "etl=1", "--group", "bi=1"];
/// Short, so that a test sees the end of them.
const EAGER: [(&str, &str); 4] = [
    ("MOORHOUSE_DELETE_GRACE_MS", "6000"),
    ("MOORHOUSE_ORPHAN_GRACE_MS", "12000"),
    ("MOORHOUSE_REPACK_EVERY_MS", "300"),
    ("MOORHOUSE_REPACK_AGE_MS", "0"),
];

fn fsck(warehouse: &TestWarehouse) -> Value {
    let done = output(&mut warehouse.home.moorctl(&["fsck", "--deep", "--output", "json"]));
    serde_json::from_str(&stdout(&done)).unwrap_or_else(|_| panic!("{}", stderr(&done)))
}

async fn wait(warehouse: &TestWarehouse, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "it never came true that {what}{}", warehouse.home.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_holds_little_more_than_what_is_alive() {
    let warehouse = TestWarehouse::start_with(&SHAPE, &[], &EAGER);
    let etl = warehouse.client(0);
    etl.execute("CREATE DATABASE packed").await.expect("CREATE DATABASE");
    let create = "CREATE TABLE packed.events (id UInt64, note String) ENGINE = MergeTree PARTITION BY id % 10 \
         ORDER BY id SETTINGS old_parts_lifetime = 1";
    etl.execute(create).await.expect("CREATE TABLE");
    // Ten parts that settle together, and so share an object.
    let insert = "INSERT INTO packed.events SELECT number, randomString(100) FROM numbers(5000)";
    etl.execute(insert).await.expect("acknowledged");
    wait(&warehouse, "all is stored", async || {
        let found = fsck(&warehouse);
        found["files_staged"] == 0 && found["files_stored"].as_u64() > Some(0)
    })
    .await;
    let before = fsck(&warehouse);
    let rows = "SELECT count(), sum(id), sum(cityHash64(note)) FROM packed.events WHERE id % 10 >= 7";
    let right = etl.query(rows).await.expect("answers");

    let engine = engine_of(&warehouse, 0, 1).await;
    let table = "SELECT name FROM system.tables WHERE database = 'shard_0' AND name LIKE 'events%'";
    let table = engine.query(table).await.expect("answers").trim().to_owned();
    for partition in 0..7 {
        let gone = format!("ALTER TABLE shard_0.`{table}` DROP PARTITION {partition}");
        engine.execute(&gone).await.expect("dropped");
    }
    let all = before["object_bytes"].as_u64().expect("a number");
    wait(&warehouse, "dead bytes leave the bucket", async || {
        let found = fsck(&warehouse);
        assert_eq!(found["findings"], 0, "{found:#}");
        // A third is alive; what waits for its grace still counts.
        found["files_staged"] == 0 && found["object_bytes"].as_u64().expect("a number") < all * 2 / 3
    })
    .await;
    for group in [0, 1] {
        warehouse.home.run(&["cache", "drop"]);
        wait(&warehouse, "the rows are read at their new place", async || {
            warehouse.client(group).query(rows).await.is_ok_and(|answer| answer == right)
        })
        .await;
    }
}
