//! What a read-only group answers while the writer does all that a table's owner may do: the same as the writer, a moment later,
//! and no statement of its own fails meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use moorhouse_engine::SqlClient;
use moorhouse_tests::engines::engine_of;
use moorhouse_tests::warehouse::TestWarehouse;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Generous: a busy machine is no failure.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);

/// `{t}` and `{u}` are the writer's tables. After each the readers must come to answer as the writer does.
const STATEMENTS: &[&str] = &[
    "INSERT INTO {t} SELECT number, number % 3, 'first' FROM numbers(300)",
    "INSERT INTO {t} SELECT number, number % 3, 'second' FROM numbers(300, 300)",
    // The first blocks of {u}, one a partition and in this order: an engine that begins to count anew makes the same names.
    "INSERT INTO {u} SELECT number, 0, 'other' FROM numbers(5000, 20)",
    "INSERT INTO {u} SELECT number, 1, 'other' FROM numbers(5020, 20)",
    "INSERT INTO {u} SELECT number, 2, 'other' FROM numbers(5040, 20)",
    "OPTIMIZE TABLE {t} FINAL",
    "ALTER TABLE {t} UPDATE note = 'updated' WHERE id % 5 = 1",
    "ALTER TABLE {t} DELETE WHERE id % 7 = 3",
    "DELETE FROM {t} WHERE id % 11 = 3",
    "UPDATE {t} SET note = 'patched' WHERE id % 13 = 2",
    "DELETE FROM {t} WHERE id % 17 = 3 SETTINGS lightweight_delete_mode = 'lightweight_update'",
    "ALTER TABLE {t} APPLY PATCHES",
    "OPTIMIZE TABLE {t} FINAL",
    "ALTER TABLE {t} DROP PARTITION 0",
    "INSERT INTO {t} SELECT number, 0, 'again' FROM numbers(900, 40)",
    "ALTER TABLE {t} DETACH PARTITION 1",
    "ALTER TABLE {t} ATTACH PARTITION 1",
    "ALTER TABLE {t} REPLACE PARTITION 2 FROM {u}",
    "ALTER TABLE {t} MOVE PARTITION 1 TO TABLE {u}",
    "ALTER TABLE {u} ATTACH PARTITION 0 FROM {t}",
    "ALTER TABLE {t} DELETE WHERE 1",
    "INSERT INTO {t} SELECT number, number % 3, 'after' FROM numbers(70)",
    "TRUNCATE TABLE {t}",
    "INSERT INTO {t} SELECT number, number % 3, 'anew' FROM numbers(80)",
    "TRUNCATE TABLE {u}",
];

struct Scene {
    warehouse: TestWarehouse,
    /// The writer's engine itself.
    writer: SqlClient,
    /// What users of each group see.
    etl: SqlClient,
    bi: SqlClient,
    tables: BTreeMap<&'static str, String>,
    /// Each part's name with the contents that it has had.
    parts: BTreeMap<String, BTreeSet<String>>,
    delays: Vec<(Duration, String)>,
}

impl Scene {
    async fn start() -> Self {
        let warehouse = TestWarehouse::start_shaped(&["--shards", "1", "--group", "etl=1", "--group", "bi=1"], &[]);
        let settings = [("mutations_sync", "2"), ("alter_sync", "2"), ("enable_lightweight_update", "1")];
        let writer = settings
            .iter()
            .fold(engine_of(&warehouse, 0, 1).await, |client, (name, value)| client.with_setting(name, value));
        let (etl, bi) = (warehouse.client(0), warehouse.client(1));
        etl.execute("CREATE DATABASE seen").await.expect("made");
        let mut tables = BTreeMap::new();
        for table in ["t", "u"] {
            let create = format!(
                "CREATE TABLE seen.{table} (id UInt64, p UInt8, note String) ENGINE = MergeTree PARTITION BY p ORDER BY id \
                 SETTINGS old_parts_lifetime = 1, enable_block_number_column = 1, enable_block_offset_column = 1"
            );
            etl.execute(&create).await.expect("made");
            let query =
                format!("SELECT name FROM system.tables WHERE database = 'shard_0' AND name LIKE '{table}\\_%'");
            tables.insert(table, format!("shard_0.{}", writer.query(&query).await.expect("known").trim()));
        }
        Self { warehouse, writer, etl, bi, tables, parts: BTreeMap::new(), delays: Vec::new() }
    }

    fn named(&self, statement: &str) -> String {
        self.tables.iter().fold(statement.to_owned(), |text, (short, name)| text.replace(&format!("{{{short}}}"), name))
    }

    /// Runs a statement on the writer and waits until the readers' group answers as the writer's.
    async fn step(&mut self, statement: &str) {
        let done = self.writer.execute(&self.named(statement)).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}{}", self.warehouse.home.logs()));
        self.readers_agree(statement).await;
        self.note_parts().await;
    }

    async fn readers_agree(&mut self, after: &str) {
        let began = Instant::now();
        loop {
            let (writer, reader) = (answer(&self.etl).await, answer(&self.bi).await);
            if writer.is_ok() && writer == reader {
                break;
            }
            let late = began.elapsed() > PATIENCE;
            assert!(!late, "{after}: {writer:?} against {reader:?}{}", self.warehouse.home.logs());
            tokio::time::sleep(LOOK).await;
        }
        self.delays.push((began.elapsed(), after.to_owned()));
    }

    async fn note_parts(&mut self) {
        let query = "SELECT concat(table, '/', name), hash_of_all_files FROM system.parts WHERE database = 'shard_0' AND active AND rows > 0";
        for line in self.writer.query(query).await.expect("listed").lines() {
            let (name, content) = line.split_once('\t').expect("two columns");
            self.parts.entry(name.to_owned()).or_default().insert(content.to_owned());
        }
    }

    /// A writer's engine that starts over an empty table, as `{u}` is now, counts its blocks from the beginning. (It takes some ten seconds until it
    /// removes the empty parts that it covers dropped ones with.)
    async fn restart_writer_without_parts(&self) {
        let began = Instant::now();
        let left = "SELECT name, active, rows FROM system.parts WHERE database = 'shard_0' AND table LIKE 'u\\_%'";
        loop {
            let left = self.writer.query(left).await.expect("listed");
            if left.is_empty() {
                break;
            }
            assert!(began.elapsed() < PATIENCE * 2, "parts stay: {left}{}", self.warehouse.home.logs());
            tokio::time::sleep(LOOK * 10).await;
        }
        self.warehouse.home.kill_engine("etl-0");
        while let Err(error) = answer(&self.etl).await {
            assert!(began.elapsed() < PATIENCE * 3, "{error}{}", self.warehouse.home.logs());
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn answer(client: &SqlClient) -> Result<String, String> {
    let of =
        |table| format!("SELECT '{table}', count(), sum(cityHash64(id, p, note)), uniqExact(id) FROM seen.{table}");
    let query = format!("SELECT * FROM ({} UNION ALL {}) ORDER BY 1", of("t"), of("u"));
    client.query(&query).await.map_err(|error| error.to_string())
}

/// Reads without pause, and gives the first error.
fn keep_reading(client: SqlClient, stop: CancellationToken) -> JoinHandle<Result<u64, String>> {
    tokio::spawn(async move {
        let mut answers = 0;
        while !stop.is_cancelled() {
            answer(&client).await?;
            answers += 1;
        }
        Ok(answers)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_answer_as_the_writer_does() {
    let mut scene = Scene::start().await;
    scene.readers_agree("the beginning").await;
    let stop = CancellationToken::new();
    let reading = keep_reading(scene.bi.clone(), stop.clone());
    for statement in STATEMENTS {
        scene.step(statement).await;
    }
    scene.step("TRUNCATE TABLE {u}").await;
    scene.restart_writer_without_parts().await;
    for partition in 0..3 {
        let insert =
            format!("INSERT INTO {{u}} SELECT number, {partition}, 'made anew' FROM numbers({})", 10 + partition);
        scene.step(&insert).await;
    }
    scene.step("OPTIMIZE TABLE {u} FINAL").await;
    stop.cancel();
    let answers =
        reading.await.expect("no panic").unwrap_or_else(|error| panic!("{error}{}", scene.warehouse.home.logs()));
    let remade = scene.parts.values().filter(|contents| contents.len() > 1).count();
    assert!(remade >= 3, "no part was made anew under its name: {:?}", scene.parts);
    scene.delays.sort();
    let (slowest, median) = (scene.delays.last(), scene.delays.get(scene.delays.len() / 2));
    println!("{answers} answers, {remade} names with several contents; until readers agree: {median:?}, {slowest:?}");
}

/// To an engine a part that it cannot read is a broken one: it would put it away, and its rows with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_starts_while_the_store_is_away_hides_nothing() {
    let mut scene = Scene::start().await;
    let home = &scene.warehouse.home;
    home.run(&["table", "set", "seen.t", "settle_ms=100"]);
    for part in 0..3 {
        let insert = format!("INSERT INTO {{t}} SELECT number, {part}, 'stored' FROM numbers(100)");
        scene.step(&insert).await;
    }
    let whole = answer(&scene.etl).await.expect("answered");
    let home = &scene.warehouse.home;
    let began = Instant::now();
    while home.json(&["fsck"])["files_staged"] != 0 {
        assert!(began.elapsed() < PATIENCE, "not uploaded{}", home.logs());
        tokio::time::sleep(LOOK * 10).await;
    }
    let (bucket, away) = (home.path().join("objects"), home.path().join("objects-away"));
    std::fs::rename(&bucket, &away).expect("the bucket is a directory");
    home.run(&["cache", "drop"]);
    for node in ["etl-0", "bi-0"] {
        home.kill_engine(node);
    }
    let has_tried = |node: &str| {
        let log = std::fs::read_to_string(home.path().join("logs").join(format!("{node}.log"))).unwrap_or_default();
        log.contains("a table does not attach")
    };
    while !(has_tried("etl-0") && has_tried("bi-0")) {
        assert!(began.elapsed() < PATIENCE * 2, "no engine tried{}", home.logs());
        for client in [&scene.etl, &scene.bi] {
            let seen = answer(client).await;
            assert!(seen.is_err() || seen.as_ref() == Ok(&whole), "{seen:?}, not {whole}{}", home.logs());
        }
        tokio::time::sleep(LOOK).await;
    }
    std::fs::rename(&away, &bucket).expect("nothing else took the name");
    scene.readers_agree("the store's return").await;
    assert_eq!(answer(&scene.etl).await.as_ref(), Ok(&whole));
    let detached = scene.writer.query("SELECT count() FROM system.detached_parts").await;
    assert_eq!(detached.as_deref(), Ok("0\n"));
}
