//! ClickHouse's native protocol as a bystander sees it: whose turn it is on a connection, and whether it may be cut.
//! Pure: bytes in, verdicts out; no sockets, no clocks.
//!
//! The handshake is plain: the client's hello, the server's hello, the client's addendum. In the addendum client and
//! server agree on *chunked* framing (our engines' configuration asks for it): from then on each message is a row of
//! chunks `[size: u32 LE][bytes]` and ends with a chunk of size 0; its first byte tells its kind. So boundaries are known
//! without understanding what is sent. [`handshake`] reads the hellos, [`framing`] the chunks, [`Session`] puts both
//! together.
//!
//! A middleman that speaks with both sides itself also reads [`query`] packets; with a client that does not speak in
//! chunks it finds the end of data with [`block`].

pub mod block;
pub mod framing;
pub mod handshake;
pub mod query;
mod session;
pub mod types;
pub mod wire;

pub use session::{ClientVerdict, Session, State};

#[cfg(test)]
mod packets_tests;
#[cfg(test)]
mod tests;
