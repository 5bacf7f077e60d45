//! `dev down`: gateway first, so that no new work arrives, then the nodes, then the controller. Repeating it is harmless.

use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::dev::plan::{self, CONTROLLER, GATEWAY};
use crate::dev::process::RunningProcess;
use crate::dev::state::{DevDir, DevState};
use crate::dev::{mounts, preflight};
use crate::error::CtlError;
use crate::show::print_text;

const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn down(dir: &Path) -> Result<(), CtlError> {
    let dir = DevDir::new(dir)?;
    let Some(mut state) = dir.load()? else {
        return print_text(&format!("nothing runs in {}", dir.path().display()));
    };
    let _lock = dir.lock()?;
    stop_everything(&dir, &mut state).await?;
    print_text("stopped; the data stays for the next `moorctl dev up`")
}

/// Stops all that the state knows, and makes sure that nothing is left: no process, mount or port.
pub async fn stop_everything(dir: &DevDir, state: &mut DevState) -> Result<(), CtlError> {
    let names: Vec<String> = state.running.keys().cloned().collect();
    let (front, rest): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name == GATEWAY);
    let (last, nodes): (Vec<_>, Vec<_>) = rest.into_iter().partition(|name| name == CONTROLLER);
    for stage in [front, nodes, last] {
        stop_stage(dir, state, &stage).await?;
    }
    preflight::clear_stale_mounts(dir)?;
    check_nothing_left(dir, state)
}

/// Stops these processes side by side, with everything they started, and takes them off the state.
pub async fn stop_stage(dir: &DevDir, state: &mut DevState, names: &[String]) -> Result<(), CtlError> {
    let found: Vec<(String, RunningProcess, Vec<RunningProcess>)> = names
        .iter()
        .filter_map(|name| state.running.get(name).map(|run| (name.clone(), *run, run.descendants())))
        .collect();
    let deadline = Instant::now() + STOP_TIMEOUT;
    for (_, run, _) in &found {
        run.signal(Signal::SIGTERM);
    }
    for (name, run, children) in &found {
        if !run.wait_for_end(deadline).await {
            eprintln!("warning: {name} did not stop within {} s: killing it", STOP_TIMEOUT.as_secs());
        }
        let all: Vec<_> = children.iter().chain([run]).filter(|process| process.is_alive()).collect();
        // An engine that waits for its agent's file system ends only when the agent does: so all are signalled first.
        all.iter().for_each(|process| process.signal(Signal::SIGKILL));
        for left in all {
            if !left.wait_for_end(Instant::now() + KILL_TIMEOUT).await {
                return Err(CtlError::failed(format!("{name} (process {}) cannot be killed", left.pid)));
            }
        }
        state.running.remove(name);
    }
    if found.is_empty() { Ok(()) } else { dir.save(state) }
}

fn check_nothing_left(dir: &DevDir, state: &DevState) -> Result<(), CtlError> {
    let mut left: Vec<String> = mounts::below(dir).iter().map(|mount| format!("mount {}", mount.display())).collect();
    let planned = plan::processes(dir, state);
    let ports = planned.iter().flat_map(|process| &process.ports);
    let listening = ports.filter(|port| TcpStream::connect(("127.0.0.1", port.number)).is_ok());
    left.extend(listening.map(|port| format!("port {} (of {})", port.number, port.purpose)));
    if left.is_empty() {
        return Ok(());
    }
    Err(CtlError::failed(format!("everything was stopped, but this is still there: {}", left.join(", "))))
}
