//! What a part's bytes need besides a sync of this node's disk, before its commit may answer: by its table's durability.

use std::collections::HashMap;

use moorhouse_catalog::{BlobId, Durability, Location, Manifest, Relocation, TableShard};

use super::ShardFs;
use super::error::FsError;
use crate::{copies, upload};

impl ShardFs {
    /// Makes the bytes as safe as the table asks for, and notes it in the manifest. Answers with the files' new places where
    /// they have some: the same commit must tell them.
    pub(super) async fn secure(&self, ts: TableShard, manifest: &mut Manifest) -> Result<Vec<Relocation>, FsError> {
        match self.policy.durability(ts.table) {
            Durability::Local => Ok(Vec::new()),
            Durability::Replicated => {
                let keepers = self.policy.keepers(ts);
                manifest.copies = copies::replicate(&self.source, &self.node, &keepers, ts, &manifest.files).await?;
                Ok(Vec::new())
            }
            Durability::Object => {
                let relocated = upload::store_now(self, ts, manifest).await?;
                let places: HashMap<BlobId, &Location> = relocated.iter().map(|r| (r.blob, &r.location)).collect();
                for file in &mut manifest.files {
                    if let Some(place) = places.get(&file.blob) {
                        file.location = Location::clone(place);
                    }
                }
                Ok(relocated)
            }
        }
    }

    /// After the commit: the files' places, and their staged bytes as cache.
    pub(super) fn note_stored(&self, relocated: &[Relocation]) -> Result<(), FsError> {
        self.relocate(relocated)?;
        self.release_staged(&relocated.iter().map(|relocation| relocation.blob).collect::<Vec<_>>());
        Ok(())
    }
}
