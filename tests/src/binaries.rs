//! The built binaries, and running them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A binary of this workspace, from the directory that this test program was built into.
///
/// # Panics
/// If it is not built: a missing component fails the run.
pub fn binary(name: &str) -> PathBuf {
    let here = std::env::current_exe().expect("a program knows its path");
    let path = here.parent().and_then(Path::parent).expect("tests lie in target/debug/deps").join(name);
    assert!(path.is_file(), "{} is not built: run `make build` (or `make test`)", path.display());
    path
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_owned()
}

/// A component that `make setup-tests` put into the cache directory.
///
/// # Panics
/// If it is not there.
pub fn installed(component: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let path = cache.expect("HOME is set").join("moorhouse").join(component);
    assert!(path.exists(), "{} is not there: run `make setup-tests`", path.display());
    path
}

/// Runs to the end.
pub fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
