//! The controller from outside, over gRPC: an in-process server, and scripted agents that play the nodes.

mod harness;

mod backup;
mod commits;
mod ddl;
mod failover;
mod moves;
mod process;
mod registration;
mod restart;
mod sweeping;
