//! The endpoints of compute groups: ClickHouse's HTTP and native protocol in, statements routed out.
//!
//! A gateway keeps nothing: it knows the controller's newest [`moorhouse_catalog::ClusterView`] and counts what it has in flight.

pub mod classify;
pub mod exception;
pub mod lexer;
