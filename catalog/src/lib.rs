//! The domain of Moorhouse: what a warehouse is, which changes are legal, and how it is stored.
//!
//! Pure but for `store/`: no clock, no network, no threads. The controller drives it; agents and gateways read its views.

pub mod codec;
pub mod ids;
pub mod parts;
pub mod records;
pub mod views;

pub use ids::*;
pub use records::*;
pub use views::*;
