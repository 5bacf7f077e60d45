//! One test for each paragraph of docs/SEMANTICS.md, through the kernel.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use moorhouse_catalog::{Location, PartChange, PartPath, Version};
use moorhouse_node_agent::fs::Role;
use moorhouse_node_agent::fs::stale::Look;

use crate::scripted::Rig;

fn errno(outcome: std::io::Result<impl Sized>) -> Option<i32> {
    outcome.err().and_then(|error| error.raw_os_error())
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn progress_is_local() {
    let rig = Rig::new("etl");
    fs::create_dir(rig.dir().join("tmp_insert_all_1_1_0")).unwrap();
    fs::write(rig.dir().join("tmp_insert_all_1_1_0/data.bin"), b"x").unwrap();
    assert!(names(&rig.dir()).contains(&"tmp_insert_all_1_1_0".to_string()));
    assert!(rig.script.snapshot(rig.table).parts.is_empty());
    let after_a_crash = Rig::with("etl", rig.script.clone(), rig.table);
    assert_eq!(names(&after_a_crash.dir()), ["detached", "format_version.txt"]);
}

#[test]
fn rename_commits() {
    let rig = Rig::new("etl");
    rig.insert("all_1_1_0", b"hello").unwrap();
    let parts = rig.script.snapshot(rig.table).parts;
    assert_eq!(parts.len(), 1);
    assert_eq!((parts[0].part.as_str(), parts[0].rows), ("all_1_1_0", 7));
    let data = parts[0].files.iter().find(|f| f.path.as_str() == "data.bin").unwrap();
    assert_eq!(data.bytes, 5);
    assert!(matches!(&data.location, Location::Staged { node } if node.as_str() == "etl-0"));
    assert_eq!(fs::read(rig.dir().join("all_1_1_0/data.bin")).unwrap(), b"hello");
    assert_eq!(names(&rig.dir().join("all_1_1_0")), ["count.txt", "data.bin"]);
}

#[test]
fn a_fenced_rename_fails() {
    let rig = Rig::new("etl");
    rig.script.fenced.store(true, Ordering::SeqCst);
    assert_eq!(errno(rig.insert("all_1_1_0", b"x")), Some(libc::EIO));
    assert_eq!(names(&rig.dir()), ["detached", "format_version.txt", "tmp_insert_all_1_1_0"]);
    assert!(rig.script.snapshot(rig.table).parts.is_empty());
}

#[test]
fn a_late_controller_only_delays() {
    let rig = Rig::new("etl");
    assert_eq!(names(&rig.dir()).len(), 2);
    rig.script.away.store(true, Ordering::SeqCst);
    let script = rig.script.clone();
    rig.runtime.spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        script.away.store(false, Ordering::SeqCst);
    });
    rig.insert("all_1_1_0", b"x").unwrap();
    assert_eq!(rig.script.snapshot(rig.table).parts.len(), 1);
}

#[test]
fn links_share_bytes() {
    let rig = Rig::new("etl");
    rig.insert("all_1_1_0", b"shared").unwrap();
    let mutated = rig.dir().join("tmp_mut_all_1_1_0_2");
    fs::create_dir(&mutated).unwrap();
    fs::hard_link(rig.dir().join("all_1_1_0/data.bin"), mutated.join("data.bin")).unwrap();
    fs::write(mutated.join("count.txt"), b"7").unwrap();
    fs::rename(&mutated, rig.dir().join("all_1_1_0_2")).unwrap();
    let parts = rig.script.snapshot(rig.table).parts;
    let blob = |part: &str| {
        let manifest = parts.iter().find(|m| m.part.as_str() == part).unwrap();
        manifest.files.iter().find(|f| f.path.as_str() == "data.bin").unwrap().blob
    };
    assert_eq!(blob("all_1_1_0"), blob("all_1_1_0_2"));
    remove_part(&rig, "all_1_1_0");
    rig.runtime.block_on(rig.fs.flush_letting()).unwrap();
    assert_eq!(fs::read(rig.dir().join("all_1_1_0_2/data.bin")).unwrap(), b"shared");
    let after_a_restart = Rig::with("bi", rig.script.clone(), rig.table);
    assert_eq!(names(&after_a_restart.dir()), ["all_1_1_0_2", "format_version.txt"]);
}

fn remove_part(rig: &Rig, part: &str) {
    let doomed = rig.dir().join(format!("delete_tmp_{part}"));
    fs::rename(rig.dir().join(part), &doomed).unwrap();
    fs::remove_dir_all(&doomed).unwrap();
}

#[test]
fn committed_parts_are_immutable() {
    let rig = Rig::new("etl");
    rig.insert("all_1_1_0", b"x").unwrap();
    let part = rig.dir().join("all_1_1_0");
    assert_eq!(errno(fs::OpenOptions::new().write(true).open(part.join("data.bin"))), Some(libc::EPERM));
    assert_eq!(errno(fs::write(part.join("new.bin"), b"x")), Some(libc::EPERM));
    assert_eq!(errno(fs::remove_file(part.join("data.bin"))), Some(libc::EPERM));
}

#[test]
fn small_files_are_kept() {
    let rig = Rig::new("etl");
    fs::write(rig.dir().join("tmp_mutation_3.txt"), b"UPDATE").unwrap();
    assert!(rig.script.snapshot(rig.table).inodes.is_empty());
    fs::rename(rig.dir().join("tmp_mutation_3.txt"), rig.dir().join("mutation_3.txt")).unwrap();
    fs::create_dir(rig.dir().join("deduplication_logs")).unwrap();
    let mut log = fs::File::create(rig.dir().join("deduplication_logs/deduplication_log_1.txt")).unwrap();
    log.write_all(b"one\n").unwrap();
    rig.insert("all_1_1_0", b"x").unwrap();
    let mut inodes = rig.script.snapshot(rig.table).inodes;
    inodes.sort_by_key(|i| i.path.to_string());
    let kept: Vec<_> = inodes.iter().map(|i| (i.path.as_str(), i.content.as_slice())).collect();
    assert_eq!(
        kept,
        [("deduplication_logs/deduplication_log_1.txt", b"one\n".as_slice()), ("mutation_3.txt", b"UPDATE".as_slice())]
    );
    drop(log);
    let again = Rig::with("etl", rig.script.clone(), rig.table);
    assert_eq!(fs::read(again.dir().join("mutation_3.txt")).unwrap(), b"UPDATE");
}

#[test]
fn open_files_outlive_their_names() {
    let rig = Rig::new("etl");
    rig.insert("all_1_1_0", b"still here").unwrap();
    rig.insert("all_1_1_1", b"covers").unwrap();
    let mut open = fs::File::open(rig.dir().join("all_1_1_0/data.bin")).unwrap();
    remove_part(&rig, "all_1_1_0");
    rig.runtime.block_on(rig.fs.flush_letting()).unwrap();
    let mut content = String::new();
    open.read_to_string(&mut content).unwrap();
    assert_eq!(content, "still here");
    assert_eq!(rig.script.snapshot(rig.table).parts.len(), 1);
}

#[test]
fn readers_list_active_parts() {
    let writer = Rig::new("etl");
    writer.insert("all_1_1_0", b"one").unwrap();
    let reader = Rig::with("bi", writer.script.clone(), writer.table);
    assert_eq!(names(&reader.dir()), ["all_1_1_0", "format_version.txt"]);
    assert_eq!(errno(fs::create_dir(reader.dir().join("tmp_x"))), Some(libc::EROFS));
    writer.insert("all_1_1_1", b"merged").unwrap();
    follow(&writer, &reader);
    assert_eq!(names(&reader.dir()), ["all_1_1_1", "format_version.txt"]);
    assert!(fs::metadata(reader.dir().join("all_1_1_0/data.bin")).is_ok(), "a covered part still opens");
    let removed = PartChange { removed: vec![PartPath::new("all_1_1_0").unwrap()], ..PartChange::default() };
    reader.runtime.block_on(reader.fs.follow(reader.table, Version(3), &removed)).unwrap();
    assert_eq!(names(&reader.dir()), ["all_1_1_1", "format_version.txt"]);
    assert!(fs::metadata(reader.dir().join("all_1_1_0/data.bin")).is_ok(), "a removed part still opens");
    assert_eq!(reader.fs.role(reader.table), Some(Role::Reader));
}

/// Gives the reader the newest part as the changelog would.
fn follow(writer: &Rig, reader: &Rig) {
    let snapshot = writer.script.snapshot(writer.table);
    let change = PartChange { added: snapshot.parts.last().cloned().into_iter().collect(), ..PartChange::default() };
    reader.runtime.block_on(reader.fs.follow(reader.table, snapshot.version, &change)).unwrap();
}

#[test]
fn a_gap_in_the_changelog_is_closed_with_a_snapshot() {
    let writer = Rig::new("etl");
    let reader = Rig::with("bi", writer.script.clone(), writer.table);
    assert_eq!(names(&reader.dir()), ["format_version.txt"]);
    writer.insert("all_1_1_0", b"missed").unwrap();
    writer.insert("all_2_2_0", b"seen").unwrap();
    follow(&writer, &reader);
    assert_eq!(names(&reader.dir()), ["all_1_1_0", "all_2_2_0", "format_version.txt"]);
}

#[test]
fn one_request_brings_all_small_files_of_a_part() {
    let writer = Rig::new("etl");
    writer.insert("all_1_1_0", b"stored content").unwrap();
    upload_all(&writer);
    let reader = Rig::beside(&writer, "bi");
    let part = reader.dir().join("all_1_1_0");
    assert_eq!(reader.fs.cached_blobs(), 0);
    assert_eq!(fs::read(part.join("data.bin")).unwrap(), b"stored content");
    assert_eq!(reader.fs.cached_blobs(), 2, "count.txt came along");
    assert_eq!(fs::read(part.join("count.txt")).unwrap(), b"7");
}

/// Runs the uploads until the first part is stored.
fn upload_all(writer: &Rig) {
    let stop = tokio_util::sync::CancellationToken::new();
    let uploads = moorhouse_node_agent::upload::run(writer.fs.clone(), Duration::ZERO, stop.clone());
    let uploading = writer.runtime.spawn(uploads);
    let stored = |ts| {
        let snapshot = writer.script.snapshot(ts);
        snapshot.parts[0].files.iter().all(|f| matches!(f.location, Location::Stored { .. }))
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !stored(writer.table) {
        assert!(std::time::Instant::now() < deadline, "the part was not uploaded");
        std::thread::yield_now();
    }
    stop.cancel();
    writer.runtime.block_on(uploading).unwrap();
}

/// The reader knows the bytes on a node that it cannot reach; then they are stored.
#[test]
fn a_read_follows_moved_bytes() {
    let writer = Rig::new("etl");
    writer.insert("all_1_1_0", b"moved content").unwrap();
    let reader = Rig::beside(&writer, "bi");
    let data = reader.dir().join("all_1_1_0/data.bin");
    assert_eq!(fs::metadata(&data).unwrap().len(), 13);
    let reading = std::thread::spawn(move || fs::read(data));
    upload_all(&writer);
    assert_eq!(reading.join().unwrap().unwrap(), b"moved content");
}

/// As REPLACE PARTITION FROM does: the part of one table is made of links to another's files.
#[test]
fn tables_of_a_shard_share_bytes() {
    let rig = Rig::with_tables("etl", 2);
    rig.insert("all_1_1_0", b"shared").unwrap();
    let other = rig.dir_of(1);
    fs::create_dir(other.join("tmp_replace_from_all_1_1_0")).unwrap();
    for file in ["data.bin", "count.txt"] {
        let from = rig.dir().join("all_1_1_0").join(file);
        fs::hard_link(from, other.join("tmp_replace_from_all_1_1_0").join(file)).unwrap();
    }
    fs::rename(other.join("tmp_replace_from_all_1_1_0"), other.join("all_7_7_0")).unwrap();
    let blobs = |ts| -> Vec<_> {
        let snapshot = rig.script.snapshot(ts);
        snapshot.parts.iter().flat_map(|m| &m.files).map(|f| (f.path.clone(), f.blob)).collect()
    };
    assert_eq!(blobs(rig.table), blobs(rig.tables[1]));
    remove_part(&rig, "all_1_1_0");
    rig.runtime.block_on(rig.fs.flush_letting()).unwrap();
    assert!(rig.script.snapshot(rig.table).parts.is_empty());
    assert_eq!(fs::read(other.join("all_7_7_0/data.bin")).unwrap(), b"shared");
    let moved = fs::rename(other.join("all_7_7_0"), rig.dir().join("all_7_7_0"));
    assert_eq!(errno(moved), Some(libc::EOPNOTSUPP), "only links go between tables");
}

#[test]
fn names_are_replaced_exchanged_or_kept() {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    let rig = Rig::new("etl");
    let (a, b) = (rig.dir().join("tmp_a"), rig.dir().join("tmp_b"));
    fs::write(&a, b"a").unwrap();
    fs::write(&b, b"b").unwrap();
    let rename = |flags| renameat2(AT_FDCWD, &a, AT_FDCWD, &b, flags);
    assert_eq!(rename(RenameFlags::RENAME_NOREPLACE), Err(nix::errno::Errno::EEXIST));
    rename(RenameFlags::RENAME_EXCHANGE).unwrap();
    assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"b".to_vec(), b"a".to_vec()));
    rename(RenameFlags::empty()).unwrap();
    assert_eq!((a.exists(), fs::read(&b).unwrap()), (false, b"b".to_vec()));
}

#[test]
fn free_space_is_what_staging_may_still_take() {
    let rig = Rig::new("etl");
    let free = || {
        let stats = nix::sys::statvfs::statvfs(&rig.dir()).unwrap();
        (stats.blocks() * stats.fragment_size(), stats.blocks_available() * stats.fragment_size())
    };
    assert_eq!(free(), (1 << 30, 1 << 30));
    rig.insert("all_1_1_0", &vec![7; 8 << 20]).unwrap();
    let (total, left) = free();
    assert_eq!(total, 1 << 30);
    assert!((total - left).abs_diff(8 << 20) < 1 << 16, "{left} of {total} left");
}

/// An emptied table's block numbers begin again after a restart: the same name then stands for other rows.
/// What the reader's engine is told to do next.
fn told(reader: &Rig) -> Option<Look> {
    let due = reader.runtime.block_on(async {
        tokio::select! {
            biased;
            due = reader.fs.stale.take() => due,
            () = std::future::ready(()) => HashMap::new(),
        }
    });
    due.get(&reader.table).copied()
}

fn remove(reader: &Rig, version: u64, parts: &[&str]) {
    let removed = parts.iter().map(|part| PartPath::new(*part).unwrap()).collect();
    let change = PartChange { removed, ..PartChange::default() };
    reader.runtime.block_on(reader.fs.follow(reader.table, Version(version), &change)).unwrap();
}

#[test]
fn a_reader_attaches_anew_when_a_part_goes_without_another_that_covers_it() {
    let writer = Rig::new("etl");
    writer.insert("all_1_1_0", b"one").unwrap();
    writer.insert("all_2_2_0", b"two").unwrap();
    let reader = Rig::with("bi", writer.script.clone(), writer.table);
    assert_eq!(names(&reader.dir()), ["all_1_1_0", "all_2_2_0", "format_version.txt"]);
    assert_eq!(told(&reader), None);
    writer.insert("all_1_2_1", b"merged").unwrap();
    follow(&writer, &reader);
    assert_eq!(told(&reader), Some(Look::Again), "a part has come");
    remove(&reader, 4, &["all_1_1_0", "all_2_2_0"]);
    assert_eq!(told(&reader), None, "the engine has let go of covered parts by itself");
    remove(&reader, 5, &["all_1_2_1"]);
    assert_eq!(told(&reader), Some(Look::Afresh), "nothing stands for what was dropped");
    assert_eq!(reader.fs.generation(reader.table).0, 0);
}

#[test]
fn a_part_of_the_same_name_shows_in_a_directory_of_its_own() {
    let writer = Rig::new("etl");
    writer.insert("all_1_1_0", b"before TRUNCATE").unwrap();
    writer.insert("all_2_2_0", b"stays").unwrap();
    writer.insert("all_3_3_0", b"goes").unwrap();
    let reader = Rig::with("bi", writer.script.clone(), writer.table);
    let bytes =
        |dir: &Path, part: &str| fs::metadata(dir.join(part).join("data.bin")).map(|metadata| metadata.len()).ok();
    assert_eq!(bytes(&reader.dir(), "all_1_1_0"), Some(15));
    remove(&reader, 4, &["all_1_1_0", "all_3_3_0"]);
    let mut again = writer.script.snapshot(writer.table).parts.remove(0);
    for file in &mut again.files {
        file.blob = moorhouse_catalog::BlobId::random();
        file.bytes = 3;
    }
    let added = PartChange { added: vec![again], ..PartChange::default() };
    reader.runtime.block_on(reader.fs.follow(reader.table, Version(5), &added)).unwrap();
    assert_eq!(told(&reader), Some(Look::Afresh));

    let (generation, path) = reader.fs.generation(reader.table);
    let next = reader.dir().ancestors().nth(4).unwrap().join(path);
    assert_eq!(
        (generation, names(&next)),
        (1, vec!["all_1_1_0".into(), "all_2_2_0".into(), "format_version.txt".into()])
    );
    assert_eq!((bytes(&next, "all_1_1_0"), bytes(&next, "all_2_2_0")), (Some(3), Some(5)));
    assert_eq!(bytes(&next, "all_3_3_0"), None);
    assert_eq!(bytes(&reader.dir(), "all_1_1_0"), Some(15), "what a statement began with, it ends with");
    assert_eq!(bytes(&reader.dir(), "all_3_3_0"), Some(4));
    assert_eq!(errno(fs::create_dir(next.join("tmp_x"))), Some(libc::EROFS));

    writer.insert("all_4_4_0", b"later").unwrap();
    writer.script.content.lock().unwrap().get_mut(&writer.table).unwrap().version = Version(6);
    follow(&writer, &reader);
    assert_eq!(bytes(&next, "all_4_4_0"), Some(5));
    assert_eq!(bytes(&reader.dir(), "all_4_4_0"), None, "the first directory does not change any more");
}

/// What a part's life needs, with or without passthrough.
#[test]
fn a_part_is_written_read_and_read_again() {
    let rig = Rig::new("etl");
    let content: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    rig.insert("all_1_1_0", &content).unwrap();
    assert_eq!(fs::read(rig.dir().join("all_1_1_0/data.bin")).unwrap(), content);
    assert_eq!(fs::read(rig.dir().join("all_1_1_0/data.bin")).unwrap(), content);
    if let Ok(wanted) = std::env::var("MOORHOUSE_TEST_PASSTHROUGH") {
        assert_eq!(rig.has_passthrough().to_string(), wanted);
    }
}

/// The same as a user without CAP_SYS_ADMIN, on a machine whose /dev/fuse is open to all, as udev makes it (in a mount
/// namespace of its own, whatever this machine has): the agent serves every byte itself.
#[test]
fn without_privileges_the_agent_serves_by_itself() {
    const AS_USER: &str = "mknod \"$TMPDIR/fuse\" c 10 229 && chmod 666 \"$TMPDIR/fuse\" && \
        mount --bind \"$TMPDIR/fuse\" /dev/fuse && \
        exec setpriv --reuid \"$1\" --regid \"$1\" --clear-groups \"$TMPDIR/it\" --exact \"$2\"";
    use std::os::unix::fs::PermissionsExt;
    assert!(nix::unistd::geteuid().is_root(), "run the tests as root: only root can become somebody else");
    for (user, passthrough) in [("0", "true"), ("65534", "false")] {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(std::env::current_exe().unwrap(), dir.path().join("it")).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let ran = std::process::Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "slave",
                "sh",
                "-c",
                AS_USER,
                "sh",
                user,
                "fs_semantics::a_part_is_written_read_and_read_again",
            ])
            .env("TMPDIR", dir.path())
            .env("MOORHOUSE_TEST_PASSTHROUGH", passthrough)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() && said.contains("1 passed"), "as user {user}: {said}");
    }
}
