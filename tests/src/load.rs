//! Loops of INSERTs and SELECTs against a warehouse while something happens to it, and the judgement of what they saw.
//!
//! Every INSERT writes `ROWS_PER_SHARD` rows with keys of its own to every shard (the table is sharded by the key), so that one
//! GROUP BY tells whether it is there once, and on which shards whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use moorhouse_engine::SqlClient;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const CREATE_DATABASE: &str = "CREATE DATABASE load";
pub const CREATE_EVENTS: &str = "CREATE TABLE load.events (id UInt64, statement UInt64, note String) \
     ENGINE = MergeTree ORDER BY id SHARD BY id";

const ROWS_PER_SHARD: u64 = 10;
/// Between two statements of a loop, so that the load leaves room on a small machine.
const PAUSE: Duration = Duration::from_millis(50);
const REMEMBERED_ERRORS: usize = 8;

/// One loop: the client it speaks through, and what it does.
pub struct Lane {
    pub name: &'static str,
    pub sql: SqlClient,
    pub work: Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Insert,
    /// `count()`; `never_less`: a smaller one than the one before is an error.
    Count {
        never_less: bool,
    },
    /// Looks for INSERTs that are in part visible on a shard.
    Halves,
}

/// What the loops did.
#[derive(Debug, Default)]
pub struct Tally {
    pub statements: u64,
    pub failed: u64,
    /// Answers that must not be, whatever happens to the processes.
    pub wrong: Vec<String>,
    /// The first few, for people.
    pub errors: Vec<String>,
    pub slowest: Duration,
    pub acknowledged: BTreeSet<u64>,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        let Self { statements, failed, wrong, errors, slowest, acknowledged } = other;
        self.statements += statements;
        self.failed += failed;
        self.wrong.extend(wrong);
        self.errors.extend(errors);
        self.slowest = self.slowest.max(slowest);
        self.acknowledged.extend(acknowledged);
    }

    /// # Panics
    /// If a statement failed or a SELECT saw what it must not see.
    pub fn assert_flawless(&self, during: &str) {
        assert_eq!(
            self.failed, 0,
            "{during}: {} of {} statements failed: {:#?}",
            self.failed, self.statements, self.errors
        );
        self.assert_right(during);
    }

    /// # Panics
    /// If a SELECT saw what it must not see.
    pub fn assert_right(&self, during: &str) {
        assert!(self.wrong.is_empty(), "{during}: {:#?}", self.wrong);
    }
}

/// Running loops.
pub struct Load {
    stop: CancellationToken,
    loops: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// `phase` keeps the keys of several loads apart.
    pub fn start(lanes: Vec<Lane>, shards: u64, phase: u64) -> Self {
        let stop = CancellationToken::new();
        let numbered = lanes.into_iter().enumerate();
        let loops = numbered.map(|(index, lane)| {
            let first_statement = (phase * 100 + index as u64) * 1_000_000;
            tokio::spawn(run(lane, shards, first_statement, stop.clone()))
        });
        Self { loops: loops.collect(), stop }
    }

    /// Lets each loop finish its statement, and adds up what they did.
    pub async fn finish(mut self) -> Tally {
        self.stop.cancel();
        let mut total = Tally::default();
        for handle in std::mem::take(&mut self.loops) {
            total.add(handle.await.expect("a loop does not panic"));
        }
        total
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(lane: Lane, shards: u64, first_statement: u64, stop: CancellationToken) -> Tally {
    let mut tally = Tally::default();
    let (mut statement, mut last_count) = (first_statement, 0);
    let began = Instant::now();
    while !stop.is_cancelled() {
        let asked = Instant::now();
        let outcome = match lane.work {
            Work::Insert => insert(&lane.sql, shards, statement).await.map(|()| {
                tally.acknowledged.insert(statement);
                None
            }),
            Work::Count { never_less } => count(&lane.sql).await.map(|seen| {
                let before = std::mem::replace(&mut last_count, seen);
                (never_less && seen < before).then(|| format!("count() went from {before} to {seen}"))
            }),
            Work::Halves => {
                halves(&lane.sql).await.map(|seen| (!seen.is_empty()).then(|| format!("half visible: {seen}")))
            }
        };
        statement += 1;
        tally.statements += 1;
        tally.slowest = tally.slowest.max(asked.elapsed());
        let at =
            format!("{} at {:.1}..{:.1} s", lane.name, (asked - began).as_secs_f64(), began.elapsed().as_secs_f64());
        match outcome {
            Ok(None) => {}
            Ok(Some(wrong)) => tally.wrong.push(format!("{at}: {wrong}")),
            Err(error) => {
                tally.failed += 1;
                if tally.errors.len() < REMEMBERED_ERRORS {
                    tally.errors.push(format!("{at}: {error}"));
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    tally
}

async fn insert(sql: &SqlClient, shards: u64, statement: u64) -> Result<(), String> {
    let rows = shards * ROWS_PER_SHARD;
    let mut text = "INSERT INTO load.events (id, statement, note) VALUES".to_owned();
    for id in statement * rows..(statement + 1) * rows {
        write!(text, " ({id}, {statement}, 'event {id}')").expect("writing to memory does not fail");
    }
    sql.execute(&text).await.map_err(|error| error.to_string())
}

async fn count(sql: &SqlClient) -> Result<u64, String> {
    let answer = sql.query("SELECT count() FROM load.events").await.map_err(|error| error.to_string())?;
    answer.trim().parse().map_err(|_| format!("{answer:?} is no count"))
}

async fn halves(sql: &SqlClient) -> Result<String, String> {
    let asked = format!(
        "SELECT statement, _shard_num, count(), uniqExact(id) FROM load.events \
         GROUP BY ALL HAVING count() != {ROWS_PER_SHARD} OR uniqExact(id) != {ROWS_PER_SHARD} LIMIT 5"
    );
    sql.query(&asked).await.map_err(|error| error.to_string())
}

/// What is in the table, against what was acknowledged.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Acknowledged, but on one shard not there or not exactly once.
    pub broken: Vec<u64>,
    /// Not acknowledged, and on one shard there in part or more than once.
    pub half_visible: Vec<u64>,
    /// Not acknowledged, but there on some shards: allowed.
    pub unacknowledged_visible: usize,
}

/// # Errors
/// When the table cannot be read.
pub async fn take_inventory(sql: &SqlClient, shards: u64, acknowledged: &BTreeSet<u64>) -> Result<Inventory, String> {
    let asked = "SELECT statement, count(), uniqExact(id) FROM load.events GROUP BY statement, _shard_num";
    let answer = sql.query(asked).await.map_err(|error| error.to_string())?;
    // Per statement: on how many shards it is whole, and on how many there at all.
    let mut seen: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for line in answer.lines() {
        let numbers: Vec<u64> = line.split('\t').map(|field| field.parse().expect("numbers")).collect();
        let (whole, there) = seen.entry(numbers[0]).or_default();
        *there += 1;
        *whole += u64::from(numbers[1..] == [ROWS_PER_SHARD, ROWS_PER_SHARD]);
    }
    let is_whole = |statement: &u64| seen.get(statement) == Some(&(shards, shards));
    let others = seen.iter().filter(|(statement, _)| !acknowledged.contains(statement));
    let half_visible = others.clone().filter(|(_, (whole, there))| whole != there);
    Ok(Inventory {
        broken: acknowledged.iter().copied().filter(|statement| !is_whole(statement)).collect(),
        half_visible: half_visible.map(|(statement, _)| *statement).collect(),
        unacknowledged_visible: others.count(),
    })
}
