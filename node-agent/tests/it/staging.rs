//! What is staged waits for the object store: how rows are slowed and refused meanwhile, and what is uploaded in the end.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use moorhouse_catalog::Location;
use moorhouse_node_agent::upload::pressure::{self, Pressure};
use moorhouse_node_agent::upload::{self};
use nix::sys::statvfs::statvfs;
use tokio_util::sync::CancellationToken;

use crate::scripted::Rig;

const PATIENCE: Duration = Duration::from_secs(60);
const BUDGET: u64 = 4 << 20;

/// An object store that is away: nothing can be made where its directory was.
struct Away {
    objects: PathBuf,
    aside: PathBuf,
}

impl Away {
    fn from(rig: &Rig) -> Self {
        let objects = rig.objects();
        let aside = objects.with_extension("aside");
        fs::rename(&objects, &aside).unwrap();
        fs::write(&objects, "away").unwrap();
        Self { objects, aside }
    }

    fn come_back(self) {
        fs::remove_file(&self.objects).unwrap();
        fs::rename(self.aside, self.objects).unwrap();
    }
}

/// Uploads what is older than `settle`, and keeps the budget aware, until the token is cancelled.
fn start(rig: &Rig, settle: Duration) -> CancellationToken {
    let stop = CancellationToken::new();
    rig.runtime.spawn(upload::run(rig.fs.clone(), settle, stop.clone()));
    let watch = pressure::watch(rig.fs.clone());
    let stopped = stop.clone();
    rig.runtime.spawn(async move { stopped.run_until_cancelled_owned(watch).await });
    stop
}

fn wait(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn insert(rig: &Rig, number: u64) -> std::io::Result<()> {
    let name = format!("all_{number}_{number}_0");
    let inserted = rig.insert(&name, &vec![7; 256 << 10]);
    if inserted.is_err() {
        // As the engine does.
        fs::remove_dir_all(rig.dir().join(format!("tmp_insert_{name}"))).unwrap();
    }
    inserted
}

#[test]
fn rows_are_slowed_then_refused_and_go_on_when_the_store_is_back() {
    let rig = Rig::with_budget("etl", BUDGET);
    rig.fs.policy.set_staging_patience(Duration::from_millis(200));
    let away = Away::from(&rig);
    let stop = start(&rig, Duration::from_secs(3_600));
    let (mut accepted, mut times) = (0, Vec::new());
    let refused = loop {
        let begun = Instant::now();
        let inserted = insert(&rig, accepted + 1);
        let stats = rig.fs.cache_stats();
        assert!(stats.used_bytes <= BUDGET, "{stats:?}");
        match inserted {
            Ok(()) => times.push(begun.elapsed()),
            Err(error) => break error,
        }
        accepted += 1;
        assert!(accepted < 100, "the budget is never full: {stats:?}");
    };
    assert_eq!(refused.kind(), ErrorKind::StorageFull, "{refused}");
    assert!(accepted >= 13, "a budget of 4 MiB takes 80 % at full speed: {accepted}");
    let (first, last) = (times[1], times[times.len() - 1]);
    assert!(last > Duration::from_millis(500) && last > first * 2, "slower and slower: {times:?}");
    assert_eq!(rig.script.snapshot(rig.table).parts.len() as u64, accepted, "nothing half-applied");

    let told = statvfs(&rig.dir()).unwrap();
    assert_eq!(told.blocks() * told.fragment_size(), BUDGET);
    wait("statfs tells what is left", || {
        let told = statvfs(&rig.dir()).unwrap();
        let free = told.blocks_available() * told.fragment_size();
        free == BUDGET - rig.fs.cache_stats().staged_used_bytes && free < BUDGET / 5
    });

    away.come_back();
    wait("everything is uploaded without settling", || rig.fs.pressure() == Pressure::Easy);
    let begun = Instant::now();
    for number in 1..=4 {
        insert(&rig, accepted + number).unwrap();
    }
    assert!(begun.elapsed() < last, "at full speed again: {:?}", begun.elapsed());
    stop.cancel();
}

fn link_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::hard_link(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A node can be emptied: also bytes that only detached and frozen parts have go up.
#[test]
fn detached_and_frozen_parts_are_uploaded() {
    let rig = Rig::new("etl");
    rig.insert("all_1_1_0", b"detached").unwrap();
    fs::rename(rig.dir().join("all_1_1_0"), rig.dir().join("detached/all_1_1_0")).unwrap();
    rig.insert("all_2_2_0", b"frozen").unwrap();
    let table = rig.dir();
    let shard = table.ancestors().nth(3).unwrap();
    let frozen = shard.join("shadow/b").join(table.strip_prefix(shard).unwrap()).join("all_2_2_0");
    link_all(&table.join("all_2_2_0"), &frozen);
    // It is covered by an empty part, as DROP PARTITION does.
    rig.insert("all_2_2_1", b"").unwrap();
    fs::rename(table.join("all_2_2_0"), table.join("delete_tmp_all_2_2_0")).unwrap();
    fs::remove_dir_all(table.join("delete_tmp_all_2_2_0")).unwrap();
    rig.runtime.block_on(rig.fs.flush_letting()).unwrap();

    let stop = start(&rig, Duration::ZERO);
    wait("nothing is staged alone", || {
        let parts = rig.script.snapshot(rig.table).parts;
        let mut files = parts.iter().flat_map(|part| &part.files);
        parts.len() == 3 && files.all(|file| matches!(file.location, Location::Stored { .. }))
    });
    stop.cancel();
    rig.fs.drop_cached();
    assert_eq!(fs::read(frozen.join("data.bin")).unwrap(), b"frozen");
    assert_eq!(fs::read(table.join("detached/all_1_1_0/data.bin")).unwrap(), b"detached");
}
