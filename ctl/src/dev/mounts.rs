//! FUSE mounts below the dev directory: finding them, and taking down those that a crash left.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};

use crate::dev::state::DevDir;

/// Every mount point below `dir`, the deepest first.
pub fn below(dir: &DevDir) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    parse(&table, dir.path())
}

fn parse(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    // The fifth field is the mount point.
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(dir) && point != dir).collect();
    below.sort();
    below.reverse();
    below
}

/// The kernel writes blanks and backslashes as \ooo.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\');
        match octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(String::from_utf8_lossy(&bytes).into_owned())
}

/// Takes a mount down at once; whoever still has a file open there keeps it. False if that was not possible.
pub fn detach(mount: &Path) -> bool {
    if umount2(mount, MntFlags::MNT_DETACH).is_ok() {
        return true;
    }
    // Without root only the set-uid helper may.
    Command::new("fusermount3").args(["-u", "-z", "-q", "--"]).arg(mount).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_the_directory_count() {
        let table = "36 35 0:50 / /w/.moorhouse/mounts/etl-0 rw - fuse moorhouse rw\n\
                     37 35 0:51 / /w/.moorhouse/mounts/a\\040b rw - fuse moorhouse rw\n\
                     38 35 0:52 / /w/.moorhouse2/mounts/x rw - fuse moorhouse rw\n\
                     39 35 8:1 / / rw - ext4 /dev/sda rw\n";
        let below = parse(table, Path::new("/w/.moorhouse"));
        assert_eq!(below, [PathBuf::from("/w/.moorhouse/mounts/etl-0"), PathBuf::from("/w/.moorhouse/mounts/a b")]);
    }
}
