//! Every bound of the controller, in one table.

use std::time::Duration;

/// Requests that wait for the owner loop; a caller waits for room.
pub const MAILBOX: usize = 1_024;
/// Requests that one round of the owner loop takes.
pub const ROUND: usize = 256;
/// Writes and bytes of one group commit: below etcd's 128 operations, of which one is the store's own, and its 1.5 MiB. The
/// bytes are those of the records; keys and framing come on top.
pub const BATCH_WRITES: usize = 120;
pub const BATCH_BYTES: usize = 1 << 20;
/// Changelog entries that a watcher may lag behind; then its stream ends and it takes snapshots.
pub const CHANGELOG_BACKLOG: usize = 4_096;
/// Messages that wait in one gRPC stream.
pub const STREAM_BACKLOG: usize = 64;
/// One gRPC request.
pub const MESSAGE_BYTES: usize = 64 << 20;
/// DDL statements that run at once.
pub const DDL_AT_ONCE: usize = 64;
/// A live node that has not applied a DDL task after this fails it.
pub const DDL_TIMEOUT: Duration = Duration::from_secs(60);
/// After the first node has failed a task, the others have so long to say what they have against it.
pub const DDL_FAILURE_GATHER: Duration = Duration::from_millis(500);
/// How often the progress of a task that takes long is noted in its record, and how often its deadlines are looked at.
pub const DDL_NOTE_INTERVAL: Duration = Duration::from_secs(1);
pub const DDL_LOOK: Duration = Duration::from_millis(100);
pub const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Every live node obeys a change of documents within this.
pub const DOCUMENTS_TIMEOUT: Duration = Duration::from_secs(60);
/// Moves kept for `moorctl`.
pub const MOVES_KEPT: usize = 1_000;
/// Rebalance and drain requests that run or wait at once.
pub const BALANCES_AT_ONCE: usize = 64;
/// Attempts at one shard before a rebalance gives up.
pub const MOVE_ATTEMPTS: u32 = 6;
pub const MOVE_RETRY: Duration = Duration::from_millis(500);
/// Cleaning up after a cancelled move: the first pause, doubled each time, and how often.
pub const CLEAN_UP_RETRY: Duration = Duration::from_millis(100);
pub const CLEAN_UP_TRIES: u32 = 6;
/// The first copy of a shard's staged bytes, while work goes on.
pub const PRE_COPY_TIMEOUT: Duration = Duration::from_secs(600);
/// Rounds of copying before the hold; under steady writes each is shorter than the one before.
pub const PRE_COPY_ROUNDS: u32 = 3;
/// In-flight work on a held shard may take so long to end.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// A hold ends by itself after this; below the engine's handshake timeout of 10 s, in which held connections wait.
pub const HOLD_TIMEOUT: Duration = Duration::from_secs(9);
/// The epoch is not changed later than this into a hold, so that there is time to attach and release.
pub const HOLD_BUDGET: Duration = Duration::from_secs(6);
/// One small step of a move.
pub const MOVE_STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a new leader tries to tell the nodes that a move was cancelled.
pub const CANCEL_ATTEMPTS: u32 = 60;
pub const CANCEL_RETRY: Duration = Duration::from_secs(1);
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Part lists that are read from the store at once, and requests that wait for them.
pub const LISTS_AT_ONCE: usize = 8;
pub const PARKED: usize = 4_096;
/// When part lists take more memory than they may, they are dropped to one such part below it.
pub const LISTS_SLACK: usize = 10;
/// How often a read past the leader looks again at what changes meanwhile.
pub const STORE_READS: usize = 5;
/// What such reads keep in memory, as a part of what part lists may take.
pub const READS_SHARE: usize = 8;
/// Time between sweeps, and objects deleted in one.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
pub const SWEEP_OBJECTS: usize = 64;
/// One page of a snapshot, and one piece of a backup, about; a single part may be larger.
pub const PAGE_BYTES: usize = 1 << 20;
/// Writes, and bytes of them, of one step of restoring a backup.
pub const RESTORE_WRITES: usize = 100;
pub const RESTORE_BYTES: usize = 1 << 20;
/// Between a standby's looks for the leader.
pub const LEADER_LOOK: Duration = Duration::from_millis(500);
/// Between looks for dropped tables.
pub const LEAVING_INTERVAL: Duration = Duration::from_millis(500);
/// Orphans are looked for this often, or four times in an orphan grace if that is shorter.
pub const ORPHAN_INTERVAL: Duration = Duration::from_secs(3_600);
pub const ORPHAN_INTERVAL_SHORTEST: Duration = Duration::from_millis(500);
/// Objects of one page of the bucket's listing, and the pause after each.
pub const LIST_PAGE: usize = 1_000;
pub const LIST_PAUSE: Duration = Duration::from_millis(100);
/// Requests of one check of the warehouse under way at once.
pub const FSCK_PARALLEL: usize = 16;
/// Findings of one check that are told one by one.
pub const FSCK_FINDINGS: usize = 10_000;
/// One read of a deep check.
pub const FSCK_PIECE_BYTES: u64 = 8 << 20;
/// Blobs that an agent is asked for at once.
pub const FSCK_BLOBS: usize = 10_000;
/// The same where it reads each of them.
pub const FSCK_DEEP_BLOBS: usize = 100;
pub const FSCK_AGENT_TIMEOUT: Duration = Duration::from_secs(60);
/// After a failed commit: first and longest wait before the store is read again.
pub const RELOAD_RETRY: Duration = Duration::from_millis(100);
pub const RELOAD_RETRY_MAX: Duration = Duration::from_secs(5);
/// Clean stop.
pub const STOP_DEADLINE: Duration = Duration::from_secs(8);
/// A join token may last so long.
pub const TOKEN_TTL: Duration = Duration::from_secs(30 * 86_400);
