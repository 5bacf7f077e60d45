//! The real gateway process before real engines, with a controller whose side of the protocol the tests play.

mod clients;
mod common;
mod crowds;
mod definitions;
mod native;
mod pass_through;
mod routing;
mod tls;
