//! Which committed parts still wait for their upload.

use std::time::{Duration, SystemTime};

use moorhouse_catalog::{BlobId, Location, PartPath, TableShard, parts};

use super::error::FsError;
use super::tree::{Blob, Body, ROOT, Sealed};
use super::{ShardFs, place, table_path};

/// An active part with bytes that only this node has.
#[derive(Debug)]
pub struct StagedPart {
    pub shard: TableShard,
    pub part: PartPath,
    pub age: Duration,
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
        let active = parts::active(entries.iter().filter(|e| e.is_dir).map(|e| e.name.as_str()));
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
                staged.push(StagedPart { shard, part, age, files });
            }
        }
        Ok(staged)
    }

    /// Whether the part is still there.
    pub fn has_part(&self, ts: TableShard, part: &PartPath) -> bool {
        let tree = self.tree.read().expect("lock");
        tree.resolve(ROOT, &table_path(ts)).and_then(|table| tree.child(table, part.as_str())).is_ok()
    }
}
