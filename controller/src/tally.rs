//! What the parts of a table shard come to, for people. Counted when it is asked for, and kept for as long as the table shard
//! stays at its version: so that asking again reads no part list.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use moorhouse_catalog::state::{Catalog, Shard};
use moorhouse_catalog::{Location, Manifest, PackedPart, PartPath, TableShard, Version};

use crate::error::ControllerError;
use crate::owner::Owner;

/// A part with what its table's other parts say about it.
pub struct PartRow {
    pub at: TableShard,
    pub path: PartPath,
    pub part: PackedPart,
    pub covered: bool,
}

impl PartRow {
    pub fn open(&self) -> Manifest {
        self.part.open(self.at, &self.path)
    }
}

pub fn is_stored(part: &Manifest) -> bool {
    part.files.iter().all(|file| matches!(file.location, Location::Stored { .. }))
}

/// Every part of a table shard. Shares the packed parts with the catalog, to be opened later: quick enough for the owner loop.
pub async fn part_rows(owner: &Owner, at: TableShard) -> Result<(Version, Vec<PartRow>), ControllerError> {
    let rows = move |_: &Catalog, shard: &Shard| {
        let active: BTreeSet<&str> = shard.active().into_iter().collect();
        let row = |(path, part): (&PartPath, &PackedPart)| PartRow {
            at,
            path: path.clone(),
            part: part.clone(),
            covered: !active.contains(path.as_str()),
        };
        (shard.version, shard.parts.iter().map(row).collect())
    };
    // Dropped since: it has no parts.
    Ok(owner.read_shard(at, rows).await?.unwrap_or((Version(0), Vec::new())))
}

/// Of the parts that no other covers, but for `covered`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub parts_staged: u64,
    pub parts_stored: u64,
    /// Parts that another stands for.
    pub covered: u64,
    pub rows: u64,
    pub bytes_staged: u64,
    pub bytes_stored: u64,
}

impl Tally {
    fn of(rows: &[PartRow]) -> Self {
        let mut tally = Self::default();
        for row in rows {
            if row.covered {
                tally.covered += 1;
                continue;
            }
            let part = row.open();
            if is_stored(&part) {
                tally.parts_stored += 1;
            } else {
                tally.parts_staged += 1;
            }
            tally.rows += part.rows;
            for file in &part.files {
                match file.location {
                    Location::Staged { .. } => tally.bytes_staged += file.bytes,
                    Location::Stored { .. } => tally.bytes_stored += file.bytes,
                }
            }
        }
        tally
    }
}

/// As many as there are table shards.
#[derive(Default)]
pub struct Tallies(Mutex<HashMap<TableShard, (Version, Tally)>>);

impl Tallies {
    /// Of every table shard that was written and that `wanted` picks, in order.
    pub async fn of(
        &self,
        owner: &Owner,
        wanted: impl Fn(&TableShard) -> bool,
    ) -> Result<Vec<(TableShard, Version, Tally)>, ControllerError> {
        let versions: Vec<(TableShard, Version)> =
            owner.read(|catalog| catalog.live_shards().map(|(at, shard)| (at, shard.version)).collect()).await?;
        self.lock().retain(|at, _| versions.binary_search_by_key(at, |(at, _)| *at).is_ok());
        let mut found = Vec::new();
        for (at, version) in versions.into_iter().filter(|(at, _)| wanted(at)) {
            let known = self.lock().get(&at).copied().filter(|(of, _)| *of == version);
            let (version, tally) = match known {
                Some(known) => known,
                None => {
                    let (version, rows) = part_rows(owner, at).await?;
                    let counted = (version, Tally::of(&rows));
                    self.lock().insert(at, counted);
                    counted
                }
            };
            found.push((at, version, tally));
        }
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TableShard, (Version, Tally)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
