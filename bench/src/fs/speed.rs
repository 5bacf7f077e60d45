//! One large table: writing it, reading it hot, reading it cold.

use super::ground::Ground;
use super::scale::Scale;
use super::{cold, hot, writes};
use crate::contender::{Contender, Definition, Field, Table};
use crate::error::BenchError;
use crate::report::Recorder;
use crate::warehouse::OWNER;

pub const FIGURES: &[&str] = &[
    "insert_vs_local",
    "merge_vs_local",
    "mutation_vs_local",
    "small_insert_vs_local",
    "small_insert_vs_local_fsync",
    "hot_scan_vs_local",
    "hot_groupby_vs_local",
    "point_query_vs_local",
    "cold_scan_vs_s3",
    "cold_scan_vs_s3_20ms",
    "cold_scan_vs_s3_cache",
    "cold_scan_vs_s3_cache_20ms",
    "cold_point_query_vs_s3",
    "cold_point_query_vs_s3_20ms",
    "cold_point_query_vs_s3_cache",
    "cold_point_query_vs_s3_cache_20ms",
];

/// The table's parts are stored when it is read cold, and not before: an upload that is held up at the proxy gives up after
/// some minutes and begins again minutes later.
const LATER: &str = "settle_ms=3600000";
const NOW: &str = "settle_ms=0";

/// Web events. Merges in the background would fall into some rounds and not into others: only OPTIMIZE merges here.
pub const EVENTS: Definition = Definition {
    columns: "(id UInt64, at DateTime, user UInt32, kind LowCardinality(String), page String, price Float64, \
              amount UInt16, flag UInt8)",
    order_by: "id",
    settings: &[
        "max_bytes_to_merge_at_max_space_in_pool = 1",
        "parts_to_delay_insert = 1000000",
        "parts_to_throw_insert = 1000000",
    ],
};

/// `rows` events from `first` on, the same for all.
pub fn events(first: u64, rows: u64) -> String {
    format!(
        "SELECT number AS id, toDateTime('2026-01-01 00:00:00') + intDiv(number, 10) AS at, \
         cityHash64(number) % 1000000 AS user, ['view', 'click', 'cart', 'order', 'return'][number % 5 + 1] AS kind, \
         concat('/catalog/item/', toString(cityHash64(number, 1) % 100000)) AS page, \
         (cityHash64(number, 2) % 100000) / 100 AS price, number % 50 AS amount, number % 2 AS flag \
         FROM numbers({first}, {rows})"
    )
}

pub async fn run(ground: &Ground, scale: &Scale, recorder: &mut Recorder) -> Result<(), BenchError> {
    let warehouse = ground.warehouse("speed", false, scale.settle, scale).await?;
    let owner = warehouse.node(OWNER).await?;
    let field = Field { warehouse: &warehouse, owner: &owner, rivals: &ground.rivals };
    // Garage shares the machine's cores: while local speed is measured, uploads wait.
    let held = ground.proxy(Contender::Moorhouse).hold_writes();
    recorder.step(writes::FIGURES, async |recorder| writes::run(&field, scale, recorder).await).await;
    recorder.step(writes::SMALL_FIGURES, async |recorder| writes::run_small(&field, scale, recorder).await).await;
    let mut loaded = Vec::new();
    if recorder.wants_any(hot::FIGURES) || recorder.wants_any(cold::FIGURES) {
        loaded = load(&field, scale, [Contender::Moorhouse, Contender::Local]).await?;
    }
    recorder.step(hot::FIGURES, async |recorder| hot::run(&loaded, scale, recorder).await).await;
    drop(held);
    for ours in loaded.iter().filter(|table| table.contender == Contender::Moorhouse) {
        field.set(ours, &[NOW.to_owned()]).await?;
    }
    let measure_cold = async |recorder: &mut Recorder| {
        let mut tables = load(&field, scale, [Contender::S3, Contender::S3Cache]).await?;
        tables.extend(loaded.into_iter().filter(|table| table.contender == Contender::Moorhouse));
        cold::run(ground, &field, &tables, scale, recorder).await
    };
    recorder.step(cold::FIGURES, measure_cold).await;
    Ok(())
}

async fn load<const N: usize>(field: &Field<'_>, scale: &Scale, who: [Contender; N]) -> Result<Vec<Table>, BenchError> {
    let tables = field.create_all(who, "events", &EVENTS).await?;
    for table in &tables {
        if table.contender == Contender::Moorhouse {
            field.set(table, &[LATER.to_owned()]).await?;
        }
        table.run(&format!("INSERT INTO {{t}} {}", events(0, scale.rows))).await?;
    }
    Ok(tables)
}
