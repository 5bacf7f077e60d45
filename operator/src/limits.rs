//! Every limit of the operator.

use std::time::Duration;

/// A call of a controller, and of finding the one that leads.
pub const CALL: Duration = Duration::from_secs(3);
/// Attempts of one call: each controller once, and the leader that one of them names.
pub const ATTEMPTS: usize = 6;
/// When nothing is under way, all is looked at again after this.
pub const IDLE: Duration = Duration::from_secs(120);
/// While something is under way that no watch tells of: a drain, a controller that does not answer yet.
pub const BUSY: Duration = Duration::from_secs(3);
/// Back-off after an error: from here, doubled each time,
pub const RETRY_FROM: Duration = Duration::from_secs(1);
/// up to here; half of it is chance.
pub const RETRY_TO: Duration = Duration::from_secs(120);
/// Reconciliations at once, of each kind.
pub const CONCURRENCY: u16 = 8;
/// Longest message in a condition, in characters; the API server takes 32,768 bytes.
pub const MESSAGE: usize = 1_000;
/// Share of a node's volume that the agent may fill, in percent: the rest is the file system's and the engine's own.
pub const CACHE_PERCENT: u64 = 90;
/// Longest note of an event in characters; the API server takes 1 kB.
pub const NOTE: usize = 900;
