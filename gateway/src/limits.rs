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
