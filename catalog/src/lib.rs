//! The domain of Moorhouse: what a warehouse is, which changes are legal, and how it is stored.
//!
//! Pure but for `store/`: no clock, no network, no threads. The controller drives it; agents and gateways read its views.

pub mod access;
pub mod ddl;
pub mod documents;
pub mod ids;
pub mod records;
pub mod storage;
pub mod trust;

pub mod codec;
pub mod minted;
pub mod packed;
pub mod parts;
pub mod placement;

pub mod backup;
pub mod directory;
pub mod entry;
pub mod invariants;
pub mod links;
pub mod state;
pub mod views;

pub mod store;

pub use ddl::*;
pub use documents::*;
pub use ids::*;
pub use packed::{ChangelogEntry, CommitToken, PackedPart};
pub use records::*;
pub use storage::*;
pub use trust::*;
pub use views::*;
