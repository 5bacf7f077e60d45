//! The embedded engine as a process: starts, answers, enforces rights, survives, ends. Runs the real engine.

mod common;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::{ask, config, engine, engine_binary, sales_client};
use moorhouse_engine::{ClusterConfig, ClusterShard, Engine, EngineConfig, EngineError, SqlClient, SqlError};

const STOP: Duration = Duration::from_secs(10);

fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn starts_answers_and_stops_without_a_trace() {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = config(dir.path());
    let engine = engine(&config).await;
    let pid = engine.pid();
    let version = engine.sql().query("SELECT version()").await.expect("version");
    assert!(version.starts_with("26."), "{version}");
    engine.stop(STOP).await.expect("stops");
    assert!(!is_running(pid));
    common::assert_free(config.http_port);
    common::assert_free(config.native_port);
}

#[tokio::test]
async fn a_killed_engine_is_noticed_and_starts_again_with_empty_metadata() {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = config(dir.path());
    let mut first = engine(&config).await;
    first.sql().execute("CREATE TABLE gone (x UInt8) ENGINE = MergeTree ORDER BY x").await.expect("create");
    let pid = nix::unistd::Pid::from_raw(first.pid().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
    assert!(!first.exited().await.success());
    let second = engine(&config).await;
    assert_eq!(ask(second.sql(), "EXISTS TABLE gone").await, "0");
    assert_eq!(ask(second.sql(), "SELECT 1").await, "1");
    second.stop(STOP).await.expect("stops");
}

#[tokio::test]
async fn a_dropped_engine_is_gone() {
    let dir = tempfile::tempdir().expect("tempdir");
    let engine = engine(&config(dir.path())).await;
    let pid = engine.pid();
    drop(engine);
    for _ in 0..200 {
        // The runtime reaps it a moment later.
        if !is_running(pid) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {pid} is still there");
}

/// Set in the process that [`an_engine_dies_with_its_parent`] starts and that is killed.
const DOOMED_DIR: &str = "MOORHOUSE_TEST_DOOMED_DIR";

/// Does nothing unless started by [`an_engine_dies_with_its_parent`].
#[tokio::test]
async fn doomed_parent() {
    let Some(dir) = std::env::var_os(DOOMED_DIR) else { return };
    let engine = engine(&config(Path::new(&dir))).await;
    std::fs::write(Path::new(&dir).join("pid"), engine.pid().to_string()).expect("write");
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).expect("die");
}

#[test]
fn an_engine_dies_with_its_parent() {
    let dir = tempfile::tempdir().expect("tempdir");
    let parent = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "doomed_parent"])
        .env(DOOMED_DIR, dir.path())
        .status()
        .expect("starts");
    assert!(!parent.success());
    let pid = std::fs::read_to_string(dir.path().join("pid")).expect("the engine had started");
    let pid: u32 = pid.parse().expect("a number");
    let deadline = std::time::Instant::now() + STOP;
    // Whoever adopted it reaps it.
    while is_running(pid) && !is_zombie(pid) {
        assert!(std::time::Instant::now() < deadline, "process {pid} outlived its parent");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_zombie(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[tokio::test]
async fn a_taken_port_is_told_before_the_start() {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = config(dir.path());
    let _taken = std::net::TcpListener::bind(("127.0.0.1", config.native_port)).expect("bind");
    let error = Engine::start(&engine_binary(), &config).await.expect_err("the port is taken");
    assert!(matches!(error, EngineError::PortInUse { port, .. } if port == config.native_port), "{error}");
}

#[tokio::test]
async fn a_user_reads_and_writes_but_changes_no_definition() {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = config(dir.path());
    let engine = engine(&config).await;
    let admin = engine.sql();
    admin.execute("CREATE DATABASE shop").await.expect("database");
    admin.execute("CREATE TABLE shop.orders (id UInt64) ENGINE = MergeTree ORDER BY id").await.expect("table");

    let sales = sales_client(&config);
    sales.execute("INSERT INTO shop.orders VALUES (1), (2)").await.expect("insert");
    for (allowed, answer) in [
        ("SELECT sum(id) FROM shop.orders", "3"),
        ("SELECT sum(number) FROM numbers(4)", "6"),
        ("SELECT count() FROM VALUES('x UInt8', 1, 2)", "2"),
        ("SHOW TABLES FROM shop", "orders"),
        ("SELECT count() FROM system.tables WHERE database = 'shop'", "1"),
        ("SELECT count() FROM (SELECT * FROM shop.orders AS a JOIN shop.orders AS b USING id)", "2"),
    ] {
        assert_eq!(ask(&sales, allowed).await, answer, "{allowed}");
    }
    sales.execute("KILL QUERY WHERE query_id = 'none' SYNC").await.expect("kill query");
    for refused in [
        "CREATE TABLE shop.other (x UInt8) ENGINE = MergeTree ORDER BY x",
        "CREATE DATABASE other",
        "DROP TABLE shop.orders",
        "TRUNCATE TABLE shop.orders",
        "ALTER TABLE shop.orders ADD COLUMN x UInt8",
        "ALTER TABLE shop.orders DELETE WHERE 1",
        "OPTIMIZE TABLE shop.orders",
        "DELETE FROM shop.orders WHERE id = 1",
        "RENAME TABLE shop.orders TO shop.other",
        "CREATE USER eve",
        "GRANT ALL ON *.* TO sales",
        "SYSTEM STOP MERGES shop.orders",
        "SYSTEM STOP LISTEN HTTP",
        "SYSTEM SHUTDOWN",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "SELECT * FROM remote('127.0.0.1', system.one)",
    ] {
        let error = sales.execute(refused).await.expect_err(refused);
        assert_eq!(error.code(), Some(497), "{refused}: {error}");
    }
    let constant = sales.execute("SET distributed_foreground_insert = 0").await.expect_err("const");
    assert_eq!(constant.code(), Some(452), "{constant}");
    engine.stop(STOP).await.expect("stops");
}

#[tokio::test]
async fn wrong_passwords_and_the_internal_login_get_nowhere() {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = config(dir.path());
    let engine = engine(&config).await;
    let host = format!("127.0.0.1:{}", config.http_port);
    for (user, password) in [("sales", "wrong"), ("sales", ""), ("agent", "wrong"), ("nobody", "")] {
        let error = SqlClient::new(&host, user, password).query("SELECT 1").await.expect_err("refused");
        assert_eq!(error.code(), Some(516), "{user}: {error}");
    }
    let internal = SqlClient::new(&host, "default", "");
    let error = internal.execute("CREATE TABLE x (x UInt8) ENGINE = Log").await.expect_err("no rights");
    assert_eq!(error.code(), Some(497), "{error}");
    assert_eq!(ask(engine.sql(), "SELECT 1").await, "1");
    engine.stop(STOP).await.expect("stops");
}

#[tokio::test]
async fn errors_in_the_middle_of_an_answer_are_errors() {
    let dir = tempfile::tempdir().expect("tempdir");
    let engine = engine(&config(dir.path())).await;
    let sql = engine.sql();
    let late = "SELECT number, throwIf(number = 3000000, 'late') FROM numbers(5000000) SETTINGS max_block_size = 1000";
    for error in [sql.query(late).await.expect_err("late"), sql.execute(late).await.expect_err("late")] {
        assert_eq!(error.code(), Some(395), "{error}");
    }
    let syntax = sql.execute("SELEC 1").await.expect_err("syntax");
    assert_eq!(syntax.code(), Some(62), "{syntax}");
    // A row that quotes an error is a row.
    let quoted = ask(sql, "SELECT 'Code: 395. DB::Exception: late'").await;
    assert_eq!(quoted, "Code: 395. DB::Exception: late");
    let nobody = SqlClient::new("127.0.0.1:1", "a", "b").query("SELECT 1").await.expect_err("no server");
    assert!(matches!(nobody, SqlError::Transport(_)));
    engine.stop(STOP).await.expect("stops");
}

#[tokio::test]
async fn rows_settings_and_streamed_inserts() {
    #[derive(serde::Deserialize, PartialEq, Debug)]
    struct Row {
        id: u64,
        name: String,
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let engine = engine(&config(dir.path())).await;
    let sql = engine.sql();
    sql.execute("CREATE DATABASE shop").await.expect("database");
    let shop = sql.with_setting("database", "shop");
    shop.execute("CREATE TABLE t (id UInt64, name String) ENGINE = MergeTree ORDER BY id").await.expect("table");
    let body = futures::stream::iter((0..1000_u64).map(|id| Bytes::from(format!("{}\tn{id}\n", u64::MAX - id))));
    shop.insert("INSERT INTO t FORMAT TabSeparated", body).await.expect("insert");
    let rows: Vec<Row> = shop.rows("SELECT * FROM t ORDER BY id DESC LIMIT 1;").await.expect("rows");
    assert_eq!(rows, [Row { id: u64::MAX, name: "n0".into() }]);
    assert_eq!(ask(&shop, "SELECT count() FROM t").await, "1000");
    let bad = futures::stream::iter([Bytes::from("not a number\tx\n")]);
    let error = shop.insert("INSERT INTO t FORMAT TabSeparated", bad).await.expect_err("bad data");
    assert!(error.code().is_some(), "{error}");
    engine.stop(STOP).await.expect("stops");
}

/// Shard k is database `shard_k` of the same server, reached over its own native port.
fn with_cluster(mut config: EngineConfig) -> EngineConfig {
    let shards = (0..2).map(|k| ClusterShard {
        host: "127.0.0.1".into(),
        port: config.native_port,
        default_database: format!("shard_{k}"),
    });
    config.cluster =
        Some(ClusterConfig { name: "moorhouse".into(), secret: "a&b<c>".into(), shards: shards.collect() });
    config
}

#[tokio::test]
async fn a_user_works_through_distributed_tables() {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = with_cluster(config(dir.path()));
    let engine = engine(&config).await;
    let admin = engine.sql();
    for k in 0..2 {
        admin.execute(&format!("CREATE DATABASE shard_{k}")).await.expect("database");
        let disk = dir.path().join(format!("disks/{k}"));
        let table = format!(
            "CREATE TABLE shard_{k}.orders_1 (id UInt64, v String) ENGINE = MergeTree ORDER BY id \
             SETTINGS disk = disk(name = 'shard_{k}', type = 'local', path = '{}/')",
            disk.display()
        );
        admin.execute(&table).await.expect("table");
        let shown = ask(admin, &format!("SHOW CREATE TABLE shard_{k}.orders_1")).await;
        assert!(shown.contains(&disk.display().to_string()), "{shown}");
    }
    admin.execute("CREATE DATABASE sales").await.expect("database");
    let distributed = "CREATE TABLE sales.orders (id UInt64, v String) \
                       ENGINE = Distributed(moorhouse, '', 'orders_1', cityHash64(id))";
    admin.execute(distributed).await.expect("distributed");

    let sales = sales_client(&config).with_setting("database", "sales");
    sales.execute("INSERT INTO orders SELECT number, toString(number) FROM numbers(1000)").await.expect("insert");
    assert_eq!(ask(&sales, "SELECT count(), uniqExact(id) FROM orders").await, "1000\t1000");
    for k in 0..2 {
        let part: u64 = ask(admin, &format!("SELECT count() FROM shard_{k}.orders_1")).await.parse().expect("number");
        assert!((300..700).contains(&part), "shard {k} has {part} of 1000 rows");
    }
    let join = "SELECT count() FROM orders AS a JOIN orders AS b ON a.id = b.id WHERE a.v IN (SELECT v FROM orders)";
    assert_eq!(ask(&sales, join).await, "1000");
    assert_eq!(ask(&sales, "SELECT v FROM orders WHERE id = 7").await, "7");
    // Remote statements run as the user himself: his rights count there, too.
    let users = "SELECT arrayStringConcat(groupUniqArray(user)) FROM system.query_log WHERE is_initial_query = 0";
    admin.execute("SYSTEM FLUSH LOGS query_log").await.expect("flush");
    assert_eq!(ask(admin, users).await, "sales");
    engine.stop(STOP).await.expect("stops");
}
