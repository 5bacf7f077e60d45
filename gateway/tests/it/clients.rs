//! Clients as their users have them, at a reader group's endpoints: native and HTTP, plain and compressed.

use std::path::PathBuf;
use std::process::Stdio;

use crate::common::World;
use tokio::process::Command;

fn installed(component: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let path = cache.expect("HOME is set").join("moorhouse").join(component);
    assert!(path.exists(), "{} is not there: run `make setup-tests`", path.display());
    path
}

async fn printed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().await.expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

async fn world() -> World {
    let world = World::start(&[("etl-1", "etl"), ("bi-1", "bi"), ("bi-2", "bi")]).await;
    world.make_table("d", "t").await;
    world
}

const DRIVER: &str = r#"
import sys
from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException
host, port = sys.argv[1].split(':')
total = 0
for compression in (False, 'lz4', 'zstd'):
    client = Client(host, port=int(port), user='sales', password='secret', compression=compression)
    client.execute('CREATE TABLE d.c (id UInt64, s String, a Array(Nullable(Int32)), l LowCardinality(String)) ENGINE = MergeTree ORDER BY id')
    rows = [(n, 'x' * n, [n, None], 'k%d' % (n % 3)) for n in range(300)]
    for _ in range(3):
        client.execute('INSERT INTO d.t (id) VALUES', [(n,) for n in range(1000)])
        assert client.execute('INSERT INTO d.c VALUES', rows) == 300
        assert client.execute('SELECT 1') == [(1,)]
    try:
        client.execute('SELECT nothing')
        assert False
    except ServerException as e:
        assert e.code == 47, e
    external = [{'name': 'mine', 'structure': [('id', 'UInt64'), ('s', 'LowCardinality(String)')], 'data': [{'id': 1, 's': 'a'}, {'id': 2, 's': 'b'}]}]
    assert client.execute('SELECT sum(id), max(s) FROM mine', external_tables=external) == [(3, 'b')]
    assert client.execute('SELECT %(x)s', {'x': 'it''s'}) == [("its",)]
    assert client.execute('SELECT getSetting(%(x)s)', {'x': 'max_threads'}, settings={'max_threads': 3}) == [(3,)]
    assert sum(len(block) for block in client.execute_iter('SELECT number FROM numbers(200000)', chunk_size=1000)) == 200000
    client.execute('DROP TABLE d.c')
    client.disconnect()
    total += 3000
print(total)
"#;

#[tokio::test]
async fn clickhouse_driver() {
    let world = world().await;
    let python = installed("python-clickhouse-driver-0.2.11/bin/python");
    let told = printed(Command::new(python).args(["-c", DRIVER, &world.bi_native])).await;
    assert_eq!(told, "9000");
    assert_eq!(world.nodes_with_rows("d", "t").await, ["etl-1"]);
    assert_eq!(world.node("etl-1").ask("SELECT count() FROM d.t").await, "9000");
}

const CONNECT: &str = r#"
import sys, clickhouse_connect
host, port = sys.argv[1].split(':')
for compress in (False, 'lz4', 'gzip'):
    client = clickhouse_connect.get_client(host=host, port=int(port), username='sales', password='secret', compress=compress)
    client.insert('t', [[n] for n in range(1000)], column_names=['id'], database='d')
    assert client.query('SELECT sum(number) FROM numbers(100000)').result_rows == [(4999950000,)]
    client.command('CREATE TABLE d.c (id UInt64) ENGINE = MergeTree ORDER BY id')
    client.insert('d.c', [[1], [2]], column_names=['id'])
    client.command('DROP TABLE d.c')
    client.close()
print('done')
"#;

#[tokio::test]
async fn clickhouse_connect() {
    let world = world().await;
    let python = installed("python-clickhouse-connect-1.12.0/bin/python");
    assert_eq!(printed(Command::new(python).args(["-c", CONNECT, &world.bi.address])).await, "done");
    assert_eq!(world.nodes_with_rows("d", "t").await, ["etl-1"]);
    assert_eq!(world.node("etl-1").ask("SELECT count() FROM d.t").await, "3000");
}

const JAVASCRIPT: &str = r#"
import { createClient } from '@clickhouse/client';
for (const compression of [false, true]) {
  const client = createClient({ url: `http://${process.argv[2]}`, username: 'sales', password: 'secret',
    compression: { request: compression, response: compression } });
  await client.insert({ table: 'd.t', values: [{ id: 1 }, { id: 2 }], format: 'JSONEachRow' });
  const answer = await client.query({ query: 'SELECT sum(number) AS s FROM numbers(1000)', format: 'JSONEachRow' });
  const rows = await answer.json();
  if (rows[0].s !== '499500' && rows[0].s !== 499500) throw new Error(JSON.stringify(rows));
  await client.close();
}
console.log('done');
"#;

#[tokio::test]
async fn clickhouse_js() {
    let world = world().await;
    let place = tempfile::tempdir().expect("a directory");
    let modules = installed("js-clickhouse-client-1.23.1/node_modules");
    std::os::unix::fs::symlink(modules, place.path().join("node_modules")).expect("a new link");
    let script = place.path().join("client.mjs");
    std::fs::write(&script, JAVASCRIPT).expect("the directory is writable");
    assert_eq!(printed(Command::new("node").arg(&script).arg(&world.bi.address)).await, "done");
    assert_eq!(world.nodes_with_rows("d", "t").await, ["etl-1"]);
    assert_eq!(world.node("etl-1").ask("SELECT count() FROM d.t").await, "4");
}

/// A new client that speaks neither in chunks: another ClickHouse, which reads and writes through the gateway.
#[tokio::test]
async fn another_clickhouse() {
    let world = world().await;
    let elsewhere = world.node("bi-2");
    let remote = |table: &str| format!("remote('{}', {table}, 'sales', 'secret')", world.bi_native);
    elsewhere.ask(&format!("INSERT INTO FUNCTION {} SELECT number FROM numbers(200000)", remote("d.t"))).await;
    assert_eq!(world.node("etl-1").ask("SELECT count(), sum(id) FROM d.t").await, "200000\t19999900000");
    let sum = elsewhere.ask(&format!("SELECT sum(number) FROM {}", remote("numbers(1000000)"))).await;
    assert_eq!(sum, "499999500000");
}
