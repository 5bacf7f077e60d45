//! `moorctl` on a running warehouse: what it lists, and nodes that come and go.

use std::process::Command;

use moorhouse_tests::warehouse::{TestWarehouse, succeed};
use serde_json::Value;

fn sql(warehouse: &TestWarehouse, group_index: u16, statement: &str) -> String {
    let url = format!("http://127.0.0.1:{}/", warehouse.http_port(group_index));
    let login = format!("admin:{}", warehouse.password);
    succeed(Command::new("curl").args(["-sS", "--fail-with-body", "--user", &login, "--data-binary", statement, &url]))
}

fn shards_of(shards: &Value, node: &str) -> usize {
    shards.as_array().expect("a list").iter().filter(|shard| shard["node"] == node).count()
}

#[test]
fn a_node_joins_is_drained_and_leaves() {
    let warehouse = TestWarehouse::start(&[]);
    let home = &warehouse.home;
    sql(&warehouse, 0, "CREATE DATABASE shop");
    sql(&warehouse, 0, "CREATE TABLE shop.orders (id UInt64) ENGINE = MergeTree ORDER BY id");
    sql(&warehouse, 0, "INSERT INTO shop.orders SELECT number FROM numbers(1000)");

    assert_eq!(home.json(&["status"])["tables"], 1);
    assert_eq!(home.json(&["group", "show", "etl"])["nodes_up"], 1);
    let parts = home.json(&["part", "list", "--table", "shop.orders"]);
    let rows: u64 = parts.as_array().expect("a list").iter().filter_map(|part| part["rows"].as_u64()).sum();
    assert_eq!(rows, 1000);
    assert!(home.run(&["node", "list"]).contains("etl-0"), "the table look names the nodes too");

    home.run(&["node", "add", "--group", "etl", "--name", "extra", "--wait"]);
    assert_eq!(shards_of(&home.json(&["shard", "list", "--group", "etl"]), "extra"), 1, "two shards on two nodes");
    assert_eq!(sql(&warehouse, 0, "SELECT count(), uniqExact(id) FROM shop.orders"), "1000\t1000\n");
    home.run(&["node", "drain", "etl-0"]);
    assert_eq!(shards_of(&home.json(&["shard", "list", "--group", "etl"]), "extra"), 2, "all went to the other node");
    home.run(&["node", "remove", "etl-0"]);
    let nodes = home.json(&["node", "list", "--group", "etl"]);
    assert_eq!(nodes.as_array().map(Vec::len), Some(1), "{nodes}");
    assert_eq!(sql(&warehouse, 0, "SELECT count(), uniqExact(id) FROM shop.orders"), "1000\t1000\n");
    sql(&warehouse, 0, "INSERT INTO shop.orders SELECT number FROM numbers(1000, 10)");
    assert_eq!(sql(&warehouse, 0, "SELECT count() FROM shop.orders"), "1010\n");
}

#[test]
fn a_warehouse_continues_where_it_stopped() {
    let warehouse = TestWarehouse::start(&[]);
    let home = &warehouse.home;
    sql(&warehouse, 0, "CREATE DATABASE shop");
    sql(&warehouse, 0, "CREATE TABLE shop.orders (id UInt64) ENGINE = MergeTree ORDER BY id");
    sql(&warehouse, 0, "INSERT INTO shop.orders SELECT number FROM numbers(500)");
    home.run(&["dev", "down"]);
    home.run(&["dev", "up"]);
    assert_eq!(sql(&warehouse, 0, "SELECT count() FROM shop.orders"), "500\n");
    assert_eq!(sql(&warehouse, 1, "SELECT count() FROM shop.orders"), "500\n");
}
