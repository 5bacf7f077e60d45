//! Proves that catalog, bucket and the nodes' staging agree, or finds where they do not.
//!
//! The catalog changes meanwhile. So everything is looked at in this order: the catalog, then the bucket and the nodes, and
//! what seems wrong then is looked at a second time before it counts as found.

mod deep;
mod staged;

use std::collections::HashMap;
use std::sync::Arc;

use moorhouse_base::clock::Clock;
use moorhouse_catalog::state::orphans::ObjectUse;
use moorhouse_catalog::state::{Catalog, Shard};
use moorhouse_catalog::{FileEntry, Location, Manifest, ObjectKey, PackedPart, PartPath, TableShard};
use moorhouse_objects::Objects;
use moorhouse_proto::{FsckEvent, FsckFinding, FsckRequest, FsckSummary};
use tokio::sync::mpsc;
use tonic::Status;

use crate::agents::Agents;
use crate::limits;
use crate::owner::Owner;
use crate::sweeper::orphans::{Walk, WalkError};

/// What a check works with.
pub struct Fsck {
    pub owner: Owner,
    pub objects: Objects,
    pub agents: Arc<Agents>,
    pub clock: Arc<dyn Clock>,
}

type Events = mpsc::Sender<Result<FsckEvent, Status>>;

/// A file of a part, as the catalog had it when the check began.
#[derive(Debug, Clone)]
struct Reference {
    at: TableShard,
    part: Arc<Manifest>,
    /// Its place in the manifest.
    file: usize,
}

impl Reference {
    fn file(&self) -> &FileEntry {
        &self.part.files[self.file]
    }

    fn subject(&self) -> String {
        format!("{} part {} file {}", self.at, self.part.part, self.file().path)
    }
}

/// Findings, told as they come and counted.
struct Report {
    events: Events,
    summary: FsckSummary,
}

impl Report {
    async fn find(&mut self, finding: FsckFinding) {
        self.summary.findings += 1;
        self.summary.repaired += u64::from(finding.repaired);
        if self.summary.findings <= limits::FSCK_FINDINGS as u64 {
            // Whoever asked may have left: the check then ends at its next step.
            let _ = self.events.send(Ok(FsckEvent { finding: Some(finding), summary: None })).await;
        }
    }

    async fn end(self) {
        let _ = self.events.send(Ok(FsckEvent { finding: None, summary: Some(self.summary) })).await;
    }
}

impl Fsck {
    /// A whole check. Its findings and its summary go to `events`, or the error that broke it off.
    pub async fn run(&self, request: FsckRequest, events: Events) {
        let summary = FsckSummary { deep: request.deep, ..FsckSummary::default() };
        let mut report = Report { events: events.clone(), summary };
        match self.check(&request, &mut report).await {
            Ok(()) => report.end().await,
            Err(error) => {
                let _ = events.send(Err(Status::unavailable(format!("the check was broken off: {error}")))).await;
            }
        }
    }

    async fn check(&self, request: &FsckRequest, report: &mut Report) -> Result<(), WalkError> {
        let references = self.references(report).await?;
        let bucket = self.walk_bucket(request.repair, report).await?;
        let (stored, staged): (Vec<_>, Vec<_>) =
            references.into_iter().partition(|reference| matches!(reference.file().location, Location::Stored { .. }));
        report.summary.files_stored = stored.len() as u64;
        report.summary.files_staged = staged.len() as u64;
        self.check_stored(&stored, &bucket, report).await?;
        self.check_staged(staged, request.deep, report).await?;
        if request.deep {
            self.check_content(stored, report).await?;
        }
        Ok(())
    }

    async fn references(&self, report: &mut Report) -> Result<Vec<Reference>, WalkError> {
        let mut parts = Vec::new();
        for at in self.owner.table_shards().await? {
            let packed = move |_: &Catalog, shard: &Shard| {
                shard.parts.iter().map(|(path, part)| (at, path.clone(), part.clone())).collect::<Vec<_>>()
            };
            // Dropped since: it has no parts.
            parts.extend(self.owner.read_shard(at, packed).await?.unwrap_or_default());
        }
        report.summary.parts = parts.len() as u64;
        let files = |(at, path, part): (TableShard, PartPath, PackedPart)| {
            let part = Arc::new(part.open(at, &path));
            (0..part.files.len()).map(move |file| Reference { at, part: Arc::clone(&part), file })
        };
        Ok(parts.into_iter().flat_map(files).collect())
    }

    /// Sizes of all objects of parts; tells what nothing refers to, and deletes it if asked to.
    async fn walk_bucket(&self, repair: bool, report: &mut Report) -> Result<HashMap<ObjectKey, u64>, WalkError> {
        let mut sizes = HashMap::new();
        let mut walk = Walk::new(&self.objects);
        while let Some(page) = walk.next(&self.owner, &*self.clock).await? {
            for listed in page {
                report.summary.objects += 1;
                report.summary.object_bytes += listed.bytes;
                match listed.used {
                    ObjectUse::Referred => {}
                    ObjectUse::Doomed => report.summary.objects_doomed += 1,
                    ObjectUse::Fresh => report.summary.objects_fresh += 1,
                    ObjectUse::Orphan => {
                        if repair {
                            self.objects.delete(listed.key.as_str()).await?;
                        }
                        let detail = format!("{} bytes of a broken upload, which nothing refers to", listed.bytes);
                        report.find(finding("orphan", listed.key.as_str(), detail, "delete the object", repair)).await;
                    }
                    ObjectUse::Foreign => {
                        let detail =
                            "nothing refers to it, and its name is not of this version's making: look at it, and \
                                      delete it by hand"
                                .to_owned();
                        report.find(finding("foreign", listed.key.as_str(), detail, "", false)).await;
                    }
                }
                sizes.insert(listed.key, listed.bytes);
            }
        }
        Ok(sizes)
    }

    /// Every stored file lies inside its object.
    async fn check_stored(
        &self,
        stored: &[Reference],
        bucket: &HashMap<ObjectKey, u64>,
        report: &mut Report,
    ) -> Result<(), WalkError> {
        for reference in stored {
            let Some((object, end)) = span(reference.file()) else { continue };
            if bucket.get(object).is_some_and(|size| *size >= end) {
                continue;
            }
            // It may have been deleted since, with its last reference; or put since, by a re-packing.
            let size = self.objects.size(object.as_str()).await?;
            if size.is_some_and(|size| size >= end) || !self.still_refers(reference).await? {
                continue;
            }
            let (kind, detail) = match size {
                None => ("missing", format!("its object {object} is not in the bucket")),
                Some(size) => ("short", format!("its object {object} has {size} bytes, the file ends at {end}")),
            };
            report.find(finding(kind, &reference.subject(), detail, "", false)).await;
        }
        Ok(())
    }

    /// Whether the catalog still has the file in that place.
    async fn still_refers(&self, reference: &Reference) -> Result<bool, WalkError> {
        let (at, part, file) = (reference.at, reference.part.part.clone(), reference.file().clone());
        let there = self.owner.read_shard(at, move |_, shard| {
            shard.manifest(at, &part).is_some_and(|manifest| manifest.files.contains(&file))
        });
        Ok(there.await?.unwrap_or(false))
    }
}

/// The object that a stored file lies in, and where it ends there.
fn span(file: &FileEntry) -> Option<(&ObjectKey, u64)> {
    match &file.location {
        Location::Stored { object, offset, .. } => Some((object, offset + file.bytes)),
        Location::Staged { .. } => None,
    }
}

fn finding(kind: &str, subject: &str, detail: String, repair: &str, repaired: bool) -> FsckFinding {
    FsckFinding { kind: kind.to_owned(), subject: subject.to_owned(), detail, repair: repair.to_owned(), repaired }
}
