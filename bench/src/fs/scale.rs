//! How much of everything.

use std::time::Duration;

use serde::Serialize;

use crate::args::FsArgs;

#[derive(Debug, Clone, Serialize)]
pub struct Scale {
    pub rows: u64,
    /// Of what takes seconds.
    pub rounds: u32,
    /// Of what takes less.
    pub short_rounds: u32,
    /// Point queries in a round; the round's sample is their median.
    pub point_queries: u64,
    /// Small inserts in a round, likewise.
    pub small_inserts: u64,
    pub small_insert_rows: u64,
    /// Of the table that is attached.
    pub parts: u64,
    /// Of the table whose memory is measured.
    pub memory_parts: u64,
    /// Inserts whose PUTs are counted.
    pub counted_inserts: u64,
    /// Files of a directory in the metadata figures.
    pub files: u64,
    /// Of the SSD, and of the cache disk in front of `s3`.
    pub cache_bytes: u64,
    /// As in production.
    pub settle: Duration,
}

impl Scale {
    pub fn of(args: &FsArgs) -> Self {
        let default = if args.quick { Self::quick() } else { Self::full() };
        let rounds = args.rounds.unwrap_or(default.rounds);
        Self {
            rows: args.rows.unwrap_or(default.rows),
            rounds,
            short_rounds: default.short_rounds.max(rounds),
            ..default
        }
    }

    fn full() -> Self {
        Self {
            rows: 20_000_000,
            rounds: 3,
            short_rounds: 7,
            point_queries: 50,
            small_inserts: 30,
            small_insert_rows: 100,
            parts: 1_000,
            memory_parts: 3_000,
            counted_inserts: 2_000,
            files: 2_000,
            cache_bytes: 8 << 30,
            settle: Duration::from_secs(60),
        }
    }

    fn quick() -> Self {
        Self {
            rows: 1_000_000,
            rounds: 1,
            short_rounds: 2,
            point_queries: 10,
            small_inserts: 5,
            parts: 100,
            memory_parts: 300,
            counted_inserts: 100,
            files: 200,
            settle: Duration::from_secs(3),
            ..Self::full()
        }
    }
}
