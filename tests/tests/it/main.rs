//! Tests that cross crates, with real ClickHouse, etcd and S3.

mod access;
mod bad_input;
mod crash;
mod ddl_resume;
mod definitions;
mod demo;
mod differential;
mod documents;
mod elasticity;
mod examples;
mod failover;
mod object_faults;
mod operations;
mod readers;
mod repacking;
mod security;
mod structure;
mod uploads;
