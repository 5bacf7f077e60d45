//! Deletes what nobody needs: objects that have lost their last reference ([`doomed`]), objects that never had one
//! ([`orphans`]), and the records of dropped tables ([`leaving`]).
//!
//! Who may delete what is the catalog's rule (`catalog::minted`, `Catalog::use_of`); here it is only carried out.

mod doomed;
mod leaving;
pub mod orphans;

use std::sync::Arc;

use moorhouse_base::clock::Clock;
use moorhouse_objects::Objects;

use crate::owner::Owner;
pub use leaving::clear_leaving;

/// Until the controller stops.
pub async fn run(owner: Owner, objects: Objects, clock: Arc<dyn Clock>) {
    tokio::join!(doomed::run(owner.clone(), objects.clone(), Arc::clone(&clock)), orphans::run(owner, objects, clock));
}
