//! Every bound of this crate, in one table.

use std::time::Duration;

/// A TLS handshake that takes longer is given up.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at once; further connections wait in the kernel's queue.
pub const HANDSHAKES_AT_ONCE: usize = 256;
/// After a failed accept: the process is out of file descriptors, or nearly.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How long a client waits for the server's first words after the handshake, in which a refusal of its certificate comes.
pub const FIRST_WORDS: Duration = Duration::from_secs(2);
/// How often the certificate files are looked at.
pub const LOOK_AT_FILES: Duration = Duration::from_secs(1);
/// Remaining life of a certificate below which every look warns, at most this often.
pub const WARN_BEFORE: Duration = Duration::from_secs(14 * 24 * 3600);
pub const WARN_AGAIN: Duration = Duration::from_secs(3600);
/// Addresses of controllers that a client keeps, those that standbys have named included.
pub const CONTROLLERS_KNOWN: usize = 16;
/// One certificate, key or CA file.
pub const FILE_BYTES: u64 = 1 << 20;
/// A certificate request: RSA 4096 with room.
pub const REQUEST_BYTES: usize = 16 << 10;
