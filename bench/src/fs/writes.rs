//! INSERT, merge and mutation: large ones, and INSERTs of a few rows.

use super::machine::{sync, timed_ms};
use super::scale::Scale;
use super::speed::{EVENTS, events};
use crate::contender::{Contender, Field, Table};
use crate::error::BenchError;
use crate::report::{Recorder, Unit};
use crate::stats::Samples;

pub const FIGURES: &[&str] = &["insert_vs_local", "merge_vs_local", "mutation_vs_local"];
pub const SMALL_FIGURES: &[&str] = &["small_insert_vs_local", "small_insert_vs_local_fsync"];

/// Every other round begins with the other contender.
pub fn in_turn<T>(contenders: &[T], round: u32) -> impl Iterator<Item = (usize, &T)> {
    let first = round as usize % contenders.len().max(1);
    let (before, from) = contenders.split_at(first);
    let numbered = from.iter().enumerate().map(move |(at, table)| (at + first, table));
    numbered.chain(before.iter().enumerate())
}

pub async fn run(field: &Field<'_>, scale: &Scale, recorder: &mut Recorder) -> Result<(), BenchError> {
    let statements = [
        format!("INSERT INTO {{t}} {}", events(0, scale.rows)),
        "OPTIMIZE TABLE {t} FINAL".to_owned(),
        "ALTER TABLE {t} UPDATE price = price + 1 WHERE 1 SETTINGS mutations_sync = 2".to_owned(),
    ];
    let both = [Contender::Moorhouse, Contender::Local];
    let mut took: [[Samples; 2]; 3] = std::array::from_fn(|_| [Samples::new(), Samples::new()]);
    for round in 0..scale.rounds {
        let tables = field.create_all(both, &format!("written{round}"), &EVENTS).await?;
        for (statement, took) in statements.iter().zip(&mut took) {
            for (at, table) in in_turn(&tables, round) {
                sync().await?;
                took[at].push(timed_ms(table.run(statement)).await?);
            }
        }
        field.drop(tables).await?;
    }
    for (figure, [ours, theirs]) in FIGURES.iter().zip(&took) {
        recorder.ratio(figure, Unit::Milliseconds, (both[0], ours), (both[1], theirs));
    }
    Ok(())
}

pub async fn run_small(field: &Field<'_>, scale: &Scale, recorder: &mut Recorder) -> Result<(), BenchError> {
    let who = [Contender::Moorhouse, Contender::Local, Contender::LocalFsync];
    let tables = field.create_all(who, "small", &EVENTS).await?;
    let mut took = [Samples::new(), Samples::new(), Samples::new()];
    for round in 0..scale.short_rounds {
        for (at, table) in in_turn(&tables, round) {
            took[at].push(small_insert_ms(table, scale).await?);
        }
    }
    field.drop(tables).await?;
    recorder.ratio(SMALL_FIGURES[0], Unit::Milliseconds, (who[0], &took[0]), (who[1], &took[1]));
    recorder.ratio(SMALL_FIGURES[1], Unit::Milliseconds, (who[0], &took[0]), (who[2], &took[2]));
    Ok(())
}

/// The median of a round.
pub async fn small_insert_ms(table: &Table, scale: &Scale) -> Result<f64, BenchError> {
    let mut took = Samples::new();
    sync().await?;
    for at in 0..scale.small_inserts {
        let insert = format!("INSERT INTO {{t}} {}", events(at * scale.small_insert_rows, scale.small_insert_rows));
        took.push(timed_ms(table.run(&insert)).await?);
    }
    took.summary().map(|summary| summary.median).ok_or_else(|| BenchError::Unexpected("no small insert".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::in_turn;

    #[test]
    fn every_round_has_all_and_another_first() {
        let order = |round| in_turn(&["a", "b", "c"], round).map(|(at, who)| (at, *who)).collect::<Vec<_>>();
        assert_eq!(order(0), [(0, "a"), (1, "b"), (2, "c")]);
        assert_eq!(order(4), [(1, "b"), (2, "c"), (0, "a")]);
    }
}
