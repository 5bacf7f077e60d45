//! What many small inserts cost at the object store, when merges do away with most of what they made.
//!
//! Requests are counted, not timed: so the contenders work side by side, and the settling time of ours passes meanwhile.

use std::time::{Duration, Instant};

use super::ground::Ground;
use super::scale::Scale;
use super::speed::{EVENTS, events};
use crate::contender::{Contender, Definition, Field, Table};
use crate::error::BenchError;
use crate::proxy::Method;
use crate::report::{Recorder, Unit};
use crate::stats::Samples;
use crate::warehouse::OWNER;

pub const FIGURES: &[&str] = &["puts_vs_s3"];

/// With merges as ClickHouse does them.
const MERGING: Definition = Definition { columns: EVENTS.columns, order_by: "id", settings: &[] };
/// No merge for so long means that they have come to an end.
const CALM: Duration = Duration::from_secs(3);
const CALM_DEADLINE: Duration = Duration::from_secs(120);

pub async fn run(ground: &Ground, scale: &Scale, recorder: &mut Recorder) -> Result<(), BenchError> {
    let warehouse = ground.warehouse("puts", false, scale.settle, scale).await?;
    let owner = warehouse.node(OWNER).await?;
    let field = Field { warehouse: &warehouse, owner: &owner, rivals: &ground.rivals };
    let who = [Contender::Moorhouse, Contender::S3];
    let tables = field.create_all(who, "inserted", &MERGING).await?;
    let earlier = who.map(|who| ground.proxy(who).counts());
    let (ours, theirs) = futures::join!(insert_and_merge(&tables[0], scale), insert_and_merge(&tables[1], scale));
    ours.and(theirs)?;
    warehouse.wait_until_stored().await?;
    let puts = |at: usize| {
        let counts = ground.proxy(who[at]).counts().since(&earlier[at]);
        // Parts of a multipart upload are PUTs; its begin and end are POSTs and cost the same.
        Samples::of((counts.of(Method::Put) + counts.of(Method::Post)) as f64)
    };
    recorder.ratio("puts_vs_s3", Unit::Count, (who[0], &puts(0)), (who[1], &puts(1)));
    field.drop(tables).await
}

async fn insert_and_merge(table: &Table, scale: &Scale) -> Result<(), BenchError> {
    for at in 0..scale.counted_inserts {
        let rows = events(at * scale.small_insert_rows, scale.small_insert_rows);
        table.run(&format!("INSERT INTO {{t}} {rows}")).await?;
    }
    let merging = format!(
        "SELECT count() FROM system.merges WHERE database = '{}' AND table = '{}'",
        table.database, table.table
    );
    let (started, mut last_busy) = (Instant::now(), Instant::now());
    while last_busy.elapsed() < CALM {
        if table.ask(&merging).await?.trim() != "0" {
            last_busy = Instant::now();
        }
        if started.elapsed() > CALM_DEADLINE {
            return Err(BenchError::Unexpected(format!("{}: merges did not end", table.contender)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
