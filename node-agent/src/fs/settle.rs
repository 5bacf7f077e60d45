//! Which committed parts still wait for their upload.

use std::time::{Duration, SystemTime};

use moorhouse_catalog::parts::PartInfo;
use moorhouse_catalog::{BlobId, Location, PartPath, TableShard, parts};

use super::error::FsError;
use super::tree::{Blob, Body, ROOT, Sealed};
use super::{ShardFs, place, table_path};
use crate::{limits, metrics};

/// An active part with bytes that only this node has.
#[derive(Debug)]
pub struct StagedPart {
    pub shard: TableShard,
    pub part: PartPath,
    pub age: Duration,
    /// The engine is writing a part that will replace it.
    pub is_merging: bool,
    /// The staged files alone, in name order: what shares an object already is not sent again.
    pub files: Vec<StagedFile>,
}

#[derive(Debug, Clone)]
pub struct StagedFile {
    pub path: String,
    pub blob: BlobId,
    pub bytes: u64,
}

impl StagedPart {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }
}

impl ShardFs {
    /// Parts that a newer one covers are left out: they will be gone before an upload would pay.
    pub fn staged_parts(&self, shard: TableShard) -> Result<Vec<StagedPart>, FsError> {
        let now: SystemTime = self.now();
        let tree = self.tree.read().expect("lock");
        let table = tree.resolve(ROOT, &table_path(shard))?;
        let entries = tree.entries(table)?;
        let dirs = || entries.iter().filter(|e| e.is_dir).map(|e| e.name.as_str());
        let active = parts::active(dirs());
        let merges: Vec<PartInfo> =
            dirs().filter_map(|name| PartInfo::parse(name.strip_prefix("tmp_merge_")?)).collect();
        let mut staged = Vec::new();
        for name in active {
            let Some(part) = place::committed_part(&[name.to_string()]) else { continue };
            let dir = tree.child(table, name)?;
            let mut files = Vec::new();
            for (path, ino) in tree.files_below(dir)? {
                if let Body::Blob(Blob { id, sealed: Some(Sealed { bytes, location: Location::Staged { .. } }) }) =
                    &tree.get(ino)?.body
                {
                    files.push(StagedFile { path, blob: *id, bytes: *bytes });
                }
            }
            if !files.is_empty() {
                let age = now.duration_since(tree.get(dir)?.mtime).unwrap_or_default();
                let info = PartInfo::parse(name);
                let is_merging = info.is_some_and(|part| merges.iter().any(|merged| merged.covers(&part)));
                staged.push(StagedPart { shard, part, age, is_merging, files });
            }
        }
        Ok(staged)
    }

    /// Whether staging is so full that everything is uploaded without waiting for it to settle.
    pub fn is_pressed(&self) -> bool {
        self.staged_percent() >= limits::STAGING_SOFT_PERCENT
    }

    /// Waits until staging has room for more rows, for at most [`limits::STAGING_PATIENCE`]. Only for new rows: a merge
    /// makes room in the end, and must not wait for it.
    pub(super) async fn await_room(&self) -> Result<(), FsError> {
        if self.staged_percent() < limits::STAGING_HARD_PERCENT {
            return Ok(());
        }
        metrics::INSERTS_DELAYED.inc();
        let deadline = tokio::time::Instant::now() + limits::STAGING_PATIENCE;
        while self.staged_percent() >= limits::STAGING_HARD_PERCENT {
            if tokio::time::Instant::now() >= deadline {
                metrics::INSERTS_REFUSED.inc();
                let stats = self.cache.stats();
                return Err(FsError::NoSpace(format!(
                    "{} of {} bytes wait for their upload: look whether the object store takes writes \
                     (moorhouse_agent_uploads_unfinished), or give the node a larger --cache-bytes",
                    stats.staged_bytes, stats.budget_bytes
                )));
            }
            tokio::time::sleep(limits::STAGING_LOOK).await;
        }
        Ok(())
    }

    fn staged_percent(&self) -> u64 {
        let stats = self.cache.stats();
        stats.staged_bytes.saturating_mul(100) / stats.budget_bytes.max(1)
    }
}
