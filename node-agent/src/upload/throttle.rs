//! The node's upload rate, shared by all uploads: whoever sends takes its bytes' time first.

use std::num::NonZeroU64;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

/// Gives out time in the order of asking. Without a rate nobody waits.
#[derive(Debug, Default)]
pub struct Throttle {
    bytes_per_second: OnceLock<NonZeroU64>,
    /// When the bytes that were given out so far will have been sent.
    busy_until: Mutex<Option<Instant>>,
}

impl Throttle {
    /// Once, at the start.
    pub fn limit(&self, bytes_per_second: NonZeroU64) {
        let _ = self.bytes_per_second.set(bytes_per_second);
    }

    /// Bytes a second; `None`: as fast as it goes.
    pub fn rate(&self) -> Option<NonZeroU64> {
        self.bytes_per_second.get().copied()
    }

    /// Waits until it is these bytes' turn: until those that were asked for before have had their time.
    pub async fn take(&self, bytes: u64) {
        tokio::time::sleep_until(self.turn(bytes, Instant::now())).await;
    }

    fn turn(&self, bytes: u64, now: Instant) -> Instant {
        let Some(rate) = self.rate() else { return now };
        let mut busy_until = self.busy_until.lock().expect("lock");
        let turn = busy_until.map_or(now, |until| until.max(now));
        *busy_until = Some(turn + Duration::from_secs_f64(bytes as f64 / rate.get() as f64));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_whoever_sends_them() {
        let throttle = Throttle::default();
        let now = Instant::now();
        assert_eq!(throttle.turn(1 << 40, now), now, "no rate");
        throttle.limit(NonZeroU64::new(1_000).expect("not zero"));
        let turns = [500, 1_500, 10].map(|bytes| (throttle.turn(bytes, now) - now).as_millis());
        assert_eq!(turns, [0, 500, 2_000], "each begins when those before have had their time");
        let later = now + Duration::from_secs(60);
        assert_eq!(throttle.turn(1, later), later, "nothing is saved up, and nothing owed");
    }
}
