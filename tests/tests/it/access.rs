//! Users, rights and settings as documents, from `moorctl` to real engines; looked at from outside, through the gateway.

use moorhouse_tests::binaries::{output, stderr};
use moorhouse_tests::warehouse::TestWarehouse;

fn write(warehouse: &TestWarehouse, name: &str, text: &str) -> String {
    let path = warehouse.home.scratch().join(name);
    std::fs::write(&path, text).expect("the directory is writable");
    path.display().to_string()
}

fn refused(warehouse: &TestWarehouse, arguments: &[&str]) -> String {
    let done = output(&mut warehouse.home.moorctl(arguments));
    assert!(!done.status.success(), "{arguments:?} is done");
    stderr(&done)
}

/// SHA-256 of `hush`, and of `evil`.
const HUSH_HASH: &str = "dc8331bcb2283e89d275a1c2fe66f7bf5ac3163ec1967f149dd7e27906365f0c";
const EVIL_HASH: &str = "b5c1fb2efc6d6b4674c2fdcc48ce01b43a3b7c03763c0c3355de0099ee0f8c73";

#[tokio::test]
async fn documents_become_rights_and_settings_on_every_engine() {
    let warehouse = TestWarehouse::start(&[]);
    let admin = warehouse.client(0);
    for statement in [
        "CREATE DATABASE sales",
        "CREATE TABLE sales.orders (id UInt64, region String, price UInt64) ENGINE = MergeTree ORDER BY id SHARD BY id",
        "CREATE TABLE sales.secrets (id UInt64) ENGINE = MergeTree ORDER BY id",
        "INSERT INTO sales.orders SELECT number, if(number % 4 = 0, 'eu', 'us'), number FROM numbers(100)",
        "INSERT INTO sales.secrets VALUES (7)",
    ] {
        admin.execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let policy = format!(
        "people:\n  analysts: {{members: [ada], roles: [reader]}}\nusers:\n  ada: {{password_sha256: {}, profile: small}}\n  \
         eve: {{password_sha256: {}}}\nroles:\n  reader:\n  - {{database: sales, table: orders, columns: [id, region], \
         access: [select], rows: \"region = 'eu'\"}}\n  - {{database: sales, table: later, access: [select, insert]}}\n\
         profiles:\n  small: {{max_result_rows: 1000}}\nquotas:\n  hourly: {{interval_s: 3600, queries: 100000}}\n",
        HUSH_HASH, EVIL_HASH
    );
    let file = write(&warehouse, "policy.yaml", &policy);
    let planned = output(&mut warehouse.home.moorctl(&["access", "apply", "-f", &file, "--dry-run"]));
    assert!(stderr(&planned).contains("+ user ada"), "{}", stderr(&planned));
    assert!(warehouse.client_as(0, "ada", "hush").query("SELECT 1").await.is_err(), "a dry run changes nothing");
    warehouse.home.run(&["access", "apply", "-f", &file]);
    let shown = warehouse.home.run(&["access", "show", "--output", "json"]);
    assert!(shown.contains("analysts") && !shown.contains(HUSH_HASH), "{shown}");

    // The same in both groups: of 100 rows 25, of three columns two, of two tables one.
    for group in [0, 1] {
        let ada = warehouse.client_as(group, "ada", "hush");
        let count = ada.query("SELECT count(), min(region), max(region) FROM (SELECT region FROM sales.orders)").await;
        assert_eq!(count.expect("permitted").trim(), "25\teu\teu", "group {group}");
        for forbidden in [
            "SELECT price FROM sales.orders",
            "SELECT * FROM sales.secrets",
            "INSERT INTO sales.orders VALUES (1, 'eu', 1)",
        ] {
            let error = ada.query(forbidden).await.expect_err(forbidden);
            assert_eq!(error.code(), Some(497), "{forbidden}: {error}");
        }
        // Around the Distributed table there is no way either.
        let physical = admin
            .query("SELECT concat(database, '.', name) FROM system.tables WHERE name LIKE 'orders_%' LIMIT 1")
            .await;
        let physical = physical.expect("answers").trim().to_owned();
        let rows = ada.query(&format!("SELECT DISTINCT region FROM {physical}")).await;
        assert!(
            rows.as_deref().map_or(true, |rows| rows.trim() == "eu" || rows.trim().is_empty()),
            "{physical}: {rows:?}"
        );
        let setting = ada.query("SELECT getSetting('max_result_rows')").await.expect("answers");
        assert_eq!(setting.trim(), "1000");
        assert!(warehouse.client_as(group, "ada", "wrong").query("SELECT 1").await.is_err());
        let eve = warehouse.client_as(group, "eve", "evil").query("SELECT count() FROM sales.orders").await;
        assert_eq!(eve.expect_err("no grant").code(), Some(497));
        let all = warehouse.client(group).query("SELECT count() FROM sales.orders").await;
        assert_eq!(all.expect("answers").trim(), "100", "others see every row");
    }

    // A table that is made later is under its grant at once.
    admin.execute("CREATE TABLE sales.later (a UInt64) ENGINE = MergeTree ORDER BY a").await.expect("made");
    let ada = warehouse.client_as(0, "ada", "hush");
    ada.execute("INSERT INTO sales.later VALUES (1)").await.expect("granted");
    assert_eq!(ada.query("SELECT sum(a) FROM sales.later").await.expect("granted").trim(), "1");

    configuration_has_versions(&warehouse).await;

    // What the file does not name is revoked with --prune.
    let less =
        policy.replace("people:\n  analysts: {members: [ada], roles: [reader]}\n", "").replace("  eve:", "  mallory:");
    let file = write(&warehouse, "less.yaml", &less);
    warehouse.home.run(&["access", "apply", "-f", &file, "--prune"]);
    assert_eq!(ada.query("SELECT id FROM sales.orders").await.expect_err("revoked").code(), Some(497));
    assert!(warehouse.client_as(1, "eve", "evil").query("SELECT 1").await.is_err(), "eve is gone");
    assert_eq!(admin.query("SELECT count() FROM sales.orders").await.expect("answers").trim(), "100");
}

async fn configuration_has_versions(warehouse: &TestWarehouse) {
    let one = write(warehouse, "one.yaml", "profile:\n  max_threads: 3\n");
    let two = write(warehouse, "two.yaml", "profile: {max_threads: 4}\n");
    warehouse.home.run(&["config", "set", &one]);
    let admin = warehouse.client(1);
    assert_eq!(admin.query("SELECT getSetting('max_threads')").await.expect("answers").trim(), "3");
    let diff = warehouse.home.run(&["config", "diff", &two]);
    assert!(diff.contains("-     \"max_threads\": 3") && diff.contains("+     \"max_threads\": 4"), "{diff}");
    warehouse.home.run(&["config", "set", &two, "--from", "1"]);
    let stale = refused(warehouse, &["config", "set", &one, "--from", "1"]);
    assert!(stale.contains("is at version 2 now"), "{stale}");
    let own = write(warehouse, "own.yaml", "profile: {distributed_foreground_insert: 0}\n");
    assert!(refused(warehouse, &["config", "set", &own]).contains("the warehouse's own"));
    warehouse.home.run(&["config", "rollback", "--to", "1"]);
    assert_eq!(admin.query("SELECT getSetting('max_threads')").await.expect("answers").trim(), "3");
    assert_eq!(warehouse.home.json(&["config", "history"]).as_array().map(Vec::len), Some(3));
    // One that no engine takes is told, and harms nobody.
    let bad = write(warehouse, "bad.yaml", "profile: {no_such_setting_at_all: 1}\n");
    let said = refused(warehouse, &["config", "set", &bad]);
    assert!(said.contains("do not obey"), "{said}");
    assert_eq!(admin.query("SELECT getSetting('max_threads')").await.expect("answers").trim(), "3");
    warehouse.home.run(&["config", "rollback", "--to", "1"]);
}
