//! One request for the small files of many parts.
//!
//! Opening a part reads ten files or more, of some hundred bytes each. An object begins with such files, those of all parts
//! that share it, so whoever wants one of them soon wants the others: they come with one request, and stay.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use moorhouse_cache::{CacheError, Fill};
use moorhouse_catalog::{Location, ObjectKey};

use super::{BlobSource, checksum, key};
use crate::fs::error::FsError;
use crate::fs::io::RemoteBlob;
use crate::metrics;

/// Objects whose heads are being fetched: of the many files that the engine opens at once, most come with the first.
#[derive(Clone, Default)]
pub struct Heads {
    fetching: Arc<Mutex<HashMap<ObjectKey, Weak<tokio::sync::Mutex<()>>>>>,
}

impl Heads {
    fn turn(&self, object: &ObjectKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().expect("lock");
        if let Some(turn) = fetching.get(object).and_then(Weak::upgrade) {
            return turn;
        }
        fetching.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        fetching.insert(object.clone(), Arc::downgrade(&turn));
        turn
    }
}

impl BlobSource {
    /// Brings a blob and its companions, which lie near it in the same object, unless another request has brought it.
    pub(super) async fn fetch_head(
        &self,
        wanted: &RemoteBlob,
        mut companions: Vec<RemoteBlob>,
    ) -> Result<File, CacheError> {
        let turn = object(wanted).map(|object| self.heads.turn(object));
        let _turn = match &turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        companions.retain(|blob| self.cache().tenant(key(blob.blob)).is_none());
        let copy = |fill| async { self.copy_head(wanted, &companions, fill).await };
        self.cache().get_or_fetch(key(wanted.blob), wanted.bytes, checksum(&wanted.location), copy).await
    }

    async fn copy_head(&self, wanted: &RemoteBlob, companions: &[RemoteBlob], mut fill: Fill) -> Result<Fill, FsError> {
        let Some(object) = object(wanted) else { return self.copy(wanted, fill).await };
        let spans = std::iter::once(wanted).chain(companions).filter_map(span);
        let (start, end) = spans.fold((u64::MAX, 0), |(start, end), span| (start.min(span.start), end.max(span.end)));
        let head = self.get_object(object, start, end - start).await?;
        metrics::HEADS.inc();
        let part =
            |blob: &RemoteBlob| span(blob).map(|s| head.slice((s.start - start) as usize..(s.end - start) as usize));
        if let Some(content) = part(wanted) {
            fill.write_all(&content)?;
        }
        let parts: Vec<(&RemoteBlob, Bytes)> = companions.iter().filter_map(|c| Some((c, part(c)?))).collect();
        tokio::task::block_in_place(|| parts.iter().for_each(|(companion, content)| self.keep(companion, content)));
        Ok(fill)
    }

    /// A companion that cannot be kept is fetched when it is asked for.
    fn keep(&self, blob: &RemoteBlob, content: &[u8]) {
        let kept = self.cache().fill(key(blob.blob), blob.bytes).map_err(FsError::from).and_then(|mut fill| {
            fill.write_all(content)?;
            Ok(fill.complete(checksum(&blob.location))?)
        });
        match kept {
            Ok(_) => metrics::HEAD_COMPANIONS.inc(),
            Err(error) => tracing::debug!(blob = %blob.blob, %error, "a companion is not kept"),
        }
    }
}

fn object(blob: &RemoteBlob) -> Option<&ObjectKey> {
    match &blob.location {
        Location::Stored { object, .. } => Some(object),
        Location::Staged { .. } => None,
    }
}

/// Where in its object a stored blob lies.
fn span(blob: &RemoteBlob) -> Option<Range<u64>> {
    match &blob.location {
        Location::Stored { offset, .. } => Some(*offset..offset + blob.bytes),
        Location::Staged { .. } => None,
    }
}
