//! What each mode of durability costs.

use super::scale::Scale;
use super::speed::EVENTS;
use super::writes::{in_turn, small_insert_ms};
use crate::contender::{Contender, Definition, Field};
use crate::error::BenchError;
use crate::report::Recorder;
use crate::stats::Samples;

/// A mode and how a table asks for it. One line each.
const MODES: &[(&str, Definition)] = &[("durability_local_small_insert", EVENTS)];

pub const FIGURES: &[&str] = &["durability_local_small_insert"];

pub async fn run(field: &Field<'_>, scale: &Scale, recorder: &mut Recorder) -> Result<(), BenchError> {
    let mut tables = Vec::new();
    for (at, (_, definition)) in MODES.iter().enumerate() {
        tables.push(field.create(Contender::Moorhouse, &format!("mode{at}"), definition).await?);
    }
    let mut took = vec![Samples::new(); MODES.len()];
    for round in 0..scale.short_rounds {
        for (at, table) in in_turn(&tables, round) {
            took[at].push(small_insert_ms(table, scale).await?);
        }
    }
    field.drop(tables).await?;
    for ((figure, _), samples) in MODES.iter().zip(&took) {
        recorder.value(figure, samples);
    }
    Ok(())
}
