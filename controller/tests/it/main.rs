//! The controller from outside, over gRPC: an in-process server, and scripted agents that play the nodes.

mod harness;
mod lists;

mod backup;
mod commits;
mod ddl;
mod documents;
mod failover;
mod moves;
mod process;
mod reads;
mod registration;
mod restart;
mod sweeping;
