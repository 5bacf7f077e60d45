//! Loops of queries and inserts on a group while something happens to it. Every answer is judged: an error, or a wrong
//! result, is a failed statement. What was acknowledged is remembered row by row.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use moorhouse_engine::{SqlClient, SqlError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const CREATE_DATABASE: &str = "CREATE DATABASE demo";
pub const CREATE_EVENTS: &str =
    "CREATE TABLE demo.events (id UInt64, source String, note String) ENGINE = MergeTree ORDER BY id";

const ROWS_PER_INSERT: u64 = 100;
/// Between two statements of a loop: the machine is shared with everything else that runs.
const PAUSE: Duration = Duration::from_millis(20);
const REMEMBERED_ERRORS: usize = 5;

/// What the loops did.
#[derive(Debug, Default)]
pub struct Tally {
    pub statements: u64,
    pub failed: u64,
    /// The first few, for people.
    pub errors: Vec<String>,
    pub acknowledged: BTreeSet<u64>,
}

impl Tally {
    fn count(&mut self, what: &str, outcome: Result<(), String>) {
        self.statements += 1;
        if let Err(error) = outcome {
            self.failed += 1;
            if self.errors.len() < REMEMBERED_ERRORS {
                self.errors.push(format!("{what}: {error}"));
            }
        }
    }

    pub fn add(&mut self, other: Self) {
        let Self { statements, failed, errors, acknowledged } = other;
        self.statements += statements;
        self.failed += failed;
        self.errors.extend(errors);
        self.errors.truncate(REMEMBERED_ERRORS);
        self.acknowledged.extend(acknowledged);
    }
}

/// A query whose answer is known.
#[derive(Debug, Clone)]
pub struct KnownAnswer {
    pub sql: String,
    pub answer: String,
}

/// Loops on several groups.
pub struct Traffic {
    stop: CancellationToken,
    loops: Vec<JoinHandle<Tally>>,
}

impl Traffic {
    /// One loop of queries and one of inserts on each group. `lane` keeps the keys of different calls apart.
    pub fn start(groups: &[(String, SqlClient)], known: &[KnownAnswer], lane: u64) -> Self {
        let stop = CancellationToken::new();
        let mut loops = Vec::new();
        for (index, (group, sql)) in groups.iter().enumerate() {
            loops.push(tokio::spawn(query_loop(group.clone(), sql.clone(), known.to_vec(), stop.clone())));
            let first_id = (lane * 1000 + index as u64) << 32;
            loops.push(tokio::spawn(insert_loop(group.clone(), sql.clone(), first_id, stop.clone())));
        }
        Self { stop, loops }
    }

    /// Lets each loop finish its statement, and adds up what they did.
    pub async fn finish(mut self) -> Tally {
        self.stop.cancel();
        let mut total = Tally::default();
        for handle in std::mem::take(&mut self.loops) {
            match handle.await {
                Ok(tally) => total.add(tally),
                Err(error) => total.count("a loop ended", Err(error.to_string())),
            }
        }
        total
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn query_loop(group: String, sql: SqlClient, known: Vec<KnownAnswer>, stop: CancellationToken) -> Tally {
    let mut tally = Tally::default();
    for query in known.iter().cycle() {
        let outcome = match sql.query(&query.sql).await {
            Ok(answer) if answer == query.answer => Ok(()),
            Ok(answer) => Err(format!("answered {:?} instead of {:?}", answer.trim(), query.answer.trim())),
            Err(error) => Err(error.to_string()),
        };
        tally.count(&format!("{group}: {}", query.sql), outcome);
        if is_over(&stop).await {
            break;
        }
    }
    tally
}

async fn insert_loop(group: String, sql: SqlClient, first_id: u64, stop: CancellationToken) -> Tally {
    let mut tally = Tally::default();
    let mut next = first_id;
    loop {
        let outcome = insert_events(&sql, &group, next).await.map_err(|error| error.to_string());
        if outcome.is_ok() {
            tally.acknowledged.extend(next..next + ROWS_PER_INSERT);
        }
        tally.count(&format!("{group}: INSERT INTO demo.events"), outcome);
        next += ROWS_PER_INSERT;
        if is_over(&stop).await {
            return tally;
        }
    }
}

/// One INSERT of rows that nobody else writes.
async fn insert_events(sql: &SqlClient, source: &str, first_id: u64) -> Result<(), SqlError> {
    let mut statement = "INSERT INTO demo.events (id, source, note) VALUES".to_owned();
    for id in first_id..first_id + ROWS_PER_INSERT {
        let comma = if id == first_id { ' ' } else { ',' };
        write!(statement, "{comma}({id}, '{source}', 'event number {id}')").expect("writing to memory does not fail");
    }
    sql.execute(&statement).await
}

/// Some INSERTs right now, one after the other.
pub async fn insert_now(sql: &SqlClient, source: &str, lane: u64, statements: u64) -> Tally {
    let mut tally = Tally::default();
    for number in 0..statements {
        let first_id = ((lane * 1000) << 32) + number * ROWS_PER_INSERT;
        let outcome = insert_events(sql, source, first_id).await.map_err(|error| error.to_string());
        if outcome.is_ok() {
            tally.acknowledged.extend(first_id..first_id + ROWS_PER_INSERT);
        }
        tally.count(&format!("{source}: INSERT INTO demo.events"), outcome);
    }
    tally
}

async fn is_over(stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(PAUSE) => false,
    }
}

/// What is in the table, against what was acknowledged.
pub struct Inventory {
    pub lost: u64,
    pub duplicated: u64,
}

pub async fn take_inventory(sql: &SqlClient, acknowledged: &BTreeSet<u64>) -> Result<Inventory, SqlError> {
    let text = sql.query("SELECT id FROM demo.events ORDER BY id").await?;
    let ids: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let distinct: BTreeSet<u64> = ids.iter().copied().collect();
    let lost = acknowledged.difference(&distinct).count();
    Ok(Inventory { lost: lost as u64, duplicated: (ids.len() - distinct.len()) as u64 })
}
