//! Uploads settled parts: packed into objects, then their place in the catalog, then the SSD's copies become cache.
//!
//! Reading order: [`settled`] says which parts are worth it, [`pack`] how they share objects (both pure), [`intent`] takes
//! one object from its plan to the catalog. An intent is remembered until it is done or in vain: a put whose commit is
//! uncertain is committed again, never put again. What a process that died has put in vain, the controller sweeps.

mod intent;
mod pack;
mod settled;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use moorhouse_catalog::{BlobId, FileEntry, Location, Manifest, Relocation, TableShard};
use tokio_util::sync::CancellationToken;

use crate::controller::Backoff;
use crate::fs::error::FsError;
use crate::fs::settle::{StagedFile, StagedPart};
use crate::fs::{Role, ShardFs};
use crate::limits;
use crate::metrics;
use intent::{Intent, Outcome};
pub use settled::SettleRule;

/// Puts what is staged of a part that is about to be committed, and answers with the files' places: the part's own commit is
/// to tell them. Tries again for a while when the object store is away.
pub(crate) async fn store_now(fs: &ShardFs, ts: TableShard, manifest: &Manifest) -> Result<Vec<Relocation>, FsError> {
    let staged = |file: &&FileEntry| matches!(&file.location, Location::Staged { node } if *node == fs.node);
    let files = manifest.files.iter().filter(staged);
    let files = files.map(|f| StagedFile { path: f.path.to_string(), blob: f.blob, bytes: f.bytes }).collect();
    let part = StagedPart { shard: ts, part: manifest.part.clone(), age: Duration::ZERO, is_merging: false, files };
    let mut relocations = Vec::new();
    for packed in pack::pack(std::slice::from_ref(&part)) {
        let intent = Intent::new(ts, packed, fs.clock.now_ms()).map_err(|_| FsError::BadName)?;
        relocations.extend(intent.send_patiently(fs).await?);
    }
    Ok(relocations)
}

/// Looks for settled parts until stopped.
pub async fn run(fs: Arc<ShardFs>, rule: impl Into<SettleRule>, stop: CancellationToken) {
    let mut uploader = Uploader { fs, rule: rule.into(), intents: Vec::new() };
    let mut ticks = tokio::time::interval(limits::SETTLE_SCAN);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut pause = Backoff::new(limits::UPLOAD_RETRY_FIRST, limits::UPLOAD_RETRY_LONGEST);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if uploader.round(&stop).await {
            pause.reset();
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = pause.wait() => {}
        }
    }
}

struct Uploader {
    fs: Arc<ShardFs>,
    rule: SettleRule,
    /// Begun and not ended: each blob is in one of them at most.
    intents: Vec<Intent>,
}

impl Uploader {
    /// One look at what is staged, and everything that is due. False if something must be tried again.
    async fn round(&mut self, stop: &CancellationToken) -> bool {
        let staged = self.scan();
        metrics::STAGED_PARTS.set(staged.values().map(Vec::len).sum::<usize>() as i64);
        self.forget_vain(&staged);
        self.plan(staged);
        let begun = std::mem::take(&mut self.intents);
        let fs = &self.fs;
        // Stopping lets what is under way end at its next step; an intent that is dropped before its put costs nothing.
        let runs = futures::stream::iter(begun).map(|intent| async move {
            if stop.is_cancelled() { (intent, Outcome::Again) } else { intent.run(fs).await }
        });
        let ended: Vec<(Intent, Outcome)> = runs.buffer_unordered(limits::PARALLEL_UPLOADS).collect().await;
        for (intent, outcome) in ended {
            match outcome {
                Outcome::Stored => metrics::STAGED_PARTS.sub(intent.parts_begun_here() as i64),
                Outcome::InVain => {}
                Outcome::Again => self.intents.push(intent),
            }
        }
        metrics::UPLOADS_UNFINISHED.set(self.intents.len() as i64);
        self.intents.is_empty()
    }

    fn scan(&self) -> HashMap<TableShard, Vec<StagedPart>> {
        let mut staged = HashMap::new();
        for ts in self.fs.loaded(Role::Writer) {
            // A shard may leave between the list and the look.
            let Ok(parts) = self.fs.staged_parts(ts) else { continue };
            if !parts.is_empty() {
                staged.insert(ts, parts);
            }
        }
        staged
    }

    /// Drops intents that have cost nothing yet and would store what has been merged away meanwhile.
    fn forget_vain(&mut self, staged: &HashMap<TableShard, Vec<StagedPart>>) {
        let here: HashSet<BlobId> = staged.values().flatten().flat_map(|p| &p.files).map(|f| f.blob).collect();
        self.intents.retain(|intent| intent.has_put() || intent.blobs().all(|blob| here.contains(&blob)));
    }

    fn plan(&mut self, staged: HashMap<TableShard, Vec<StagedPart>>) {
        let under_way: HashSet<BlobId> = self.intents.iter().flat_map(Intent::blobs).collect();
        let pressed = self.fs.is_pressed();
        for (ts, mut parts) in staged {
            for part in &mut parts {
                part.files.retain(|file| !under_way.contains(&file.blob));
            }
            parts.retain(|part| !part.files.is_empty());
            let chosen = self.rule.of_table(&self.fs.policy.storage(ts.table)).choose(parts, pressed);
            for packed in pack::pack(&chosen) {
                match Intent::new(ts, packed, self.fs.clock.now_ms()) {
                    Ok(intent) => self.intents.push(intent),
                    Err(error) => tracing::error!(%ts, %error, "no name can be made for an object"),
                }
            }
        }
    }
}
