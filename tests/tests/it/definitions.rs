//! Definitions through the gateway on real engines: made, filled, dropped, made again.

use std::time::{Duration, Instant};

use moorhouse_engine::SqlClient;
use moorhouse_tests::warehouse::TestWarehouse;

async fn number(sql: &SqlClient, query: &str) -> u64 {
    sql.query(query).await.expect("answered").trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_with_rows_is_dropped_and_its_name_is_free_again() {
    let shape = ["--shards", "3", "--group", "etl=1", "--group", "bi=1"];
    let warehouse = TestWarehouse::start_shaped(&shape, &[]);
    let (etl, bi) = (warehouse.client(0), warehouse.client(1));
    etl.execute("CREATE DATABASE sales").await.expect("made");
    for rows in [1_000, 50] {
        etl.execute("CREATE TABLE sales.orders (id UInt64, note String) ENGINE = MergeTree ORDER BY id")
            .await
            .expect("made");
        let insert = format!("INSERT INTO sales.orders SELECT number, toString(number) FROM numbers({rows})");
        bi.execute(&insert).await.expect("taken");
        assert_eq!(number(&etl, "SELECT count() FROM sales.orders").await, rows);
        let deadline = Instant::now() + Duration::from_secs(10);
        while number(&bi, "SELECT count() FROM sales.orders").await != rows {
            assert!(Instant::now() < deadline, "the reader does not see the rows");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        etl.execute("DROP TABLE sales.orders").await.expect("dropped");
        for group in [&etl, &bi] {
            let gone = group.query("SELECT count() FROM sales.orders").await.expect_err("no such table");
            assert_eq!(gone.code(), Some(60), "{gone}");
        }
    }
    let again = etl.execute("CREATE DATABASE sales").await.expect_err("it is there");
    assert_eq!(again.code(), Some(82), "{again}");
    etl.execute("CREATE TABLE sales.kept (id UInt64) ENGINE = ReplacingMergeTree ORDER BY id").await.expect("made");
    etl.execute("INSERT INTO sales.kept VALUES (1), (1), (2)").await.expect("taken");
    assert_eq!(number(&etl, "SELECT count() FROM sales.kept FINAL").await, 2);
    let refused = etl.execute("CREATE TABLE sales.bad (id UInt64) ENGINE = MergeTree ORDER BY nothing").await;
    assert_eq!(refused.expect_err("no such column").code(), Some(47));
    etl.execute("DROP DATABASE sales").await.expect("dropped");
    let status = warehouse.home.json(&["status"]);
    assert_eq!(status["tables"], 0, "{status}");
}
