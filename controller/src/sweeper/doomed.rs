//! Deletes the objects that nothing refers to any more, once their grace is over and every live reader knows it, and then
//! forgets them.

use std::sync::Arc;

use moorhouse_base::clock::Clock;
use moorhouse_base::failpoint;
use moorhouse_catalog::ObjectKey;
use moorhouse_catalog::state::{Catalog, Command};
use moorhouse_objects::Objects;
use tracing::{debug, warn};

use crate::error::ControllerError;
use crate::owner::Owner;
use crate::published::Published;
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

/// How many objects it deleted.
async fn sweep(owner: &Owner, objects: &Objects, now_ms: u64) -> Result<usize, ControllerError> {
    let readers_ms = seen_by_all_readers_ms(&owner.shown(), now_ms);
    let due = owner.read(move |catalog| due(catalog, now_ms, readers_ms)).await?;
    let mut deleted = Vec::new();
    for object in due {
        match objects.delete(object.as_str()).await {
            Ok(()) => deleted.push(object),
            Err(error) => warn!(%object, %error, "an object could not be deleted, trying again later"),
        }
    }
    let count = deleted.len();
    if count > 0 {
        failpoint::reach("sweep.after_delete");
        owner.apply(Command::ForgetDoomed(deleted)).await?;
        metrics::OBJECTS_DELETED.inc_by(count as u64);
    }
    Ok(count)
}

/// The time up to which every node that is up has taken in the changelog. A node that lost the stream shows its engine parts
/// that are gone, and reads their objects, until it has caught up.
fn seen_by_all_readers_ms(shown: &Published, now_ms: u64) -> u64 {
    let behind = shown.liveness.up().map(|(_, live)| live.load.changelog_behind_ms).max();
    now_ms.saturating_sub(behind.unwrap_or(0))
}

fn due(catalog: &Catalog, now_ms: u64, readers_ms: u64) -> Vec<ObjectKey> {
    let grace_ms = catalog.limits().delete_grace_ms;
    metrics::OBJECTS_DOOMED.set(catalog.doomed().len() as i64);
    let due = catalog.doomed().values().filter(|doomed| {
        let doomed_ms = doomed.not_before_ms.saturating_sub(grace_ms);
        doomed.not_before_ms <= now_ms && doomed_ms <= readers_ms
    });
    due.map(|doomed| doomed.object.clone()).take(limits::SWEEP_OBJECTS).collect()
}
