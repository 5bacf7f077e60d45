//! The demo's story, in the eight steps that a reader of its output sees.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use moorhouse_base::tasks::stop_signal;
use moorhouse_engine::SqlClient;
use serde_json::Value;
use url::Url;

use crate::compare::compare;
use crate::console::{self, millis, say, step};
use crate::error::DemoError;
use crate::load;
use crate::moorctl::Moorctl;
use crate::reference::Reference;
use crate::report::DemoReport;
use crate::tpch::{QUERIES, Table};
use crate::traffic::{self, KnownAnswer, Tally, Traffic};

const WRITER: &str = "etl";
const READER: &str = "bi";
const VICTIM: &str = "etl-0";
const NEWCOMER: &str = "etl-2";
/// Tells the directory of a demo, which the next demo may remove.
const MARK: &str = "made-by-demo";
/// A part that nothing has merged for this long is uploaded.
const SETTLE_MS: &str = "3000";

const READER_LIMIT: Duration = Duration::from_secs(60);
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(100);
/// Traffic before the first and after the last move, so that the moves happen in the middle of it.
const TRAFFIC_MARGIN: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Leave the warehouse running.
    pub keep: bool,
    pub scale: f64,
    /// Made anew: what an earlier demo left there goes.
    pub dir: PathBuf,
    pub store: Option<String>,
    pub objects: Option<String>,
    pub port_base: Option<u16>,
    /// Where the numbers go.
    pub out: Option<PathBuf>,
}

/// Runs the whole demo. Whatever happens, nothing keeps running behind it, unless it was asked to keep the warehouse.
pub async fn run(options: &DemoOptions) -> Result<DemoReport, DemoError> {
    let started = Instant::now();
    let moorctl = Moorctl::beside_this_program(&options.dir)?;
    clear_away(&moorctl, options).await?;
    let outcome = tokio::select! {
        outcome = tell(&moorctl, options, started) => outcome,
        () = stop_signal() => Err(DemoError::Interrupted),
    };
    if outcome.is_err() {
        say(format!("stopping the warehouse; its logs stay in {}", options.dir.join("logs").display()));
        if let Err(error) = moorctl.run(&["dev", "down"]).await {
            say(format!("that failed: {error}"));
        }
    }
    let report = outcome?;
    if let Some(out) = &options.out {
        write_report(out, &report)?;
        say(format!("the numbers are in {}", out.display()));
    }
    Ok(report)
}

/// Stops and removes what an earlier demo left; touches no directory that is not a demo's.
async fn clear_away(moorctl: &Moorctl, options: &DemoOptions) -> Result<(), DemoError> {
    let dir = &options.dir;
    if let Some(out) = options.out.as_ref().filter(|out| out.exists()) {
        std::fs::remove_file(out).map_err(DemoError::io(format!("cannot remove {}", out.display())))?;
    }
    if dir.join(MARK).exists() {
        say(format!("stopping and removing the earlier demo in {}", dir.display()));
        moorctl.run(&["dev", "down"]).await?;
        std::fs::remove_dir_all(dir).map_err(DemoError::io(format!("cannot remove {}", dir.display())))?;
    } else if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(DemoError::NotMine(dir.display().to_string()));
    }
    let mark = || {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join(MARK), "The demo removes this directory when it starts.\n")
    };
    mark().map_err(DemoError::io(format!("cannot write to {}", dir.display())))
}

/// What the steps share.
struct Scene<'a> {
    moorctl: &'a Moorctl,
    options: &'a DemoOptions,
    etl: SqlClient,
    bi: SqlClient,
    report: DemoReport,
    /// Rows of each TPC-H table.
    counts: Vec<(Table, u64)>,
    /// Queries with the answers of the plain ClickHouse.
    known: Vec<KnownAnswer>,
    tally: Tally,
}

async fn tell(moorctl: &Moorctl, options: &DemoOptions, started: Instant) -> Result<DemoReport, DemoError> {
    step(1, "What is needed was installed by `make setup`");
    let (etl, bi) = start_warehouse(moorctl, options).await?;
    let report = DemoReport { scale: options.scale, ..DemoReport::default() };
    let mut scene =
        Scene { moorctl, options, etl, bi, report, counts: Vec::new(), known: Vec::new(), tally: Tally::default() };
    scene.load().await?;
    scene.query().await?;
    scene.settle().await?;
    scene.grow().await?;
    scene.crash().await?;
    scene.finish().await?;
    let mut report = scene.report;
    report.seconds_total = started.elapsed().as_secs_f64();
    say(format!("that took {:.0} s", report.seconds_total));
    Ok(report)
}

async fn start_warehouse(moorctl: &Moorctl, options: &DemoOptions) -> Result<(SqlClient, SqlClient), DemoError> {
    step(2, "A warehouse: 8 shards, group etl with 2 nodes, group bi with 1 node");
    let port_base = options.port_base.map(|port| port.to_string());
    let mut arguments =
        vec!["dev", "up", "--shards", "8", "--group", "etl=2", "--group", "bi=1", "--settle-ms", SETTLE_MS];
    let flags = [
        ("--store", options.store.as_ref()),
        ("--objects", options.objects.as_ref()),
        ("--port-base", port_base.as_ref()),
    ];
    for (flag, value) in flags {
        arguments.extend(value.into_iter().flat_map(|value| [flag, value]));
    }
    let connections = moorctl.json(&arguments).await?;
    for row in connections.as_array().into_iter().flatten() {
        say(format!("{}  {}", text(row, "group"), text(row, "http")));
    }
    Ok((client(&connections, WRITER)?, client(&connections, READER)?))
}

impl Scene<'_> {
    async fn load(&mut self) -> Result<(), DemoError> {
        let scale = self.options.scale;
        step(3, &format!("TPC-H at scale {scale}, through the connection string of {WRITER}"));
        load::create_tables(&self.etl).await?;
        let started = Instant::now();
        for table in Table::ALL {
            let from = Instant::now();
            let rows = load::load_table(&self.etl, table, scale).await?;
            say(format!("{:10}{rows:>10} rows in {:.1} s", table.name(), from.elapsed().as_secs_f64()));
            self.counts.push((table, rows));
            self.report.rows_loaded += rows;
        }
        self.report.load_seconds = started.elapsed().as_secs_f64();
        Ok(())
    }

    async fn query(&mut self) -> Result<(), DemoError> {
        step(4, &format!("Five TPC-H queries on {READER}, checked against a plain ClickHouse"));
        let waited = Instant::now();
        self.wait_for_counts(&self.bi, READER_LIMIT, "the readers do not see all rows").await?;
        self.report.reader_lag_ms = millis(waited.elapsed());
        say(format!("{READER} counts every row {} ms after the load ended", self.report.reader_lag_ms));

        let from = Instant::now();
        let reference = Reference::start(&self.options.dir.join("plain-clickhouse")).await?;
        load::create_tables(reference.sql()).await?;
        for table in Table::ALL {
            load::load_table(reference.sql(), table, self.options.scale).await?;
        }
        say(format!("a plain ClickHouse has the same rows after {:.1} s", from.elapsed().as_secs_f64()));
        let mut times = Vec::new();
        for query in &QUERIES {
            let compared = compare(query, &self.bi, reference.sql()).await?;
            compared.print();
            self.report.queries_checked += 1;
            self.report.queries_equal += u64::from(compared.is_equal());
            let (warehouse, plain) = (millis(compared.warehouse.took), millis(compared.plain.took));
            let verdict = if compared.is_equal() { "equal" } else { "DIFFERENT" };
            times.push(vec![query.name.to_owned(), warehouse.to_string(), plain.to_string(), verdict.to_owned()]);
            self.known.push(KnownAnswer { sql: query.sql.to_owned(), answer: compared.plain.text });
        }
        console::table(&["query", "warehouse, ms", "plain, ms", "answers"], &times);
        reference.stop().await
    }

    async fn settle(&mut self) -> Result<(), DemoError> {
        step(5, "Parts settle and go to the object store");
        let deadline = Instant::now() + SETTLE_LIMIT;
        let mut said = None;
        let status = loop {
            let status = self.moorctl.json(&["status"]).await?;
            let counts = (number(&status, "parts_staged"), number(&status, "parts_stored"));
            if said != Some(counts) {
                say(format!(
                    "{:>5} parts staged, {:>5} stored, {} PUTs",
                    counts.0,
                    counts.1,
                    number(&status, "object_puts")
                ));
                said = Some(counts);
            }
            if counts.0 == 0 && counts.1 > 0 {
                break status;
            }
            if Instant::now() > deadline {
                let limit = SETTLE_LIMIT.as_secs();
                return Err(DemoError::TooLate(format!("{} parts are still staged after {limit} s", counts.0)));
            }
            tokio::time::sleep(POLL_EVERY * 5).await;
        };
        self.report.parts_stored = number(&status, "parts_stored");
        self.report.object_puts = number(&status, "object_puts");
        self.report.bytes_stored = number(&status, "bytes_stored");
        let megabytes = self.report.bytes_stored / 1_000_000;
        say(format!("{} parts, {megabytes} MB, in {} PUTs", self.report.parts_stored, self.report.object_puts));
        Ok(())
    }

    async fn grow(&mut self) -> Result<(), DemoError> {
        step(6, &format!("A third node for {WRITER}, under load on both groups"));
        self.etl.execute(traffic::CREATE_DATABASE).await.map_err(DemoError::sql("CREATE DATABASE demo"))?;
        self.etl.execute(traffic::CREATE_EVENTS).await.map_err(DemoError::sql("CREATE TABLE demo.events"))?;
        let groups = [(WRITER.to_owned(), self.etl.clone()), (READER.to_owned(), self.bi.clone())];
        let traffic = Traffic::start(&groups, &self.mixed_queries(), 1);
        tokio::time::sleep(TRAFFIC_MARGIN).await;
        let added = self.moorctl.run(&["node", "add", "--group", WRITER, "--name", NEWCOMER, "--wait"]).await;
        tokio::time::sleep(TRAFFIC_MARGIN).await;
        let tally = traffic.finish().await;
        say(added?.trim());

        let moves = self.moorctl.json(&["move", "list"]).await?;
        // The first two nodes shared the shards between them at the start: that is not what is shown here.
        let arrived = |entry: &&Value| text(entry, "outcome") == "done" && text(entry, "to") == NEWCOMER;
        let done: Vec<&Value> = moves.as_array().into_iter().flatten().filter(arrived).collect();
        self.report.shards_moved = done.len() as u64;
        self.report.move_hold_ms_max = done.iter().map(|entry| number(entry, "hold_ms")).max().unwrap_or(0);
        let row = |entry: &&Value| {
            let words = ["shard", "from", "to", "hold_ms", "total_ms", "copied_bytes"];
            words.iter().map(|field| plain(&entry[*field])).collect::<Vec<_>>()
        };
        let rows: Vec<Vec<String>> = done.iter().map(row).collect();
        console::table(&["shard", "from", "to", "hold, ms", "total, ms", "bytes copied"], &rows);
        say(format!(
            "{} statements while that happened, {} failed; {} rows acknowledged",
            tally.statements,
            tally.failed,
            tally.acknowledged.len()
        ));
        self.note(tally);
        Ok(())
    }

    /// The TPC-H queries, each between short ones, so that many statements run while shards move.
    fn mixed_queries(&self) -> Vec<KnownAnswer> {
        let count = |(table, rows): &(Table, u64)| KnownAnswer { sql: table.count_sql(), answer: format!("{rows}\n") };
        let counts: Vec<KnownAnswer> = self.counts.iter().map(count).collect();
        self.known.iter().flat_map(|query| counts.iter().chain([query])).cloned().collect()
    }

    fn note(&mut self, tally: Tally) {
        for error in &tally.errors {
            say(format!("FAILED {error}"));
        }
        self.tally.add(tally);
        self.report.statements = self.tally.statements;
        self.report.failed_statements = self.tally.failed;
        self.report.rows_acknowledged = self.tally.acknowledged.len() as u64;
    }

    async fn crash(&mut self) -> Result<(), DemoError> {
        step(7, &format!("SIGKILL to {VICTIM}, agent and ClickHouse, right after it took rows"));
        let tally = traffic::insert_now(&self.etl, WRITER, 2, 5).await;
        self.note(tally);
        say(self.moorctl.run(&["dev", "kill", VICTIM]).await?.trim());
        let restarted = Instant::now();
        say(self.moorctl.run(&["dev", "start", VICTIM]).await?.trim());
        let loaded = self.wait_for_counts(&self.etl, RECOVERY_LIMIT, "rows are missing after the crash").await;
        let inventory = traffic::take_inventory(&self.etl, &self.tally.acknowledged).await;
        let inventory = inventory.map_err(DemoError::sql("reading demo.events after the crash"))?;
        self.report.recovery_ms = millis(restarted.elapsed());
        self.report.rows_lost = inventory.lost + self.missing_loaded_rows(loaded).await?;
        self.report.rows_duplicated = inventory.duplicated;
        say(format!(
            "after {} ms: {} loaded and {} inserted rows checked, {} lost, {} doubled",
            self.report.recovery_ms,
            self.report.rows_loaded,
            self.tally.acknowledged.len(),
            self.report.rows_lost,
            self.report.rows_duplicated
        ));
        Ok(())
    }

    /// How many of the loaded rows are not there, if they did not come in time.
    async fn missing_loaded_rows(&self, waited: Result<(), DemoError>) -> Result<u64, DemoError> {
        if waited.is_ok() {
            return Ok(0);
        }
        let mut missing = 0;
        for (table, rows) in &self.counts {
            missing += rows.saturating_sub(self.count(&self.etl, *table).await?);
        }
        Ok(missing)
    }

    async fn finish(&mut self) -> Result<(), DemoError> {
        if self.options.keep {
            step(8, "The warehouse stays up; connect with");
            say(self.moorctl.run(&["dev", "status"]).await?.trim());
            say(format!("stop it with: target/debug/moorctl dev down --dir {}", self.options.dir.display()));
            return Ok(());
        }
        step(8, "Everything stops, and nothing stays behind");
        say(self.moorctl.run(&["dev", "down"]).await?.trim());
        check_nothing_left(&self.options.dir)
    }

    async fn count(&self, sql: &SqlClient, table: Table) -> Result<u64, DemoError> {
        let answer = sql.query(&table.count_sql()).await.map_err(DemoError::sql(table.count_sql()))?;
        Ok(answer.trim().parse().unwrap_or(0))
    }

    /// Returns when the group counts the loaded rows of every table. Errors count as "not yet" until the limit is over.
    async fn wait_for_counts(&self, sql: &SqlClient, limit: Duration, complaint: &str) -> Result<(), DemoError> {
        let deadline = Instant::now() + limit;
        for (table, rows) in &self.counts {
            loop {
                let counted = self.count(sql, *table).await;
                if matches!(counted, Ok(counted) if counted == *rows) {
                    break;
                }
                if Instant::now() > deadline {
                    let found = counted.map_or_else(|error| error.to_string(), |counted| counted.to_string());
                    let name = table.name();
                    return Err(DemoError::TooLate(format!("{complaint}: {name} has {rows}, the answer is {found}")));
                }
                tokio::time::sleep(POLL_EVERY).await;
            }
        }
        Ok(())
    }
}

/// `moorctl dev down` checks ports; here: no mount and no process that names the directory.
fn check_nothing_left(dir: &Path) -> Result<(), DemoError> {
    let dir = std::fs::canonicalize(dir).map_err(DemoError::io("cannot look at the demo's directory"))?;
    let needle = dir.display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(DemoError::io("cannot read the mounts"))?;
    if let Some(mount) = mounts.lines().find(|line| line.contains(&format!(" {needle}/"))) {
        return Err(DemoError::LeftBehind(format!("the mount {mount}")));
    }
    let processes = std::fs::read_dir("/proc").map_err(DemoError::io("cannot list the processes"))?;
    for process in processes.flatten().filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()) {
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains("moorhouse-") && words.contains(&format!("{needle}/")) {
            return Err(DemoError::LeftBehind(format!("the process {}: {words}", process.file_name().display())));
        }
    }
    Ok(())
}

fn write_report(out: &Path, report: &DemoReport) -> Result<(), DemoError> {
    let text = serde_json::to_vec_pretty(report).expect("numbers become JSON");
    std::fs::write(out, text).map_err(DemoError::io(format!("cannot write {}", out.display())))
}

/// A client for a group, from moorctl's connection strings.
fn client(connections: &Value, group: &str) -> Result<SqlClient, DemoError> {
    let row = connections.as_array().into_iter().flatten().find(|row| text(row, "group") == group);
    let url = row.and_then(|row| Url::parse(&text(row, "http")).ok());
    let parsed = url.and_then(|url| {
        let host_port = format!("{}:{}", url.host_str()?, url.port()?);
        Some(SqlClient::new(&host_port, url.username(), url.password()?))
    });
    parsed.ok_or_else(|| DemoError::Moorctl {
        command: "dev up".to_owned(),
        code: Some(0),
        said: format!("there is no connection string for {group} in {connections}"),
    })
}

fn text(row: &Value, field: &str) -> String {
    row[field].as_str().unwrap_or_default().to_owned()
}

fn number(row: &Value, field: &str) -> u64 {
    row[field].as_u64().unwrap_or(0)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
