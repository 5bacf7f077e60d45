//! What the cache's tests share: a temporary directory with a cache, contents to recognise, and a look at the disk.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use moorhouse_cache::{BlobCache, BlobKey, Tenant};

pub const BLOCK: u64 = 4096;

pub fn key(number: u128) -> BlobKey {
    // Spread over the last byte but one, so that different buckets are in play.
    BlobKey((number << 64) | (number * 37 % 256) << 8)
}

/// Bytes that differ by key and by place.
pub fn content(number: u128, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u128 * 31 + number * 7 + at as u128 / 251) as u8).collect()
}

pub fn charge(len: u64) -> u64 {
    len.div_ceil(BLOCK).max(1) * BLOCK
}

pub fn open(dir: &Path, budget_blocks: u64) -> BlobCache {
    BlobCache::open(dir, budget_blocks * BLOCK).expect("opens the cache")
}

pub fn stage(cache: &BlobCache, number: u128, len: usize) {
    let mut file = cache.create_staged(key(number)).expect("stages");
    file.write_all(&content(number, len)).expect("writes");
    assert_eq!(cache.account_staged(key(number)).expect("accounts"), len as u64);
}

pub fn fill(cache: &BlobCache, number: u128, len: usize) {
    let bytes = content(number, len);
    let mut fill = cache.fill(key(number), len as u64).expect("has room");
    fill.write_all(&bytes).expect("writes");
    fill.complete(Some(crc32c::crc32c(&bytes))).expect("completes");
}

pub fn read(cache: &BlobCache, number: u128) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = cache.open_file(key(number), false).expect("opens")?;
    file.read_to_end(&mut bytes).expect("reads");
    Some(bytes)
}

/// Reads a cached blob that an earlier process has left, as its first reader does.
pub fn read_checked(cache: &BlobCache, number: u128, len: usize) -> Option<Vec<u8>> {
    let crc = crc32c::crc32c(&content(number, len));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut bytes = Vec::new();
    let opened = runtime.block_on(cache.open_checked(key(number), len as u64, Some(crc)));
    opened.expect("checks")?.read_to_end(&mut bytes).expect("reads");
    Some(bytes)
}

/// Names and lengths of one tenant's files.
pub fn on_disk(dir: &Path, tenant: Tenant) -> BTreeMap<String, u64> {
    let buckets = fs::read_dir(tenant_dir(dir, tenant)).expect("lists").map(|entry| entry.expect("an entry").path());
    buckets.flat_map(|bucket| files(&bucket)).collect()
}

/// Where the key of that number has its file.
pub fn bucket(dir: &Path, tenant: Tenant, number: u128) -> PathBuf {
    tenant_dir(dir, tenant).join(format!("{:02x}", key(number).0 >> 8 & 0xff))
}

pub fn files(bucket: &Path) -> Vec<(String, u64)> {
    let files = fs::read_dir(bucket).expect("lists").map(|entry| entry.expect("an entry"));
    files.map(|file| (file.file_name().into_string().expect("plain"), file.metadata().expect("looks").len())).collect()
}

fn tenant_dir(dir: &Path, tenant: Tenant) -> PathBuf {
    dir.join(match tenant {
        Tenant::Staged => "staged",
        Tenant::Cached => "cached",
    })
}

pub fn filling_count(dir: &Path) -> usize {
    fs::read_dir(dir.join("filling")).expect("lists").count()
}

/// What a crash of the process leaves: the files as they are at this moment.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("creates");
    for entry in fs::read_dir(from).expect("lists") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copies");
        }
    }
}

/// A small file system in memory, unmounted at the end. Needs root.
pub struct Disk(tempfile::TempDir);

impl Disk {
    pub fn new(options: &str) -> Self {
        let disk = Self(tempfile::tempdir().expect("a directory"));
        let at = disk.path().to_str().expect("plain").to_owned();
        run("mount", &["-t", "tmpfs", "-o", options, "cache-test", &at]);
        disk
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// What its file system has given out, as of one moment.
    pub fn used_bytes(&self) -> u64 {
        let looked = nix::sys::statvfs::statvfs(self.path()).expect("looks");
        (looked.blocks() - looked.blocks_free()) * looked.fragment_size()
    }

    pub fn remount(&self, mode: &str) {
        run("mount", &["-o", &format!("remount,{mode}"), self.path().to_str().expect("plain")]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-l", self.path().to_str().expect("plain")]);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).output().expect("runs");
    assert!(ran.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}
