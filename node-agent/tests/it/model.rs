//! The same random operations through the kernel mount and on a plain directory: the same answers, the same tree.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::scripted::Rig;

/// Paths are short, so that operations meet: up to three names out of three.
type Name = Vec<u8>;

#[derive(Debug, Clone)]
enum Op {
    MakeDir(Name),
    RemoveDir(Name),
    Create(Name, u8),
    CreateNew(Name),
    Append(Name, u8),
    WriteAt(Name, u16),
    Truncate(Name, u16),
    Link(Name, Name),
    Unlink(Name),
    Rename(Name, Name),
    RenameNoReplace(Name, Name),
    Exchange(Name, Name),
    Read(Name),
    /// Opens the file, takes its name away, reads.
    ReadUnlinked(Name),
}

fn name() -> impl Strategy<Value = Name> {
    proptest::collection::vec(0u8..3, 1..4)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => name().prop_map(Op::MakeDir),
        1 => name().prop_map(Op::RemoveDir),
        3 => (name(), any::<u8>()).prop_map(|(n, b)| Op::Create(n, b)),
        1 => name().prop_map(Op::CreateNew),
        1 => (name(), any::<u8>()).prop_map(|(n, b)| Op::Append(n, b)),
        1 => (name(), 0u16..9000).prop_map(|(n, at)| Op::WriteAt(n, at)),
        1 => (name(), 0u16..9000).prop_map(|(n, to)| Op::Truncate(n, to)),
        2 => (name(), name()).prop_map(|(a, b)| Op::Link(a, b)),
        1 => name().prop_map(Op::Unlink),
        3 => (name(), name()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => (name(), name()).prop_map(|(a, b)| Op::RenameNoReplace(a, b)),
        1 => (name(), name()).prop_map(|(a, b)| Op::Exchange(a, b)),
        2 => name().prop_map(Op::Read),
        1 => name().prop_map(Op::ReadUnlinked),
    ]
}

/// What a caller sees: content where there is some, or the error's number.
type Seen = Result<Vec<u8>, Option<i32>>;

fn rename(from: PathBuf, to: PathBuf, flags: RenameFlags) -> std::io::Result<Vec<u8>> {
    Ok(renameat2(AT_FDCWD, &from, AT_FDCWD, &to, flags).map(|()| Vec::new())?)
}

fn perform(root: &Path, op: &Op) -> Seen {
    let at = |name: &Name| name.iter().fold(root.to_path_buf(), |path, n| path.join(n.to_string()));
    let done = |()| Vec::new();
    let outcome = match op {
        Op::MakeDir(n) => fs::create_dir(at(n)).map(done),
        Op::RemoveDir(n) => fs::remove_dir(at(n)).map(done),
        Op::Create(n, byte) => File::create(at(n)).and_then(|mut file| file.write_all(&[*byte; 700])).map(done),
        Op::CreateNew(n) => OpenOptions::new().write(true).create_new(true).open(at(n)).map(|_| Vec::new()),
        Op::Append(n, byte) => {
            OpenOptions::new().append(true).open(at(n)).and_then(|mut file| file.write_all(&[*byte; 10])).map(done)
        }
        Op::WriteAt(n, offset) => {
            let file = OpenOptions::new().write(true).open(at(n));
            file.and_then(|file| file.write_all_at(b"written", u64::from(*offset))).map(done)
        }
        Op::Truncate(n, bytes) => {
            OpenOptions::new().write(true).open(at(n)).and_then(|file| file.set_len(u64::from(*bytes))).map(done)
        }
        Op::Link(from, to) => fs::hard_link(at(from), at(to)).map(done),
        Op::Unlink(n) => fs::remove_file(at(n)).map(done),
        Op::Rename(from, to) => fs::rename(at(from), at(to)).map(done),
        Op::RenameNoReplace(from, to) => rename(at(from), at(to), RenameFlags::RENAME_NOREPLACE),
        Op::Exchange(from, to) => rename(at(from), at(to), RenameFlags::RENAME_EXCHANGE),
        Op::Read(n) => fs::read(at(n)),
        Op::ReadUnlinked(n) => File::open(at(n)).and_then(|file| {
            fs::remove_file(at(n))?;
            let mut content = vec![0; file.metadata()?.len() as usize];
            file.read_exact_at(&mut content, 0)?;
            Ok(content)
        }),
    };
    outcome.map_err(|error| error.raw_os_error())
}

/// Every path with what it is: content, or `None` for a directory; and which paths are one file.
fn survey(root: &Path) -> BTreeMap<PathBuf, Option<(Vec<u8>, u64, PathBuf)>> {
    let mut found = BTreeMap::new();
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let relative = path.strip_prefix(root).unwrap().to_path_buf();
            let metadata = fs::metadata(&path).unwrap();
            if metadata.is_dir() {
                found.insert(relative, None);
                dirs.push(path);
            } else {
                let same = first.entry(metadata.ino()).or_insert_with(|| relative.clone()).clone();
                found.insert(relative, Some((fs::read(&path).unwrap(), metadata.nlink(), same)));
            }
        }
    }
    found
}

/// A failure prints the shrunk operations; PROPTEST_CASES asks for more.
#[test]
fn the_mount_does_what_a_plain_directory_does() {
    let rig = Rig::new("etl");
    let plain = tempfile::tempdir().unwrap();
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let round = std::cell::Cell::new(0u32);
    let outcome = runner.run(&proptest::collection::vec(op(), 1..60), |ops| {
        round.set(round.get() + 1);
        // In progress, so that files of any size may be made: what is not committed has no rules of its own.
        let (a, b) = (plain.path().join(round.get().to_string()), rig.dir().join(format!("tmp_{}", round.get())));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        for op in &ops {
            prop_assert_eq!(perform(&a, op), perform(&b, op), "{:?}", op);
        }
        prop_assert_eq!(survey(&a), survey(&b));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
