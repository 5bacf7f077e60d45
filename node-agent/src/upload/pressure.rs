//! How full staging is, and what follows from it: uploads are hurried, then new rows are slowed, then refused.
//!
//! The longer the object store is away, the slower rows come in, until what is left of the budget is kept for merges and for
//! what is under way. The curve is flat at its beginning, so that a short breath of the store costs little.

use std::sync::Arc;
use std::time::Duration;

use crate::fs::ShardFs;
use crate::limits;
use crate::metrics;

/// From the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    Easy,
    /// Parts are uploaded without waiting until they settle.
    Hurried,
    /// And new rows wait so long, or until there is room; also parts go up that others cover already.
    Slowed(Duration),
    /// New rows find no room.
    Full,
}

impl Pressure {
    /// Of `used` bytes that only this node has, in a budget.
    pub fn of(used: u64, budget: u64) -> Self {
        let fill = used as f64 * 100.0 / budget.max(1) as f64;
        let (soft, hard, full) =
            (limits::STAGING_SOFT_PERCENT, limits::STAGING_HARD_PERCENT, limits::STAGING_FULL_PERCENT);
        if fill < soft {
            Self::Easy
        } else if fill < hard {
            Self::Hurried
        } else if fill < full {
            let way = (fill - hard) / (full - hard);
            Self::Slowed(limits::STAGING_PAUSE_LONGEST.mul_f64(way * way))
        } else {
            Self::Full
        }
    }

    pub fn slows_rows(self) -> bool {
        matches!(self, Self::Slowed(_) | Self::Full)
    }

    pub fn hurries_uploads(self) -> bool {
        self != Self::Easy
    }
}

/// Keeps the budget aware of files that are being written, until stopped from outside: the kernel writes past the agent.
pub async fn watch(fs: Arc<ShardFs>) {
    let mut ticks = tokio::time::interval(limits::STAGING_LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let cache = fs.source.cache().clone();
        if let Err(error) = tokio::task::spawn_blocking(move || cache.account_growing()).await {
            tracing::error!(%error, "the look at growing files broke");
        }
        metrics::STAGING_USED_BYTES.set(i64::try_from(fs.cache_stats().staged_used_bytes).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_the_slower() {
        let of = |percent| Pressure::of(percent, 100);
        assert_eq!([of(0), of(49)], [Pressure::Easy; 2]);
        assert_eq!([of(50), of(79)], [Pressure::Hurried; 2]);
        assert_eq!(of(80), Pressure::Slowed(Duration::ZERO));
        let pauses: Vec<Duration> = (80..95)
            .map(|percent| match of(percent) {
                Pressure::Slowed(pause) => pause,
                other => panic!("{percent}: {other:?}"),
            })
            .collect();
        assert!(pauses.is_sorted() && pauses[14] > limits::STAGING_PAUSE_LONGEST / 2, "{pauses:?}");
        assert!(pauses[3] < limits::STAGING_PAUSE_LONGEST / 20, "{pauses:?}");
        assert_eq!([of(95), of(100), of(250)], [Pressure::Full; 3]);
        assert_eq!(Pressure::of(1, 0), Pressure::Full);
    }
}
