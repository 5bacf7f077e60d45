//! Clients in great number, of great size, and such that leave in the midst.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::client::{Client, Request};
use crate::common::native::Native;
use crate::common::{World, eventually};

const ONE: &[(&str, &str)] = &[("etl-0", "etl")];
/// Takes a minute if nobody ends it.
const SLOW: &str = "SELECT sum(sleepEachRow(0.01)) FROM numbers(6000) SETTINGS max_block_size = 10, function_sleep_max_microseconds_per_block = 0";
const HEAD: &str = "Host: x\r\nX-ClickHouse-User: sales\r\nX-ClickHouse-Key: secret\r\n";

/// Sends one request and gives the connection with the answer's first bytes read.
async fn asked(address: &str, request: String) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    stream
}

async fn first_line(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') {
        assert!(stream.read_buf(&mut answer).await.expect("it answers") > 0, "it closes the connection");
    }
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_thousand_idle_connections_cost_little_and_hinder_nobody() {
    let world = World::start(ONE).await;
    world.etl.sales("SELECT 1").await;
    let before = world.gateway_resident_kib();
    let mut http = Vec::new();
    let mut native = Vec::new();
    for _ in 0..500 {
        let mut stream = asked(&world.etl.address, format!("GET /?query=SELECT+1 HTTP/1.1\r\n{HEAD}\r\n")).await;
        assert_eq!(first_line(&mut stream).await, "HTTP/1.1 200 OK");
        http.push(stream);
        let mut session = Native::sales(&world.etl_native).await;
        session.run("SELECT 1").await.ok();
        native.push(session);
    }
    let each = (world.gateway_resident_kib() - before) / 1000;
    assert!(each <= 64, "{each} KiB for an idle connection");
    assert_eq!(world.etl.sales("SELECT 1").await.text(), "1");
    // All of them are still good for another statement.
    for stream in http.iter_mut().step_by(50) {
        let request = format!("GET /?query=SELECT+2 HTTP/1.1\r\n{HEAD}\r\n");
        // What is left of the first answer comes before the second one's head.
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answers = Vec::new();
        while String::from_utf8_lossy(&answers).matches("HTTP/1.1 200 OK").count() == 0 {
            assert!(stream.read_buf(&mut answers).await.expect("it answers") > 0, "it closes the connection");
        }
    }
    for session in native.iter_mut().step_by(50) {
        session.run("SELECT 3").await.ok();
    }
}

#[tokio::test]
async fn a_statement_of_a_hundred_megabytes_is_refused_in_little_memory() {
    let world = World::start(ONE).await;
    let long = |bytes: usize| {
        let mut sql = "SELECT length('".to_owned();
        sql.extend(std::iter::repeat_n('x', bytes));
        sql + "')"
    };
    let before = world.gateway_peak_mib();
    let refused = world.etl.sales(&long(100 << 20)).await;
    // The engine's own words: it stops reading at max_query_size.
    assert_eq!(refused.header("x-clickhouse-exception-code"), "62", "{}", refused.text());
    assert!(world.gateway_peak_mib() - before < 64, "an HTTP body is not kept: {} MiB", world.gateway_peak_mib());
    let mut native = Native::sales(&world.etl_native).await;
    native.send_query("", &long(101 << 20), &[]).await;
    let (code, text) = native.answer().await.exception().expect("too long");
    assert!(code == 229 && text.contains("104857600"), "{code} {text}");
    // The engine takes one that is just below its limit.
    let mut native = Native::sales(&world.etl_native).await;
    native.run(&long(200 << 10)).await.ok();
    assert_eq!(world.etl.sales("SELECT 1").await.text(), "1");
}

#[tokio::test]
async fn a_client_that_stops_sending_has_gone() {
    let world = World::start(ONE).await;
    let node = world.node("etl-0");
    let runs = async |id: &str| {
        node.ask(&format!("SELECT count() FROM system.processes WHERE query_id = '{id}'")).await == "1"
    };
    let mut native = Native::sales(&world.etl_native).await;
    native.send_query("half-native", SLOW, &[]).await;
    eventually("it runs", async || runs("half-native").await).await;
    native.stream.shutdown().await.expect("connected");
    eventually("it ends", async || !runs("half-native").await).await;
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(20), native.stream.read_to_end(&mut rest)).await;
    closed.expect("the gateway closes its side").expect("in order");

    let body = "INSERT INTO d.t FORMAT TSV\n1\n2\n";
    world.make_table("d", "t").await;
    // The body is announced longer than it is: the INSERT must not happen.
    let request =
        format!("POST /?query_id=half-http HTTP/1.1\r\n{HEAD}Content-Length: {}\r\n\r\n{body}", body.len() + 9);
    let mut http = asked(&world.etl.address, request).await;
    http.shutdown().await.expect("connected");
    let closed = timeout(Duration::from_secs(20), http.read_to_end(&mut rest)).await;
    let _ = closed.expect("the gateway closes its side");
    eventually("it ends", async || !runs("half-http").await).await;
    assert_eq!(node.ask("SELECT count() FROM d.t").await, "0", "half an INSERT is no INSERT");
    let metrics = Client::new(&world.metrics);
    let counted = async || {
        let told = metrics.send(Request::get("/metrics")).await.text();
        ["http", "native"]
            .iter()
            .all(|protocol| told.contains(&format!("moorhouse_gateway_in_flight{{protocol=\"{protocol}\"}} 0")))
    };
    eventually("the gateway has let go", counted).await;
}
