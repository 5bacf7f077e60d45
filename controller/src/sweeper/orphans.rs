//! Finds and deletes what broken uploads left in the bucket: a slow walk over its listing, page by page, and over the notes of
//! uploads in pieces.

use std::sync::Arc;
use std::time::Duration;

use moorhouse_base::clock::Clock;
use moorhouse_base::failpoint;
use moorhouse_catalog::state::NotLoaded;
use moorhouse_catalog::state::orphans::ObjectUse;
use moorhouse_catalog::{ObjectKey, minted};
use moorhouse_objects::{Objects, ObjectsError};
use tracing::{info, warn};

use crate::error::ControllerError;
use crate::owner::Owner;
use crate::{limits, metrics};

/// Why a walk was broken off. The next one begins anew.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    #[error(transparent)]
    Controller(#[from] ControllerError),
}

/// An object of the bucket, and what the catalog made of it a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: ObjectKey,
    pub bytes: u64,
    pub used: ObjectUse,
}

/// Until the controller stops.
pub async fn run(owner: Owner, objects: Objects, clock: Arc<dyn Clock>) {
    loop {
        match sweep(&owner, &objects, &*clock).await {
            Ok(0) => {}
            Ok(deleted) => info!(deleted, "orphans of broken uploads were deleted"),
            Err(error) => warn!(%error, "the search for orphans was broken off, trying again later"),
        }
        tokio::time::sleep(interval(&owner).await).await;
    }
}

async fn interval(owner: &Owner) -> Duration {
    let grace_ms = owner.read(|catalog| catalog.limits().orphan_grace_ms).await.unwrap_or(u64::MAX);
    Duration::from_millis(grace_ms / 4).clamp(limits::ORPHAN_INTERVAL_SHORTEST, limits::ORPHAN_INTERVAL)
}

/// How many objects it deleted.
async fn sweep(owner: &Owner, objects: &Objects, clock: &dyn Clock) -> Result<u64, WalkError> {
    let mut deleted = 0;
    let mut walk = Walk::new(objects);
    while let Some(page) = walk.next(owner, clock).await? {
        for orphan in page.into_iter().filter(|listed| listed.used == ObjectUse::Orphan) {
            // From the catalog's word on, no commit can refer to it: see catalog::minted.
            objects.delete(orphan.key.as_str()).await?;
            info!(object = %orphan.key, bytes = orphan.bytes, "an orphan is deleted");
            deleted += 1;
            metrics::ORPHANS_DELETED.inc();
            failpoint::reach("sweep.after_orphan");
        }
        tokio::time::sleep(limits::LIST_PAUSE).await;
    }
    give_up_unfinished(owner, objects, clock).await?;
    Ok(deleted)
}

/// Takes away the pieces of uploads that nobody will end: their object's name is too old for a commit, as an orphan's.
async fn give_up_unfinished(owner: &Owner, objects: &Objects, clock: &dyn Clock) -> Result<(), WalkError> {
    for unfinished in objects.unfinished().await? {
        let grace_ms = owner.read(|catalog| catalog.limits().orphan_grace_ms).await?;
        let key = ObjectKey::new(unfinished.key.as_str()).ok();
        if key.is_some_and(|key| minted::is_past_grace(&key, clock.now_ms(), grace_ms)) {
            objects.give_up_unfinished(&unfinished).await?;
            info!(object = unfinished.key, "the pieces of a broken upload are deleted");
            metrics::UPLOADS_GIVEN_UP.inc();
        }
    }
    Ok(())
}

/// The parts' objects in the bucket, in the order of their keys, each page judged after it was listed.
pub struct Walk<'a> {
    objects: &'a Objects,
    last: Option<String>,
    ended: bool,
}

impl<'a> Walk<'a> {
    pub fn new(objects: &'a Objects) -> Self {
        Self { objects, last: None, ended: false }
    }

    /// `None` at the end.
    pub async fn next(&mut self, owner: &Owner, clock: &dyn Clock) -> Result<Option<Vec<Listed>>, WalkError> {
        if self.ended {
            return Ok(None);
        }
        let found = self.objects.list_page(minted::PARTS_PREFIX, self.last.as_deref(), limits::LIST_PAGE).await?;
        self.ended = found.len() < limits::LIST_PAGE;
        self.last = found.last().map(|(key, _)| key.clone());
        let now_ms = clock.now_ms();
        // A key that the catalog cannot name is none of ours.
        let named = found.into_iter().filter_map(|(key, bytes)| Some((ObjectKey::new(key).ok()?, bytes)));
        let named: Vec<_> = named.collect();
        // Keys of one table shard lie together: few of them at once, so that few lists must be in memory together.
        let mut judged = Vec::with_capacity(named.len());
        for of_one in named.chunk_by(|(a, _), (b, _)| minted::home(a) == minted::home(b)) {
            let of_one = of_one.to_vec();
            let at = of_one.first().and_then(|(key, _)| minted::home(key));
            let found = owner.read_when_loaded(at, move |catalog| {
                let judge = |(key, bytes): &(ObjectKey, u64)| {
                    Ok(Listed { used: catalog.use_of(key, now_ms)?, key: key.clone(), bytes: *bytes })
                };
                of_one.iter().map(judge).collect::<Result<Vec<Listed>, NotLoaded>>()
            });
            judged.extend(found.await?);
        }
        Ok(Some(judged))
    }
}
