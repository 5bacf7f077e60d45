//! Parts that the engine makes name by name: detached and frozen ones, and what becomes of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::scripted::Rig;

fn parts(rig: &Rig) -> Vec<String> {
    let mut parts: Vec<String> =
        rig.script.snapshot(rig.table).parts.into_iter().map(|m| String::from(m.part)).collect();
    parts.sort();
    parts
}

fn flush(rig: &Rig) {
    rig.runtime.block_on(rig.fs.flush_letting()).unwrap();
}

/// As DETACH PARTITION and FREEZE do: directories, then links to the files.
fn link_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::hard_link(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn shadow(rig: &Rig, backup: &str) -> PathBuf {
    let table = rig.dir();
    let store = table.parent().unwrap().parent().unwrap();
    store.parent().unwrap().join("shadow").join(backup).join(table.strip_prefix(store.parent().unwrap()).unwrap())
}

#[test]
fn a_detached_part_is_committed_with_what_follows_it() {
    let rig = Rig::new("etl");
    rig.insert("all_1_1_0", b"away").unwrap();
    link_all(&rig.dir().join("all_1_1_0"), &rig.dir().join("detached/all_1_1_0"));
    fs::create_dir_all(rig.dir().join("detached/all_1_1_0/p.proj")).unwrap();
    fs::hard_link(rig.dir().join("all_1_1_0/data.bin"), rig.dir().join("detached/all_1_1_0/p.proj/data.bin")).unwrap();
    rig.insert("all_1_1_1", b"").unwrap();
    assert_eq!(parts(&rig), ["all_1_1_0", "all_1_1_1", "detached/all_1_1_0"]);
    let again = Rig::with("etl", rig.script.clone(), rig.table);
    assert_eq!(fs::metadata(again.dir().join("detached/all_1_1_0/p.proj/data.bin")).unwrap().len(), 4);
}

/// A crash in the midst of ATTACH leaves the part detached.
#[test]
fn a_part_stays_detached_until_it_is_attached() {
    let rig = Rig::new("etl");
    rig.insert("all_1_1_0", b"back").unwrap();
    fs::rename(rig.dir().join("all_1_1_0"), rig.dir().join("detached/all_1_1_0")).unwrap();
    let attaching = rig.dir().join("detached/attaching_all_1_1_0");
    fs::rename(rig.dir().join("detached/all_1_1_0"), &attaching).unwrap();
    flush(&rig);
    assert_eq!(parts(&rig), ["detached/all_1_1_0"]);
    fs::remove_file(attaching.join("count.txt")).unwrap();
    flush(&rig);
    let crashed = Rig::with("etl", rig.script.clone(), rig.table);
    assert_eq!(fs::read_dir(crashed.dir().join("detached/all_1_1_0")).unwrap().count(), 2);
    fs::rename(&attaching, rig.dir().join("all_2_2_0")).unwrap();
    assert_eq!(parts(&rig), ["all_2_2_0"]);
    assert_eq!(fs::read(rig.dir().join("all_2_2_0/data.bin")).unwrap(), b"back");
}

#[test]
fn frozen_parts_outlive_a_restart_and_their_part() {
    let rig = Rig::new("etl");
    rig.insert("all_1_1_0", b"frozen").unwrap();
    let frozen = shadow(&rig, "monday");
    link_all(&rig.dir().join("all_1_1_0"), &frozen.join("all_1_1_0"));
    rig.insert("all_1_1_1", b"covers").unwrap();
    let doomed = rig.dir().join("delete_tmp_all_1_1_0");
    fs::rename(rig.dir().join("all_1_1_0"), &doomed).unwrap();
    fs::remove_dir_all(&doomed).unwrap();
    flush(&rig);
    assert_eq!(parts(&rig), ["all_1_1_1", "shadow/monday/all_1_1_0"]);
    assert_eq!(fs::read(frozen.join("all_1_1_0/data.bin")).unwrap(), b"frozen");

    let again = Rig::with("etl", rig.script.clone(), rig.table);
    assert!(!shadow(&again, "monday").exists(), "nothing is loaded yet");
    assert!(again.dir().join("all_1_1_1").exists());
    let frozen = shadow(&again, "monday").join("all_1_1_0");
    assert_eq!(fs::metadata(frozen.join("data.bin")).unwrap().len(), 6);
    fs::remove_dir_all(&frozen).unwrap();
    flush(&again);
    assert_eq!(parts(&again), ["all_1_1_1"]);
}

/// What UNFREEZE removes must not take the part's own bytes along.
#[test]
fn links_of_a_frozen_part_are_the_parts_own_files() {
    let rig = Rig::new("etl");
    rig.insert("all_1_1_0", b"shared").unwrap();
    let frozen = shadow(&rig, "b").join("all_1_1_0");
    link_all(&rig.dir().join("all_1_1_0"), &frozen);
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(frozen.join("data.bin")), inode(rig.dir().join("all_1_1_0/data.bin")));
    fs::remove_dir_all(&frozen).unwrap();
    flush(&rig);
    assert_eq!(parts(&rig), ["all_1_1_0"]);
    assert_eq!(fs::read(rig.dir().join("all_1_1_0/data.bin")).unwrap(), b"shared");
}

/// FREEZE answers after the engine has taken the last thing away that a copy must not have.
#[test]
fn a_frozen_part_lasts_when_the_engine_has_finished_it() {
    const LAST_TO_GO: &str = "metadata_version.txt";
    let rig = Rig::new("etl");
    let inserting = rig.dir().join("tmp_insert_all_1_1_0");
    fs::create_dir(&inserting).unwrap();
    for file in ["data.bin", LAST_TO_GO] {
        fs::write(inserting.join(file), b"frozen").unwrap();
    }
    fs::rename(&inserting, rig.dir().join("all_1_1_0")).unwrap();
    let frozen = shadow(&rig, "now").join("all_1_1_0");
    link_all(&rig.dir().join("all_1_1_0"), &frozen);
    fs::remove_file(frozen.join(LAST_TO_GO)).unwrap();
    let snapshot = rig.script.snapshot(rig.table);
    let part = snapshot.parts.iter().find(|m| m.part.as_str() == "shadow/now/all_1_1_0").expect("committed by now");
    assert_eq!(part.files.iter().map(|f| f.path.to_string()).collect::<Vec<_>>(), ["data.bin"]);

    link_all(&rig.dir().join("all_1_1_0"), &shadow(&rig, "fenced").join("all_1_1_0"));
    rig.script.fenced.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(fs::remove_file(shadow(&rig, "fenced").join("all_1_1_0").join(LAST_TO_GO)).is_err(), "it has not lasted");
}
