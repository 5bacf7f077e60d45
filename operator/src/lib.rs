//! Moorhouse on Kubernetes: resources that people write, and the operator that makes them true.
//!
//! A reconciliation is a pipeline: dereference (the only step that reads) → validate → build (pure) → apply → status. It begins
//! anew each time from what there is, so it may be cut anywhere.

pub mod args;
pub mod context;
pub mod controller;
pub mod crd;
pub mod run;

mod access;
mod apply;
mod conditions;
mod error;
mod finalizer;
#[cfg(test)]
mod golden;
mod group;
mod limits;
mod metrics;
mod names;
mod pods;
mod quantity;
mod warehouse;

pub use error::OperatorError;
