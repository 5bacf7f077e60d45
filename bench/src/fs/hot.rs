//! Reading what is on the SSD and in the page cache.

use super::machine::timed_ms;
use super::scale::Scale;
use super::writes::in_turn;
use crate::contender::{Contender, Table};
use crate::error::BenchError;
use crate::report::{Recorder, Unit};
use crate::stats::Samples;

pub const FIGURES: &[&str] = &["hot_scan_vs_local", "hot_groupby_vs_local", "point_query_vs_local"];

/// Every column, and no more work than reading it.
pub const SCAN: &str = "SELECT * FROM {t} FORMAT Null";
const GROUP_BY: &str =
    "SELECT kind, user % 1000 AS bucket, count(), sum(price), avg(amount) FROM {t} GROUP BY kind, bucket FORMAT Null";

/// `tables`: ours and the local one.
pub async fn run(tables: &[Table], scale: &Scale, recorder: &mut Recorder) -> Result<(), BenchError> {
    let mut took: [[Samples; 2]; 3] = std::array::from_fn(|_| [Samples::new(), Samples::new()]);
    for table in tables {
        table.run(SCAN).await?;
        point_query_ms(table, scale, 0).await?;
    }
    for round in 0..scale.short_rounds {
        for (at, table) in in_turn(tables, round) {
            took[0][at].push(timed_ms(table.run(SCAN)).await?);
        }
        for (at, table) in in_turn(tables, round) {
            took[1][at].push(timed_ms(table.run(GROUP_BY)).await?);
        }
        for (at, table) in in_turn(tables, round) {
            took[2][at].push(point_query_ms(table, scale, round).await?);
        }
    }
    for (figure, [ours, theirs]) in FIGURES.iter().zip(&took) {
        let sides = (Contender::Moorhouse, Contender::Local);
        recorder.ratio(figure, Unit::Milliseconds, (sides.0, ours), (sides.1, theirs));
    }
    Ok(())
}

/// One row by its key, all columns. `at`: which row; the same for all contenders.
pub fn point_query(scale: &Scale, at: u64) -> String {
    // Multiples of a large prime visit the table without an order.
    let id = at.wrapping_mul(2_654_435_761) % scale.rows;
    format!("SELECT * FROM {{t}} WHERE id = {id} FORMAT TSV")
}

/// The median of a round.
async fn point_query_ms(table: &Table, scale: &Scale, round: u32) -> Result<f64, BenchError> {
    let mut took = Samples::new();
    for at in 0..scale.point_queries {
        let query = point_query(scale, u64::from(round) * scale.point_queries + at);
        took.push(timed_ms(async { expect_one_row(&table.ask(&query).await?, &query) }).await?);
    }
    took.summary().map(|summary| summary.median).ok_or_else(|| BenchError::Unexpected("no point query".to_owned()))
}

pub fn expect_one_row(answer: &str, query: &str) -> Result<(), BenchError> {
    match answer.lines().count() {
        1 => Ok(()),
        rows => Err(BenchError::Unexpected(format!("{query} gave {rows} rows"))),
    }
}
