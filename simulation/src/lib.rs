//! The metadata plane in one process on virtual time: real controllers, agents that speak the protocol, a store and a network that
//! fail as real ones do. A run is a function of its seed.
//!
//! [`run::run`] is one run; [`history`] are the rules that every run must keep.

pub mod chance;
pub mod entropy;

pub mod history;
pub mod observer;
pub mod rows;

pub mod network;
pub mod process;
pub mod store;

pub mod agent;
pub mod controllers;
pub mod user;

pub mod chaos;
pub mod run;
