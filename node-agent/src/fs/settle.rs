//! Which committed parts still wait for their upload, and what becomes of new rows while they fill staging.

use std::collections::HashSet;
use std::time::Duration;

use moorhouse_catalog::parts::PartInfo;
use moorhouse_catalog::{BlobId, Location, PartPath, TableShard, parts};

use super::error::FsError;
use super::tree::{Blob, Body, Ino, ROOT, Sealed, Tree};
use super::{ShardFs, place, table_path};
use crate::upload::pressure::Pressure;
use crate::{limits, metrics};

/// A part with bytes that only this node has.
#[derive(Debug, Clone)]
pub struct StagedPart {
    pub shard: TableShard,
    pub part: PartPath,
    pub age: Duration,
    /// The engine has written a part that replaces it, or is writing one.
    pub is_leaving: bool,
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
    /// Parts that a newer one covers are left out, unless asked for: they will be gone before an upload would pay, but until then
    /// they take room. Loose parts (detached, frozen) are among them once the catalog has them as they are: a node can be emptied
    /// only when nothing lies there alone.
    pub fn staged_parts(&self, shard: TableShard, with_covered: bool) -> Result<Vec<StagedPart>, FsError> {
        let tree = self.tree.read().expect("lock");
        let table = tree.resolve(ROOT, &table_path(shard))?;
        let entries = tree.entries(table)?;
        let dirs = || entries.iter().filter(|e| e.is_dir).map(|e| e.name.as_str());
        let active: HashSet<&str> = parts::active(dirs()).into_iter().collect();
        let merges: Vec<PartInfo> =
            dirs().filter_map(|name| PartInfo::parse(name.strip_prefix("tmp_merge_")?)).collect();
        let mut staged = Vec::new();
        for entry in entries.iter().filter(|entry| entry.is_dir) {
            let name = entry.name.as_str();
            let is_covered = !active.contains(name);
            let Some(part) = place::committed_part(&[name.to_string()]).filter(|_| with_covered || !is_covered) else {
                continue;
            };
            let is_merging = |part: PartInfo| merges.iter().any(|merged| merged.covers(&part));
            let is_leaving = is_covered || PartInfo::parse(name).is_some_and(is_merging);
            staged.extend(self.staged_part(&tree, (shard, part), entry.ino, is_leaving)?);
        }
        for (part, dir) in self.lasting_loose(&tree, shard)? {
            staged.extend(self.staged_part(&tree, (shard, part), dir, false)?);
        }
        Ok(staged)
    }

    /// None for a part without bytes that only this node has.
    fn staged_part(
        &self,
        tree: &Tree,
        (shard, part): (TableShard, PartPath),
        dir: Ino,
        is_leaving: bool,
    ) -> Result<Option<StagedPart>, FsError> {
        let mut files = Vec::new();
        for (path, ino) in tree.files_below(dir)? {
            if let Body::Blob(Blob { id, sealed: Some(Sealed { bytes, location: Location::Staged { node } }) }) =
                &tree.get(ino)?.body
                && *node == self.node
            {
                files.push(StagedFile { path, blob: *id, bytes: *bytes });
            }
        }
        let age = self.now().duration_since(tree.get(dir)?.mtime).unwrap_or_default();
        Ok((!files.is_empty()).then_some(StagedPart { shard, part, age, is_leaving, files }))
    }

    /// How full staging is, and what follows from it.
    pub fn pressure(&self) -> Pressure {
        let stats = self.cache.stats();
        Pressure::of(stats.staged_used_bytes, stats.budget_bytes)
    }

    /// Lets new rows wait as long as staging is too full for them, the longer the fuller; refuses them when there was no room
    /// for as long as the node's patience. Only for new rows: a merge makes room in the end, and must not wait for it.
    pub(super) async fn await_room(&self) -> Result<(), FsError> {
        let begun = tokio::time::Instant::now();
        let mut is_counted = false;
        loop {
            match self.pressure() {
                Pressure::Easy | Pressure::Hurried => return Ok(()),
                Pressure::Slowed(pause) if begun.elapsed() >= pause => return Ok(()),
                Pressure::Full if begun.elapsed() >= self.policy.staging_patience() => return Err(self.no_room()),
                Pressure::Slowed(_) | Pressure::Full => {}
            }
            if !std::mem::replace(&mut is_counted, true) {
                metrics::INSERTS_DELAYED.inc();
            }
            tokio::time::sleep(limits::STAGING_LOOK).await;
        }
    }

    fn no_room(&self) -> FsError {
        metrics::INSERTS_REFUSED.inc();
        let stats = self.cache.stats();
        FsError::NoSpace(format!(
            "{} of {} bytes wait for their upload: look whether the object store takes writes \
             (moorhouse_agent_uploads_unfinished), or give the node a larger --cache-bytes",
            stats.staged_used_bytes, stats.budget_bytes
        ))
    }
}
