//! The last moves, for people. In memory only.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use moorhouse_catalog::GroupName;
use moorhouse_catalog::placement::Step;
use moorhouse_proto::MoveInfo;

use crate::{limits, metrics};

/// What a move took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    pub hold_ms: u64,
    pub total_ms: u64,
    pub copied_bytes: u64,
}

#[derive(Default)]
pub struct History {
    moves: Mutex<VecDeque<(u64, MoveInfo)>>,
}

impl History {
    /// A number for [`History::end`].
    pub fn begin(&self, group: &GroupName, step: &Step) -> u64 {
        let info = MoveInfo {
            group: group.as_str().to_owned(),
            shard: u32::from(step.shard.0),
            from: step.from.as_str().to_owned(),
            to: step.to.as_str().to_owned(),
            outcome: "running".to_owned(),
            ..MoveInfo::default()
        };
        let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        let number = moves.back().map_or(0, |(number, _)| number + 1);
        if moves.len() == limits::MOVES_KEPT {
            moves.pop_front();
        }
        moves.push_back((number, info));
        number
    }

    pub fn end(&self, number: u64, measured: &Measured, outcome: &Result<(), String>) -> MoveInfo {
        let (word, reason) = match outcome {
            Ok(()) => ("done", String::new()),
            Err(reason) => ("cancelled", reason.clone()),
        };
        metrics::MOVES.with_label_values(&[word]).inc();
        if outcome.is_ok() {
            metrics::HOLD_MS.observe(measured.hold_ms as f64);
        }
        let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, info)) = moves.iter_mut().find(|(n, _)| *n == number) else { return MoveInfo::default() };
        info.outcome = word.to_owned();
        info.reason = reason;
        info.hold_ms = measured.hold_ms;
        info.total_ms = measured.total_ms;
        info.copied_bytes = measured.copied_bytes;
        info.clone()
    }

    /// The newest first.
    pub fn list(&self) -> Vec<MoveInfo> {
        let moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        moves.iter().rev().map(|(_, info)| info.clone()).collect()
    }
}
