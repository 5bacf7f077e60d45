//! The agent's parts against a real kernel mount.

mod cache;
mod fs_semantics;
mod lasting;
mod model;
mod posix;
mod power;
mod repacking;
mod scale;
mod scripted;
mod staging;
