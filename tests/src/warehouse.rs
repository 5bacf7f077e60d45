//! A dev warehouse of a test, in a temporary directory, on ports of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use moorhouse_engine::SqlClient;
use serde_json::Value;
use tempfile::TempDir;

use crate::binaries::{binary, output, stderr, stdout};
use crate::processes::PORTS;
use moorhouse_base::ports::free_row;

const SMALL: [&str; 6] = ["--shards", "2", "--group", "etl=1", "--group", "bi=1"];

/// A directory for `moorctl --dir`. What was started in it stops, and what was mounted in it goes, with this value.
pub struct DevHome {
    dir: TempDir,
    pub port_base: u16,
}

impl Default for DevHome {
    fn default() -> Self {
        Self::new()
    }
}

impl DevHome {
    /// Nothing runs in it yet.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("moorhouse-test-").tempdir().expect("a temporary directory");
        Self { dir, port_base: free_row(PORTS).expect("free ports") }
    }

    /// The directory for `--dir`; not there yet.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("warehouse")
    }

    /// A place for other files of the test.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    pub fn moorctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("moorctl"));
        command.arg("--dir").arg(self.path()).args(arguments);
        command.env_remove("MOORHOUSE_CONTROLLER").env_remove("MOORHOUSE_DEV_DIR");
        command
    }

    /// `dev up` with a small shape.
    pub fn up_command(&self, more: &[&str]) -> Command {
        self.shaped_up_command(&SMALL, more)
    }

    fn shaped_up_command(&self, shape: &[&str], more: &[&str]) -> Command {
        let mut command = self.moorctl(&["dev", "up"]);
        command.args(shape);
        command.args(["--settle-ms", "1000", "--port-base", &self.port_base.to_string()]).args(more);
        command
    }

    /// What it printed.
    ///
    /// # Panics
    /// If moorctl fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        succeed(&mut self.moorctl(arguments))
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.run(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?} printed no JSON ({error}): {text}"))
    }

    /// The last lines of every log, for a failed test's message.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.path().join("logs")).into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text.push_str(&format!("\n== {}\n", entry.path().display()));
            text.push_str(&lines[lines.len().saturating_sub(25)..].join("\n"));
        }
        text
    }
}

impl Drop for DevHome {
    fn drop(&mut self) {
        if self.path().join("dev.json").exists() {
            let stopped = output(&mut self.moorctl(&["dev", "down"]));
            if !stopped.status.success() {
                eprintln!("dev down failed: {}", stderr(&stopped));
            }
        }
    }
}

/// A running warehouse with the groups etl and bi; unless told otherwise one node each, and two shards.
pub struct TestWarehouse {
    pub home: DevHome,
    /// The password of the user `admin`.
    pub password: String,
}

impl TestWarehouse {
    /// # Panics
    /// If it does not come up.
    pub fn start(more: &[&str]) -> Self {
        Self::start_shaped(&SMALL, more)
    }

    /// `shape`: the flags for shards and groups; etl comes first, bi second.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start_shaped(shape: &[&str], more: &[&str]) -> Self {
        Self::start_with(shape, more, &[])
    }

    /// With these variables in the environment of every process.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start_with(shape: &[&str], more: &[&str], environment: &[(&str, &str)]) -> Self {
        let home = DevHome::new();
        let mut command = home.shaped_up_command(shape, more);
        let started = output(command.args(["--output", "json"]).envs(environment.iter().copied()));
        assert!(started.status.success(), "dev up: {}{}", stderr(&started), home.logs());
        let connections: Value = serde_json::from_str(&stdout(&started)).expect("dev up prints JSON");
        let url = connections[0]["http"].as_str().expect("a connection string").to_owned();
        let password = url.split([':', '@']).nth(2).expect("user:password@ in the connection string").to_owned();
        Self { home, password }
    }

    /// The administrator at a group's endpoint; etl is 0, bi is 1.
    pub fn client(&self, group_index: u16) -> SqlClient {
        self.client_as(group_index, "admin", &self.password)
    }

    pub fn client_as(&self, group_index: u16, user: &str, password: &str) -> SqlClient {
        SqlClient::new(&format!("127.0.0.1:{}", self.http_port(group_index)), user, password)
    }

    /// Port of a group's HTTP endpoint; etl is 0, bi is 1.
    pub fn http_port(&self, group_index: u16) -> u16 {
        self.home.port_base + 10 + group_index
    }

    pub fn native_port(&self, group_index: u16) -> u16 {
        self.home.port_base + 20 + group_index
    }
}

/// What the command printed.
///
/// # Panics
/// If it fails.
pub fn succeed(command: &mut Command) -> String {
    let done: Output = output(command);
    assert!(done.status.success(), "{command:?} failed: {}{}", stderr(&done), stdout(&done));
    stdout(&done)
}
