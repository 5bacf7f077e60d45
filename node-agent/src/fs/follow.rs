//! Reads that find a file's bytes no longer where they were known to be.
//!
//! Staged bytes move: into the object store when their part settles, to another node with their shard. Who knew the old place
//! asks for the new one and goes on; an error is what is left when there is none.

use moorhouse_catalog::Location;

use super::error::FsError;
use super::io::{Opened, Opening};
use super::place::Place;
use super::tree::{Body, Ino};
use super::{Role, ShardFs};
use crate::limits;

impl ShardFs {
    /// Opens a file again after `error` from bytes staged on another node. Any other error stands.
    pub async fn open_moved(&self, ino: Ino, error: FsError) -> Result<Opened, FsError> {
        let (mut known, mut error) = (self.staged_at(ino)?, error);
        let deadline = tokio::time::Instant::now() + limits::MOVED_PATIENCE;
        while known.is_some() && matches!(error, FsError::Unavailable(_)) && tokio::time::Instant::now() < deadline {
            self.learn_place(ino).await;
            let place = self.staged_at(ino)?;
            if place == known {
                tokio::time::sleep(limits::MOVED_LOOK).await;
            }
            known = place;
            let opened = match self.open(ino, false)? {
                Opening::Ready(opened) => return Ok(opened),
                Opening::Fetch(wanted) => self.fetch(wanted).await,
            };
            match opened {
                // Bytes past the cache are not looked at before they are read.
                Ok(Opened::Remote(remote)) => match remote.read(0, 1).await {
                    Ok(_) => return Ok(Opened::Remote(remote)),
                    Err(again) => error = again,
                },
                Ok(opened) => return Ok(opened),
                Err(again) => error = again,
            }
        }
        Err(error)
    }

    /// Where a file is staged; None for one that is stored.
    fn staged_at(&self, ino: Ino) -> Result<Option<Location>, FsError> {
        let tree = self.tree.read().expect("lock");
        let Body::Blob(blob) = &tree.get(ino)?.body else { return Ok(None) };
        let location = blob.sealed.as_ref().map(|sealed| &sealed.location);
        Ok(location.filter(|location| matches!(location, Location::Staged { .. })).cloned())
    }

    /// A reader may not have heard of the move yet.
    async fn learn_place(&self, ino: Ino) {
        let place = {
            let tree = self.tree.read().expect("lock");
            tree.get(ino).and_then(|node| tree.place(node.home))
        };
        if let Ok(Place::Table { shard, .. }) = place
            && self.role(shard) == Some(Role::Reader)
            && let Err(error) = self.catch_up(shard).await
        {
            tracing::info!(%shard, %error, "the place of moved bytes is not known yet");
        }
    }
}
