//! Uploads settled parts: packed into objects, then their place in the catalog, then the SSD's copies become cache.
//!
//! Reading order: [`settled`] says which parts are worth it, [`pack`] how they share objects (both pure), [`intent`] takes
//! one object from its plan to the catalog, [`journal`] keeps what the next process needs to go on with a large one. An intent is
//! remembered until it is done or in vain: a put whose commit is uncertain is committed again, never put again. What a process
//! that died has put in vain, the controller sweeps. [`pressure`] says what becomes of new rows while uploads do not keep up. [`repack`] and
//! [`repacking`] move what is stored once its objects are mostly dead, or its parts' heads scattered.

mod intent;
mod journal;
mod pack;
pub mod pressure;
pub mod repack;
pub mod repacking;
mod settled;
mod throttle;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use moorhouse_catalog::{BlobId, FileEntry, Location, Manifest, Relocation, TableShard};
use tokio_util::sync::CancellationToken;

use crate::blobs::key;
use crate::controller::Backoff;
use crate::fs::error::FsError;
use crate::fs::settle::{StagedFile, StagedPart};
use crate::fs::{Role, ShardFs};
use crate::limits;
use crate::metrics;
use intent::{Intent, Outcome};
use journal::{Journal, Noted};
use moorhouse_cache::Tenant;
pub use settled::SettleRule;
use throttle::Throttle;

/// What all uploads of a node share.
#[derive(Debug, Default)]
pub struct Uploads {
    throttle: Throttle,
    journal: OnceLock<Journal>,
}

impl Uploads {
    /// Once, at the start. Before it nothing is noted, and nothing limited.
    pub fn configure(&self, notes: &Path, bytes_per_second: Option<NonZeroU64>) -> std::io::Result<()> {
        if let Some(rate) = bytes_per_second {
            self.throttle.limit(rate);
        }
        let _ = self.journal.set(Journal::open(notes)?);
        Ok(())
    }

    /// 0: none.
    pub fn limit_bytes_per_second(&self) -> u64 {
        self.throttle.rate().map_or(0, NonZeroU64::get)
    }

    fn journal(&self) -> Option<&Journal> {
        self.journal.get()
    }
}

/// Puts what is staged of a part that is about to be committed, and answers with the files' places: the part's own commit is
/// to tell them. Tries again for a while when the object store is away.
pub(crate) async fn store_now(fs: &ShardFs, ts: TableShard, manifest: &Manifest) -> Result<Vec<Relocation>, FsError> {
    let staged = |file: &&FileEntry| matches!(&file.location, Location::Staged { node } if *node == fs.node);
    let files = manifest.files.iter().filter(staged);
    let files = files.map(|f| StagedFile { path: f.path.to_string(), blob: f.blob, bytes: f.bytes }).collect();
    let part = StagedPart { shard: ts, part: manifest.part.clone(), age: Duration::ZERO, is_leaving: false, files };
    let mut relocations = Vec::new();
    for packed in pack::pack(std::slice::from_ref(&part)) {
        let mut intent = Intent::new(ts, packed, fs.clock.now_ms()).map_err(|_| FsError::BadName)?;
        relocations.extend(intent.send_patiently(fs).await?);
    }
    Ok(relocations)
}

/// Looks for settled parts until stopped.
pub async fn run(fs: Arc<ShardFs>, rule: impl Into<SettleRule>, stop: CancellationToken) {
    let mut uploader = Uploader { fs, rule: rule.into(), intents: Vec::new() };
    uploader.resume().await;
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
        // Somebody waits for room: the store's return must not go unseen for long.
        let waiting = async {
            if uploader.fs.pressure().slows_rows() {
                tokio::time::sleep(limits::UPLOAD_RETRY_FIRST).await;
            } else {
                pause.wait().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = waiting => {}
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
    /// Takes up what an earlier process has left: uploads of bytes that are still here.
    async fn resume(&mut self) {
        let Some(journal) = self.fs.uploads.journal() else { return };
        let noted: Vec<Noted> = match journal.load() {
            Ok(noted) => noted,
            Err(error) => {
                tracing::warn!(%error, "the notes of earlier uploads cannot be read: they start anew");
                return;
            }
        };
        for noted in noted {
            let mut intent = Intent::resume(noted);
            let is_staged = |blob: BlobId| self.fs.source.cache().tenant(key(blob)) == Some(Tenant::Staged);
            if intent.blobs().all(is_staged) {
                self.intents.push(intent);
            } else {
                intent.give_up(&self.fs).await;
            }
        }
    }

    /// One look at what is staged, and everything that is due. False if something must be tried again.
    async fn round(&mut self, stop: &CancellationToken) -> bool {
        let loaded: HashSet<TableShard> = self.fs.loaded(Role::Writer).into_iter().collect();
        let staged = self.scan(&loaded);
        metrics::STAGED_PARTS.set(staged.values().map(Vec::len).sum::<usize>() as i64);
        self.give_up_vain(&loaded, &staged).await;
        self.plan(staged);
        // A table that is not loaded would be, with the old places, while they change.
        let (begun, waiting) =
            std::mem::take(&mut self.intents).into_iter().partition(|intent| loaded.contains(&intent.shard()));
        self.intents = waiting;
        let fs = &self.fs;
        // Stopping lets what is under way end at its next step; an intent that is dropped before its put costs nothing.
        let runs = futures::stream::iter::<Vec<Intent>>(begun).map(|intent| async move {
            if stop.is_cancelled() { (intent, Outcome::Again) } else { intent.run(fs).await }
        });
        let ended: Vec<(Intent, Outcome)> = runs.buffer_unordered(limits::PARALLEL_UPLOADS).collect().await;
        let mut is_done = true;
        for (mut intent, outcome) in ended {
            match outcome {
                Outcome::Stored => metrics::STAGED_PARTS.sub(intent.parts_begun_here() as i64),
                Outcome::InVain => intent.give_up(&self.fs).await,
                Outcome::Again => {
                    is_done = false;
                    self.intents.push(intent);
                }
            }
        }
        metrics::UPLOADS_UNFINISHED.set(self.intents.len() as i64);
        is_done
    }

    fn scan(&self, loaded: &HashSet<TableShard>) -> HashMap<TableShard, Vec<StagedPart>> {
        let mut staged = HashMap::new();
        let with_covered = self.fs.pressure().slows_rows();
        for ts in loaded {
            // A shard may leave between the list and the look.
            let Ok(parts) = self.fs.staged_parts(*ts, with_covered) else { continue };
            if !parts.is_empty() {
                staged.insert(*ts, parts);
            }
        }
        staged
    }

    /// Drops intents that are not in the bucket yet and would store what has been merged away meanwhile.
    async fn give_up_vain(&mut self, loaded: &HashSet<TableShard>, staged: &HashMap<TableShard, Vec<StagedPart>>) {
        let here: HashSet<BlobId> = staged.values().flatten().flat_map(|p| &p.files).map(|f| f.blob).collect();
        let is_vain = |intent: &mut Intent| {
            let is_known = loaded.contains(&intent.shard());
            is_known && !intent.has_put() && !intent.blobs().all(|blob| here.contains(&blob))
        };
        let vain: Vec<Intent> = self.intents.extract_if(.., is_vain).collect();
        for mut intent in vain {
            intent.give_up(&self.fs).await;
        }
    }

    fn plan(&mut self, staged: HashMap<TableShard, Vec<StagedPart>>) {
        let under_way: HashSet<BlobId> = self.intents.iter().flat_map(Intent::blobs).collect();
        let is_hurried = self.fs.pressure().hurries_uploads();
        for (ts, mut parts) in staged {
            for part in &mut parts {
                part.files.retain(|file| !under_way.contains(&file.blob));
            }
            parts.retain(|part| !part.files.is_empty());
            let chosen = self.rule.of_table(&self.fs.policy.storage(ts.table)).choose(parts, is_hurried);
            for packed in pack::pack(&chosen) {
                match Intent::new(ts, packed, self.fs.clock.now_ms()) {
                    Ok(intent) => self.intents.push(intent),
                    Err(error) => tracing::error!(%ts, %error, "no name can be made for an object"),
                }
            }
        }
        if is_hurried {
            // What makes the most room goes first.
            self.intents.sort_by_key(|intent| Reverse(intent.bytes()));
        }
    }
}
