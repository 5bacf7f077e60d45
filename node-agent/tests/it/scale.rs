//! A hundred thousand parts in one mount.

use std::fs;

use moorhouse_catalog::*;

use crate::scripted::Rig;

const TABLES: usize = 20;
const PARTS_A_TABLE: u64 = 5_000;
const FILES: [&str; 5] = ["checksums.txt", "columns.txt", "count.txt", "data.bin", "data.cmrk4"];

fn manifest(number: u64) -> Manifest {
    let object = ObjectKey::new(format!("parts/{number}")).unwrap();
    let file = |(at, name): (usize, &&str)| FileEntry {
        path: FilePath::new(*name).unwrap(),
        blob: BlobId::random(),
        bytes: 100,
        location: Location::Stored { object: object.clone(), offset: at as u64 * 100, crc32c: 0 },
    };
    let files = FILES.iter().enumerate().map(file).collect();
    let part = PartPath::new(format!("all_{number}_{number}_0")).unwrap();
    Manifest { part, rows: 1, committed_ms: 1, files, copies: vec![] }
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// The scripted controller's own copy is made before the first measurement.
#[test]
fn parts_cost_nothing_until_they_are_used() {
    let rig = Rig::with_tables("etl", TABLES);
    for ts in &rig.tables {
        let parts = (1..=PARTS_A_TABLE).map(manifest).collect();
        let snapshot = TableShardSnapshot { version: Version(1), parts, inodes: vec![] };
        rig.script.content.lock().unwrap().insert(*ts, snapshot);
    }
    let listed = |table: usize| fs::read_dir(rig.dir_of(table)).unwrap().count() as u64;
    for table in 0..TABLES {
        assert!(fs::metadata(rig.dir_of(table)).unwrap().is_dir());
    }
    assert_eq!(rig.script.snapshots(), 0, "nothing is fetched before a table's directory is looked into");
    let before = resident_bytes();
    assert_eq!(listed(0), PARTS_A_TABLE + 2);
    assert_eq!(rig.script.snapshots(), 1, "one table's use fetches one table");
    assert_eq!((1..TABLES).map(listed).sum::<u64>(), (TABLES as u64 - 1) * (PARTS_A_TABLE + 2));
    assert_eq!(rig.script.snapshots(), TABLES as u64);
    let parts = TABLES as u64 * PARTS_A_TABLE;
    let grown = resident_bytes().saturating_sub(before);
    println!("{parts} parts of {} files take {} MiB", FILES.len(), grown >> 20);
    assert!(grown / parts < 16 << 10, "{} bytes a part", grown / parts);
    let last = rig.dir_of(TABLES - 1).join(format!("all_{PARTS_A_TABLE}_{PARTS_A_TABLE}_0/data.bin"));
    assert_eq!(fs::metadata(last).unwrap().len(), 100);
}
