//! The metadata controller: the only writer of the catalog.
//!
//! One owner loop ([`owner`]) has the catalog; everything else asks it. [`server`] starts all of it.

pub mod config;
pub mod server;

mod error;
mod limits;
pub mod metrics;

mod lists;
mod liveness;
mod owner;
mod published;

pub mod agents;
mod ddl;
mod documents;
mod fsck;
mod moves;
mod sweeper;

mod check;
mod reads;
mod restore;

mod security;
mod tally;

mod admin_service;
mod controller_service;
mod front;
