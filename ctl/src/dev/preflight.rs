//! What this machine must have before the first process starts: each lack is one line with its remedy.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::dev::mounts;
use crate::dev::plan::PlannedProcess;
use crate::dev::process::sibling;
use crate::dev::state::{DevDir, DevState};
use crate::error::CtlError;

const FUSE_DEVICE: &str = "/dev/fuse";
const EMBEDDED_ENGINE: &str = "moorhouse/chdb-26.7.3-stable.1/libchdb.so";

/// Everything but the ports, which are checked when the old mounts and processes are known to be gone.
pub fn check_machine(planned: &[PlannedProcess], engine: &str) -> Result<(), CtlError> {
    check_fuse(Path::new(FUSE_DEVICE))?;
    for process in planned {
        sibling(process.program)?;
    }
    check_engine(engine)
}

fn check_fuse(device: &Path) -> Result<(), CtlError> {
    let remedy = "load it with `modprobe fuse`; in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN";
    match fs::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(CtlError::bad_input(
            format!("no permission to open {}", device.display()),
            "run as root, or let this user open it",
        )),
        Err(error) => Err(CtlError::bad_input(format!("cannot open {}: {error}", device.display()), remedy)),
    }
}

fn check_engine(engine: &str) -> Result<(), CtlError> {
    let remedy = "install it with `make setup`, or name a ClickHouse 25.8 or newer with --engine PATH";
    if engine != "auto" {
        let problem = format!("--engine {engine} is not a file");
        return if Path::new(engine).is_file() { Ok(()) } else { Err(CtlError::bad_input(problem, remedy)) };
    }
    let on_path = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("clickhouse").is_file()));
    let embedded = embedded_engine();
    if on_path || embedded.as_deref().is_some_and(Path::is_file) {
        return Ok(());
    }
    let place = embedded.map_or_else(|| "the cache directory".to_owned(), |path| path.display().to_string());
    Err(CtlError::bad_input(format!("no ClickHouse: none on the PATH, and no embedded engine at {place}"), remedy))
}

/// Where `make setup` puts the embedded engine.
fn embedded_engine() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("MOORHOUSE_CHDB") {
        return Some(PathBuf::from(named));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    cache.map(|cache| cache.join(EMBEDDED_ENGINE))
}

/// Refuses to start a second time over running processes.
pub fn check_not_running(dir: &DevDir, state: &DevState) -> Result<(), CtlError> {
    let alive: Vec<&str> =
        state.running.iter().filter(|(_, run)| run.is_alive()).map(|(name, _)| name.as_str()).collect();
    if alive.is_empty() {
        return Ok(());
    }
    let problem = format!("a dev warehouse is running in {} already ({})", dir.path().display(), alive.join(", "));
    Err(CtlError::bad_input(
        problem,
        "see `moorctl dev status`, stop it with `moorctl dev down`, or name another --dir",
    ))
}

/// Mounts below the directory can only be left from a crash here: says so, and takes them down.
pub fn clear_stale_mounts(dir: &DevDir) -> Result<(), CtlError> {
    for mount in mounts::below(dir) {
        eprintln!("{} is still mounted from a crash: unmounting it", mount.display());
        if !mounts::detach(&mount) {
            let problem = format!("{} is a stale mount and cannot be taken down", mount.display());
            return Err(CtlError::bad_input(problem, format!("run as root: umount -l {}", mount.display())));
        }
    }
    Ok(())
}

/// Refuses if a port of these processes is taken.
pub fn check_ports<'a>(planned: impl IntoIterator<Item = &'a PlannedProcess>) -> Result<(), CtlError> {
    let ports = planned.into_iter().flat_map(|process| &process.ports);
    for port in ports {
        if let Err(error) = TcpListener::bind(("127.0.0.1", port.number)) {
            let problem = format!("port {}, for {}, cannot be used: {error}", port.number, port.purpose);
            return Err(CtlError::bad_input(
                problem,
                "stop what listens there, or choose other ports with --port-base",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::plan::Port;

    #[test]
    fn a_taken_port_is_named_with_its_purpose() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let number = taken.local_addr().expect("it is bound").port();
        let process = PlannedProcess {
            name: "gateway".to_owned(),
            program: "moorhouse-gateway",
            args: Vec::new(),
            ports: vec![Port { number, purpose: "the gateway's HTTP for group etl".to_owned() }],
            metrics_port: 0,
            mount: None,
        };
        let said = check_ports([&process]).expect_err("it is taken").to_string();
        assert!(
            said.contains(&number.to_string()) && said.contains("group etl") && said.contains("--port-base"),
            "{said}"
        );
    }

    #[test]
    fn a_missing_device_comes_with_its_remedy() {
        let said = check_fuse(Path::new("/dev/no-such-fuse")).expect_err("not there").to_string();
        assert!(said.contains("modprobe fuse"), "{said}");
    }

    #[test]
    fn a_wrong_engine_path_is_refused() {
        assert!(check_engine("/nowhere/clickhouse").expect_err("not there").to_string().contains("make setup"));
    }
}
