//! Every limit of the agent, in one table.

use std::time::Duration;

/// A commit is tried again this long while the controller is away; then the rename fails with EIO.
pub const COMMIT_PATIENCE: Duration = Duration::from_secs(60);
pub const COMMIT_RETRY_FIRST: Duration = Duration::from_millis(20);
pub const COMMIT_RETRY_LONGEST: Duration = Duration::from_secs(2);
/// One attempt of a call; a commit of a large part takes seconds at most.
pub const CALL_LONGEST: Duration = Duration::from_secs(15);
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A shard that was taken out for a move comes back after this long if the move was neither ended nor cancelled. Longer
/// than any hold that the controller still completes.
pub const LEAVING_LONGEST: Duration = Duration::from_secs(30);
pub const CONTROLLER_CONNECT: Duration = Duration::from_secs(2);
pub const PEER_CONNECT: Duration = Duration::from_secs(2);
/// How often an agent looks whether its certificate is to be renewed.
pub const RENEWAL_LOOK: Duration = Duration::from_secs(5);
pub const HEARTBEAT: Duration = Duration::from_secs(1);
pub const RECONNECT_FIRST: Duration = Duration::from_millis(100);
pub const RECONNECT_LONGEST: Duration = Duration::from_secs(3);
/// How often a reader that has missed changes tries again to catch up.
pub const CATCH_UP_RETRY: Duration = Duration::from_secs(2);
/// How often names that were let go of are reported.
pub const LETTING_GO: Duration = Duration::from_millis(500);
/// Files of loose parts (detached, frozen) in one commit: a change is one record, and a record is limited.
pub const LOOSE_FILES_A_COMMIT: usize = 2_000;
/// A read whose bytes have moved looks this often, and this long, for the new place.
pub const MOVED_LOOK: Duration = Duration::from_millis(100);
pub const MOVED_PATIENCE: Duration = Duration::from_secs(30);
/// How often settled parts are looked for.
pub const SETTLE_SCAN: Duration = Duration::from_millis(500);
/// A part of this size is uploaded at once: it will rarely be merged again soon.
pub const SETTLED_BYTES: u64 = 64 << 20;
/// So often merged, a part is rarely merged again soon.
pub const SETTLED_LEVEL: u32 = 10;
/// A part that a running merge will replace waits this many settling times before it is uploaded all the same.
pub const SETTLE_MERGING_FACTOR: u32 = 4;
/// Largest object that parts share: what is read of it is a range, and what dies in it is packed anew.
pub const PACKED_BYTES: u64 = 64 << 20;
/// Data of this size is an object of its own.
pub const LARGE_DATA_BYTES: u64 = 16 << 20;
/// How often a node looks for stored files that are worth moving, and so how many objects of at most [`PACKED_BYTES`] it makes of
/// them: one a look and table shard, unless one old object has more.
pub const REPACK_EVERY: Duration = Duration::from_secs(60);
/// Parts that are looked at while the tree is held.
pub const PARTS_A_LOOK: usize = 256;
/// Parts younger than this are left alone: they may be merged away soon.
pub const REPACK_AGE: Duration = Duration::from_secs(900);
/// An object that is less alive than this, in hundredths of its bytes, gives its live files to a new one.
pub const REPACK_LIVE_PERCENT: u64 = 50;
/// An object with the heads of fewer than this fraction of a table shard's parts is small, and this many small ones become one.
pub const LARGE_HOLDERS: usize = 24;
pub const SMALL_HOLDERS: usize = 16;
/// Parts and relocations of one commit, so that it fits into one transaction of the metadata store (etcd: 128 changes,
/// 1.5 MiB): each part is a rewritten manifest, each relocation some 500 bytes of manifest and changelog together.
pub const PARTS_A_COMMIT: usize = 32;
pub const RELOCATIONS_A_COMMIT: usize = 1_000;
/// An upload that is not in the catalog after this starts anew under another name; well below the time in which the catalog
/// takes a name for the first time.
pub const INTENT_LONGEST: Duration = Duration::from_secs(2_700);
/// Staging that is this full, in hundredths of the budget, is uploaded without settling.
pub const STAGING_SOFT_PERCENT: f64 = 50.0;
/// From here on INSERTs wait, the longer the fuller; merges, which make room, go on.
pub const STAGING_HARD_PERCENT: f64 = 80.0;
/// From here on INSERTs are refused if no room comes in time: what is left is for merges and for what is being written.
pub const STAGING_FULL_PERCENT: f64 = 95.0;
/// How long an INSERT waits just below that, and how long one at that level waits for room unless the node's flag says it.
pub const STAGING_PAUSE_LONGEST: Duration = Duration::from_secs(5);
pub const STAGING_PATIENCE: Duration = Duration::from_secs(30);
pub const STAGING_LOOK: Duration = Duration::from_millis(50);
/// A commit whose table wants its bytes in the object store waits this long for a store that is away, then fails.
pub const OBJECT_PATIENCE: Duration = Duration::from_secs(30);
/// Nodes that are asked, one after another, to keep a copy, and how long one may take.
pub const KEEPERS_ASKED: usize = 3;
pub const KEEP_LONGEST: Duration = Duration::from_secs(30);
/// How long the node that had a copy of what an absent node has staged is asked first.
pub const STAND_IN_KEPT: Duration = Duration::from_secs(10);
/// How often a node looks which copies it still keeps for others.
pub const COPIES_LOOK: Duration = Duration::from_secs(5);
/// A copy that the catalog has not named after this never will be: longer than any commit is tried.
pub const COPY_UNNAMED: Duration = Duration::from_secs(600);
/// Pauses after a failed upload: the object store may be away for an hour.
pub const UPLOAD_RETRY_FIRST: Duration = Duration::from_secs(1);
pub const UPLOAD_RETRY_LONGEST: Duration = Duration::from_secs(30);
pub const PARALLEL_UPLOADS: usize = 4;
/// Blobs up to this size come many to a request.
pub const SMALL_BLOB_BYTES: u64 = 256 << 10;
pub const BLOBS_A_REQUEST: usize = 500;
pub const PARALLEL_COPIES: usize = 8;
/// Statements that run on the engine at once while it is brought in line with a view.
pub const PARALLEL_STATEMENTS: usize = 8;
pub const ENGINE_QUEUE: usize = 64;
/// What one request brings of an object's head: all small files of a part, and small parts whole.
pub const OBJECT_HEAD_BYTES: u64 = 1 << 20;
/// How often the SSD is tried: what the kernel reads without us would not tell us of its errors.
pub const DISK_PROBE: Duration = Duration::from_secs(10);
/// What one request brings of the small files of many parts that share an object.
pub const SHARED_HEAD_BYTES: u64 = 8 << 20;
/// Parts before and behind one, by name, that are looked at for files in the same object.
pub const NEIGHBOURS: usize = 512;
/// Larger stored blobs are read by range: a point query must not bring a whole column.
pub const WHOLE_BLOB_BYTES: u64 = 4 << 20;
/// The same of column data, of which a point query reads some kilobytes: a block of the cache.
pub const WHOLE_DATA_BYTES: u64 = 1 << 20;
/// Columns that a table shard's statements have opened, and for how long they are expected to open them again; and for how
/// long a table that was scanned in one part is expected to be scanned in the next.
pub const COLUMNS_REMEMBERED: usize = 1_000;
pub const COLUMN_REMEMBERED: Duration = Duration::from_secs(600);
pub const SCAN_REMEMBERED: Duration = Duration::from_secs(3);
/// A file that has been read this far without an end is scanned, as the cache's read-ahead sees it.
pub const SCANNED_AFTER_BYTES: u64 = moorhouse_cache::limits::SEQUENTIAL_AFTER_BYTES;
/// How far a column is fetched when one beside it is scanned; what is behind comes with its own read-ahead.
pub const SCANNED_AHEAD_BYTES: u64 = 16 << 20;
/// Files that are fetched for a guess at once, and the pieces in which that is done.
pub const GUESSES_AT_ONCE: usize = 16;
pub const GUESS_PIECE_BYTES: u64 = 2 << 20;
/// Largest read from a peer or the object store at once, and how many of one copy are under way: the memory that it takes.
pub const FETCH_PIECE_BYTES: u64 = 4 << 20;
pub const PARALLEL_PIECES: usize = 4;
pub const PARALLEL_WARMS: usize = 4;
pub const BLOB_CHUNK_BYTES: usize = 1 << 20;
pub const FUSE_THREADS: usize = 4;
/// Files of sealed blobs that stay registered with the kernel when they are closed: each is an open file of the kernel's (no
/// descriptor of ours, so RLIMIT_NOFILE does not count it) and some 2 KiB of its memory.
pub const KEPT_BACKINGS: usize = 4096;
/// How often files that are being written are looked at, and how much of one is given to the disk at once: a part takes
/// tens of milliseconds a column, and smaller files are not worth a request of their own before the commit.
pub const WRITEBACK_LOOK: Duration = Duration::from_millis(20);
pub const WRITEBACK_BYTES: u64 = 1 << 20;
/// Read-ahead of the mount: 1 MiB measured best, INIT caps it at 128 KiB.
pub const READ_AHEAD_KB: u32 = 1024;
pub const GRPC_MESSAGE_BYTES: usize = 64 << 20;
/// Somebody's open file keeps a mount; it is not waited for longer.
pub const UNMOUNT: Duration = Duration::from_secs(3);
/// Statements that run when the engine must start again for a new configuration may take so long to end.
pub const ENGINE_DRAIN: Duration = Duration::from_secs(3);
pub const ENGINE_STOP: Duration = Duration::from_secs(8);
/// Removals in one commit, so that they fit into one transaction of the metadata store with the objects that they doom.
pub const REMOVALS_A_COMMIT: usize = 48;
