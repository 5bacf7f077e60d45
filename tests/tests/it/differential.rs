//! The same statements on a plain disk and on the mount of a real agent, by engines of one build: the answers, the parts and the
//! parts' files must be the same after every one. The data is random; the seed is printed, and `MOORHOUSE_TEST_SEED` repeats it.
//!
//! The mount must stand whatever a MergeTree table can do, so the statements go to the engine itself, as its administrator:
//! the gateway allows fewer.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use moorhouse_engine::SqlClient;
use moorhouse_tests::engines::engine_of;
use moorhouse_tests::warehouse::TestWarehouse;

const CORPUS: &str = include_str!("differential/corpus.sql");
const ROWS: u64 = 5_000;
/// A name that some table has for a while.
const RENAMED: &str = "renamed";
/// For what the engine does by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where the tables' rows come from: the same for both sides, whatever is random about it.
const SOURCE: &str = "CREATE TABLE default.source ENGINE = Memory AS \
     SELECT number AS id, toUInt32(cityHash64(number, 1) % 100) AS k, toDate('2024-01-01') + cityHash64(number, 2) % 121 AS day, \
     name, v, tags, n, mapFromArrays(tags, arrayEnumerate(tags)::Array(UInt32)) AS m \
     FROM (SELECT rowNumberInAllBlocks() AS number, * FROM generateRandom('name String, v Float64, tags Array(FixedString(3)), \
     n Nullable(Int32)', {seed}, 12, 4)) LIMIT {rows}";
const COLUMNS: &str = "id UInt64, k UInt32, day Date, name String, v Float64, tags Array(LowCardinality(String)), \
     n Nullable(Int32), m Map(String, UInt32)";
/// Background work must not choose its own time: merges and TTL are asked for.
const QUIET: &str = "index_granularity = 128, max_bytes_to_merge_at_max_space_in_pool = 1, \
     max_bytes_to_merge_at_min_space_in_pool = 1, max_number_of_merges_with_ttl_in_pool = 0, old_parts_lifetime = 1, \
     lightweight_mutation_projection_mode = 'rebuild', \
     vertical_merge_algorithm_min_rows_to_activate = 1, vertical_merge_algorithm_min_columns_to_activate = 1, \
     vertical_merge_algorithm_min_bytes_to_activate = 0";

/// The tables of the corpus: name, what their columns are followed by, their settings.
const TABLES: [(&str, &str, &str); 5] = [
    ("t", RICH, ""),
    ("u", RICH, ""),
    ("p", "", ", enable_block_number_column = 1, enable_block_offset_column = 1"),
    ("x", "", ""),
    ("d", "", ", non_replicated_deduplication_window = 100"),
];
const RICH: &str = ", INDEX ik k TYPE minmax GRANULARITY 2, INDEX iname name TYPE bloom_filter GRANULARITY 1, \
     PROJECTION by_k (SELECT k, count(), sum(v) GROUP BY k), PROJECTION sorted (SELECT id, name ORDER BY name)";

fn definition(table: &str, more: &str, settings: &str, format: &str) -> String {
    let ttl = if table == "x" { "TTL day + INTERVAL 1 DAY" } else { "" };
    format!(
        "CREATE TABLE {{}} ({COLUMNS}{more}) ENGINE = MergeTree PARTITION BY toYYYYMM(day) ORDER BY (k, id) {ttl} \
         SETTINGS {QUIET}, {format}{settings}"
    )
}

/// One of the two places where the corpus runs.
struct Side {
    /// The database, in whose names the statements are put.
    database: String,
    /// By their short name.
    tables: BTreeMap<&'static str, String>,
    /// The disk's root, below which is `shadow`.
    disk: PathBuf,
    disk_name: &'static str,
    engine: SqlClient,
}

impl Side {
    async fn text(&self, query: &str) -> String {
        text(&self.engine, query).await
    }

    async fn run(&self, statement: &str) {
        self.engine.execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    fn statement(&self, text: &str) -> String {
        let text = text.replace("{db}", &self.database).replace("{disk}", self.disk_name);
        let named = self.tables.iter().fold(text, |text, (short, name)| {
            text.replace(&format!("{{{short}}}"), &format!("{}.{name}", self.database))
        });
        named.replace("FROM source", "FROM default.source")
    }
}

/// A warehouse of one shard. The tables on the mount are its writer's, the plain ones lie in the other node's engine, so that
/// one can be killed without the other: both are spoken to past the gateway.
struct Rig {
    warehouse: TestWarehouse,
    over_mount: SqlClient,
    plain: SqlClient,
    user: SqlClient,
    seed: u64,
}

impl Rig {
    async fn start() -> Self {
        let warehouse = TestWarehouse::start_shaped(&["--shards", "1", "--group", "etl=1", "--group", "bi=1"], &[]);
        let user = warehouse.client(0);
        let settings = [
            ("mutations_sync", "2"),
            ("alter_sync", "2"),
            ("max_threads", "1"),
            ("max_insert_threads", "1"),
            ("optimize_throw_if_noop", "0"),
            ("enable_lightweight_update", "1"),
            // INSERT SELECT is not looked at for duplicates otherwise.
            ("deduplicate_insert_select", "enable_even_for_bad_queries"),
        ];
        let set =
            |client: SqlClient| settings.iter().fold(client, |client, (name, value)| client.with_setting(name, value));
        let over_mount = set(engine_of(&warehouse, 0, 1).await);
        let plain = set(engine_of(&warehouse, 1, 1).await);
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64;
        let seed = std::env::var("MOORHOUSE_TEST_SEED").map_or(clock, |seed| seed.parse().expect("a number"));
        println!("MOORHOUSE_TEST_SEED={seed}");
        Self { warehouse, over_mount, plain, user, seed }
    }

    async fn make_source(&self, engine: &SqlClient) {
        let source = SOURCE.replace("{seed}", &self.seed.to_string()).replace("{rows}", &ROWS.to_string());
        engine.execute(&source).await.expect("rows");
    }

    /// All tables are loaded from the disk again, as they were defined at first: an agent knows what the catalog says, which
    /// statements that go past the gateway do not change.
    async fn restart(&self, plain: &Side, mounted: &Side, format: &str) {
        let mut attach = Vec::new();
        for (table, more, settings) in TABLES {
            let uuid = format!("SELECT uuid FROM system.tables WHERE database = 'plain' AND name = '{table}'");
            let definition = definition(table, more, settings, format).replace("CREATE", "ATTACH");
            attach.push(definition.replace("{}", &format!("plain.{table} UUID '{}'", plain.text(&uuid).await.trim())));
            plain.run(&format!("DETACH TABLE plain.{table} PERMANENTLY SYNC")).await;
        }
        plain.run("DROP DATABASE plain SYNC").await;
        plain.run("CREATE DATABASE plain ENGINE = Atomic").await;
        for statement in attach {
            plain.run(&statement).await;
        }
        self.warehouse.home.kill_engine("etl-0");
        let until = Instant::now() + PATIENCE;
        for table in TABLES.iter().map(|(table, ..)| &mounted.tables[table]) {
            let count = format!("SELECT count() FROM {}.{table}", mounted.database);
            while let Err(error) = mounted.engine.query(&count).await {
                assert!(Instant::now() < until, "{error}{}", self.warehouse.home.logs());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        self.make_source(&mounted.engine).await;
    }

    async fn plain(&self, format: &str) -> Side {
        self.plain.execute("CREATE DATABASE plain ENGINE = Atomic").await.expect("made");
        for (table, more, settings) in TABLES {
            let definition = definition(table, more, settings, format).replace("{}", &format!("plain.{table}"));
            self.plain.execute(&definition).await.expect("made");
        }
        let disk = text(&self.plain, "SELECT path FROM system.disks WHERE name = 'default'").await;
        let tables = TABLES.iter().map(|(table, ..)| *table).chain([RENAMED]).map(|t| (t, t.to_string())).collect();
        let engine = self.plain.clone();
        Side { database: "plain".into(), tables, disk: disk.trim().into(), disk_name: "default", engine }
    }

    async fn mounted(&self, format: &str) -> Side {
        self.user.execute("CREATE DATABASE corpus").await.expect("made");
        let mut tables = BTreeMap::from([(RENAMED, RENAMED.to_string())]);
        for (table, more, settings) in TABLES {
            let definition = definition(table, more, settings, format).replace("{}", &format!("corpus.{table}"));
            self.user.execute(&definition).await.expect("made");
            let query =
                format!("SELECT name FROM system.tables WHERE database = 'shard_0' AND name LIKE '{table}\\_%'");
            tables.insert(table, text(&self.over_mount, &query).await.trim().to_string());
        }
        let disk = text(&self.over_mount, "SELECT path FROM system.disks WHERE name = 'shard_0'").await;
        let engine = self.over_mount.clone();
        Side { database: "shard_0".into(), tables, disk: disk.trim().into(), disk_name: "shard_0", engine }
    }

    /// All that must be the same: definitions, rows, parts, files.
    async fn observe(&self, side: &Side, touched: impl Fn(&str) -> bool) -> String {
        let mut seen = String::new();
        let listed = format!("SELECT name FROM system.tables WHERE database = '{}'", side.database);
        let there = side.text(&listed).await;
        for (short, table) in side.tables.iter().filter(|(short, _)| touched(short)) {
            if !there.lines().any(|name| name == table) {
                let _ = writeln!(seen, "-- {short} is absent");
                continue;
            }
            let rows = format!(
                "SELECT count(), groupBitXor(cityHash64(*)) FROM {}.{table} SETTINGS optimize_trivial_count_query = 0",
                side.database
            );
            let _ = write!(seen, "-- {short}\n{}", side.text(&rows).await);
            for (what, columns) in LISTINGS {
                let query = format!(
                    "SELECT {columns} FROM system.{what} WHERE database = '{}' AND table = '{table}'{} ORDER BY ALL",
                    side.database,
                    if *what == "parts" || *what == "projection_parts" { " AND active" } else { "" }
                );
                let _ = write!(seen, "{what}:\n{}", side.text(&query).await);
            }
            let filtered = format!(
                "SELECT k % 7, count(), sum(v), max(name) FROM {}.{table} WHERE k BETWEEN 10 AND 60 AND name > 'M' \
                 GROUP BY 1 ORDER BY 1",
                side.database
            );
            let _ = write!(seen, "filtered:\n{}", side.text(&filtered).await);
            let paths = format!(
                "SELECT path FROM system.parts WHERE database = '{}' AND table = '{table}' AND active ORDER BY name",
                side.database
            );
            for path in side.text(&paths).await.lines() {
                files(
                    Path::new(path),
                    Path::new(path).parent().and_then(Path::parent).expect("below a table"),
                    &mut seen,
                );
            }
        }
        seen.push_str("-- shadow\n");
        files(&side.disk.join("shadow"), &side.disk, &mut seen);
        mask_places(&seen)
    }
}

const LISTINGS: &[(&str, &str)] = &[
    (
        "parts",
        "name, partition, part_type, rows, marks, bytes_on_disk, data_compressed_bytes, data_uncompressed_bytes, \
         secondary_indices_compressed_bytes, level, data_version, min_block_number, max_block_number, is_frozen, \
         hash_of_all_files, hash_of_uncompressed_files, uncompressed_hash_of_compressed_files, default_compression_codec, \
         has_lightweight_delete, delete_ttl_info_min, delete_ttl_info_max, projections",
    ),
    ("projection_parts", "name, parent_name, part_type, rows, bytes_on_disk, hash_of_all_files"),
    ("detached_parts", "name, partition_id, reason, min_block_number, max_block_number, level, bytes_on_disk"),
    ("mutations", "command, is_done, parts_to_do, latest_fail_reason"),
    ("columns", "position, name, type, default_expression, compression_codec, data_compressed_bytes"),
    ("data_skipping_indices", "name, type_full, data_compressed_bytes"),
];

/// The files below a directory with their sizes and content. (FREEZE counts in `increment.txt`, in the engine's own directory.)
fn files(dir: &Path, root: &Path, seen: &mut String) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("listed").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            files(&path, root, seen);
        } else if !path.ends_with("shadow/increment.txt") {
            let content = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let name = path.strip_prefix(root).expect("below").display();
            let _ = writeln!(seen, "{name} {} {:08x}", content.len(), fingerprint(&content));
        }
    }
}

/// FNV-1a: enough to tell two files apart in a test.
fn fingerprint(content: &[u8]) -> u64 {
    content.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The two sides' tables have UUIDs of their own, which show in paths below `shadow`.
fn mask_places(seen: &str) -> String {
    let is_uuid = |name: &&&str| name.len() == 36 && name.bytes().filter(|b| *b == b'-').count() == 4;
    let mut masked = String::new();
    for line in seen.lines() {
        let names: Vec<&str> = line.split('/').collect();
        let uuid = names.iter().find(is_uuid).map_or("", |uuid| *uuid);
        let hidden: Vec<&str> = names
            .iter()
            .map(|name| if !uuid.is_empty() && (*name == uuid || *name == &uuid[..3]) { "*" } else { *name })
            .collect();
        let _ = writeln!(masked, "{}", hidden.join("/"));
    }
    masked
}

async fn text(engine: &SqlClient, query: &str) -> String {
    engine.query(query).await.unwrap_or_else(|error| panic!("{query}: {error}"))
}

const RESTART: &str = "restart";

/// The statements, each with the error code that both sides may answer it with; [`RESTART`] is none.
fn corpus() -> Vec<(String, Option<i32>)> {
    let mut statements = Vec::new();
    let (mut text, mut code) = (String::new(), None);
    for line in CORPUS.lines() {
        if let Some(allowed) = line.strip_prefix("--!") {
            code = Some(allowed.trim().parse().expect("an error code"));
        } else if line.strip_prefix("--@").is_some_and(|order| order.trim() == RESTART) {
            statements.push((RESTART.to_owned(), None));
        } else if !line.starts_with("--") {
            text.push_str(line);
            if let Some(statement) = text.trim().strip_suffix(';') {
                statements.push((statement.to_string(), code.take()));
                text.clear();
            }
        }
    }
    statements
}

async fn run_corpus(format: &str) {
    let rig = Rig::start().await;
    rig.make_source(&rig.plain).await;
    rig.make_source(&rig.over_mount).await;
    let (plain, mounted) = (rig.plain(format).await, rig.mounted(format).await);
    for (statement, allowed) in corpus() {
        if statement == RESTART {
            rig.restart(&plain, &mounted, format).await;
            compare(&rig, RESTART, (&plain, &mounted), |_| true).await;
            continue;
        }
        for side in [&plain, &mounted] {
            let outcome = side.engine.execute(&side.statement(&statement)).await;
            let failed = outcome.as_ref().err().map(|error| error.code().unwrap_or(-1));
            assert_eq!(
                failed,
                allowed,
                "seed {}, {format}, {}: {statement}: {outcome:?}\n{}",
                rig.seed,
                side.database,
                rig.warehouse.home.logs()
            );
        }
        let touched = |table: &str| statement.contains(&format!("{{{table}}}"));
        compare(&rig, &statement, (&plain, &mounted), touched).await;
    }
    compare(&rig, "all of it", (&plain, &mounted), |_| true).await;
}

/// The engine removes some parts in the background (applied patches, for one), at its own time on each side: so what differs
/// is looked at again for a while.
async fn compare(rig: &Rig, statement: &str, sides: (&Side, &Side), touched: impl Fn(&str) -> bool + Copy) {
    let until = Instant::now() + PATIENCE;
    loop {
        let (plain, mounted) = (rig.observe(sides.0, touched).await, rig.observe(sides.1, touched).await);
        if plain == mounted {
            return;
        }
        if Instant::now() >= until {
            refuse(statement, &plain, &mounted);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn refuse(statement: &str, plain: &str, mounted: &str) -> ! {
    let (a, b): (Vec<&str>, Vec<&str>) = (plain.lines().collect(), mounted.lines().collect());
    let only = |these: &[&str], others: &[&str]| -> String {
        these
            .iter()
            .filter(|line| !others.contains(line))
            .take(20)
            .fold(String::new(), |text, line| text + "\n  " + line)
    };
    panic!("after {statement}\nplain alone:{}\nmounted alone:{}", only(&a, &b), only(&b, &a));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wide_parts_behave_as_on_a_plain_disk() {
    run_corpus("min_bytes_for_wide_part = 0, min_rows_for_wide_part = 0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compact_parts_behave_as_on_a_plain_disk() {
    run_corpus("min_bytes_for_wide_part = 1000000000, min_rows_for_wide_part = 1000000000").await;
}
