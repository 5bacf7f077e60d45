//! The node agent: mounts every assigned shard under one FUSE mount, runs ClickHouse over it, commits parts, uploads what
//! has settled, follows what other groups write, and routes each shard's connections to the node that holds it.
//!
//! Reading order: [`args`], [`node`] (start and stop), [`controller`] and [`session`] (the controller's side), [`fs`] (the
//! file system), [`policy`], [`blobs`], [`adopt`], [`copies`] and [`upload`] (bytes), [`tables`], [`describe`] and [`owner`] (the engine), [`router`],
//! [`routes`] and [`service`] (what others call).

pub mod access;
mod adopt;
pub mod args;
pub mod blobs;
pub mod cache_service;
pub mod controller;
pub mod copies;
pub mod describe;
mod enrol;
pub mod fs;
pub mod limits;
pub mod metrics;
pub mod node;
pub mod owner;
mod pieces;
pub mod policy;
pub mod router;
pub mod routes;
pub mod service;
pub mod session;
pub mod tables;
pub mod upload;
