//! Deletes what nothing refers to any more: objects, once their grace is over, and the records of dropped tables.

use std::sync::Arc;

use moorhouse_base::clock::Clock;
use moorhouse_catalog::ObjectKey;
use moorhouse_catalog::state::{Catalog, Command, Reply};
use moorhouse_objects::Objects;
use tracing::{debug, warn};

use crate::error::ControllerError;
use crate::owner::Owner;
use crate::{limits, metrics};

/// Until the controller stops.
pub async fn run(owner: Owner, objects: Objects, clock: Arc<dyn Clock>) {
    loop {
        match sweep(&owner, &objects, clock.now_ms()).await {
            // More may be waiting.
            Ok(limits::SWEEP_OBJECTS) => continue,
            Ok(_) => {}
            Err(error) => debug!(%error, "a sweep was broken off"),
        }
        tokio::time::sleep(limits::SWEEP_INTERVAL).await;
    }
}

/// Removes what dropped tables have left, one bounded step after the other, until the controller stops. Each step waits for its
/// turn in the owner loop: commits of other tables go between.
pub async fn clear_leaving(owner: Owner) {
    loop {
        match owner.apply(Command::ClearLeaving).await {
            Ok(Reply::Changed(true)) => metrics::CLEARING_STEPS.inc(),
            Ok(_) => tokio::time::sleep(limits::LEAVING_INTERVAL).await,
            Err(error) => {
                debug!(%error, "a step of clearing a dropped table was not confirmed, trying again");
                tokio::time::sleep(limits::LEAVING_INTERVAL).await;
            }
        }
    }
}

/// How many objects it deleted.
async fn sweep(owner: &Owner, objects: &Objects, now_ms: u64) -> Result<usize, ControllerError> {
    let due = owner.read(move |catalog| due(catalog, now_ms)).await?;
    let mut deleted = Vec::new();
    for object in due {
        match objects.delete(object.as_str()).await {
            Ok(()) => deleted.push(object),
            Err(error) => warn!(%object, %error, "an object could not be deleted, trying again later"),
        }
    }
    let count = deleted.len();
    if count > 0 {
        owner.apply(Command::ForgetDoomed(deleted)).await?;
        metrics::OBJECTS_DELETED.inc_by(count as u64);
    }
    Ok(count)
}

fn due(catalog: &Catalog, now_ms: u64) -> Vec<ObjectKey> {
    let due = catalog.doomed().values().filter(|doomed| doomed.not_before_ms <= now_ms);
    due.map(|doomed| doomed.object.clone()).take(limits::SWEEP_OBJECTS).collect()
}
