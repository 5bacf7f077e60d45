//! Loss of power at any moment: what was acknowledged is there and whole, and nothing else is there.
//!
//! The volume is a [`disk`] that forgets what was not synced; statements go through the kernel's mount of the shard file system
//! on it, so their bytes reach it by passthrough. The controller is another machine: it keeps its power.

mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use moorhouse_cache::{BlobCache, BlobKey, Tenant};
use moorhouse_catalog::{ShardId, TableId, TableShard};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::scripted::{Rig, Script};
use disk::{Disk, Heeds, Platter};

const SEEDS: u64 = 12;
/// How often the power goes for each seed.
const LIVES: u64 = 4;
/// Changes and syncs of the disk: the first life makes the directories of the cache, 514 or so.
const FIRST_LIFE: u64 = 800;
const LATER_LIFE: u64 = 250;
const BUDGET_BYTES: u64 = 1 << 30;

type Files = BTreeMap<String, Vec<u8>>;

/// What a client knows.
struct Client {
    random: StdRng,
    script: Arc<Script>,
    table: TableShard,
    blocks: u64,
    /// Of every part that was ever begun.
    written: BTreeMap<String, Files>,
    /// Parts whose rename has answered, and that have not been asked to go.
    acknowledged: BTreeSet<String>,
}

#[test]
fn what_was_acknowledged_outlives_the_power() {
    let acknowledged: usize = (0..SEEDS).map(|seed| lives(seed, Heeds::All).unwrap()).sum();
    assert!(acknowledged > 2 * SEEDS as usize, "only {acknowledged} parts were acknowledged: little was tried");
}

/// Were a sync missing, the test above would say so.
#[test]
fn a_disk_that_does_not_heed_syncs_is_found_out() {
    for heeds in [Heeds::FilesAlone, Heeds::DirectoriesAlone] {
        let found = (0..SEEDS).find_map(|seed| lives(seed, heeds).err());
        assert!(found.is_some(), "{heeds:?}: nothing was lost");
    }
}

/// How many parts are there in the end; or what is wrong.
fn lives(seed: u64, heeds: Heeds) -> Result<usize, String> {
    let mut client = Client::new(seed);
    let mut platter = Platter::empty(heeds);
    for life in 0..LIVES {
        let most = if life == 0 { FIRST_LIFE } else { LATER_LIFE };
        let left = client.random.random_range(0..most);
        platter = client.live(platter, left).map_err(|error| format!("seed {seed}, life {life}: {error}"))?;
    }
    client.live(platter, u64::MAX).map_err(|error| format!("seed {seed}, at last: {error}"))?;
    Ok(client.acknowledged.len())
}

impl Client {
    fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            script: Arc::default(),
            table: TableShard { table: TableId::random(), shard: ShardId(0) },
            blocks: 0,
            written: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
        }
    }

    /// Starts a node on what is left, looks what it has, and writes until the power goes.
    fn live(&mut self, platter: Platter, left: u64) -> Result<Platter, String> {
        let volume = tempfile::tempdir().unwrap();
        let disk = Disk::mount(platter, volume.path(), left);
        match BlobCache::open(&volume.path().join("blobs"), BUDGET_BYTES) {
            Err(error) if !disk.is_off() => return Err(format!("the cache does not open: {error}")),
            Err(_) => {}
            Ok(cache) => {
                let rig = Rig::on_cache(self.script.clone(), self.table, cache.clone());
                if !disk.is_off() {
                    self.look(&rig, &cache)?;
                }
                if let Err(error) = self.write(&rig)
                    && !disk.is_off()
                {
                    return Err(format!("with the power on: {error}"));
                }
                disk.cut();
            }
        }
        Ok(disk.power_loss(self.random.random()))
    }

    /// What is shown is what the controller knows, all of it whole, and all that was acknowledged is among it.
    fn look(&self, rig: &Rig, cache: &BlobCache) -> Result<(), String> {
        let parts = self.script.snapshot(self.table).parts;
        // Before a read does: that would look for moved bytes for half a minute.
        let files = parts.iter().flat_map(|part| part.files.iter().map(move |file| (&part.part, file)));
        for (part, file) in files {
            if cache.tenant(BlobKey::from(file.blob.0)) != Some(Tenant::Staged) {
                return Err(format!("{} of {part} is gone", file.path));
            }
        }
        let committed: BTreeSet<String> = parts.iter().map(|part| part.part.to_string()).collect();
        let listed = fs::read_dir(rig.dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let shown: BTreeSet<String> =
            listed.filter(|name| name != "detached" && name != "format_version.txt").collect();
        if shown != committed {
            return Err(format!("{shown:?} are shown, {committed:?} are committed"));
        }
        let lost: Vec<_> = self.acknowledged.difference(&shown).collect();
        if !lost.is_empty() {
            return Err(format!("{lost:?} were acknowledged, and are not there"));
        }
        for part in &shown {
            match read_all(&rig.dir().join(part)) {
                Ok(files) if files == self.written[part] => {}
                Ok(_) => return Err(format!("{part} has other bytes than were written")),
                Err(error) => return Err(format!("{part}: {error}")),
            }
        }
        Ok(())
    }

    fn write(&mut self, rig: &Rig) -> std::io::Result<()> {
        for _ in 0..self.random.random_range(2..8) {
            self.blocks += 1;
            let part = format!("all_{0}_{0}_0", self.blocks);
            self.write_part(rig, "tmp_insert_", part)?;
            if self.random.random_bool(0.3) {
                self.merge(rig)?;
            }
        }
        Ok(())
    }

    /// All parts into one, as OPTIMIZE does, and then the old ones go.
    fn merge(&mut self, rig: &Rig) -> std::io::Result<()> {
        let old = std::mem::take(&mut self.acknowledged);
        let level = self.written.keys().filter_map(|part| part.rsplit('_').next()?.parse::<u32>().ok()).max().unwrap();
        let merged = self.write_part(rig, "tmp_merge_", format!("all_1_{}_{}", self.blocks, level + 1));
        if merged.is_err() {
            self.acknowledged.extend(old);
            return merged;
        }
        for part in old {
            let going = rig.dir().join(format!("delete_tmp_{part}"));
            fs::rename(rig.dir().join(&part), &going)?;
            fs::remove_dir_all(&going)?;
        }
        rig.runtime.block_on(rig.fs.flush_letting()).map_err(std::io::Error::other)
    }

    fn write_part(&mut self, rig: &Rig, prefix: &str, part: String) -> std::io::Result<()> {
        let files = self.content();
        self.written.insert(part.clone(), files.clone());
        let progress = rig.dir().join(format!("{prefix}{part}"));
        fs::create_dir(&progress)?;
        for (name, bytes) in &files {
            fs::write(progress.join(name), bytes)?;
        }
        fs::rename(&progress, rig.dir().join(&part))?;
        self.acknowledged.insert(part);
        Ok(())
    }

    fn content(&mut self) -> Files {
        let mut files = Files::from([("count.txt".to_string(), b"7".to_vec())]);
        for name in ["a.bin", "b.bin", "c.cmrk2", "checksums.txt"] {
            let longest = if self.random.random_bool(0.2) { 300_000 } else { 2_000 };
            let bytes =
                (0..self.random.random_range(1..longest)).map(|_| self.random.random_range(1..=u8::MAX)).collect();
            files.insert(name.to_string(), bytes);
        }
        files
    }
}

fn read_all(dir: &Path) -> std::io::Result<Files> {
    fs::read_dir(dir)?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().into_string().unwrap(), fs::read(entry.path())?))
        })
        .collect()
}
