//! The agent's parts against a real kernel mount.

mod fs_semantics;
mod scripted;
