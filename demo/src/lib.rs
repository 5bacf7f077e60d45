//! The demo: a whole warehouse does its main job on real data, and every answer is checked.
//!
//! It uses what a user has: `moorctl`, the connection strings, SQL. For comparison it runs one plain ClickHouse with the
//! same data. Reading order: [`flow`] is the story in eight steps; the other modules are its tools.

pub mod flow;
pub mod moorctl;
pub mod report;

mod compare;
mod console;
mod error;
mod load;
mod reference;
mod tpch;
mod traffic;

pub use error::DemoError;
pub use flow::{DemoOptions, run};
pub use report::DemoReport;
