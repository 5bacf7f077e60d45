//! What is stored is packed anew: half-dead objects give their live files away, and scattered heads come together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use moorhouse_catalog::{Location, ObjectKey};
use moorhouse_node_agent::upload::repack::Tally;
use moorhouse_node_agent::upload::repacking::{self, RepackRule};
use moorhouse_node_agent::upload::{self};
use tokio_util::sync::CancellationToken;

use crate::scripted::Rig;

/// More than the objects that may have the heads of few parts each.
const PARTS: usize = 26;
const PATIENCE: Duration = Duration::from_secs(60);

fn wait(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn upload(rig: &Rig) -> CancellationToken {
    let stop = CancellationToken::new();
    rig.runtime.spawn(upload::run(rig.fs.clone(), Duration::ZERO, stop.clone()));
    stop
}

fn repack(rig: &Rig) -> CancellationToken {
    let stop = CancellationToken::new();
    let rule = RepackRule { every: Duration::from_millis(50), settled: Duration::ZERO };
    rig.runtime.spawn(repacking::run(rig.fs.clone(), rule, stop.clone()));
    stop
}

/// The files of each object that the catalog refers to; staged ones have none.
fn objects_of(rig: &Rig) -> BTreeMap<Option<ObjectKey>, Vec<String>> {
    let mut files: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for part in rig.script.snapshot(rig.table).parts {
        for file in part.files {
            let object = match file.location {
                Location::Stored { object, .. } => Some(object),
                Location::Staged { .. } => None,
            };
            files.entry(object).or_default().push(format!("{}/{}", part.part, file.path));
        }
    }
    files
}

fn all_stored(rig: &Rig) -> bool {
    !objects_of(rig).contains_key(&None)
}

fn content(number: usize) -> Vec<u8> {
    (0..5_000).map(|at| (at * 31 + number * 7) as u8).collect()
}

fn remove(rig: &Rig, name: &str) {
    let (from, to) = (rig.dir().join(name), rig.dir().join(format!("delete_tmp_{name}")));
    fs::rename(from, &to).unwrap();
    fs::remove_dir_all(to).unwrap();
}

#[test]
fn heads_of_parts_that_were_uploaded_one_by_one_come_together() {
    let rig = Rig::new("etl");
    let stop = upload(&rig);
    for number in 1..=PARTS {
        rig.insert(&format!("all_{number}_{number}_0"), &content(number)).unwrap();
        wait("it is stored", || all_stored(&rig));
    }
    stop.cancel();
    assert_eq!(objects_of(&rig).len(), PARTS, "an object each");
    let heads = |rig: &Rig| {
        let is_head = |files: &&Vec<String>| files.iter().any(|file| file.ends_with("count.txt"));
        objects_of(rig).values().filter(is_head).count()
    };
    let stop = repack(&rig);
    wait("their heads are together", || heads(&rig) == 1);
    stop.cancel();

    rig.fs.drop_cached();
    assert_eq!(fs::read(rig.dir().join("all_1_1_0/count.txt")).unwrap(), b"7");
    assert_eq!(rig.fs.cache_stats().cached_blobs, PARTS as u64, "one request has brought the heads of all parts");
    for number in 1..=PARTS {
        let data = fs::read(rig.dir().join(format!("all_{number}_{number}_0/data.bin"))).unwrap();
        assert_eq!(data, content(number));
    }
}

#[test]
fn an_object_that_is_mostly_dead_gives_its_live_files_away() {
    let rig = Rig::new("etl");
    for number in 1..=8 {
        rig.insert(&format!("all_{number}_{number}_0"), &content(number)).unwrap();
    }
    let stop = upload(&rig);
    wait("they are stored", || all_stored(&rig));
    stop.cancel();
    let before: BTreeSet<_> = objects_of(&rig).into_keys().collect();
    assert_eq!(before.len(), 1, "they share an object");
    for number in 1..=6 {
        remove(&rig, &format!("all_{number}_{number}_0"));
    }
    rig.runtime.block_on(rig.fs.flush_letting()).unwrap();
    let stop = repack(&rig);
    wait("the live files have left", || objects_of(&rig).keys().all(|object| !before.contains(object)));
    stop.cancel();
    let after = objects_of(&rig);
    assert_eq!(after.len(), 1);
    rig.fs.drop_cached();
    for number in 7..=8 {
        let data = fs::read(rig.dir().join(format!("all_{number}_{number}_0/data.bin"))).unwrap();
        assert_eq!(data, content(number));
    }
}

/// Two tables have names for the same bytes: each would have to be told, so they stay where they are.
#[test]
fn files_of_two_tables_stay_where_both_find_them() {
    let rig = Rig::with_tables("etl", 2);
    for number in 1..=4 {
        rig.insert(&format!("all_{number}_{number}_0"), &content(number)).unwrap();
    }
    let stop = upload(&rig);
    wait("they are stored", || all_stored(&rig));
    stop.cancel();
    let tmp = rig.dir_of(1).join("tmp_replace_from_all_1_1_0");
    fs::create_dir(&tmp).unwrap();
    for file in ["data.bin", "count.txt"] {
        fs::hard_link(rig.dir().join("all_4_4_0").join(file), tmp.join(file)).unwrap();
    }
    fs::rename(&tmp, rig.dir_of(1).join("all_1_1_0")).unwrap();
    for number in 1..=3 {
        remove(&rig, &format!("all_{number}_{number}_0"));
    }
    rig.runtime.block_on(rig.fs.flush_letting()).unwrap();
    let before = objects_of(&rig);
    let (mut files, mut tally) = (Vec::new(), Tally::new(Duration::ZERO));
    rig.fs
        .visit_stored(rig.table, |part| {
            tally.add(&part);
            files.extend(part.files);
        })
        .unwrap();
    assert!(!files.is_empty() && files.iter().all(|file| file.is_shared), "{files:?}");
    let sizes = files.iter().map(|file| (file.object.clone(), 1 << 20)).collect();
    assert_eq!(tally.choose(&sizes), None);
    // Once the other table lets go of them, they are free to move.
    remove_of(&rig, 1, "all_1_1_0");
    rig.runtime.block_on(rig.fs.flush_letting()).unwrap();
    let stop = repack(&rig);
    wait("they move", || objects_of(&rig).keys().all(|object| !before.contains_key(object)));
    stop.cancel();
}

fn remove_of(rig: &Rig, table: usize, name: &str) {
    let (from, to) = (rig.dir_of(table).join(name), rig.dir_of(table).join(format!("delete_tmp_{name}")));
    fs::rename(from, &to).unwrap();
    fs::remove_dir_all(to).unwrap();
}
