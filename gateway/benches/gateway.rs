//! What the gateway costs, against talking to the engine directly in the same run, turn by turn: `make bench-gateway`.
//!
//! Writes target/bench/gateway.json. `QUICK=1` makes it small, to see that it works; its figures mean nothing.

#[path = "../tests/it/common/mod.rs"]
mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::World;
use common::client::{Client, Request};
use common::native::Native;
use http_body_util::BodyExt;
use moorhouse_engine::SqlClient;
use moorhouse_tests::binaries::repository;
use moorhouse_tests::warehouse::TestWarehouse;
use serde_json::{Value, json};

/// How much is measured.
struct Size {
    small_queries: usize,
    large_runs: usize,
    large_rows: u64,
    idle: usize,
    inserts: usize,
}

const FULL: Size = Size { small_queries: 2000, large_runs: 5, large_rows: 1 << 27, idle: 1000, inserts: 200 };
const QUICK: Size = Size { small_queries: 50, large_runs: 1, large_rows: 1 << 22, idle: 50, inserts: 5 };
/// About a millisecond.
const SMALL: &str = "SELECT sum(sipHash64(number)) FROM numbers(20000)";

#[tokio::main]
async fn main() {
    let quick = std::env::var_os("QUICK").is_some_and(|value| value != "0");
    let size = if quick { QUICK } else { FULL };
    let mut figures = json!({ "quick": quick });
    let world = World::start(&[("bi-1", "bi")]).await;
    small_queries(&world, &size, &mut figures).await;
    large_results(&world, &size, &mut figures).await;
    idle_connections(&world, &size, &mut figures).await;
    drop(world);
    reader_lag(&size, &mut figures).await;
    let path = repository().join("target/bench/gateway.json");
    fs::create_dir_all(path.parent().expect("it has one")).expect("target is writable");
    fs::write(&path, format!("{figures:#}\n")).expect("target is writable");
    println!("{figures:#}\nwritten to {}", path.display());
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

fn put(figures: &mut Value, name: &str, value: f64) {
    figures[name] = json!((value * 1000.0).round() / 1000.0);
}

async fn small_queries(world: &World, size: &Size, figures: &mut Value) {
    let direct = Client::new(&world.nodes[0].http);
    let mut native = [Native::sales(&world.nodes[0].native).await, Native::sales(&world.bi_native).await];
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..size.small_queries {
        for (at, client) in [&direct, &world.bi].into_iter().enumerate() {
            let start = Instant::now();
            assert!(client.sales(SMALL).await.status.is_success());
            times[at].push(start.elapsed());
        }
        for (at, client) in native.iter_mut().enumerate() {
            let start = Instant::now();
            client.run(SMALL).await.ok();
            times[2 + at].push(start.elapsed());
        }
    }
    let [http_direct, http, native_direct, native] = times.map(median);
    put(figures, "small_query_direct_ms", http_direct);
    put(figures, "small_query_vs_direct", http / http_direct);
    put(figures, "small_query_native_direct_ms", native_direct);
    put(figures, "small_query_native_vs_direct", native / native_direct);
}

async fn large_results(world: &World, size: &Size, figures: &mut Value) {
    let sql = format!("SELECT number FROM numbers({}) FORMAT RowBinary", size.large_rows);
    let direct = Client::new(&world.nodes[0].http);
    let mut native = [Native::sales(&world.nodes[0].native).await, Native::sales(&world.bi_native).await];
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..size.large_runs {
        for (at, client) in [&direct, &world.bi].into_iter().enumerate() {
            let start = Instant::now();
            let mut body = client.open(Request::post(sql.clone()).sales()).await.expect("an answer").into_body();
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                bytes += frame.expect("no break").data_ref().map_or(0, |data| data.len() as u64);
            }
            assert_eq!(bytes, size.large_rows * 8);
            times[at].push(start.elapsed());
        }
        for (at, client) in native.iter_mut().enumerate() {
            let start = Instant::now();
            client.send_query("", &sql.replace(" FORMAT RowBinary", ""), &[]).await;
            while client.packet().await.expect("no break").kind() != 5 {}
            times[2 + at].push(start.elapsed());
        }
    }
    let [http_direct, http, native_direct, native] = times.map(median);
    put(figures, "large_result_direct_ms", http_direct);
    put(figures, "large_result_vs_direct", http / http_direct);
    put(figures, "large_result_native_vs_direct", native / native_direct);
}

async fn idle_connections(world: &World, size: &Size, figures: &mut Value) {
    let kib = || {
        let pid = world.gateway.id().expect("running");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("running");
        let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("Linux tells it");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number")
    };
    let before = kib();
    let mut idle = Vec::new();
    for _ in 0..size.idle {
        let mut client = Native::sales(&world.bi_native).await;
        client.run("SELECT 1").await.ok();
        idle.push(client);
    }
    put(figures, "idle_native_connection_kib", (kib() - before) / size.idle as f64);
    for client in &mut idle {
        client.run("SELECT 1").await.ok();
    }
}

/// From an INSERT's answer at one group to a SELECT at another that sees it.
async fn reader_lag(size: &Size, figures: &mut Value) {
    let warehouse = TestWarehouse::start(&[]);
    let sql =
        |group| SqlClient::new(&format!("127.0.0.1:{}", warehouse.http_port(group)), "admin", &warehouse.password);
    let (etl, bi) = (sql(0), sql(1));
    etl.execute("CREATE DATABASE lag").await.expect("made");
    etl.execute("CREATE TABLE lag.t (id UInt64) ENGINE = MergeTree ORDER BY id").await.expect("made");
    let mut lags = Vec::new();
    for at in 1..=size.inserts {
        etl.execute(&format!("INSERT INTO lag.t VALUES ({at})")).await.expect("inserted");
        let start = Instant::now();
        while bi.query("SELECT count() FROM lag.t").await.expect("counted").trim() != at.to_string() {
            assert!(start.elapsed() < Duration::from_secs(60), "the reader never sees row {at}");
        }
        lags.push(start.elapsed());
    }
    lags.sort_unstable();
    let p99 = lags[(lags.len() * 99).div_ceil(100) - 1];
    put(figures, "reader_lag_p99_ms", p99.as_secs_f64() * 1000.0);
}
