//! Framing of the native protocol.
