//! CREATE and DROP through the gateway, and the process itself: its flags, its end.

use std::time::{Duration, Instant};

use crate::common::client::{Client, Request};
use crate::common::{GATEWAY, World, eventually, group};
use moorhouse_catalog::{DdlStatement, SqlName};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TWO_GROUPS: &[(&str, &str)] = &[("etl-0", "etl"), ("bi-0", "bi")];

fn sql(name: &str) -> SqlName {
    SqlName::new(name).expect("a name")
}

#[tokio::test]
async fn a_table_is_made_used_and_dropped() {
    let world = World::start(TWO_GROUPS).await;
    let made = world.etl.sales("CREATE DATABASE shop").await;
    assert_eq!((made.status.as_u16(), made.text().as_str()), (200, ""));
    assert!(made.header("x-clickhouse-summary").contains("elapsed_ns"));
    let create = "CREATE TABLE orders (id UInt64) ENGINE = MergeTree SHARD BY cityHash64(id) ORDER BY id; -- mine";
    let create = Request::post(create).sales().with("database", "shop").with("query_id", "mine");
    let made = world.etl.send(create).await;
    assert_eq!((made.status.as_u16(), made.header("x-clickhouse-query-id")), (200, "mine"), "{}", made.text());
    assert_eq!(
        world.controller.submitted()[1],
        DdlStatement::CreateTable {
            group: group("etl"),
            database: sql("shop"),
            name: sql("orders"),
            if_not_exists: false,
            create_tail: "(id UInt64) ENGINE = MergeTree ORDER BY id".into(),
            session_database: sql("shop"),
            sharding_key: Some("cityHash64(id)".into()),
        }
    );
    // At once, and through the other group: the answer came only when this gateway's routes know the table.
    assert_eq!(world.bi.sales("INSERT INTO shop.orders VALUES (1)").await.status.as_u16(), 200);
    assert_eq!(world.nodes_with_rows("shop", "orders").await, ["etl-0"]);
    assert_eq!(world.bi.sales("DROP TABLE shop.orders SYNC").await.status.as_u16(), 200);
    let gone = world.bi.sales("INSERT INTO shop.orders VALUES (1)").await;
    assert_eq!((gone.status.as_u16(), gone.header("x-clickhouse-exception-code")), (404, "60"));
    let in_url = Request::post("").sales().with("query", "DROP DATABASE shop");
    assert_eq!(world.etl.send(in_url).await.status.as_u16(), 200);
}

#[tokio::test]
async fn an_engines_error_comes_back_with_its_code() {
    let world = World::start(TWO_GROUPS).await;
    let wrong = world.etl.sales("CREATE TABLE nowhere.t (id UInt64) ENGINE = MergeTree ORDER BY id").await;
    assert_eq!((wrong.status.as_u16(), wrong.header("x-clickhouse-exception-code")), (404, "81"), "{}", wrong.text());
    assert!(wrong.text().starts_with("Code: 81. DB::Exception: "), "{}", wrong.text());
}

#[tokio::test]
async fn only_users_of_the_warehouse_define() {
    let world = World::start(TWO_GROUPS).await;
    let create = || Request::post("CREATE DATABASE stolen");
    let wrong = world.etl.send(create().header("x-clickhouse-user", "sales").header("x-clickhouse-key", "no")).await;
    assert_eq!((wrong.status.as_u16(), wrong.header("x-clickhouse-exception-code")), (403, "516"));
    // The embedded engine's own user: no password, no rights.
    let nobody = world.etl.send(create()).await;
    assert_eq!(
        (nobody.status.as_u16(), nobody.header("x-clickhouse-exception-code")),
        (500, "497"),
        "{}",
        nobody.text()
    );
    let by_get = world.etl.send(Request::get("/").sales().with("query", "CREATE DATABASE stolen")).await;
    assert_eq!(by_get.header("x-clickhouse-exception-code"), "164");
    assert_eq!(world.controller.submitted(), []);
    let right = world.etl.send(create().with("user", "sales").with("password", "secret")).await;
    assert_eq!(right.status.as_u16(), 200, "{}", right.text());
}

#[tokio::test]
async fn what_is_refused_says_why_and_what_to_do() {
    let world = World::start(TWO_GROUPS).await;
    for (statement, status, code, remedy) in [
        ("ALTER TABLE t DROP COLUMN a", 501, "48", "INSERT … SELECT"),
        ("TRUNCATE TABLE t", 501, "48", "CREATE TABLE"),
        ("CREATE VIEW v AS SELECT 1", 501, "48", "Keep the query in the client"),
        (
            "CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a SETTINGS storage_policy = 'x'",
            400,
            "36",
            "Leave these settings out",
        ),
        ("DROP DATABASE a; DROP DATABASE b", 400, "62", "one statement a request"),
    ] {
        let answer = world.etl.sales(statement).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-clickhouse-exception-code")),
            (status, code),
            "{statement}"
        );
        assert!(answer.text().contains(remedy), "{}", answer.text());
    }
    let long = format!("CREATE TABLE t (a Int8) /* {} */ ENGINE = MergeTree ORDER BY a", "x".repeat(70_000));
    assert_eq!(world.etl.sales(&long).await.status.as_u16(), 413);
    let long = format!("SELECT /* {} */ 42", "x".repeat(70_000));
    assert_eq!(world.etl.sales(&long).await.text(), "42");
    assert_eq!(world.controller.submitted(), []);
}

#[tokio::test]
async fn what_the_gateway_misses_the_engine_refuses() {
    let world = World::start(TWO_GROUPS).await;
    // As if the classifier had taken these for reads: straight to an engine.
    let direct = Client::new(&world.node("etl-0").http);
    for statement in [
        "CREATE DATABASE x",
        "CREATE TABLE default.x (a Int8) ENGINE = Memory",
        "DROP DATABASE default",
        "SYSTEM FLUSH LOGS",
    ] {
        assert_eq!(direct.sales(statement).await.header("x-clickhouse-exception-code"), "497", "{statement}");
    }
}

#[tokio::test]
async fn sigterm_lets_statements_end() {
    let mut world = World::start(TWO_GROUPS).await;
    let pid = Pid::from_raw(world.gateway.id().expect("running").cast_signed());
    let (client, node) = (world.etl.clone(), world.node("etl-0").endpoint());
    let slow = tokio::spawn(async move {
        let slow = Request::post("SELECT sleepEachRow(1) + 1 FROM numbers(2)").sales().with("query_id", "slow");
        client.send(slow).await
    });
    let running =
        async || world.node("etl-0").ask("SELECT count() FROM system.processes WHERE query_id = 'slow'").await == "1";
    eventually(&format!("the query runs on {}", node.node), running).await;
    kill(pid, Signal::SIGTERM).expect("sent");
    let stopping = Instant::now();
    assert_eq!(slow.await.expect("ended").text(), "1\n1");
    let status = world.gateway.wait().await.expect("ended");
    assert_eq!(status.code(), Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn all_mistakes_of_the_start_are_told_at_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let start = async |arguments: &[&str]| {
        let output = tokio::process::Command::new(GATEWAY).args(arguments).output().await.expect("runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).lines().count(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let wrong = [
        "--controller",
        "there",
        "--listen-group",
        "etl",
        "--listen-group",
        "Bi=127.0.0.1:1,127.0.0.1:2",
        "--metrics",
        "x",
    ];
    let (code, lines, text) = start(&wrong).await;
    assert_eq!((code, lines), (Some(2), 4), "{text}");
    let etl = format!("etl=127.0.0.1:{port},127.0.0.1:0");
    let metrics = format!("127.0.0.1:{port}");
    let (code, lines, text) =
        start(&["--controller", "http://127.0.0.1:1", "--listen-group", &etl, "--metrics", "127.0.0.1:0"]).await;
    assert_eq!((code, lines), (Some(2), 1), "{text}");
    assert!(text.contains("is in use"), "{text}");
    let both =
        ["--controller", "http://127.0.0.1:1", "--listen-group", "etl=127.0.0.1:0,127.0.0.1:0", "--metrics", &metrics];
    let (code, _, text) = start(&both).await;
    assert_eq!(code, Some(2), "{text}");
    assert_eq!(start(&[]).await.0, Some(2));
}
