//! The endpoints of compute groups: ClickHouse's HTTP and native protocol in, statements routed out.
//!
//! A gateway keeps nothing: it knows the controller's newest [`moorhouse_catalog::ClusterView`] and counts what it has in
//! flight. Its rule: reads stay in the group they came to, inserts go to the table's owner group, definitions to the controller.

mod body;
pub mod classify;
pub mod cluster;
pub mod config;
pub mod controller;
pub mod exception;
mod forwarded;
pub mod http;
pub mod lexer;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod native;
pub mod server;
pub mod tls;
