//! Reading what is only in the object store: once near, once 20 ms away.

use std::time::Duration;

use super::ground::Ground;
use super::hot::{SCAN, expect_one_row, point_query};
use super::machine::{drop_page_cache, timed_ms};
use super::scale::Scale;
use super::writes::in_turn;
use crate::contender::{Contender, Field, Table};
use crate::error::BenchError;
use crate::report::{Recorder, Unit};
use crate::stats::Samples;

pub const FIGURES: &[&str] = &[
    "cold_scan_vs_s3",
    "cold_scan_vs_s3_cache",
    "cold_point_query_vs_s3",
    "cold_point_query_vs_s3_cache",
    "cold_scan_vs_s3_20ms",
    "cold_scan_vs_s3_cache_20ms",
    "cold_point_query_vs_s3_20ms",
    "cold_point_query_vs_s3_cache_20ms",
];

/// Real object stores are that far away.
pub const FAR: Duration = Duration::from_millis(20);
const DISTANCES: [(&str, Duration); 2] = [("", Duration::ZERO), ("_20ms", FAR)];

/// `tables`: `s3`, `s3_cache`, ours.
pub async fn run(
    ground: &Ground,
    field: &Field<'_>,
    tables: &[Table],
    scale: &Scale,
    recorder: &mut Recorder,
) -> Result<(), BenchError> {
    field.warehouse.wait_until_stored().await?;
    for (suffix, delay) in DISTANCES {
        ground.set_delay(delay);
        let measured = at_distance(field, tables, scale).await;
        ground.set_delay(Duration::ZERO);
        let [scans, points] = measured?;
        for (what, took) in [("cold_scan", &scans), ("cold_point_query", &points)] {
            for (at, table) in tables.iter().enumerate().filter(|(_, table)| table.contender != Contender::Moorhouse) {
                let figure = format!("{what}_vs_{}{suffix}", table.contender);
                let ours = (Contender::Moorhouse, &took[tables.len() - 1]);
                recorder.ratio(&figure, Unit::Milliseconds, ours, (table.contender, &took[at]));
            }
        }
    }
    Ok(())
}

async fn at_distance(field: &Field<'_>, tables: &[Table], scale: &Scale) -> Result<[Vec<Samples>; 2], BenchError> {
    let mut scans = vec![Samples::new(); tables.len()];
    let mut points = scans.clone();
    for round in 0..scale.rounds {
        for (at, table) in in_turn(tables, round) {
            cool(field, table).await?;
            scans[at].push(timed_ms(table.run(SCAN)).await?);
        }
        for (at, table) in in_turn(tables, round) {
            cool(field, table).await?;
            let query = point_query(scale, u64::from(round) + 1);
            points[at].push(timed_ms(async { expect_one_row(&table.ask(&query).await?, &query) }).await?);
        }
    }
    Ok([scans, points])
}

/// Nothing of the table's data is in memory or on the SSD afterwards; that it is attached stays true.
pub async fn cool(field: &Field<'_>, table: &Table) -> Result<(), BenchError> {
    if table.contender == Contender::Moorhouse {
        field.warehouse.drop_cache(field.owner).await?;
    }
    for cache in ["MARK", "PRIMARY INDEX", "INDEX MARK", "UNCOMPRESSED", "QUERY CONDITION", "FILESYSTEM"] {
        table.run(&format!("SYSTEM DROP {cache} CACHE")).await?;
    }
    drop_page_cache().await
}
