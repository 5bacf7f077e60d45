//! Moves stored files into new objects, as [`repack`](super::repack) chooses them: read, checked, put, and told to the catalog under
//! the shard's epoch, which alone lets this node say where its files lie. Old objects go when their last file has left them, after
//! the grace that their readers have.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moorhouse_base::failpoint;
use moorhouse_catalog::{BlobId, Location, ObjectKey, PartPath, Relocation, TableShard, minted};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::intent::{changes, map};
use super::pack::{self, Packed};
use super::repack::{Picked, Reason, Tally};
use crate::fs::error::FsError;
use crate::fs::io::RemoteBlob;
use crate::fs::{Role, ShardFs};
use crate::limits;
use crate::metrics;

/// Objects of one page of a listing.
const LIST_PAGE: usize = 1_000;

/// Bytes of each object that a table shard has made.
type Sizes = HashMap<ObjectKey, u64>;

/// How often it looks, and how old a part is before its files are moved.
#[derive(Debug, Clone, Copy)]
pub struct RepackRule {
    pub every: Duration,
    pub settled: Duration,
}

impl Default for RepackRule {
    fn default() -> Self {
        Self { every: limits::REPACK_EVERY, settled: limits::REPACK_AGE }
    }
}

/// Looks for files that are worth moving, until stopped.
pub async fn run(fs: Arc<ShardFs>, rule: RepackRule, stop: CancellationToken) {
    let mut known: HashMap<TableShard, Sizes> = HashMap::new();
    let mut ticks = tokio::time::interval(rule.every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let written = fs.loaded(Role::Writer);
        known.retain(|ts, _| written.contains(ts));
        for ts in written {
            // Uploads that make room go first, and a stop does not wait for what can as well be done later.
            if stop.is_cancelled() || fs.pressure().hurries_uploads() {
                break;
            }
            match look(&fs, ts, known.entry(ts).or_default(), rule.settled).await {
                Ok(None) => {}
                Ok(Some((reason, moved))) => tracing::info!(%ts, ?reason, moved, "stored files were packed anew"),
                Err(FsError::Fenced(why)) => tracing::info!(%ts, why, "another node packs this shard's files"),
                Err(error) => tracing::warn!(%ts, %error, "stored files were not packed anew, trying again later"),
            }
        }
    }
}

/// One step in one table shard: why, and how many files were moved.
async fn look(
    fs: &ShardFs,
    ts: TableShard,
    known: &mut Sizes,
    settled: Duration,
) -> Result<Option<(Reason, usize)>, FsError> {
    // A table that is not loaded may share files without its names being seen.
    if !fs.all_loaded(ts.shard) {
        return Ok(None);
    }
    let mut tally = Tally::new(settled);
    tokio::task::block_in_place(|| fs.visit_stored(ts, |part| tally.add(&part)))?;
    // An object never changes: a listing is asked for, and paid, only when there are new ones.
    let prefix = minted::prefix(ts);
    if !tally.objects().filter(|object| object.as_str().starts_with(&prefix)).all(|object| known.contains_key(object)) {
        *known = list(fs, &prefix).await?;
    }
    let Some(choice) = tally.choose(known) else { return Ok(None) };
    let mut picked = Picked::default();
    tokio::task::block_in_place(|| fs.visit_stored(ts, |part| choice.pick(ts, &part, &mut picked)))?;
    let parts: Vec<PartPath> = picked.parts.iter().map(|part| part.part.clone()).collect();
    let mut moved = 0;
    for packed in pack::pack(&picked.parts) {
        moved += move_into_one(fs, ts, &packed, &parts, &picked.places).await?;
    }
    metrics::REPACKED_FILES.inc_by(moved as u64);
    Ok(Some((choice.reason, moved)))
}

/// Of the objects below the prefix.
async fn list(fs: &ShardFs, prefix: &str) -> Result<Sizes, FsError> {
    let mut sizes = Sizes::new();
    let mut after: Option<String> = None;
    loop {
        let page = fs.source.objects().list_page(prefix.trim_end_matches('/'), after.as_deref(), LIST_PAGE).await;
        let page = page.map_err(|error| FsError::Unavailable(error.to_string()))?;
        let is_last = page.len() < LIST_PAGE;
        after = page.last().map(|(key, _)| key.clone());
        sizes.extend(page.into_iter().filter_map(|(key, bytes)| Some((ObjectKey::new(key).ok()?, bytes))));
        if is_last {
            return Ok(sizes);
        }
    }
}

async fn move_into_one(
    fs: &ShardFs,
    ts: TableShard,
    packed: &Packed,
    parts: &[PartPath],
    places: &HashMap<BlobId, RemoteBlob>,
) -> Result<usize, FsError> {
    let key = minted::mint(ts, fs.clock.now_ms(), Uuid::new_v4()).map_err(|_| FsError::BadName)?;
    let old: Vec<&RemoteBlob> = packed.files.iter().filter_map(|file| places.get(&file.blob)).collect();
    fetch_neighbours(fs, &old).await;
    let mut body: Vec<Bytes> = Vec::with_capacity(old.len());
    let mut relocations = Vec::with_capacity(old.len());
    for (file, old) in packed.files.iter().zip(&old) {
        let content = map(&fs.source.fetch_whole(old).await?)?;
        let crc32c = crc32c::crc32c(&content);
        let is_right = matches!(&old.location, Location::Stored { crc32c: expected, .. } if *expected == crc32c);
        if content.len() as u64 != file.bytes || !is_right {
            return Err(FsError::Unavailable(format!("blob {} was not read as it was written", file.blob)));
        }
        body.push(content);
        let location = Location::Stored { object: key.clone(), offset: file.offset, crc32c };
        relocations.push(Relocation { blob: file.blob, location });
    }
    fs.uploads.throttle.take(packed.bytes()).await;
    let put = fs.source.objects().put(key.as_str(), body).await;
    metrics::UPLOAD_PUTS.inc_by(put.map_err(|error| FsError::Unavailable(error.to_string()))?.puts);
    metrics::REPACKED_BYTES.inc_by(packed.bytes());
    failpoint::reach("repack.after_put");
    let mut moved = 0;
    for change in changes(&relocations, &packed.files) {
        moved += fs.commit_moved(ts, parts, &change).await?;
        failpoint::reach("repack.after_commit");
    }
    Ok(moved)
}

/// Brings files that lie near each other in one object with one request. What does not come is fetched by itself.
async fn fetch_neighbours(fs: &ShardFs, blobs: &[&RemoteBlob]) {
    let mut by_object: BTreeMap<&ObjectKey, Vec<(u64, &RemoteBlob)>> = BTreeMap::new();
    for blob in blobs {
        if let Location::Stored { object, offset, .. } = &blob.location
            && blob.bytes <= limits::WHOLE_BLOB_BYTES
            && fs.source.cache().tenant(crate::blobs::key(blob.blob)).is_none()
        {
            by_object.entry(object).or_default().push((*offset, blob));
        }
    }
    for mut near in by_object.into_values() {
        near.sort_unstable_by_key(|(offset, _)| *offset);
        while let Some((start, first)) = near.first().copied() {
            let fits = |(offset, blob): &(u64, &RemoteBlob)| offset + blob.bytes <= start + limits::SHARED_HEAD_BYTES;
            let count = near.iter().take_while(|near| fits(near)).count().max(1);
            let others = near.drain(..count).skip(1).map(|(_, blob)| blob.clone()).collect();
            if let Err(error) = fs.source.fetch_together(first, others).await {
                tracing::debug!(blob = %first.blob, %error, "neighbours did not come together");
            }
        }
    }
}
