//! What the agents remember of each part.

use super::machine::anonymous_memory_mib;
use super::many_parts::{PARTS, insert_parts};
use super::scale::Scale;
use crate::contender::{Contender, Field};
use crate::error::BenchError;
use crate::report::Recorder;
use crate::stats::Samples;
use crate::warehouse::READERS;

pub const FIGURES: &[&str] = &["agent_memory_per_100k_parts", "reader_agent_memory_per_100k_parts"];

pub async fn run(field: &Field<'_>, scale: &Scale, recorder: &mut Recorder) -> Result<(), BenchError> {
    let table = field.create(Contender::Moorhouse, "remembered", &PARTS).await?;
    let reader = field.warehouse.node(READERS).await?;
    let pids = [field.warehouse.agent_pid(field.owner)?, field.warehouse.agent_pid(&reader)?];
    // What grows with the first parts alone is not a matter of their number.
    insert_parts(&table, scale.memory_parts / 10 + 1).await?;
    field.warehouse.wait_until_stored().await?;
    let before = [anonymous_memory_mib(pids[0])?, anonymous_memory_mib(pids[1])?];
    insert_parts(&table, scale.memory_parts).await?;
    field.warehouse.wait_until_stored().await?;
    for ((figure, pid), before) in FIGURES.iter().zip(pids).zip(before) {
        let grown = anonymous_memory_mib(pid)? - before;
        recorder.value(figure, &Samples::of(grown * 100_000.0 / scale.memory_parts as f64));
    }
    field.drop(vec![table]).await
}
