//! Nodes of a running dev warehouse: one more, one less, a crash on purpose and the return from it.

use std::path::Path;
use std::time::{Duration, Instant};

use moorhouse_proto::NodeInfo;
use nix::sys::signal::Signal;

use crate::args::check_name;
use crate::controller::{Controller, follow_moves};
use crate::dev::certificates::AUTHORITY;
use crate::dev::plan::{self, PlannedProcess};
use crate::dev::state::{ADMIN_USER, DevDir, DevNode, DevState};
use crate::dev::{down, mounts, preflight, up};
use crate::error::CtlError;
use crate::show::print_text;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const END_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(100);

/// Starts one more node; with `wait`, returns when the group's shards are spread over it too.
pub async fn add(dir: &Path, group: &str, name: Option<String>, wait: bool) -> Result<(), CtlError> {
    let dir = DevDir::new(dir)?;
    let mut state = dir.load_or_refuse()?;
    let groups: Vec<&str> = state.settings.groups.iter().map(|group| group.name.as_str()).collect();
    if !groups.contains(&group) {
        let remedy = format!("the groups are: {}", groups.join(", "));
        return Err(CtlError::bad_input(format!("there is no group '{group}'"), remedy));
    }
    let name = name.unwrap_or_else(|| state.free_name(group));
    check_name(&name).map_err(|problem| CtlError::bad_input(problem, "choose another --name"))?;
    if state.nodes.iter().any(|node| node.name == name)
        || [plan::CONTROLLER, plan::GATEWAY, ADMIN_USER, AUTHORITY].contains(&name.as_str())
    {
        return Err(CtlError::bad_input(format!("the name '{name}' is taken"), "choose another --name"));
    }
    let lock = dir.lock()?;
    let mut controller = Controller::connect(&state.settings.controller_url(), &dir.tls_flags(&state.settings)).await?;
    let node = state.add_node(group, name);
    plan::check_port_range(&state)?;
    start_node(&dir, &mut state, &node, &mut controller).await?;
    drop(lock);
    if wait {
        follow_moves(controller.rebalance(group).await?).await?;
    }
    let held = controller.shards(group).await?.iter().filter(|shard| shard.node == node.name).count();
    print_text(&format!("{} is up and holds {held} shards", node.name))
}

/// Starts a node, the controller or the gateway again, if it is stopped or was killed.
pub async fn start(dir: &Path, name: &str) -> Result<(), CtlError> {
    let dir = DevDir::new(dir)?;
    let mut state = dir.load_or_refuse()?;
    let planned = find_process(&dir, &state, name)?;
    if state.running.get(name).is_some_and(|run| run.is_alive()) {
        return Err(CtlError::bad_input(format!("{name} is running"), "see `moorctl dev status`"));
    }
    let _lock = dir.lock()?;
    let Some(mount) = &planned.mount else {
        start_and_wait(&dir, &mut state, &planned, Instant::now() + START_TIMEOUT).await?;
        return print_text(&format!("{name} is up"));
    };
    let node = state.node(name)?.clone();
    let mut controller = Controller::connect(&state.settings.controller_url(), &dir.tls_flags(&state.settings)).await?;
    if mounts::below(&dir).contains(mount) {
        eprintln!("{} is still mounted from a crash: unmounting it", mount.display());
        mounts::detach(mount);
    }
    start_node(&dir, &mut state, &node, &mut controller).await?;
    print_text(&format!("{name} is up"))
}

async fn start_node(
    dir: &DevDir,
    state: &mut DevState,
    node: &DevNode,
    controller: &mut Controller,
) -> Result<(), CtlError> {
    let planned = plan::agent(dir, state, node);
    let deadline = Instant::now() + START_TIMEOUT;
    start_and_wait(dir, state, &planned, deadline).await?;
    let outcome = wait_until_listed_up(controller, &node.name, deadline).await;
    if outcome.is_err() {
        down::stop_stage(dir, state, std::slice::from_ref(&node.name)).await?;
    }
    outcome
}

/// A process that does not become healthy is stopped again.
async fn start_and_wait(
    dir: &DevDir,
    state: &mut DevState,
    planned: &PlannedProcess,
    deadline: Instant,
) -> Result<(), CtlError> {
    preflight::check_ports([planned])?;
    let mut started = up::start_one(dir, state, planned)?;
    let outcome = up::wait_and_say(&mut started, deadline).await;
    if outcome.is_err() {
        down::stop_stage(dir, state, std::slice::from_ref(&planned.name)).await?;
    }
    outcome
}

fn find_process(dir: &DevDir, state: &DevState, name: &str) -> Result<PlannedProcess, CtlError> {
    if ![plan::CONTROLLER, plan::GATEWAY].contains(&name) {
        state.node(name)?;
    }
    let mut planned = plan::processes(dir, state).into_iter();
    Ok(planned.find(|process| process.name == name).expect("every node, the controller and the gateway are planned"))
}

/// Up, and in step with a view: until then the controller gives it no shard.
async fn wait_until_listed_up(controller: &mut Controller, name: &str, deadline: Instant) -> Result<(), CtlError> {
    while !find(controller, name).await?.is_some_and(|node| node.up && node.view_revision > 0) {
        if Instant::now() >= deadline {
            return Err(CtlError::failed(format!("the controller does not count {name} as up: look at its log")));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(())
}

async fn find(controller: &mut Controller, name: &str) -> Result<Option<NodeInfo>, CtlError> {
    Ok(controller.nodes("").await?.into_iter().find(|node| node.node == name))
}

/// Takes a drained node off the books and stops its processes.
pub async fn remove(dir: &Path, name: &str) -> Result<(), CtlError> {
    let dir = DevDir::new(dir)?;
    let mut state = dir.load_or_refuse()?;
    state.node(name)?;
    let _lock = dir.lock()?;
    let mut controller = Controller::connect(&state.settings.controller_url(), &dir.tls_flags(&state.settings)).await?;
    if let Some(node) = find(&mut controller, name).await?
        && (!node.draining || node.shards > 0)
    {
        let problem = format!("{name} still holds {} shards or may be given some", node.shards);
        return Err(CtlError::bad_input(problem, format!("drain it first: moorctl node drain {name}")));
    }
    // An agent that still ran would register again.
    down::stop_stage(&dir, &mut state, &[name.to_owned()]).await?;
    controller.remove_node(name).await?;
    state.nodes.retain(|node| node.name != name);
    dir.save(&state)?;
    print_text(&format!("{name} is off the books"))
}

/// SIGKILL to a process and everything it started, at the same moment: what a power cut does to a node.
pub async fn kill(dir: &Path, name: &str) -> Result<(), CtlError> {
    let dir = DevDir::new(dir)?;
    let state = dir.load_or_refuse()?;
    find_process(&dir, &state, name)?;
    let Some(run) = state.running.get(name).filter(|run| run.is_alive()) else {
        return Err(CtlError::bad_input(
            format!("{name} is not running"),
            format!("start it: moorctl dev start {name}"),
        ));
    };
    let all: Vec<_> = std::iter::once(*run).chain(run.descendants()).collect();
    for process in &all {
        process.signal(Signal::SIGKILL);
    }
    let deadline = Instant::now() + END_TIMEOUT;
    for process in &all {
        if !process.wait_for_end(deadline).await {
            return Err(CtlError::failed(format!("process {} of {name} cannot be killed", process.pid)));
        }
    }
    print_text(&format!("{name} is killed ({} processes)", all.len()))
}
