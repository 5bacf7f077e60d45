//! The native protocol through the real gateway, to real engines.

use std::process::Stdio;
use std::time::Duration;

use crate::common::native::{Native, block};
use crate::common::{World, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

const WAREHOUSE: &[(&str, &str)] = &[("etl-1", "etl"), ("bi-1", "bi"), ("bi-2", "bi")];

/// Debian's clickhouse-client 18.16: revision 54412, no chunks. What it prints, or its error.
async fn old_client(address: &str, more: &[&str], sql: &str, input: &str) -> Result<String, String> {
    let (host, port) = address.split_once(':').expect("host:port");
    let mut client = Command::new("clickhouse-client")
        .args(["--host", host, "--port", port, "--user", "sales", "--password", "secret", "--query", sql])
        // It takes no progress before the first block, which a busy engine would send.
        .args(["--interactive_delay", "100000000"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("clickhouse-client is installed; run `make setup-tests`");
    let mut stdin = client.stdin.take().expect("piped");
    // A client that failed does not read its input.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = client.wait_with_output().await.expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[tokio::test]
async fn statements_go_where_they_belong() {
    let world = World::start(WAREHOUSE).await;
    world.make_table("d", "t").await;
    let mut bi = Native::sales(&world.bi_native).await;
    bi.run("SELECT 'here', hostName()").await.ok();
    // An INSERT at a reader's endpoint lands in the owner group, and reads stay.
    let many: Vec<u64> = (0..2500).collect();
    bi.insert("d.t", &many).await.ok();
    assert_eq!(world.nodes_with_rows("d", "t").await, ["etl-1"]);
    assert_eq!(world.node("etl-1").ask("SELECT count(), sum(id) FROM d.t").await, "2500\t3123750");
    assert!(bi.run("SELECT count() FROM d.t").await.ok().is_whole());
    // Unqualified, in the database that the session uses.
    bi.run("USE d").await.ok();
    bi.insert("t", &[7]).await.ok();
    bi.run("INSERT INTO t SELECT 8").await.ok();
    assert_eq!(world.node("etl-1").ask("SELECT count() FROM d.t").await, "2502");
    // A definition goes to the controller; what is not supported is refused in words.
    bi.run("CREATE TABLE d.made (id UInt64) ENGINE = MergeTree ORDER BY id").await.ok();
    assert_eq!(world.controller.submitted().len(), 1);
    bi.insert("d.made", &[1, 2, 3]).await.ok();
    let (code, text) =
        bi.run("CREATE TABLE d.made (id UInt64) ENGINE = MergeTree ORDER BY id").await.exception().expect("57");
    assert!(code == 57 && text.contains("Table d.made already exists"), "{code} {text}");
    let (code, text) = bi.run("ALTER TABLE d.t ADD COLUMN x Int8").await.exception().expect("48");
    assert!(code == 48 && text.contains("NOT_IMPLEMENTED"), "{code} {text}");
    let ping = async {
        bi.send(&[4]).await;
        bi.packet().await.expect("a pong").kind()
    };
    assert_eq!(ping.await, 4);
}

#[tokio::test]
async fn a_session_keeps_its_settings_and_temporary_tables() {
    let world = World::start(WAREHOUSE).await;
    world.make_table("d", "t").await;
    let mut bi = Native::sales(&world.bi_native).await;
    bi.run("SET max_block_size = 4242").await.ok();
    assert!(bi.run("SELECT toString(getSetting('max_block_size'))").await.ok().shows("4242"));
    // Said again to the owner group's node.
    bi.run("INSERT INTO d.t SELECT getSetting('max_block_size')").await.ok();
    assert_eq!(world.node("etl-1").ask("SELECT id FROM d.t").await, "4242");
    bi.run("CREATE TEMPORARY TABLE mine (id UInt64)").await.ok();
    bi.insert("mine", &[41, 42]).await.ok();
    for _ in 0..5 {
        assert!(bi.run("SELECT concat('sum:', toString(sum(id))) FROM mine").await.ok().shows("sum:83"));
    }
    // With a statement of its own each.
    bi.send_query("", "SELECT toString(getSetting('max_threads'))", &[("max_threads", "3")]).await;
    assert!(bi.answer().await.ok().shows("3"));
}

#[tokio::test]
async fn an_exception_leaves_the_connection_usable() {
    let world = World::start(WAREHOUSE).await;
    world.make_table("d", "t").await;
    let mut bi = Native::sales(&world.bi_native).await;
    assert_eq!(bi.run("SELECT nothing").await.exception().expect("no such column").0, 47);
    assert_eq!(bi.run("SELECT throwIf(number = 100000) FROM numbers(200000)").await.exception().expect("395").0, 395);
    // Data of an INSERT that failed before it was sent.
    bi.send_query("", "INSERT INTO d.t (nothing) VALUES", &[]).await;
    bi.send(&block(&[1])).await;
    bi.send(&block(&[])).await;
    assert_eq!(bi.answer().await.exception().expect("no such column").0, 16);
    bi.run("SELECT 1").await.ok();
    bi.insert("d.t", &[1]).await.ok();
    // … and of one that the gateway refused itself.
    bi.send_query("", "CREATE DICTIONARY x", &[]).await;
    bi.send(&block(&[1])).await;
    bi.send(&block(&[])).await;
    assert_eq!(bi.answer().await.exception().expect("refused").0, 48);
    bi.run("SELECT 1").await.ok();
}

#[tokio::test]
async fn a_running_statement_is_cancelled_and_killed() {
    let world = World::start(WAREHOUSE).await;
    let long = "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))";
    let mut bi = Native::sales(&world.bi_native).await;
    bi.send_query("to-cancel", long, &[]).await;
    let runs = async |id: &str| {
        let mut found = 0;
        for node in &world.nodes {
            let count = node.ask(&format!("SELECT count() FROM system.processes WHERE query_id = '{id}'")).await;
            found += count.parse::<u64>().expect("a number");
        }
        found == 1
    };
    eventually("the statement runs", async || runs("to-cancel").await).await;
    bi.send(&[3]).await;
    bi.answer().await.ok();
    bi.run("SELECT 1").await.ok();
    // Each of the two nodes is somebody's home.
    for at in 0..4 {
        let id = format!("to-kill-{at}");
        bi.send_query(&id, long, &[]).await;
        eventually("the statement runs", async || runs(&id).await).await;
        let mut other = Native::sales(&world.bi_native).await;
        other.run(&format!("KILL QUERY WHERE query_id = '{id}'")).await.ok();
        assert_eq!(bi.answer().await.exception().expect("killed").0, 394);
    }
    // A client that leaves takes its statement with it.
    bi.send_query("left", long, &[]).await;
    eventually("the statement runs", async || runs("left").await).await;
    drop(bi);
    eventually("the statement ends", async || !runs("left").await).await;
}

#[tokio::test]
async fn wrong_passwords_and_strangers_are_refused() {
    let world = World::start(&[("etl-1", "etl"), ("bi-1", "bi")]).await;
    let refused = async |user: &str, password: &str| Native::login(&world.bi_native, user, password).await.err();
    assert_eq!(refused("sales", "wrong").await.expect("refused").0, 516);
    assert_eq!(refused("nobody", "").await.expect("refused").0, 516);
    assert_eq!(refused(" INTERSERVER SECRET ", "").await.expect("refused").0, 497);
    let mut garbage = tokio::net::TcpStream::connect(&world.bi_native).await.expect("it listens");
    garbage.write_all(&[0xff; 300]).await.expect("it reads");
    let mut nothing = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), garbage.read_to_end(&mut nothing)).await;
    assert!(read.expect("it closes").is_ok() && nothing.is_empty(), "{nothing:?}");
    // The engine's own user without a password has no definitions.
    let mut default = Native::login(&world.bi_native, "default", "").await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(default.run("CREATE DATABASE x").await.exception().expect("no right").0, 497);
    Native::sales(&world.bi_native).await.run("SELECT 1").await.ok();
}

#[tokio::test]
async fn an_old_client_works_at_any_endpoint() {
    let world = World::start(WAREHOUSE).await;
    world.make_table("d", "t").await;
    let bi = world.bi_native.as_str();
    assert_eq!(
        old_client(bi, &[], "SELECT sum(number) FROM numbers(1000000)", "").await.as_deref(),
        Ok("499999500000")
    );
    for (compression, rows) in [("0", "1\n2\n3\n"), ("1", "4\n5\n6\n")] {
        let with = ["--compression", compression, "--max_threads", "2"];
        old_client(bi, &with, "INSERT INTO d.t FORMAT TSV", rows).await.expect("inserted");
        old_client(bi, &with, "INSERT INTO d.t VALUES (7), (8)", "").await.expect("inserted");
    }
    assert_eq!(world.nodes_with_rows("d", "t").await, ["etl-1"]);
    assert_eq!(world.node("etl-1").ask("SELECT count(), sum(id) FROM d.t").await, "10\t51");
    // Several statements over one connection, each in its place.
    let script = "CREATE TABLE d.u (id UInt64) ENGINE = MergeTree ORDER BY id;\nINSERT INTO d.u SELECT 1;\nSELECT 'between';\n\
                  INSERT INTO d.t SELECT 100;\nINSERT INTO d.u SELECT 2;\nUSE d;\nINSERT INTO u SELECT 3;\n";
    for compression in ["0", "1"] {
        let done = old_client(bi, &["--multiquery", "--compression", compression], script, "").await;
        assert_eq!(done.as_deref(), Ok("between"), "compression {compression}");
        // Made at bi, so bi owns it.
        let mut rows = 0;
        for node in world.nodes.iter().filter(|node| node.group == "bi") {
            rows += node.ask("SELECT count() FROM d.u").await.parse::<u64>().expect("a number");
        }
        assert_eq!(rows, 3);
        assert_eq!(world.node("etl-1").ask("SELECT count() FROM d.t WHERE id = 100").await, "1");
        world.node("etl-1").ask("TRUNCATE TABLE d.t").await;
        old_client(bi, &[], "DROP TABLE d.u", "").await.expect("dropped");
    }
    let refused = old_client(bi, &[], "SELECT nothing", "").await.expect_err("no such column");
    assert!(refused.contains("Code: 47"), "{refused}");
    let external = ["--external", "--file=-", "--name=mine", "--structure=id UInt64, name String, a Array(String)"];
    let counted = old_client(bi, &external, "SELECT count(), sum(id) FROM mine", "1\tx\t['a']\n2\ty\t[]\n").await;
    assert_eq!(counted.as_deref(), Ok("2\t3"));
}

#[tokio::test]
async fn a_dead_node_costs_at_most_the_statement_that_it_had() {
    let mut world = World::start(WAREHOUSE).await;
    world.make_table("d", "t").await;
    let mut bi = Native::sales(&world.bi_native).await;
    // The second connection's home is the other node.
    let mut other = Native::sales(&world.bi_native).await;
    other.run("SELECT 1").await.ok();
    let long = "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))";
    bi.send_query("dying", long, &[]).await;
    let mut victim = None;
    while victim.is_none() {
        for at in [1, 2] {
            if world.nodes[at].ask("SELECT count() FROM system.processes WHERE query_id = 'dying'").await == "1" {
                victim = Some(at);
            }
        }
    }
    drop(world.nodes.remove(victim.expect("it runs")));
    // The client has nothing but progress and the header, which was kept back: the other node takes the statement over.
    eventually("the statement runs again", async || {
        world.nodes[1].ask("SELECT count() FROM system.processes WHERE query_id = 'dying'").await == "1"
    })
    .await;
    bi.send(&[3]).await;
    bi.answer().await.ok();
    // The connections go on, at the node that is left, although the view does not know yet.
    for _ in 0..4 {
        bi.run("SELECT 1").await.ok();
        other.run("SELECT 1").await.ok();
    }
    // Nobody of the owner group is there: the INSERT waits, and then says so.
    drop(world.nodes.remove(0));
    let (code, text) = bi.run("INSERT INTO d.t SELECT 1").await.exception().expect("nobody is there");
    assert!(code == 279 && text.contains("etl"), "{code} {text}");
    bi.run("SELECT 1").await.ok();
}
