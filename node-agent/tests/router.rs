//! The shard router between real engines: a shard moves back and forth under load, and no statement notices.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use moorhouse_base::tasks::TaskGroup;
use moorhouse_catalog::{ShardCount, ShardId};
use moorhouse_engine::{
    Admin, ClusterConfig, ClusterShard, Engine, EngineBinary, EngineChoice, EngineConfig, SqlClient, SqlError,
};
use moorhouse_node_agent::router::{HoldError, ShardRouter};

const SHARDS: u16 = 2;
const MOVING: ShardId = ShardId(0);
const RESTING: ShardId = ShardId(1);
const MOVES: usize = 30;
const DRAIN: Duration = Duration::from_secs(3);
const HOLD: Duration = Duration::from_secs(8);
/// Insert loops and select loops on each engine.
const LOOPS_EACH: u64 = 2;
const ROWS_A_STATEMENT: u64 = 100;

fn shards() -> ShardCount {
    ShardCount::new(SHARDS).expect("within bounds")
}

/// An engine with its own router, as on a node.
struct Node {
    engine: Engine,
    router: ShardRouter,
    native: String,
}

impl Node {
    async fn start(name: &str, dir: &Path, tasks: &TaskGroup) -> Self {
        let base = moorhouse_base::ports::free_row(SHARDS + 2).expect("free ports");
        let router = ShardRouter::start(base + 2, shards(), tasks).await.expect("the router starts");
        let cluster_shards = (0..SHARDS).map(|k| ClusterShard {
            host: "127.0.0.1".into(),
            port: base + 2 + k,
            default_database: format!("shard_{k}"),
        });
        let config = EngineConfig {
            dir: dir.join(name),
            listen_host: "127.0.0.1".into(),
            http_port: base,
            native_port: base + 1,
            admin: Admin { name: "agent".into(), password: "secret".into() },
            users: Vec::new(),
            cluster: Some(ClusterConfig {
                name: "moorhouse".into(),
                secret: "cluster secret".into(),
                shards: cluster_shards.collect(),
            }),
            disks_base: Some(dir.join("disks")),
            max_memory_bytes: Some(2 << 30),
            access: moorhouse_engine::EngineAccess::default(),
        };
        let binary = EngineBinary::find(&EngineChoice::Auto).expect("an engine; run `make setup`");
        let engine = Engine::start(&binary, &config).await.expect("the engine starts");
        Self { engine, router, native: format!("127.0.0.1:{}", base + 1) }
    }

    async fn run(&self, sql: &str) {
        self.engine.sql().execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

struct Group {
    a: Node,
    b: Node,
    disks: PathBuf,
    /// One for each shard: a server may hold several.
    tables: [uuid::Uuid; SHARDS as usize],
}

impl Group {
    async fn start(dir: &Path, tasks: &TaskGroup) -> Self {
        let (a, b) = tokio::join!(Node::start("a", dir, tasks), Node::start("b", dir, tasks));
        let group = Self { a, b, disks: dir.join("disks"), tables: std::array::from_fn(|_| uuid::Uuid::new_v4()) };
        group.attach(&group.a, MOVING, "CREATE").await;
        group.attach(&group.b, RESTING, "CREATE").await;
        for node in [&group.a, &group.b] {
            node.run("CREATE DATABASE sales").await;
            node.run(
                "CREATE TABLE sales.orders (id UInt64, v String) \
                 ENGINE = Distributed(moorhouse, '', 'orders_1', cityHash64(id))",
            )
            .await;
            node.router.route(MOVING, &group.a.native);
            node.router.route(RESTING, &group.b.native);
        }
        group
    }

    async fn attach(&self, node: &Node, shard: ShardId, verb: &str) {
        node.run(&format!("CREATE DATABASE shard_{shard}")).await;
        let Self { disks, tables, .. } = self;
        let table = tables[usize::from(shard.0)];
        let sql = format!(
            "{verb} TABLE shard_{shard}.orders_1 UUID '{table}' (id UInt64, v String) ENGINE = MergeTree ORDER BY id \
             SETTINGS disk = disk(name = 'shard_{shard}', type = 'local', path = '{}/{shard}/')",
            disks.display()
        );
        node.run(&sql).await;
    }

    /// Holds everywhere, detaches, attaches, releases; returns the hold's length.
    async fn move_shard(&self, from: &Node, to: &Node) -> Duration {
        let started = Instant::now();
        let holds = tokio::join!(self.a.router.hold(MOVING, DRAIN, HOLD), self.b.router.hold(MOVING, DRAIN, HOLD));
        let (Ok(first), Ok(second)) = holds else { panic!("the hold failed: {holds:?}") };
        let drained = started.elapsed();
        from.run(&format!("DETACH TABLE shard_{MOVING}.orders_1 PERMANENTLY SYNC")).await;
        from.run(&format!("DROP DATABASE shard_{MOVING} SYNC")).await;
        self.attach(to, MOVING, "ATTACH").await;
        for node in [&self.a, &self.b] {
            node.router.release(MOVING, &to.native);
        }
        let held = started.elapsed();
        println!("held {held:>10.2?}, drained after {drained:>10.2?}, closed {}", first + second);
        held
    }
}

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    next_id: AtomicU64,
    acknowledged: Mutex<Vec<u64>>,
    inserts: AtomicU64,
    selects: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    fn fail(&self, what: &str, error: &dyn std::fmt::Display) {
        self.failures.lock().expect("unpoisoned").push(format!("{what}: {error}"));
    }
    fn rows(&self) -> u64 {
        self.acknowledged.lock().expect("unpoisoned").len() as u64 * ROWS_A_STATEMENT
    }
}

async fn insert_loop(sql: SqlClient, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        let first = tally.next_id.fetch_add(ROWS_A_STATEMENT, Ordering::Relaxed);
        let insert = format!(
            "INSERT INTO sales.orders SELECT number, toString(number) FROM numbers({first}, {ROWS_A_STATEMENT})"
        );
        match sql.execute(&insert).await {
            Ok(()) => tally.acknowledged.lock().expect("unpoisoned").push(first),
            Err(error) => tally.fail("insert", &error),
        }
        tally.inserts.fetch_add(1, Ordering::Relaxed);
    }
}

async fn select_loop(sql: SqlClient, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        let at_least = tally.rows();
        match count(&sql, "SELECT count() FROM sales.orders WHERE NOT ignore(v)").await {
            Ok(rows) if rows < at_least => tally.fail("select", &format!("{rows} rows of {at_least}")),
            Ok(_) => {}
            Err(error) => tally.fail("select", &error),
        }
        tally.selects.fetch_add(1, Ordering::Relaxed);
    }
}

async fn count(sql: &SqlClient, select: &str) -> Result<u64, SqlError> {
    let text = sql.query(select).await?;
    Ok(text.trim().parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_moves_under_load_and_no_statement_fails() {
    let dir = tempfile::tempdir().expect("tempdir");
    let tasks = TaskGroup::new();
    let group = Group::start(dir.path(), &tasks).await;
    let tally = Arc::new(Tally::default());
    let load = TaskGroup::new();
    for node in [&group.a, &group.b] {
        for _ in 0..LOOPS_EACH {
            load.spawn_uncancelled("insert", insert_loop(node.engine.sql().clone(), Arc::clone(&tally)));
            load.spawn_uncancelled("select", select_loop(node.engine.sql().clone(), Arc::clone(&tally)));
        }
    }
    let (mut from, mut to) = (&group.a, &group.b);
    let mut holds = Vec::new();
    for _ in 0..MOVES {
        tokio::time::sleep(Duration::from_millis(200)).await;
        holds.push(group.move_shard(from, to).await);
        std::mem::swap(&mut from, &mut to);
    }
    tally.stop.store(true, Ordering::Relaxed);
    assert!(load.shutdown(Duration::from_secs(30)).await, "the load ends");

    holds.sort_unstable();
    println!(
        "{MOVES} moves, hold median {:.1?}, max {:.1?}; {} inserts, {} selects",
        holds[MOVES / 2],
        holds[MOVES - 1],
        tally.inserts.load(Ordering::Relaxed),
        tally.selects.load(Ordering::Relaxed),
    );
    assert_eq!(*tally.failures.lock().expect("unpoisoned"), Vec::<String>::new());
    assert_every_row_is_there_once(&group, &tally).await;
    tasks.shutdown(Duration::from_secs(5)).await;
    let (a, b) = tokio::join!(group.a.engine.stop(HOLD), group.b.engine.stop(HOLD));
    a.and(b).expect("both stop");
}

async fn assert_every_row_is_there_once(group: &Group, tally: &Tally) {
    let acknowledged: HashSet<u64> = tally.acknowledged.lock().expect("unpoisoned").iter().copied().collect();
    let sql = group.b.engine.sql();
    let twice = count(sql, "SELECT count() - uniqExact(id) FROM sales.orders").await.expect("count");
    assert_eq!(twice, 0, "rows are there twice");
    let listed = format!(
        "SELECT intDiv(id, {ROWS_A_STATEMENT}) * {ROWS_A_STATEMENT} FROM sales.orders GROUP BY 1 \
         HAVING count() = {ROWS_A_STATEMENT}"
    );
    let present = sql.query(&listed).await.expect("list");
    let present: HashSet<u64> = present.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(present, acknowledged);
}

/// Accepts one connection and keeps it.
fn silent_backend() -> (String, std::thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("bound").to_string();
    let received = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    });
    (address, received)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_protocol_passes_and_is_never_cut() {
    let tasks = TaskGroup::new();
    let base = moorhouse_base::ports::free_row(1).expect("a free port");
    let one = ShardCount::new(1).expect("within bounds");
    let router = ShardRouter::start(base, one, &tasks).await.expect("starts");
    let (target, received) = silent_backend();
    router.route(MOVING, &target);
    let mut client = TcpStream::connect(("127.0.0.1", base)).expect("connect");
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("write");
    let short = Duration::from_millis(100);
    // The connection reaches the backend a moment after it was accepted.
    let busy = loop {
        match router.hold(MOVING, short, HOLD).await {
            Ok(_) => router.release(MOVING, &target),
            Err(error) => break error,
        }
    };
    assert_eq!(busy, HoldError::StillBusy { shard: MOVING, connections: 1, waited: short });
    client.write_all(b"more").expect("still open");
    drop(client);
    assert_eq!(received.join().expect("no panic"), b"GET / HTTP/1.1\r\n\r\nmore");
    assert_eq!(router.hold(MOVING, HOLD, HOLD).await, Ok(0), "it ended by itself");
    let absent = ShardId(7);
    assert_eq!(router.hold(absent, short, short).await, Err(HoldError::NoSuchShard { shard: absent }));
    tasks.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_wait_for_a_target_and_through_a_hold() {
    let tasks = TaskGroup::new();
    let base = moorhouse_base::ports::free_row(1).expect("a free port");
    let one = ShardCount::new(1).expect("within bounds");
    let router = ShardRouter::start(base, one, &tasks).await.expect("starts");
    let error = ShardRouter::start(base, one, &tasks).await.err().expect("the port is taken");
    assert!(error.to_string().contains(&base.to_string()), "{error}");

    assert_eq!(router.hold(MOVING, HOLD, Duration::from_millis(300)).await, Ok(0));
    let mut client = TcpStream::connect(("127.0.0.1", base)).expect("connect");
    client.write_all(b"early").expect("write");
    drop(client);
    let (target, received) = silent_backend();
    // The hold runs out by itself; what waited goes to the newest target.
    router.route(MOVING, &target);
    assert_eq!(received.join().expect("no panic"), b"early");
    tasks.shutdown(Duration::from_secs(5)).await;
}
