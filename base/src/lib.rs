//! Ground that every crate stands on. A closed list: telemetry, tasks, clock. Nothing here knows what Moorhouse is.

pub mod clock;
pub mod tasks;
pub mod telemetry;
