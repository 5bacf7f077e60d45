//! What ARCHITECTURE.md draws is what the code does: which crate may use which, and one door for each foreign library.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use moorhouse_tests::binaries::repository;

/// Each crate's folder and the crates of ours that its product code may use.
const MAY_USE: [(&str, &[&str]); 16] = [
    ("base", &[]),
    ("proto", &[]),
    ("security", &["base"]),
    ("catalog", &["base"]),
    ("cache", &["base"]),
    ("objects", &["base"]),
    ("engine", &["base"]),
    ("controller", &["catalog", "objects", "security", "proto", "base"]),
    ("node-agent", &["catalog", "cache", "objects", "engine", "security", "proto", "base"]),
    ("gateway", &["catalog", "engine", "security", "proto", "base"]),
    ("ctl", &["security", "proto", "base"]),
    ("operator", &["security", "proto", "base"]),
    ("demo", &["engine", "base"]),
    ("simulation", &["controller", "catalog", "objects", "proto", "base"]),
    (
        "tests",
        &[
            "base",
            "proto",
            "security",
            "catalog",
            "cache",
            "objects",
            "engine",
            "controller",
            "node-agent",
            "gateway",
            "ctl",
            "demo",
        ],
    ),
    (
        "bench",
        &[
            "base",
            "proto",
            "catalog",
            "cache",
            "objects",
            "engine",
            "controller",
            "node-agent",
            "gateway",
            "ctl",
            "demo",
            "tests",
        ],
    ),
];

/// Foreign libraries with one door: the only file of product code that names them, with its folder if it has one.
const DOORS: [(&str, &str); 5] = [
    ("fuser", "node-agent/src/fs/fuse.rs"),
    ("etcd_client", "catalog/src/store/etcd.rs"),
    ("redb", "catalog/src/store/embedded.rs"),
    ("object_store", "objects/src/door.rs"),
    ("rcgen", "security/src/authority.rs"),
];

/// Lines of the sections of a Cargo.toml whose name is `section`.
fn section_lines<'a>(manifest: &'a str, section: &str) -> Vec<&'a str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == format!("[{section}]");
        } else if inside {
            lines.push(line);
        }
    }
    lines
}

fn our_crates<'a>(lines: &[&'a str]) -> BTreeSet<&'a str> {
    lines.iter().filter_map(|line| line.strip_prefix("moorhouse-")?.split(['.', ' ', '=']).next()).collect()
}

#[test]
fn crates_use_only_what_is_drawn() {
    let root = repository();
    let workspace = fs::read_to_string(root.join("Cargo.toml")).expect("the workspace");
    let drawn: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    for folder in drawn.keys() {
        assert!(workspace.contains(&format!("\"{folder}\"")), "{folder} is drawn but no member of the workspace");
    }
    let members = section_lines(&workspace, "workspace").join(" ").matches('"').count() / 2;
    assert_eq!(members, drawn.len() + 1, "each member is drawn (the resolver's version is quoted too)");
    for (folder, allowed) in drawn {
        let manifest = fs::read_to_string(root.join(folder).join("Cargo.toml")).expect("a member has a manifest");
        for used in our_crates(&section_lines(&manifest, "dependencies")) {
            assert!(allowed.contains(&used), "{folder} uses {used}, which ARCHITECTURE.md does not draw");
        }
    }
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file of the product.
pub fn product_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for (folder, _) in MAY_USE {
        rust_files(&root.join(folder).join("src"), &mut files);
    }
    files
}

#[test]
fn each_foreign_library_has_one_door() {
    let root = repository();
    let files = product_files(&root);
    for (library, door) in DOORS {
        assert!(root.join(door).is_file(), "{door}, the door of {library}, is gone");
        let path_use = format!("{library}::");
        for file in &files {
            let text = fs::read_to_string(file).expect("a source file");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let names = |line: &str| {
                line.match_indices(&path_use)
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
            };
            let found = code.into_iter().find(|line| names(line));
            let here = file.strip_prefix(&root).expect("below the root").display().to_string();
            let is_door = here == door || here.starts_with(&format!("{}/", door.trim_end_matches(".rs")));
            assert!(found.is_none() || is_door, "{here} names {library}, whose door is {door}: {found:?}");
        }
    }
}
