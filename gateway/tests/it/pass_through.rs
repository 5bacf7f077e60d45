//! What a client sends and gets through the gateway is what it would send to and get from an engine.

use std::io::{Read, Write};
use std::time::Duration;

use crate::common::client::{Client, Request};
use crate::common::{World, eventually};
use bytes::Bytes;
use http_body_util::BodyExt;

const ONE: &[(&str, &str)] = &[("etl-0", "etl")];

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).expect("in memory");
    encoder.finish().expect("in memory")
}

#[tokio::test]
async fn every_form_of_credentials_is_taken() {
    let world = World::start(ONE).await;
    let who = "SELECT currentUser()";
    // base64 of sales:secret
    let basic = Request::post(who).header("authorization", "Basic c2FsZXM6c2VjcmV0");
    let parameters = Request::get("/").with("query", who).with("user", "sales").with("password", "secret");
    for request in [basic, parameters, Request::post(who).sales()] {
        let answer = world.etl.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "sales"));
    }
    let wrong =
        world.etl.send(Request::post(who).header("x-clickhouse-user", "sales").header("x-clickhouse-key", "no")).await;
    assert_eq!((wrong.status.as_u16(), wrong.header("x-clickhouse-exception-code")), (403, "516"));
}

#[tokio::test]
async fn answers_and_errors_are_the_engines_own() {
    let world = World::start(ONE).await;
    let direct = Client::new(&world.node("etl-0").http);
    let statements = [
        "SELECT 1 + 1 AS x FORMAT JSONCompact SETTINGS output_format_write_statistics = 0",
        "SELECT * FROM nowhere.nothing",
        "SELECT 1; SELECT 2",
        "SELECT FROM WHERE",
        "",
        "CREATE",
        "INSERT INTO nowhere.nothing VALUES (1)",
        "CREATE TEMPORARY TABLE t (a",
    ];
    for (n, sql) in statements.iter().enumerate() {
        // Each with an id of its own: an engine may still be putting the last statement away.
        let ask = async |client: &Client, id: String| {
            let request = Request::post(*sql).sales().with("query_id", &id).header("x-clickhouse-database", "system");
            let answer = client.send(request).await;
            let echoed = answer.header("x-clickhouse-query-id") == id;
            let headers = ["x-clickhouse-exception-code", "content-type", "x-clickhouse-format"];
            (answer.status, echoed, headers.map(|name| answer.header(name).to_owned()), answer.text())
        };
        let through = ask(&world.etl, format!("through-{n}")).await;
        assert_eq!(through, ask(&direct, format!("plain-{n}")).await, "{sql}");
    }
    for path in ["/ping", "/", "/replicas_status"] {
        let (through, plain) = (world.etl.send(Request::get(path)).await, direct.send(Request::get(path)).await);
        assert_eq!((through.status, through.text()), (plain.status, plain.text()), "{path}");
    }
    assert!(world.etl.send(Request::get("/play")).await.text().contains("<html"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off() {
    let world = World::start(ONE).await;
    let sql = "SELECT throwIf(number = 3000000, 'too far') FROM numbers(4000000) FORMAT TSV";
    for address in [&world.etl.address, &world.node("etl-0").http] {
        let mut answer = Client::new(address).open(Request::post(sql).sales()).await.expect("a head").into_body();
        let (mut tail, mut broken) = (Vec::new(), false);
        while let Some(frame) = answer.frame().await {
            match frame {
                Ok(frame) => tail = frame.into_data().unwrap_or_default().to_vec(),
                Err(_) => broken = true,
            }
        }
        let text = String::from_utf8_lossy(&tail);
        assert!(broken && text.contains("Code: 395"), "at {address}: {broken} {text}");
    }
}

#[tokio::test]
async fn a_statement_may_begin_in_the_url_and_end_in_the_body() {
    let world = World::start(ONE).await;
    let split = Request::post("+ 2").sales().with("query", "SELECT 40");
    assert_eq!(world.etl.send(split).await.text(), "42");
    let parameter = Request::post("SELECT {x:UInt8} + 1").sales().with("param_x", "41");
    assert_eq!(world.etl.send(parameter).await.text(), "42");
}

#[tokio::test]
async fn a_huge_answer_passes_in_little_memory() {
    let world = World::start(ONE).await;
    let before = world.gateway_peak_mib();
    // 150 MB of text, 50 bytes a line.
    let sql = "SELECT leftPad(toString(number), 49, 'x') FROM numbers(3000000) FORMAT TSV";
    let mut answer = world.etl.open(Request::post(sql).sales()).await.expect("an answer").into_body();
    let (mut bytes, mut lines) = (0, 0);
    while let Some(frame) = answer.frame().await {
        let frame = frame.expect("unbroken").into_data().unwrap_or_default();
        bytes += frame.len();
        lines += frame.iter().filter(|byte| **byte == b'\n').count();
    }
    assert_eq!((bytes, lines), (150_000_000, 3_000_000));
    let grown = world.gateway_peak_mib() - before;
    assert!(grown < 32, "the gateway grew by {grown} MiB");
}

#[tokio::test]
async fn a_slow_reader_of_a_huge_answer_does_not_fill_the_gateway() {
    let world = World::start(ONE).await;
    let before = world.gateway_peak_mib();
    let sql = "SELECT leftPad(toString(number), 49, 'x') FROM numbers(3000000) FORMAT TSV";
    let answer = world.etl.open(Request::post(sql).sales()).await.expect("an answer");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = world.gateway_peak_mib() - before;
    assert!(grown < 32, "the gateway grew by {grown} MiB");
    drop(answer);
}

#[tokio::test]
async fn a_huge_insert_passes_in_little_memory() {
    let world = World::start(ONE).await;
    world.make_table("d", "t").await;
    let before = world.gateway_peak_mib();
    // 100 MB of text, 20 bytes a line.
    let lines: String = (0..10_000).map(|n| format!("{}\n", n + 1_000_000_000_000_000_000_u64)).collect();
    let chunk = Bytes::from(lines);
    let chunks = futures::stream::iter((0..500).map(move |_| chunk.clone()));
    let insert = Request::post_stream(chunks).sales().with("query", "INSERT INTO d.t FORMAT TSV");
    let answer = world.etl.send(insert).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    assert_eq!(world.etl.sales("SELECT count() FROM d.t").await.text(), "5000000");
    let grown = world.gateway_peak_mib() - before;
    assert!(grown < 32, "the gateway grew by {grown} MiB");
    assert!(answer.header("x-clickhouse-summary").contains(r#""written_rows":"5000000""#));
}

#[tokio::test]
async fn compression_passes_both_ways() {
    let world = World::start(ONE).await;
    world.make_table("d", "t").await;
    let whole = Request::post(gzip("INSERT INTO d.t VALUES (1), (2)")).sales().header("content-encoding", "gzip");
    assert_eq!(world.etl.send(whole).await.status.as_u16(), 200);
    let data = Request::post(gzip("3\n4\n"))
        .sales()
        .header("content-encoding", "gzip")
        .with("query", "INSERT INTO d.t FORMAT TSV");
    assert_eq!(world.etl.send(data).await.status.as_u16(), 200);
    let sum = Request::post("SELECT sum(id) FROM d.t")
        .sales()
        .header("accept-encoding", "gzip")
        .with("enable_http_compression", "1");
    let answer = world.etl.send(sum).await;
    assert_eq!(answer.header("content-encoding"), "gzip");
    let mut text = String::new();
    flate2::read::GzDecoder::new(answer.body.as_ref()).read_to_string(&mut text).expect("gzip");
    assert_eq!(text.trim(), "10");
    let native = world.etl.send(Request::post("SELECT 1").sales().with("compress", "1")).await;
    assert_eq!(native.status.as_u16(), 200);
    let back = Request::post(native.body).sales().with("query", "SELECT 1").with("decompress", "1");
    assert_eq!(world.etl.send(back).await.status.as_u16(), 400, "the engine reads the body on");
    for (header, parameter) in [("br", "x"), ("identity", "decompress")] {
        let unreadable = Request::post("SELECT 1").sales().header("content-encoding", header).with(parameter, "1");
        let answer = world.etl.send(unreadable).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-clickhouse-exception-code")), (400, "89"));
        assert!(answer.text().contains("?query="));
    }
}

#[tokio::test]
async fn external_tables_pass() {
    let world = World::start(ONE).await;
    let form = "--b\r\nContent-Disposition: form-data; name=\"ext\"; filename=\"x.tsv\"\r\nContent-Type: application/octet-stream\r\n\r\n1\n2\n\r\n--b--\r\n";
    let request = Request::post(form)
        .sales()
        .header("content-type", "multipart/form-data; boundary=b")
        .with("query", "SELECT sum(_1) FROM ext")
        .with("ext_types", "UInt64");
    let answer = world.etl.send(request).await;
    assert_eq!(answer.text(), "3");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_query() {
    let world = World::start(ONE).await;
    let node = world.node("etl-0");
    let running = async || node.ask("SELECT count() FROM system.processes WHERE query_id = 'gone'").await;
    // The engine cancels for those who may only read, as a GET does.
    let sql = "SELECT sum(sleepEachRow(0.01)) FROM numbers(6000) SETTINGS max_block_size = 10";
    let slow = Request::get("/").sales().with("query", sql).with("query_id", "gone");
    let slow = slow
        .with("cancel_http_readonly_queries_on_client_close", "1")
        .with("function_sleep_max_microseconds_per_block", "0");
    let (client, metrics) = (world.etl.clone(), Client::new(&world.metrics));
    let asking = tokio::spawn(async move { client.try_send(slow).await.is_ok() });
    eventually("the query runs", async || running().await == "1").await;
    asking.abort();
    eventually("the query ends with its client", async || running().await == "0").await;
    let counted = async || {
        metrics.send(Request::get("/metrics")).await.text().contains("moorhouse_gateway_in_flight{protocol=\"http\"} 0")
    };
    eventually("the gateway has let go", counted).await;
}

#[tokio::test]
async fn the_native_port_reaches_an_engine() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::start(ONE).await;
    let mut stream = tokio::net::TcpStream::connect(&world.etl_native).await.expect("connected");
    // Hello of a client of revision 54058, database "", user sales, password secret.
    let mut hello = vec![0, 4];
    hello.extend(b"test");
    hello.extend([1, 1, 0xAA, 0xA6, 0x03, 0, 5]);
    hello.extend(b"sales\x06secret");
    stream.write_all(&hello).await.expect("sent");
    let mut answer = [0xFF; 1];
    stream.read_exact(&mut answer).await.expect("answered");
    assert_eq!(answer[0], 0, "Hello comes back, not an exception");
}
