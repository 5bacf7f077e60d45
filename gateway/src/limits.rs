//! Every bound of the gateway, in one place.

use std::time::Duration;

/// What the classifier sees of a statement; also the longest CREATE or DROP.
pub const STATEMENT_PEEK_BYTES: usize = 64 * 1024;
/// How much of a compressed body is read for that; more than the largest block of zstd, and of lz4 in its usual frame.
pub const COMPRESSED_PEEK_BYTES: usize = 256 * 1024;
/// How long a statement waits for a node of its group to be ready or to accept a connection.
pub const HOLD: Duration = Duration::from_secs(10);
/// Pause before a node that refused a connection is tried again, when it is the only one.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// For the TCP handshake with a node.
pub const CONNECT: Duration = Duration::from_secs(2);
/// Below the engines' own keep-alive time (60 s), so that a pooled connection is not found closed.
pub const POOL_IDLE: Duration = Duration::from_secs(10);
/// How long a client may keep a connection open without a statement.
pub const CLIENT_IDLE: Duration = Duration::from_secs(300);
/// Open client connections of one listener; further ones wait in the kernel's queue.
pub const CONNECTIONS_PER_LISTENER: usize = 4096;
/// As ClickHouse's distributed_ddl_task_timeout.
pub const DDL: Duration = Duration::from_secs(180);
/// A definition that no controller has taken is given up after this; longer than a standby needs to take over.
pub const DDL_REACH: Duration = Duration::from_secs(10);
/// How long a definition's answer waits for this gateway's own view to show it.
pub const DDL_VISIBLE: Duration = Duration::from_secs(5);
/// An answer that the gateway itself reads: of KILL QUERY, of the check of credentials.
pub const OWN_ANSWER_BYTES: usize = 1024 * 1024;
/// Sessions whose `USE db` is remembered, each listener.
pub const SESSIONS: usize = 10_000;
/// First and longest pause between attempts to reach the controller; each is halved to doubled by chance.
pub const CONTROLLER_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// How long open statements may run on after SIGTERM.
pub const DRAIN: Duration = Duration::from_secs(8);
/// The longest statement that a native client may send.
pub const STATEMENT_BYTES: usize = 100 * 1024 * 1024;
/// What a Query packet may have besides its statement: settings, parameters.
pub const QUERY_EXTRA_BYTES: usize = 4 * 1024 * 1024;
/// The longest hello, and what may be read at once from a connection that was silent.
pub const HELLO_BYTES: usize = 1024 * 1024;
/// For the handshake with a native client, and with a node.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a native client may keep a connection open without a statement; as ClickHouse's idle_connection_timeout.
pub const NATIVE_IDLE: Duration = Duration::from_secs(3600);
/// Room for a read on a connection that was silent, and on one that sends a lot.
pub const IDLE_READ_BYTES: usize = 4 * 1024;
pub const BUSY_READ_BYTES: usize = 256 * 1024;
/// Writes up to this size wait for what follows them.
pub const SMALL_WRITE_BYTES: usize = 16 * 1024;
/// The longest read-only statement, its data included, that is kept to be said again when its node dies.
pub const RETRY_BYTES: usize = 1024 * 1024;
/// The longest message at the beginning of a read's answer that is kept back.
pub const ANSWER_HEAD_BYTES: usize = 64 * 1024;
/// The largest compressed frame of a client, packed or unpacked.
pub const FRAME_BYTES: usize = 256 * 1024 * 1024;
/// Statements that changed a native connection's session and are said again on another node.
pub const SESSION_STATEMENTS: usize = 64;
/// How often certificates' files are looked at for a change.
pub const CERTIFICATE_CHECK: Duration = Duration::from_secs(5);
