//! Uploads settled parts: one object a part, then its place in the catalog, then the SSD's copy becomes cache.
//!
//! Settled means large, or left alone for the settling time: most small parts are merged away before and cost no PUT.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use moorhouse_catalog::{Location, ObjectKey, PartChange, Relocation};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::controller::Backoff;
use crate::fs::error::FsError;
use crate::fs::settle::{StagedFile, StagedPart};
use crate::fs::{Role, ShardFs};
use crate::limits;
use crate::metrics;

/// Looks for settled parts until stopped.
pub async fn run(fs: Arc<ShardFs>, settle: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(limits::SETTLE_SCAN);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut pause = Backoff::new(limits::UPLOAD_RETRY_FIRST, limits::UPLOAD_RETRY_LONGEST);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let mut waiting = 0;
        let mut settled = Vec::new();
        for ts in fs.loaded(Role::Writer) {
            // A shard may leave between the list and the look.
            let Ok(staged) = fs.staged_parts(ts) else { continue };
            waiting += staged.len();
            settled.extend(staged.into_iter().filter(|p| p.age >= settle || p.bytes() >= limits::SETTLED_BYTES));
        }
        metrics::STAGED_PARTS.set(waiting as i64);
        let tried = settled.len();
        let uploads = futures::stream::iter(settled).map(|part| upload_and_log(&fs, part));
        let uploaded = uploads.buffer_unordered(limits::PARALLEL_UPLOADS).take_until(stop.cancelled());
        let done = uploaded.filter(|done| std::future::ready(*done)).count().await;
        metrics::STAGED_PARTS.sub(done as i64);
        if done == tried {
            pause.reset();
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = pause.wait() => {}
        }
    }
}

async fn upload_and_log(fs: &ShardFs, part: StagedPart) -> bool {
    match upload(fs, &part).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(ts = %part.shard, part = %part.part, %error, "not uploaded yet");
            false
        }
    }
}

/// Packs, puts, re-locates. Repeating it after any failure is safe, but puts anew: nothing yet collects an object whose
/// relocation failed.
async fn upload(fs: &ShardFs, part: &StagedPart) -> Result<(), FsError> {
    let key = format!("parts/{}/{}/{}-{}", part.shard.table, part.shard.shard, part.part, Uuid::new_v4().simple());
    let object = ObjectKey::new(key.clone()).map_err(|_| FsError::BadName)?;
    let (body, relocated) = tokio::task::block_in_place(|| pack(fs, part, &object))?;
    let bytes: u64 = body.iter().map(|b| b.len() as u64).sum();
    let unavailable = |error: moorhouse_objects::ObjectsError| FsError::Unavailable(error.to_string());
    let report = fs.source.objects().put(&key, body).await.map_err(unavailable)?;
    metrics::UPLOAD_PUTS.inc_by(report.puts);
    metrics::UPLOAD_BYTES.inc_by(bytes);
    if !fs.has_part(part.shard, &part.part) {
        // Merged away meanwhile: nothing will ever refer to the object.
        return fs.source.objects().delete(&key).await.map_err(unavailable);
    }
    fs.commit(part.shard, PartChange { relocated: relocated.clone(), ..PartChange::default() }).await?;
    fs.relocate(&relocated)?;
    fs.release_staged(&part.files.iter().map(|f| f.blob).collect::<Vec<_>>());
    metrics::UPLOADED_PARTS.inc();
    tracing::debug!(ts = %part.shard, part = %part.part, bytes, "stored");
    Ok(())
}

/// Small files first, then marks, then data, so that one short read brings all that opening a part needs.
fn pack(fs: &ShardFs, part: &StagedPart, object: &ObjectKey) -> Result<(Vec<Bytes>, Vec<Relocation>), FsError> {
    let mut files: Vec<&StagedFile> = part.files.iter().collect();
    files.sort_by_key(|f| (rank(&f.path), f.path.clone()));
    let mut body = Vec::with_capacity(files.len());
    let mut relocated = Vec::with_capacity(files.len());
    let mut offset = 0;
    for file in files {
        let content = map(&fs.source.open_local(file.blob)?.ok_or(FsError::Lost(file.blob))?)?;
        if content.len() as u64 != file.bytes {
            tracing::error!(blob = %file.blob, expected = file.bytes, found = content.len(), "a staged file has another size than its manifest");
            return Err(FsError::Lost(file.blob));
        }
        let location = Location::Stored { object: object.clone(), offset, crc32c: crc32c::crc32c(&content) };
        relocated.push(Relocation { blob: file.blob, location });
        offset += file.bytes;
        body.push(content);
    }
    Ok((body, relocated))
}

/// A file's content without a copy of it: a large part must not take its size in memory.
fn map(file: &File) -> Result<Bytes, FsError> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: a committed blob's file never changes and is never truncated; unlinking it leaves the mapping good.
    let mapped = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(mapped))
}

fn rank(path: &str) -> u8 {
    if path.ends_with(".bin") {
        2
    } else if path.contains(".cmrk") || path.contains(".mrk") {
        1
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn an_object_begins_with_what_opening_a_part_reads() {
        let mut names = vec!["data.bin", "p.proj/data.bin", "checksums.txt", "data.cmrk4", "primary.cidx", "a.mrk2"];
        names.sort_by_key(|n| (rank(n), n.to_string()));
        assert_eq!(names, ["checksums.txt", "primary.cidx", "a.mrk2", "data.cmrk4", "data.bin", "p.proj/data.bin"]);
    }
}
