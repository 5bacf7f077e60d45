//! [`Objects`]: what the rest of Moorhouse may do with the object store, with its limits and its accounting.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::door::{Created, Door, S3Credentials};
use crate::error::ObjectsError;
use crate::metrics::{self, Method, observed};
use crate::url::{ObjectsUrl, Place};

/// Bodies above this go up in pieces.
pub const MULTIPART_ABOVE_BYTES: u64 = 64 << 20;
/// Size of each piece but the last.
pub const PIECE_BYTES: u64 = 16 << 20;
/// Pieces of one body under way at once.
pub const PIECES_IN_FLIGHT: usize = 4;

/// Opening gives up after this.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
const MARKER: &str = "moorhouse.json";
const MARKER_FORMAT: u32 = 1;

/// The objects below one URL. Cheap to clone; all clones share one connection pool.
///
/// Keys are relative to the URL's prefix, with `/` between segments. A put is durable and visible to every reader when it
/// returns. Each request is tried again for at most some seconds when the store is unreachable or overloaded, then fails
/// with an error for which [`ObjectsError::is_passing`] is true: whoever can wait longer repeats the call.
#[derive(Clone)]
pub struct Objects {
    pub(crate) door: Arc<Door>,
}

/// What a put cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutReport {
    /// Requests that a store bills as writes. 1, or for a body in pieces: pieces + 2 (begin and completion).
    pub puts: u64,
}

#[derive(Serialize, Deserialize)]
struct Marker {
    warehouse: Uuid,
    format: u32,
}

impl Objects {
    /// Opens the place and asks it one question, so that a wrong address, bucket or credential is told now: within 10 s.
    /// A `file://` directory is created if absent. S3 credentials come from the `AWS_…` environment variables.
    pub async fn open(url: &ObjectsUrl) -> Result<Self, ObjectsError> {
        Self::open_door(url, None).await
    }

    /// Like [`Objects::open`], with the credentials given instead of taken from the environment. `file://` ignores them.
    pub async fn open_with_credentials(url: &ObjectsUrl, credentials: S3Credentials) -> Result<Self, ObjectsError> {
        Self::open_door(url, Some(credentials)).await
    }

    /// Objects that end with their last clone: for tests that must not wait for a disk.
    pub fn in_memory() -> Self {
        Self { door: Arc::new(Door::in_memory()) }
    }

    /// Makes this prefix the warehouse's own, or confirms that it already is; [`ObjectsError::OtherWarehouse`] if it is
    /// another's. The marker is put only if absent and read back, so that of two racing warehouses at most one succeeds
    /// on a store with conditional puts. On a store that ignores the condition, the loser of a race is only found out
    /// when it claims again, at its next start.
    pub async fn claim(&self, warehouse: Uuid) -> Result<(), ObjectsError> {
        if let Some(found) = self.fetch_marker().await? {
            return self.expect_own(&found, warehouse);
        }
        let marker = Marker { warehouse, format: MARKER_FORMAT };
        let body = serde_json::to_vec(&marker).map_err(|error| self.bad_marker(error.to_string()))?;
        let created = observed(Method::Put, self.door.put_if_absent(MARKER, body.into())).await?;
        match (created, self.fetch_marker().await?) {
            (_, Some(found)) => self.expect_own(&found, warehouse),
            (Created::New, None) => Err(self.bad_marker("it vanished right after it was put".to_owned())),
            (Created::Existed, None) => Err(self.bad_marker("it exists but cannot be found".to_owned())),
        }
    }

    /// Puts one object, replacing what was there. Above [`MULTIPART_ABOVE_BYTES`] in pieces: nothing is visible until
    /// the last step, and a failure takes the pieces away again. If the returned future is dropped in the middle, the
    /// pieces stay in an S3 bucket, invisible but billed, until its clean-up of unfinished uploads.
    pub async fn put(&self, key: &str, body: Vec<Bytes>) -> Result<PutReport, ObjectsError> {
        let bytes: u64 = body.iter().map(|chunk| chunk.len() as u64).sum();
        if bytes > MULTIPART_ABOVE_BYTES {
            return self.put_in_pieces(key, cut(body, PIECE_BYTES)).await;
        }
        observed(Method::Put, self.door.put(key, body)).await?;
        metrics::moved(Method::Put, bytes);
        Ok(PutReport { puts: 1 })
    }

    /// Exactly `len` bytes from `offset`; [`ObjectsError::Short`] if the object ends before. Zero bytes cost no request.
    pub async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Bytes, ObjectsError> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let bytes = observed(Method::Get, self.door.get_range(key, offset, len)).await?;
        metrics::moved(Method::Get, bytes.len() as u64);
        Ok(bytes)
    }

    /// Deletes one object. An absent one is fine.
    pub async fn delete(&self, key: &str) -> Result<(), ObjectsError> {
        observed(Method::Delete, self.door.delete(key)).await
    }

    /// Keys and sizes in bytes below `prefix`, sorted by key; `""` lists everything. The prefix is whole segments: `a/b`
    /// lists `a/b/c` but not `a/bc`.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, ObjectsError> {
        let mut found = observed(Method::List, self.door.list(prefix)).await?;
        found.sort_unstable();
        Ok(found)
    }

    /// As [`Objects::list`], up to `limit` of them behind the key `after`: a bucket of any size is read page by page. Fewer
    /// than `limit` are the last ones. The prefix is not empty.
    pub async fn list_page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, u64)>, ObjectsError> {
        observed(Method::List, self.door.list_page(prefix, after, limit)).await
    }

    /// An object's size in bytes; `None` if there is none.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, ObjectsError> {
        observed(Method::Get, self.door.size(key)).await
    }

    async fn open_door(url: &ObjectsUrl, credentials: Option<S3Credentials>) -> Result<Self, ObjectsError> {
        let door = match &url.0 {
            Place::Directory(path) => Door::open_directory(path)?,
            Place::Bucket(bucket) => Door::open_bucket(bucket, credentials)?,
        };
        let objects = Self { door: Arc::new(door) };
        match tokio::time::timeout(OPEN_DEADLINE, objects.fetch_marker_bytes()).await {
            Ok(Ok(_)) => Ok(objects),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ObjectsError::Unreachable {
                place: objects.door.place().to_owned(),
                reason: format!("no answer within {} s", OPEN_DEADLINE.as_secs()),
            }),
        }
    }

    async fn put_in_pieces(&self, key: &str, pieces: Vec<Vec<Bytes>>) -> Result<PutReport, ObjectsError> {
        let mut upload = observed(Method::Put, self.door.begin_upload(key)).await?;
        let count = pieces.len() as u64;
        // Each piece's number is taken when its future is made, so they are made in order and only run in parallel.
        let mut sends = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let bytes: u64 = piece.iter().map(|chunk| chunk.len() as u64).sum();
            let send = upload.put_piece(piece);
            sends.push(async move {
                observed(Method::Put, send).await?;
                metrics::moved(Method::Put, bytes);
                Ok::<(), ObjectsError>(())
            });
        }
        let sent = stream::iter(sends).buffer_unordered(PIECES_IN_FLIGHT).try_collect::<Vec<()>>().await;
        let completed = match sent {
            Ok(_) => observed(Method::Put, upload.complete()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = completed {
            // The first error is the one to tell; pieces that stay are for the bucket's own clean-up.
            let _ = upload.abort().await;
            return Err(error);
        }
        Ok(PutReport { puts: count + 2 })
    }

    async fn fetch_marker_bytes(&self) -> Result<Option<Bytes>, ObjectsError> {
        let fetched = observed(Method::Get, async {
            match self.door.get(MARKER).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(ObjectsError::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await?;
        Ok(fetched)
    }

    async fn fetch_marker(&self) -> Result<Option<Marker>, ObjectsError> {
        let Some(bytes) = self.fetch_marker_bytes().await? else { return Ok(None) };
        let marker: Marker = serde_json::from_slice(&bytes).map_err(|error| self.bad_marker(error.to_string()))?;
        if marker.format != MARKER_FORMAT {
            return Err(
                self.bad_marker(format!("format {} is unknown, this version knows {MARKER_FORMAT}", marker.format))
            );
        }
        Ok(Some(marker))
    }

    fn expect_own(&self, found: &Marker, wanted: Uuid) -> Result<(), ObjectsError> {
        if found.warehouse == wanted {
            return Ok(());
        }
        Err(ObjectsError::OtherWarehouse { place: self.door.place().to_owned(), found: found.warehouse, wanted })
    }

    fn bad_marker(&self, reason: String) -> ObjectsError {
        ObjectsError::BadMarker { place: self.door.place().to_owned(), reason }
    }
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Objects").field(&self.door.place()).finish()
    }
}

/// Cuts a body into pieces of `piece_bytes` (the last may be shorter) without copying it.
pub(crate) fn cut(body: Vec<Bytes>, piece_bytes: u64) -> Vec<Vec<Bytes>> {
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    let mut room = piece_bytes;
    for mut chunk in body {
        while chunk.has_remaining() {
            let take = room.min(chunk.len() as u64);
            piece.push(chunk.split_to(usize::try_from(take).expect("not above the chunk's length")));
            room -= take;
            if room == 0 {
                pieces.push(std::mem::take(&mut piece));
                room = piece_bytes;
            }
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_cut_into_even_pieces_in_order() {
        let all: Vec<u8> = (0..250).collect();
        for chunk in [1, 7, 40, 99, 250] {
            let body = all.chunks(chunk).map(Bytes::copy_from_slice).collect();
            let pieces = cut(body, 40);
            let sizes: Vec<usize> = pieces.iter().map(|piece| piece.iter().map(Bytes::len).sum()).collect();
            assert_eq!(sizes, [40, 40, 40, 40, 40, 40, 10]);
            assert_eq!(pieces.concat().concat(), all);
        }
        assert!(cut(vec![Bytes::new()], 40).is_empty());
    }
}
