//! `dev up`: check, start, wait, print how to connect. If it fails half-way, it stops what it had started.

use std::path::Path;
use std::time::{Duration, Instant};

use moorhouse_base::tasks::stop_signal;

use crate::args::{Output, UpArgs};
use crate::controller::Controller;
use crate::dev::plan::{self, PlannedProcess};
use crate::dev::process::{self, Started};
use crate::dev::state::{ADMIN_USER, DevDir, DevState, Settings};
use crate::dev::{certificates, connections, down, preflight};
use crate::error::CtlError;
use crate::show::{print_json, print_text};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(100);

pub async fn up(dir: &Path, args: &UpArgs, output: Output) -> Result<(), CtlError> {
    let dir = DevDir::new(dir)?;
    let earlier = dir.load()?;
    if let Some(state) = &earlier {
        preflight::check_not_running(&dir, state)?;
    }
    let settings = Settings::resolve(args, &dir, earlier.as_ref().map(|state| &state.settings))?;
    let mut state = match earlier {
        Some(mut earlier) => {
            earlier.settings = settings;
            earlier
        }
        None => DevState::new(settings),
    };
    state.running.clear();
    plan::check_port_range(&state)?;
    let planned = plan::processes(&dir, &state);
    preflight::check_machine(&planned, &state.settings.engine)?;
    let _lock = dir.lock()?;
    preflight::clear_stale_mounts(&dir)?;
    preflight::check_ports(&planned)?;

    let started = Instant::now();
    let outcome = tokio::select! {
        outcome = start_all(&dir, &mut state, &planned) => outcome,
        () = stop_signal() => Err(CtlError::failed("stopped by a signal")),
    };
    if let Err(error) = outcome {
        down::stop_everything(&dir, &mut state).await?;
        return Err(error);
    }
    eprintln!("the warehouse is up after {:.1} s", started.elapsed().as_secs_f64());
    match output {
        Output::Json => print_json(&connections(&state).to_json()),
        Output::Table => print_text(&connections(&state).to_table()),
    }
}

async fn start_all(dir: &DevDir, state: &mut DevState, planned: &[PlannedProcess]) -> Result<(), CtlError> {
    let deadline = Instant::now() + START_TIMEOUT;
    let (controller, rest) = planned.split_first().expect("the plan begins with the controller");
    let mut first = start_one(dir, state, controller)?;
    wait_and_say(&mut first, deadline).await?;
    let mut others = Vec::with_capacity(rest.len());
    for process in rest {
        others.push(start_one(dir, state, process)?);
    }
    for process in &mut others {
        wait_and_say(process, deadline).await?;
    }
    wait_until_serving(dir, state, deadline).await
}

/// Starts a process and notes it in the state file before anything else happens.
pub fn start_one(dir: &DevDir, state: &mut DevState, planned: &PlannedProcess) -> Result<Started, CtlError> {
    certificates::prepare(dir, state, ADMIN_USER)?;
    certificates::prepare(dir, state, &planned.name)?;
    let started = process::start(dir, planned)?;
    state.running.insert(started.name.clone(), started.running);
    dir.save(state)?;
    Ok(started)
}

pub async fn wait_and_say(process: &mut Started, deadline: Instant) -> Result<(), CtlError> {
    let from = Instant::now();
    process.wait_until_healthy(deadline).await?;
    eprintln!("{:12} up (pid {}, waited {:.1} s)", process.name, process.running.pid, from.elapsed().as_secs_f64());
    Ok(())
}

/// Every shard has a node in every group, and every group's endpoint answers a query.
async fn wait_until_serving(dir: &DevDir, state: &DevState, deadline: Instant) -> Result<(), CtlError> {
    let mut controller = Controller::connect(&state.settings.controller_url(), &dir.tls_flags(&state.settings)).await?;
    loop {
        let status = controller.status().await?;
        let whole = |name: &str| {
            let group = status.groups.iter().find(|group| group.name == name);
            group.is_some_and(|group| group.nodes_up == group.nodes && group.shards_assigned == status.shards)
        };
        let unassigned = state.settings.groups.iter().find(|group| !whole(&group.name));
        let waiting_for = match unassigned {
            Some(group) => Some(format!("group {} has not all of its nodes and shards", group.name)),
            None => first_silent_endpoint(state).await,
        };
        let Some(waiting_for) = waiting_for else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(CtlError::failed(format!(
                "the warehouse did not come up in time: {waiting_for}; look at the logs"
            )));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

async fn first_silent_endpoint(state: &DevState) -> Option<String> {
    let login = format!("X-ClickHouse-User: {ADMIN_USER}\r\nX-ClickHouse-Key: {}\r\n", state.admin_password);
    for (index, group) in state.settings.groups.iter().enumerate() {
        let (http, _) = plan::group_ports(&state.settings, index);
        let answer = process::http_get(http, "/?query=SELECT%201", &login).await;
        if !answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            return Some(format!("group {} does not answer at port {http}", group.name));
        }
    }
    None
}
