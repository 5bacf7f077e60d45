//! What all stages stand on: one etcd, and a directory.

use std::path::{Path, PathBuf};

use super::etcd::Etcd;
use super::process::{LEADER_TTL, Place};
use crate::error::BenchError;

pub struct Ground {
    // Dropped before the directory is removed.
    pub etcd: Etcd,
    scratch: PathBuf,
}

impl Ground {
    /// Empties `scratch`.
    pub async fn prepare(scratch: &Path) -> Result<Self, BenchError> {
        let scratch = std::path::absolute(scratch).map_err(BenchError::io("cannot place the scratch directory"))?;
        if scratch.exists() {
            std::fs::remove_dir_all(&scratch).map_err(BenchError::io(format!("cannot empty {}", scratch.display())))?;
        }
        let etcd = Etcd::start(&scratch).await?;
        Ok(Self { etcd, scratch })
    }

    pub fn objects_url(&self, name: &str) -> String {
        format!("file://{}/objects-{name}", self.scratch.display())
    }

    pub fn place<'a>(&'a self, store_url: &'a str, objects_url: &'a str) -> Place<'a> {
        Place { store_url, objects_url, dir: &self.scratch }
    }

    /// A leader that was killed leads no more after this.
    pub async fn wait_for_lease(&self) {
        tokio::time::sleep(LEADER_TTL + LEADER_TTL / 2).await;
    }

    pub fn clear_away(self) {
        let Self { etcd, scratch } = self;
        drop(etcd);
        // What is left costs space alone; the next run empties it.
        let _ = std::fs::remove_dir_all(scratch);
    }
}
