//! Ground that every crate stands on. A closed list: clock, failpoints, ports, tasks, telemetry. Nothing here knows what
//! Moorhouse is.

pub mod clock;
pub mod failpoint;
pub mod ports;
pub mod tasks;
pub mod telemetry;
