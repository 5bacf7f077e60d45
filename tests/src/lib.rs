//! The harness of the tests that cross crates: real servers, whole warehouses.
//!
//! Rule: what a test starts or mounts ends with the value that stands for it, also when the test fails.

pub mod binaries;
pub mod engines;
pub mod load;
pub mod processes;
pub mod proxy;
pub mod readme;
pub mod servers;
pub mod warehouse;
