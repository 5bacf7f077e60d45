//! Which node gets a statement, and what happens when a node, or the controller, is not there.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::common::client::{Answer, Client, Request};
use crate::common::native::Native;
use crate::common::{World, endpoint, eventually, free_ports};
use moorhouse_catalog::NodeName;

const TWO_GROUPS: &[(&str, &str)] = &[("etl-0", "etl"), ("bi-0", "bi")];
const TWO_NODES: &[(&str, &str)] = &[("etl-0", "etl"), ("etl-1", "etl")];

fn written(answer: &Answer) {
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
}

#[tokio::test]
async fn an_insert_at_bi_is_written_by_etl() {
    let world = World::start(TWO_GROUPS).await;
    world.make_table("d", "t").await;
    let in_body = Request::post("INSERT INTO d.t VALUES (1)").sales();
    let in_url = Request::post("2\n").sales().with("query", "insert into d.t format TSV");
    let by_parameter = Request::post("INSERT INTO t SELECT 3").sales().with("database", "d");
    let by_header = Request::post("INSERT INTO `t` VALUES (4)").sales().header("x-clickhouse-database", "d");
    let named_by_parameter =
        Request::post("INSERT INTO d.{into:Identifier} VALUES (5)").sales().with("param_into", "t");
    let split = Request::post(" INTO d.t VALUES (6)").sales().with("query", "INSERT");
    for insert in [in_body, in_url, by_parameter, by_header, named_by_parameter, split] {
        written(&world.bi.send(insert).await);
    }
    written(&world.bi.send(Request::post("USE d").sales().with("session_id", "s")).await);
    written(&world.bi.send(Request::post("INSERT INTO d.t VALUES (7)").sales().with("session_id", "s")).await);
    assert_eq!(world.node("etl-0").ask("SELECT count(), sum(id) FROM d.t").await, "7\t28");
    assert_eq!(world.nodes_with_rows("d", "t").await, ["etl-0"]);
    assert_eq!(world.bi.sales("SELECT count() FROM d.t").await.text(), "0", "a read stays in its group");
}

#[tokio::test]
async fn the_host_name_chooses_the_group_at_a_shared_port() {
    let world = World::start(TWO_GROUPS).await;
    let port =
        async |host: &str| world.shared.send(Request::post("SELECT tcpPort()").sales().header("host", host)).await;
    for group in ["etl", "bi"] {
        let ports: Vec<&str> =
            world.nodes.iter().filter(|node| node.group == group).map(|node| node.native.as_str()).collect();
        for host in [format!("{group}.moorhouse.example:8123"), group.to_owned()] {
            let found = port(&host).await.text();
            assert!(ports.iter().any(|port| port.ends_with(&format!(":{found}"))), "{host}: {found} of {ports:?}");
        }
    }
    let stranger = port("elsewhere.example").await;
    assert!(stranger.text().contains("Code: 36") && stranger.text().contains("bi, etl"), "{}", stranger.text());
}

#[tokio::test]
async fn use_in_a_session_is_remembered_for_routing() {
    let world = World::start(TWO_GROUPS).await;
    world.make_table("d", "t").await;
    let in_session = |sql: &str| Request::post(sql.to_owned()).sales().with("session_id", "s");
    written(&world.bi.send(in_session("USE d")).await);
    written(&world.bi.send(in_session("INSERT INTO t VALUES (1)")).await);
    assert_eq!(world.nodes_with_rows("d", "t").await, ["etl-0"]);
}

#[tokio::test]
async fn an_unknown_table_gets_the_engines_error() {
    let world = World::start(TWO_GROUPS).await;
    let answer = world.bi.sales("INSERT INTO nowhere.t VALUES (1)").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-clickhouse-exception-code")), (404, "81"));
}

#[tokio::test]
async fn a_session_stays_on_its_node() {
    let world = World::start(TWO_NODES).await;
    for session in ["a", "b", "c", "d", "e", "f"] {
        let ask = |sql: &'static str| world.etl.send(Request::post(sql).sales().with("session_id", session));
        written(&ask("SET max_threads = 3").await);
        let mut ports = BTreeSet::new();
        for _ in 0..4 {
            assert_eq!(ask("SELECT getSetting('max_threads')").await.text(), "3");
            ports.insert(ask("SELECT tcpPort()").await.text());
        }
        assert_eq!(ports.len(), 1);
    }
}

#[tokio::test]
async fn statements_spread_over_the_nodes() {
    let world = World::start(TWO_NODES).await;
    let sql = "SELECT tcpPort() FROM numbers(1) WHERE NOT sleep(0.3)";
    let ports = futures::future::join_all((0..8).map(|_| world.etl.sales(sql))).await;
    let first = ports.iter().filter(|port| world.node("etl-0").native.ends_with(&port.text())).count();
    assert_eq!(first, 4, "{:?}", ports.iter().map(Answer::text).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_node_that_takes_no_connection_is_passed_over() {
    let world = World::start(&[("etl-0", "etl")]).await;
    world.make_table("d", "t").await;
    let [http, native] = free_ports();
    let dead = endpoint("etl-9", &format!("127.0.0.1:{http}"), &format!("127.0.0.1:{native}"));
    world.controller.change(|view| view.groups[0].nodes.push(dead));
    let metrics = Client::new(&world.metrics);
    let retried =
        async || !metrics.send(Request::get("/metrics")).await.text().contains("moorhouse_gateway_retries_total 0");
    eventually("the dead node is tried", async || {
        assert_eq!(world.etl.sales("SELECT 1").await.text(), "1");
        retried().await
    })
    .await;
    for n in 0..20 {
        let insert = Request::post(format!("{n}\n")).sales().with("query", "INSERT INTO d.t FORMAT TSV");
        written(&world.bi.send(insert).await);
        written(&world.etl.send(Request::post("SELECT 1").sales().with("session_id", &n.to_string())).await);
    }
    assert_eq!(world.node("etl-0").ask("SELECT count() FROM d.t").await, "20");
}

#[tokio::test]
async fn a_statement_waits_for_a_node_but_not_for_ever() {
    let world = World::start(&[("etl-0", "etl")]).await;
    world.controller.change(|view| view.groups[0].nodes[0].ready = false);
    let view_arrived = Instant::now();
    let (late, never) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let waiting = world.etl.sales("SELECT 1");
            let ready_later = async {
                tokio::time::sleep(Duration::from_millis(700)).await;
                world.controller.change(|view| view.groups[0].nodes[0].ready = true);
            };
            tokio::join!(waiting, ready_later).0
        },
        world.bi.sales("SELECT 1"),
    );
    assert_eq!(late.text(), "1");
    assert_eq!((never.status.as_u16(), never.header("x-clickhouse-exception-code")), (503, "279"));
    assert!(never.text().contains("No node of compute group bi is ready"), "{}", never.text());
    assert!(view_arrived.elapsed() >= Duration::from_secs(10));
}

#[tokio::test]
async fn kill_query_finds_the_query_on_any_node() {
    let world = World::start(TWO_NODES).await;
    for id in ["k1", "k2", "k3"] {
        let sql = "SELECT sum(sleepEachRow(0.01)) FROM numbers(6000) SETTINGS max_block_size = 10, function_sleep_max_microseconds_per_block = 0";
        let slow = Request::post(sql).sales().with("query_id", id).with("session_id", id);
        let running = async || {
            let mut found = false;
            for node in &world.nodes {
                found |=
                    node.ask(&format!("SELECT count() FROM system.processes WHERE query_id = '{id}'")).await == "1";
            }
            found
        };
        let kill = async {
            eventually("the query runs", running).await;
            world.etl.sales(&format!("KILL QUERY WHERE query_id = '{id}' SYNC")).await
        };
        let (slow, killed) = tokio::join!(world.etl.send(slow), kill);
        assert!(killed.text().contains(id), "{}", killed.text());
        assert_eq!(slow.header("x-clickhouse-exception-code"), "394", "{}", slow.text());
    }
}

#[tokio::test]
async fn kill_query_reaches_an_insert_in_another_group_and_nothing_else_there() {
    let world = World::start(TWO_GROUPS).await;
    world.make_table("d", "t").await;
    let slow = "SELECT sum(sleepEachRow(0.01)) FROM numbers(6000) SETTINGS max_block_size = 10, function_sleep_max_microseconds_per_block = 0";
    let runs = async |id: &str| {
        let sql = format!("SELECT count() FROM system.processes WHERE query_id = '{id}'");
        let mut running = false;
        for node in world.nodes.iter().filter(|node| node.group == "etl") {
            running |= node.ask(&sql).await == "1";
        }
        running
    };
    let of_etl = world.etl.send(Request::post(slow).sales().with("query_id", "theirs"));
    let insert = Request::post(format!("INSERT INTO d.t {slow}")).sales().with("query_id", "ours");
    let of_bi = async {
        let (insert, killed) = tokio::join!(world.bi.send(insert), async {
            eventually("both run", async || runs("ours").await && runs("theirs").await).await;
            world.bi.sales("KILL QUERY WHERE query_id IN ('ours', 'theirs') SYNC").await
        });
        assert!(killed.text().contains("ours") && !killed.text().contains("theirs"), "{}", killed.text());
        assert_eq!(insert.header("x-clickhouse-exception-code"), "394", "{}", insert.text());
        assert!(runs("theirs").await, "etl's own statement goes on");
        // The same over the native protocol.
        let mut native = Native::sales(&world.bi_native).await;
        native.send_query("ours-too", &format!("INSERT INTO d.t {slow}"), &[]).await;
        eventually("it runs", async || runs("ours-too").await).await;
        let mut other = Native::sales(&world.bi_native).await;
        other.run("KILL QUERY WHERE query_id IN ('ours-too', 'theirs')").await.ok();
        assert_eq!(native.answer().await.exception().expect("killed").0, 394);
        assert!(runs("theirs").await, "etl's own statement goes on");
        world.etl.sales("KILL QUERY WHERE query_id = 'theirs' SYNC").await
    };
    let (theirs, killed) = tokio::join!(of_etl, of_bi);
    assert!(killed.text().contains("theirs"), "{}", killed.text());
    assert_eq!(theirs.header("x-clickhouse-exception-code"), "394", "{}", theirs.text());
}

#[tokio::test]
async fn without_the_controller_reads_and_inserts_go_on() {
    let world = World::start(TWO_GROUPS).await;
    world.make_table("d", "t").await;
    world.controller.stop();
    eventually("definitions wait", async || world.etl.sales("CREATE DATABASE e").await.status.as_u16() == 502).await;
    let refused = world.etl.sales("CREATE DATABASE e").await;
    assert!(refused.text().contains("The controller cannot be reached"), "{}", refused.text());
    written(&world.bi.sales("INSERT INTO d.t VALUES (1)").await);
    assert_eq!(world.etl.sales("SELECT count() FROM d.t").await.text(), "1");
}

#[tokio::test]
async fn a_node_that_leaves_the_view_gets_nothing_more() {
    let world = World::start(TWO_NODES).await;
    world
        .controller
        .change(|view| view.groups[0].nodes.retain(|node| node.node != NodeName::new("etl-0").expect("a name")));
    let port = async || world.etl.sales("SELECT tcpPort()").await.text();
    let left = world.node("etl-1").native.clone();
    eventually("the view arrived", async || left.ends_with(&port().await)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..10 {
        assert!(left.ends_with(&port().await));
    }
}
