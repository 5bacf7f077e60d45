//! The processes, mounts and ports of a dev warehouse, as Linux shows them: killing some on purpose, and proof that none is left.

use std::fs;
use std::net::TcpStream;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::warehouse::DevHome;

/// Ports that a test's warehouse may use, from its base.
pub const PORTS: u16 = 300;

impl DevHome {
    /// The pid of a process of the warehouse, by its name there (`controller`, `etl-0`).
    ///
    /// # Panics
    /// If it was never started.
    pub fn pid(&self, process: &str) -> Pid {
        let state = fs::read_to_string(self.path().join("dev.json")).expect("there is a state");
        let state: serde_json::Value = serde_json::from_str(&state).expect("it is JSON");
        let pid = state["running"][process]["pid"].as_i64().unwrap_or_else(|| panic!("{process} is not in {state}"));
        Pid::from_raw(i32::try_from(pid).expect("pids fit"))
    }

    /// Whether a process of the warehouse still runs, as moorctl sees it: a zombie whose last thread has gone does not.
    pub fn is_alive(&self, process: &str) -> bool {
        stat_of(self.pid(process).as_raw())
            .is_some_and(|fields| !matches!(fields[0].as_str(), "Z" | "X") || !matches!(fields[17].as_str(), "0" | "1"))
    }

    /// SIGKILL to a node's engine alone.
    ///
    /// # Panics
    /// If it has none.
    pub fn kill_engine(&self, node: &str) {
        let engines = children_of(self.pid(node));
        assert!(!engines.is_empty(), "{node} has no engine");
        for engine in engines {
            kill(engine, Signal::SIGKILL).expect("it runs");
        }
    }

    pub fn mounts(&self) -> usize {
        let place = fs::canonicalize(self.scratch()).expect("it is there").display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("Linux tells its mounts");
        mounts.lines().filter(|line| line.contains(&format!(" {place}/"))).count()
    }

    /// # Panics
    /// If a mount, a process or a listening port is left.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.mounts(), 0);
        let place = self.path().display().to_string();
        for pid in pids() {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            assert!(!(words.contains("moorhouse-") && words.contains(&place)), "still runs: {words}");
        }
        let listening =
            (self.port_base..self.port_base + PORTS).find(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok());
        assert_eq!(listening, None, "a port is still open");
    }
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .expect("Linux tells its processes")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn children_of(parent: Pid) -> Vec<Pid> {
    let parent = parent.to_string();
    pids().filter(|pid| stat_of(*pid).is_some_and(|fields| fields[1] == parent)).map(Pid::from_raw).collect()
}

/// /proc/PID/stat behind the name, which is in brackets and may hold anything: the state is 0, the parent 1, the number of threads 17.
fn stat_of(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}
