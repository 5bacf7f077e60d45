//! How much of everything.

use std::time::Duration;

use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub struct Scale {
    pub rounds: usize,
    /// Agents, and putters, that work side by side.
    pub agents: Vec<usize>,
    /// Of one turn of commits or puts.
    pub commit_time: Duration,
    pub parts: u64,
    /// Tables that share the parts, but for the large one's.
    pub tables: usize,
    /// Parts of the large table.
    pub large: u64,
    pub readers: usize,
    /// Commits of a round that are followed to all readers.
    pub followed_commits: usize,
    /// What a controller takes whose store is empty; measured.
    pub empty_controller_mib: f64,
}

impl Scale {
    pub fn new(quick: bool) -> Self {
        if quick {
            Self {
                rounds: 1,
                agents: vec![1, 16, 256],
                commit_time: Duration::from_millis(500),
                parts: 20_000,
                tables: 16,
                large: 2_000,
                readers: 200,
                followed_commits: 5,
                empty_controller_mib: 0.0,
            }
        } else {
            Self {
                rounds: 3,
                agents: vec![1, 16, 256],
                commit_time: Duration::from_secs(4),
                parts: 1_000_000,
                tables: 256,
                large: 100_000,
                readers: 200,
                followed_commits: 40,
                empty_controller_mib: 0.0,
            }
        }
    }
}
