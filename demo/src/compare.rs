//! The same query in the warehouse and in a plain ClickHouse: are the answers equal, and how long did each take?

use std::time::{Duration, Instant};

use moorhouse_engine::SqlClient;

use crate::console;
use crate::error::DemoError;
use crate::tpch::Query;

/// Each query runs this often; the best time counts, so that a cold cache does not decide.
const RUNS: u32 = 2;
const SHOWN_ROWS: usize = 4;
const SHOWN_COLUMNS: usize = 62;

pub struct Compared {
    pub name: &'static str,
    pub warehouse: Answer,
    pub plain: Answer,
}

pub struct Answer {
    pub text: String,
    pub took: Duration,
}

impl Compared {
    pub fn is_equal(&self) -> bool {
        self.warehouse.text == self.plain.text && !self.plain.text.trim().is_empty()
    }

    /// The first rows of both answers, side by side.
    pub fn print(&self) {
        let heading =
            |who: &str, answer: &Answer| format!("{} on {who}: {} ms", self.name, console::millis(answer.took));
        let (left, right) = (heading("the warehouse (bi)", &self.warehouse), heading("plain ClickHouse", &self.plain));
        console::table(&[&left, &right], &[vec![excerpt(&self.warehouse.text), excerpt(&self.plain.text)]]);
        if !self.is_equal() {
            console::say(format!("{} DIFFERS", self.name));
        }
    }
}

pub async fn compare(query: &Query, warehouse: &SqlClient, plain: &SqlClient) -> Result<Compared, DemoError> {
    let warehouse =
        best_of(query, warehouse).await.map_err(DemoError::sql(format!("{} on the warehouse", query.name)))?;
    let plain = best_of(query, plain).await.map_err(DemoError::sql(format!("{} on plain ClickHouse", query.name)))?;
    Ok(Compared { name: query.name, warehouse, plain })
}

async fn best_of(query: &Query, sql: &SqlClient) -> Result<Answer, moorhouse_engine::SqlError> {
    let mut best: Option<Answer> = None;
    for _ in 0..RUNS {
        let started = Instant::now();
        let text = sql.query(query.sql).await?;
        let took = started.elapsed();
        if best.as_ref().is_none_or(|best| took < best.took) {
            best = Some(Answer { text, took });
        }
    }
    Ok(best.expect("RUNS is not zero"))
}

fn excerpt(text: &str) -> String {
    let rows: Vec<&str> = text.lines().collect();
    let mut shown: Vec<String> = rows.iter().take(SHOWN_ROWS).map(|row| shorten(&row.replace('\t', " │ "))).collect();
    if rows.len() > SHOWN_ROWS {
        shown.push(format!("… {} rows", rows.len()));
    }
    shown.join("\n")
}

fn shorten(row: &str) -> String {
    if row.chars().count() <= SHOWN_COLUMNS {
        return row.to_owned();
    }
    row.chars().take(SHOWN_COLUMNS - 1).chain(['…']).collect()
}
