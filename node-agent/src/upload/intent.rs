//! One object on its way: its name and its content are fixed before the first byte is sent, so that every step can be
//! repeated until it is known to have happened.
//!
//! Put, commit, release, in this order. The put is verified by the store itself: every request carries the SHA-256 of
//! its body in its signature, and a store refuses a body with another one. Each file's CRC-32C goes into the catalog, and
//! is verified by whoever reads the file whole. A large object goes up in pieces, each verified as a put is; what has been
//! sent is noted on the SSD, and is not sent again, also by the next process.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use moorhouse_base::failpoint;
use moorhouse_catalog::ids::InvalidId;
use moorhouse_catalog::{BlobId, Location, ObjectKey, PartChange, Relocation, TableShard, minted};
use moorhouse_objects::{Begun, ObjectsError, PIECES_IN_FLIGHT};
use uuid::Uuid;

use super::journal::Noted;
use super::pack::{Packed, PackedFile};
use crate::controller::Backoff;
use crate::fs::ShardFs;
use crate::fs::error::FsError;
use crate::limits;
use crate::metrics;

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// In the bucket and in the catalog.
    Stored,
    /// Nobody will ever refer to this object; if it was put, the controller deletes it.
    InVain,
    /// To be tried again as it is.
    Again,
}

/// An object between its plan and the catalog.
#[derive(Debug)]
pub struct Intent {
    shard: TableShard,
    key: ObjectKey,
    made_ms: u64,
    packed: Packed,
    /// An upload in pieces that has begun.
    begun: Option<Begun>,
    /// The files' places, once the object is in the bucket.
    put: Option<Vec<Relocation>>,
}

impl Intent {
    pub fn new(shard: TableShard, packed: Packed, now_ms: u64) -> Result<Self, InvalidId> {
        let key = minted::mint(shard, now_ms, Uuid::new_v4())?;
        Ok(Self { shard, key, made_ms: now_ms, packed, begun: None, put: None })
    }

    /// What an earlier process has begun.
    pub fn resume(noted: Noted) -> Self {
        let packed = noted.packed();
        let made_ms = minted::minted_ms(&noted.key).unwrap_or_default();
        let Noted { shard, key, begun, .. } = noted;
        metrics::UPLOAD_PIECES_SPARED.inc_by(begun.sent() as u64);
        Self { shard, key, made_ms, packed, begun: Some(begun), put: None }
    }

    pub fn shard(&self) -> TableShard {
        self.shard
    }

    pub fn blobs(&self) -> impl Iterator<Item = BlobId> + '_ {
        self.packed.files.iter().map(|file| file.blob)
    }

    pub fn bytes(&self) -> u64 {
        self.packed.bytes()
    }

    pub fn has_put(&self) -> bool {
        self.put.is_some()
    }

    /// Of how many parts this object holds the first file.
    pub fn parts_begun_here(&self) -> usize {
        self.packed.parts_begun
    }

    /// Goes on from where it is; gives itself back with how that ended.
    pub async fn run(mut self, fs: &ShardFs) -> (Self, Outcome) {
        let outcome = match self.advance(fs).await {
            Ok(()) => {
                let bytes = self.packed.bytes();
                let parts = self.packed.parts_begun;
                tracing::debug!(ts = %self.shard, object = %self.key, parts, bytes, "stored");
                metrics::UPLOADED_PARTS.inc_by(parts as u64);
                Outcome::Stored
            }
            Err(error) => self.judge(fs, &error),
        };
        (self, outcome)
    }

    fn judge(&self, fs: &ShardFs, error: &FsError) -> Outcome {
        let (ts, object) = (self.shard, &self.key);
        match error {
            FsError::Fenced(_) => {
                tracing::info!(%ts, %object, %error, "the shard has another writer: it uploads what is left");
                Outcome::InVain
            }
            FsError::Lost(_) if self.put.is_none() => {
                tracing::debug!(%ts, %object, %error, "merged away before its upload");
                Outcome::InVain
            }
            FsError::Refused(_) | FsError::Lost(_) => {
                tracing::warn!(%ts, %object, %error, "an upload is given up; what is still staged gets a new one");
                Outcome::InVain
            }
            // The catalog takes a name only for a while: after a long outage the object gets a new one.
            _ if self.age(fs) > limits::INTENT_LONGEST => {
                tracing::warn!(%ts, %object, %error, "an upload took too long: it starts again under a new name");
                Outcome::InVain
            }
            _ => {
                tracing::warn!(%ts, %object, %error, has_put = self.has_put(), "not uploaded yet");
                metrics::UPLOAD_RETRIES.inc();
                Outcome::Again
            }
        }
    }

    fn age(&self, fs: &ShardFs) -> Duration {
        Duration::from_millis(fs.clock.now_ms().saturating_sub(self.made_ms))
    }

    async fn advance(&mut self, fs: &ShardFs) -> Result<(), FsError> {
        if self.put.is_none() {
            self.put = Some(self.send(fs).await?);
        }
        let relocations = self.put.as_deref().unwrap_or_default();
        failpoint::reach("upload.after_put");
        for change in changes(relocations, &self.packed.files) {
            fs.commit(self.shard, PartChange { relocated: change.clone(), ..PartChange::default() }).await?;
            failpoint::reach("upload.after_commit");
            fs.relocate(&change)?;
            fs.release_staged(&change.iter().map(|relocation| relocation.blob).collect::<Vec<_>>());
        }
        failpoint::reach("upload.after_release");
        self.forget(fs).await;
        Ok(())
    }

    /// Puts the object, again and again while the store is away, for at most [`limits::OBJECT_PATIENCE`]. An upload in pieces
    /// whose part is then not committed is given up.
    pub async fn send_patiently(&mut self, fs: &ShardFs) -> Result<Vec<Relocation>, FsError> {
        let mut pause = Backoff::new(limits::COMMIT_RETRY_FIRST, limits::COMMIT_RETRY_LONGEST);
        loop {
            match self.send(fs).await {
                Err(error @ FsError::Unavailable(_)) if self.age(fs) < limits::OBJECT_PATIENCE => {
                    tracing::warn!(ts = %self.shard, object = %self.key, %error, "a commit waits for the object store");
                    metrics::UPLOAD_RETRIES.inc();
                    pause.wait().await;
                }
                Ok(relocations) => {
                    self.forget(fs).await;
                    return Ok(relocations);
                }
                Err(error) => {
                    self.give_up(fs).await;
                    return Err(error);
                }
            }
        }
    }

    async fn send(&mut self, fs: &ShardFs) -> Result<Vec<Relocation>, FsError> {
        let (body, relocations) = tokio::task::block_in_place(|| self.read(fs))?;
        failpoint::reach("upload.before_put");
        let started = Instant::now();
        let (objects, bytes) = (fs.source.objects(), self.packed.bytes());
        if objects.takes_pieces_of(bytes) {
            self.send_in_pieces(fs, body).await?;
        } else {
            fs.uploads.throttle.take(bytes).await;
            let put = objects.put(self.key.as_str(), body).await;
            let report = put.map_err(|error| FsError::Unavailable(error.to_string()))?;
            metrics::UPLOAD_PUTS.inc_by(report.puts);
        }
        metrics::UPLOAD_BYTES.inc_by(bytes);
        metrics::UPLOAD_SECONDS.observe(started.elapsed().as_secs_f64());
        Ok(relocations)
    }

    /// Sends the pieces that the store does not have yet, some at a time, each noted as soon as it is there; then makes the
    /// object of them.
    async fn send_in_pieces(&mut self, fs: &ShardFs, body: Vec<Bytes>) -> Result<(), FsError> {
        let objects = fs.source.objects();
        let mut begun = match self.begun.take() {
            Some(begun) => begun,
            None => {
                let begun = objects.begin(self.key.as_str(), self.packed.bytes()).await;
                metrics::UPLOAD_PUTS.inc_by(2);
                begun.map_err(|error| FsError::Unavailable(error.to_string()))?
            }
        };
        self.note(fs, &begun);
        let sent = self.send_missing(fs, &mut begun, body).await;
        let completed = match sent {
            Ok(()) => {
                failpoint::reach("upload.before_complete");
                metrics::UPLOAD_PUTS.inc();
                objects.complete(self.key.as_str(), &begun).await
            }
            Err(error) => Err(error),
        };
        match completed {
            // An earlier try may have completed it without our hearing of it.
            Err(ObjectsError::NotFound { .. }) => {
                let size = objects.size(self.key.as_str()).await;
                if size.map_err(|error| FsError::Unavailable(error.to_string()))? != Some(self.packed.bytes()) {
                    self.forget(fs).await;
                    return Err(FsError::Unavailable("the store has forgotten the upload: it starts anew".to_owned()));
                }
            }
            Err(error) => {
                self.begun = Some(begun);
                return Err(FsError::Unavailable(error.to_string()));
            }
            Ok(()) => {}
        }
        self.begun = Some(begun);
        Ok(())
    }

    async fn send_missing(&self, fs: &ShardFs, begun: &mut Begun, body: Vec<Bytes>) -> Result<(), ObjectsError> {
        let (objects, upload) = (fs.source.objects(), begun.clone());
        let is_broken = AtomicBool::new(false);
        let sends = upload.missing(body).into_iter().map(|piece| {
            let (key, upload, is_broken) = (self.key.as_str(), &upload, &is_broken);
            async move {
                if is_broken.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                fs.uploads.throttle.take(piece.bytes()).await;
                metrics::UPLOAD_PUTS.inc();
                let sent = objects.send_piece(key, upload, piece).await;
                is_broken.fetch_or(sent.is_err(), Ordering::Relaxed);
                sent.map(Some)
            }
        });
        let mut sends = futures::stream::iter(sends).buffer_unordered(PIECES_IN_FLIGHT);
        let mut outcome = Ok(());
        // Those that are under way when one fails still count when they get through.
        while let Some(sent) = sends.next().await {
            match sent {
                Ok(None) => {}
                Ok(Some(sent)) => {
                    begun.note(sent);
                    self.note(fs, begun);
                    failpoint::reach("upload.after_piece");
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// So that a process that follows can go on. Without the note it starts anew.
    fn note(&self, fs: &ShardFs, begun: &Begun) {
        let Some(journal) = fs.uploads.journal() else { return };
        let noted = Noted::new(self.shard, &self.key, &self.packed, begun);
        if let Err(error) = tokio::task::block_in_place(|| journal.save(&noted)) {
            tracing::warn!(object = %self.key, %error, "an upload cannot be noted: after a restart it would start anew");
        }
    }

    /// Nothing is left to resume.
    async fn forget(&mut self, fs: &ShardFs) {
        if self.begun.take().is_none() {
            return;
        }
        if let Some(Err(error)) = fs.uploads.journal().map(|journal| journal.forget(&self.key)) {
            tracing::warn!(object = %self.key, %error, "the note of an ended upload stays until the next start");
        }
        if let Err(error) = fs.source.objects().forget_note(self.key.as_str()).await {
            tracing::info!(object = %self.key, %error, "the note of an ended upload is left to the controller's sweeper");
        }
    }

    /// The object will not be: takes away what there is of it.
    pub async fn give_up(&mut self, fs: &ShardFs) {
        if self.put.is_none()
            && let Some(begun) = &self.begun
            && let Err(error) = fs.source.objects().give_up(self.key.as_str(), begun).await
        {
            tracing::info!(object = %self.key, %error, "a broken upload is left to the controller's sweeper");
        }
        self.forget(fs).await;
    }

    /// The object's body, file after file, and each file's place in it.
    fn read(&self, fs: &ShardFs) -> Result<(Vec<Bytes>, Vec<Relocation>), FsError> {
        let mut body = Vec::with_capacity(self.packed.files.len());
        let mut relocations = Vec::with_capacity(self.packed.files.len());
        for file in &self.packed.files {
            let content = map(&fs.source.open_local(file.blob)?.ok_or(FsError::Lost(file.blob))?)?;
            if content.len() as u64 != file.bytes {
                let found = content.len();
                tracing::error!(blob = %file.blob, expected = file.bytes, found, "a staged file has another size than its manifest");
                return Err(FsError::Lost(file.blob));
            }
            let crc32c = crc32c::crc32c(&content);
            let location = Location::Stored { object: self.key.clone(), offset: file.offset, crc32c };
            relocations.push(Relocation { blob: file.blob, location });
            body.push(content);
        }
        Ok((body, relocations))
    }
}

/// Cuts an object's relocations into commits that the metadata store takes: each of few parts, whose manifests it rewrites,
/// and of few relocations. A part is in one of them unless it alone has too many files.
pub(super) fn changes(relocations: &[Relocation], files: &[PackedFile]) -> Vec<Vec<Relocation>> {
    let mut by_part: BTreeMap<usize, Vec<Relocation>> = BTreeMap::new();
    for (relocation, file) in relocations.iter().zip(files) {
        by_part.entry(file.part).or_default().push(relocation.clone());
    }
    let mut cut: Vec<Vec<Relocation>> = Vec::new();
    let mut parts = 0;
    for mut of_part in by_part.into_values() {
        let fits = |change: &Vec<Relocation>| change.len() + of_part.len() <= limits::RELOCATIONS_A_COMMIT;
        match cut.last_mut().filter(|change| parts < limits::PARTS_A_COMMIT && fits(change)) {
            Some(change) => {
                change.append(&mut of_part);
                parts += 1;
            }
            None => {
                cut.extend(of_part.chunks(limits::RELOCATIONS_A_COMMIT).map(<[_]>::to_vec));
                parts = 1;
            }
        }
    }
    cut
}

/// A file's content without a copy of it: a large part must not take its size in memory.
pub(super) fn map(file: &File) -> Result<Bytes, FsError> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: a committed blob's file never changes and is never truncated; unlinking it leaves the mapping good.
    let mapped = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(mapped))
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn file(part: usize) -> (Relocation, PackedFile) {
        let blob = BlobId::random();
        let object = ObjectKey::new("parts/x").expect("valid");
        let location = Location::Stored { object, offset: 0, crc32c: 0 };
        (Relocation { blob, location }, PackedFile { part, blob, bytes: 1, offset: 0 })
    }

    #[test]
    fn commits_are_of_few_parts_and_few_files() {
        for (parts, files) in
            [(1, 3), (100, 12), (3, limits::RELOCATIONS_A_COMMIT), (1, limits::RELOCATIONS_A_COMMIT * 2 + 1)]
        {
            // As an object has them: the heads of all parts, then what follows.
            let all = (0..files).flat_map(|_| (0..parts).map(file));
            let (relocations, packed): (Vec<_>, Vec<_>) = all.unzip();
            let cut = changes(&relocations, &packed);
            let part_of: HashMap<BlobId, usize> = packed.iter().map(|file| (file.blob, file.part)).collect();
            for change in &cut {
                let sharing: HashSet<usize> = change.iter().map(|relocation| part_of[&relocation.blob]).collect();
                assert!(sharing.len() <= limits::PARTS_A_COMMIT && change.len() <= limits::RELOCATIONS_A_COMMIT);
            }
            let mut committed: Vec<_> = cut.concat().into_iter().map(|relocation| relocation.blob).collect();
            let mut wanted: Vec<_> = packed.iter().map(|file| file.blob).collect();
            committed.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(committed, wanted);
            assert!(
                cut.len()
                    <= (parts * files)
                        .div_ceil(limits::RELOCATIONS_A_COMMIT)
                        .max(parts.div_ceil(limits::PARTS_A_COMMIT))
                        + 2
            );
        }
    }
}
