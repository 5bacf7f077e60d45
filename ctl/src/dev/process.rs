//! One process of a dev warehouse: starting it, watching it come up, ending it.
//!
//! A process is named by its pid and its start time: a pid alone may by now belong to somebody else, and such a process
//! is never signalled.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::dev::plan::PlannedProcess;
use crate::dev::state::DevDir;
use crate::error::{CtlError, one_line};

const POLL_EVERY: Duration = Duration::from_millis(50);
const HEALTH_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunningProcess {
    pub pid: i32,
    /// Clock ticks between the machine's start and the process's: field 22 of /proc/PID/stat.
    pub started_ticks: u64,
}

impl RunningProcess {
    /// None if there is no such process (any more).
    pub fn find(pid: i32) -> Option<Self> {
        let stat = ProcStat::read(pid)?;
        Some(Self { pid, started_ticks: stat.started_ticks })
    }

    pub fn is_alive(&self) -> bool {
        ProcStat::read(self.pid).is_some_and(|stat| stat.started_ticks == self.started_ticks && !stat.ended)
    }

    /// Signals it, if it still is the same process.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // It may end between the look and the signal: that is what was wanted anyway.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// False if it was still alive at the deadline.
    pub async fn wait_for_end(&self, deadline: Instant) -> bool {
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        true
    }

    /// Its children, and theirs.
    pub fn descendants(&self) -> Vec<Self> {
        let all: Vec<(i32, ProcStat)> = all_pids().filter_map(|pid| Some((pid, ProcStat::read(pid)?))).collect();
        let mut found = vec![*self];
        let mut next = 0;
        while next < found.len() {
            let parent = found[next].pid;
            let children = all.iter().filter(|(_, stat)| stat.parent == parent);
            found.extend(children.map(|(pid, stat)| Self { pid: *pid, started_ticks: stat.started_ticks }));
            next += 1;
        }
        found.split_off(1)
    }
}

struct ProcStat {
    parent: i32,
    /// A zombie without threads: all of it has ended, and its parent has not looked yet. (While a thread is still on its way
    /// out, perhaps of a file system call, the process holds on to its ports.)
    ended: bool,
    started_ticks: u64,
}

impl ProcStat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in brackets, which may hold anything: the rest starts after the last bracket.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let threads: u64 = fields.get(17)?.parse().ok()?;
        Some(Self {
            ended: matches!(*fields.first()?, "Z" | "X") && threads <= 1,
            parent: fields.get(1)?.parse().ok()?,
            started_ticks: fields.get(19)?.parse().ok()?,
        })
    }
}

fn all_pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A process just started by this moorctl.
pub struct Started {
    pub name: String,
    pub running: RunningProcess,
    child: Child,
    metrics_port: u16,
    log: std::path::PathBuf,
    log_from: u64,
}

/// Starts a process in a session of its own, so that it outlives the terminal; its output goes to its log.
pub fn start(dir: &DevDir, planned: &PlannedProcess) -> Result<Started, CtlError> {
    let program = sibling(planned.program)?;
    let log = dir.log(&planned.name);
    let spawn = || -> io::Result<(Child, u64)> {
        if let Some(mount) = &planned.mount {
            fs::create_dir_all(mount)?;
        }
        let output = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let log_from = output.metadata()?.len();
        let mut command = Command::new(&program);
        command.args(&planned.args).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // SAFETY: between fork and exec only setsid runs, which is async-signal-safe and allocates nothing.
        unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from)) };
        Ok((command.spawn()?, log_from))
    };
    let (child, log_from) = spawn()
        .map_err(|error| CtlError::failed(format!("cannot start {} ({}): {error}", planned.name, program.display())))?;
    let pid = i32::try_from(child.id()).expect("Linux pids fit");
    let running =
        RunningProcess::find(pid).ok_or_else(|| CtlError::failed(format!("{} has gone at once", planned.name)))?;
    Ok(Started { name: planned.name.clone(), running, child, metrics_port: planned.metrics_port, log, log_from })
}

impl Started {
    /// Returns when its /healthz answers; if it ends before that, with what it said.
    pub async fn wait_until_healthy(&mut self, deadline: Instant) -> Result<(), CtlError> {
        loop {
            if let Some(status) = self.child.try_wait().map_err(|error| CtlError::failed(error.to_string()))? {
                return Err(self.why_it_ended(status.code()));
            }
            if is_healthy(self.metrics_port).await {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(CtlError::failed(format!(
                    "{} is not ready in time: see {}",
                    self.name,
                    self.log.display()
                )));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// The moorhouse processes end with code 2 and one line a mistake when their input is at fault.
    fn why_it_ended(&self, code: Option<i32>) -> CtlError {
        let said = last_words(&self.log, self.log_from);
        let log = self.log.display();
        match code {
            Some(2) => CtlError::bad_input(format!("{}: {said}", self.name), format!("its log is {log}")),
            Some(code) => CtlError::failed(format!("{} ended with code {code}: {said} (its log is {log})", self.name)),
            None => CtlError::failed(format!("{} was killed: {said} (its log is {log})", self.name)),
        }
    }
}

/// The last lines of a log, from byte `from`.
fn last_words(log: &Path, from: u64) -> String {
    const LINES: usize = 4;
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(text.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    one_line(&lines[lines.len().saturating_sub(LINES)..].join(" | "))
}

/// True when a GET of /healthz on this port of the loopback answers 200.
pub async fn is_healthy(port: u16) -> bool {
    http_get(port, "/healthz", "")
        .await
        .is_some_and(|answer| answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"))
}

/// One GET on the loopback; the whole answer, headers first. None if it does not come within half a second.
pub async fn http_get(port: u16, path: &str, headers: &str) -> Option<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(HEALTH_TIMEOUT, exchange).await.ok().flatten()
}

/// The binary of this name beside moorctl.
pub fn sibling(program: &str) -> Result<std::path::PathBuf, CtlError> {
    let here =
        std::env::current_exe().map_err(|error| CtlError::failed(format!("cannot tell where moorctl is: {error}")))?;
    let path = here.with_file_name(program);
    if path.is_file() {
        return Ok(path);
    }
    Err(CtlError::bad_input(format!("{} is not there", path.display()), "build it: make build"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_pid_and_start() {
        let me = RunningProcess::find(i32::try_from(std::process::id()).expect("pids fit")).expect("I run");
        assert!(me.is_alive());
        let another = RunningProcess { started_ticks: me.started_ticks + 1, ..me };
        assert!(!another.is_alive(), "the same pid at another time is another process");
    }

    #[tokio::test]
    async fn children_are_found_and_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep is everywhere");
        let me = RunningProcess::find(i32::try_from(std::process::id()).expect("pids fit")).expect("I run");
        let found = me.descendants().into_iter().find(|p| p.pid.cast_unsigned() == child.id()).expect("my child");
        found.signal(Signal::SIGKILL);
        assert!(found.wait_for_end(Instant::now() + Duration::from_secs(5)).await);
        child.wait().expect("it was my child");
    }
}
