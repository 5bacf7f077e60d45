//! A table of many small parts: attaching it from the object store, what it costs there and in memory, reading it from
//! another group.

use std::time::Duration;

use super::cold::{FAR, cool};
use super::ground::Ground;
use super::machine::{drop_page_cache, timed_ms};
use super::scale::Scale;
use super::speed::events;
use super::writes::in_turn;
use super::{durability, memory, metadata, readers};
use crate::contender::{Contender, Definition, Field, Table};
use crate::error::BenchError;
use crate::proxy::Method;
use crate::report::{Recorder, Unit};
use crate::stats::Samples;
use crate::warehouse::OWNER;

const ATTACH_FIGURES: &[&str] =
    &["attach_1000_parts_vs_s3", "attach_1000_parts_gets", "attach_1000_parts_gets_s3", "attach_1000_parts_vs_s3_20ms"];
const OBJECT_FIGURES: &[&str] = &["objects_vs_s3"];
pub const FIGURES: &[&str] = &[
    "objects_vs_s3",
    "attach_1000_parts_vs_s3",
    "attach_1000_parts_vs_s3_20ms",
    "attach_1000_parts_gets",
    "attach_1000_parts_gets_s3",
    "reader_attach_vs_local",
    "reader_refresh_vs_local",
    "meta_create_vs_local",
    "meta_stat_vs_local",
    "meta_rename_vs_local",
    "meta_link_vs_local",
    "meta_readdir_vs_local",
    "meta_unlink_vs_local",
    "durability_local_small_insert",
    "durability_replicated_small_insert",
    "durability_object_small_insert",
    "durability_object_small_insert_20ms",
    "agent_memory_per_100k_parts",
    "reader_agent_memory_per_100k_parts",
];

/// Uploads are not what is measured here.
const SETTLE: Duration = Duration::from_secs(1);
const WAREHOUSE: &str = "parts";
const ROWS_A_PART: u64 = 10;

/// No merges, and as many parts as one likes.
pub const PARTS: Definition = Definition {
    columns: super::speed::EVENTS.columns,
    order_by: "id",
    settings: &[
        "max_bytes_to_merge_at_max_space_in_pool = 1",
        "parts_to_delay_insert = 1000000",
        "parts_to_throw_insert = 1000000",
        "max_parts_in_total = 1000000",
    ],
};

pub async fn run(ground: &Ground, scale: &Scale, recorder: &mut Recorder) -> Result<(), BenchError> {
    let warehouse = ground.warehouse(WAREHOUSE, true, SETTLE, scale).await?;
    let owner = warehouse.node(OWNER).await?;
    let field = Field { warehouse: &warehouse, owner: &owner, rivals: &ground.rivals };
    let mut tables = field.create_all([Contender::Moorhouse, Contender::Local], "parts", &PARTS).await?;
    for table in &tables {
        insert_parts(table, scale.parts).await?;
    }
    recorder.step(readers::FIGURES, async |recorder| readers::run(&field, &tables, scale, recorder).await).await;
    recorder.step(metadata::FIGURES, async |recorder| metadata::run(&field, &tables[0], scale, recorder).await).await;
    if recorder.wants_any(ATTACH_FIGURES) || recorder.wants_any(OBJECT_FIGURES) {
        let earlier = ground.count_s3_objects().await?;
        let s3 = field.create(Contender::S3, "parts", &PARTS).await?;
        insert_parts(&s3, scale.parts).await?;
        tables.push(s3);
        warehouse.wait_until_stored().await?;
        recorder.step(OBJECT_FIGURES, async |recorder| count_objects(ground, earlier, recorder).await).await;
        let compared = [&tables[0], &tables[2]];
        recorder.step(ATTACH_FIGURES, async |recorder| attach(ground, &field, compared, scale, recorder).await).await;
    }
    recorder.step(durability::FIGURES, async |recorder| durability::run(ground, &field, scale, recorder).await).await;
    recorder.step(memory::FIGURES, async |recorder| memory::run(&field, scale, recorder).await).await;
    field.drop(tables).await
}

/// One statement, `parts` blocks, each a part.
pub async fn insert_parts(table: &Table, parts: u64) -> Result<(), BenchError> {
    let before = table.count_parts().await?;
    let insert = format!(
        "INSERT INTO {{t}} {} SETTINGS max_block_size = {ROWS_A_PART}, max_insert_block_size = {ROWS_A_PART}, \
         min_insert_block_size_rows = 1, min_insert_block_size_bytes = 1",
        events(0, parts * ROWS_A_PART)
    );
    table.run(&insert).await?;
    let made = table.count_parts().await? - before;
    if made != parts {
        return Err(BenchError::Unexpected(format!("{}: {made} parts were made, not {parts}", table.contender)));
    }
    Ok(())
}

async fn count_objects(ground: &Ground, earlier: u64, recorder: &mut Recorder) -> Result<(), BenchError> {
    let ours = Samples::of(ground.count_objects(WAREHOUSE).await? as f64);
    let theirs = Samples::of((ground.count_s3_objects().await? - earlier) as f64);
    recorder.ratio("objects_vs_s3", Unit::Count, (Contender::Moorhouse, &ours), (Contender::S3, &theirs));
    Ok(())
}

/// `tables`: ours and that on `s3`.
async fn attach(
    ground: &Ground,
    field: &Field<'_>,
    tables: [&Table; 2],
    scale: &Scale,
    recorder: &mut Recorder,
) -> Result<(), BenchError> {
    let near = attach_at(ground, field, tables, scale.rounds, Duration::ZERO).await?;
    let sides = (Contender::Moorhouse, Contender::S3);
    let [ours, theirs] = &near.took;
    recorder.ratio("attach_1000_parts_vs_s3", Unit::Milliseconds, (sides.0, ours), (sides.1, theirs));
    recorder.value("attach_1000_parts_gets", &near.gets[0]);
    recorder.value("attach_1000_parts_gets_s3", &near.gets[1]);
    // Minutes for `s3`: one round says enough.
    let far = attach_at(ground, field, tables, 1, FAR).await?;
    let [ours, theirs] = &far.took;
    recorder.ratio("attach_1000_parts_vs_s3_20ms", Unit::Milliseconds, (sides.0, ours), (sides.1, theirs));
    Ok(())
}

struct Attached {
    took: [Samples; 2],
    gets: [Samples; 2],
}

async fn attach_at(
    ground: &Ground,
    field: &Field<'_>,
    tables: [&Table; 2],
    rounds: u32,
    delay: Duration,
) -> Result<Attached, BenchError> {
    let mut attached = Attached { took: [Samples::new(), Samples::new()], gets: [Samples::new(), Samples::new()] };
    for round in 0..rounds {
        for (at, table) in in_turn(&tables, round) {
            let proxy = ground.proxy(table.contender);
            let earlier = proxy.counts();
            ground.set_delay(delay);
            let took = match table.contender {
                Contender::Moorhouse => attach_at_start(field, table).await,
                _ => attach_again(table).await,
            };
            ground.set_delay(Duration::ZERO);
            attached.took[at].push(took?);
            attached.gets[at].push(proxy.counts().since(&earlier).of(Method::Get) as f64);
        }
    }
    Ok(attached)
}

/// With an empty SSD the node starts again, and its agent attaches the table: the engine's log tells how long that took.
async fn attach_at_start(field: &Field<'_>, table: &Table) -> Result<f64, BenchError> {
    cool(field, table).await?;
    field.warehouse.restart(field.owner).await?;
    table.run("SYSTEM FLUSH LOGS").await?;
    let sql = format!(
        "SELECT query_duration_ms FROM system.query_log WHERE type = 'QueryFinish' \
         AND startsWith(query, 'ATTACH TABLE') AND position(query, '{}') > 0 ORDER BY event_time_microseconds DESC LIMIT 1",
        table.table
    );
    let text = table.ask(&sql).await?;
    text.trim().parse().map_err(|_| BenchError::Unexpected(format!("the engine's log has no ATTACH: {text:?}")))
}

async fn attach_again(table: &Table) -> Result<f64, BenchError> {
    table.run("DETACH TABLE {t} SYNC").await?;
    for cache in ["MARK", "PRIMARY INDEX", "UNCOMPRESSED", "FILESYSTEM"] {
        table.run(&format!("SYSTEM DROP {cache} CACHE")).await?;
    }
    drop_page_cache().await?;
    timed_ms(table.run("ATTACH TABLE {t}")).await
}
