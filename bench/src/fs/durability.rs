//! What each mode of durability costs: INSERTs of a few rows into tables that differ in that alone.

use std::time::Duration;

use super::cold::FAR;
use super::ground::Ground;
use super::scale::Scale;
use super::speed::EVENTS;
use super::writes::{in_turn, small_insert_ms};
use crate::contender::{Contender, Field};
use crate::error::BenchError;
use crate::report::Recorder;
use crate::stats::Samples;

/// A figure, its mode, and how far away the object store is.
struct Mode {
    figure: &'static str,
    durability: &'static str,
    distance: Duration,
}

const MODES: &[Mode] = &[
    Mode { figure: "durability_local_small_insert", durability: "local", distance: Duration::ZERO },
    Mode { figure: "durability_replicated_small_insert", durability: "replicated", distance: Duration::ZERO },
    Mode { figure: "durability_object_small_insert", durability: "object", distance: Duration::ZERO },
    Mode { figure: "durability_object_small_insert_20ms", durability: "object", distance: FAR },
];

pub const FIGURES: &[&str] = &[
    "durability_local_small_insert",
    "durability_replicated_small_insert",
    "durability_object_small_insert",
    "durability_object_small_insert_20ms",
];

/// Uploads of settled parts come after the rounds.
const SETTLE_MS: u64 = 600_000;

/// Each mode by itself: one that fails leaves the others' figures.
pub async fn run(ground: &Ground, field: &Field<'_>, scale: &Scale, recorder: &mut Recorder) -> Result<(), BenchError> {
    let mut tables = Vec::new();
    let mut modes = Vec::new();
    for (at, mode) in MODES.iter().enumerate() {
        let table = field.create(Contender::Moorhouse, &format!("mode{at}"), &EVENTS).await?;
        let settings = [format!("durability={}", mode.durability), format!("settle_ms={SETTLE_MS}")];
        match field.set(&table, &settings).await {
            Ok(()) => {
                tables.push(table);
                modes.push(mode);
            }
            Err(error) => recorder.fail_missing(&[mode.figure], &error.to_string()),
        }
    }
    let mut took: Vec<Result<Samples, String>> = vec![Ok(Samples::new()); modes.len()];
    for round in 0..scale.short_rounds {
        for (at, table) in in_turn(&tables, round) {
            ground.set_delay(modes[at].distance);
            let inserted = small_insert_ms(table, scale).await;
            ground.set_delay(Duration::ZERO);
            if let Ok(samples) = &mut took[at] {
                match inserted {
                    Ok(sample) => samples.push(sample),
                    Err(error) => took[at] = Err(error.to_string()),
                }
            }
        }
    }
    for (mode, took) in modes.iter().zip(&took) {
        match took {
            Ok(samples) => recorder.value(mode.figure, samples),
            Err(error) => recorder.fail_missing(&[mode.figure], error),
        }
    }
    field.drop(tables).await
}
