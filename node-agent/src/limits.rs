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
/// How often names that were let go of are reported.
pub const LETTING_GO: Duration = Duration::from_millis(500);
/// How often settled parts are looked for.
pub const SETTLE_SCAN: Duration = Duration::from_millis(500);
/// A part of this size is uploaded at once: it will rarely be merged again soon.
pub const SETTLED_BYTES: u64 = 64 << 20;
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
pub const REFRESH_QUEUE: usize = 1024;
pub const ENGINE_QUEUE: usize = 64;
/// What one request brings of an object's head: all small files of a part, and small parts whole.
pub const OBJECT_HEAD_BYTES: u64 = 1 << 20;
/// Largest read from a peer or the object store at once, and so the memory that one copy takes.
pub const FETCH_PIECE_BYTES: u64 = 8 << 20;
pub const BLOB_CHUNK_BYTES: usize = 1 << 20;
pub const FUSE_THREADS: usize = 4;
/// Read-ahead of the mount: 1 MiB measured best, INIT caps it at 128 KiB.
pub const READ_AHEAD_KB: u32 = 1024;
pub const GRPC_MESSAGE_BYTES: usize = 64 << 20;
/// Somebody's open file keeps a mount; it is not waited for longer.
pub const UNMOUNT: Duration = Duration::from_secs(3);
pub const ENGINE_STOP: Duration = Duration::from_secs(8);
/// Removals in one commit, so that they fit into one transaction of the metadata store with the objects that they doom.
pub const REMOVALS_A_COMMIT: usize = 48;
