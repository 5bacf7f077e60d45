//! Which processes a dev warehouse has, with which flags, on which ports. Pure: the same state gives the same plan.
//!
//! Ports from the base: controller +0, its metrics +1, gateway metrics +2, gateway HTTP of group i +10+i, native +20+i;
//! nodes from +100 in blocks of 16 + shards: agent, its metrics, engine HTTP, engine native, and from +16 the router's.

use std::path::PathBuf;

use crate::dev::certificates::AUTHORITY;
use crate::dev::state::{ADMIN_USER, DevDir, DevNode, DevState, Settings};
use crate::error::CtlError;

const NODES_FROM: u32 = 100;
const NODE_FIXED_PORTS: u32 = 16;
/// A node that is silent for this long counts as down.
const LEASE_TTL_MS: u32 = 3_000;
const HOST: &str = "127.0.0.1";

pub const CONTROLLER: &str = "controller";
pub const GATEWAY: &str = "gateway";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub number: u16,
    pub purpose: String,
}

#[derive(Debug, Clone)]
pub struct PlannedProcess {
    pub name: String,
    /// File name of the binary, beside moorctl.
    pub program: &'static str,
    pub args: Vec<String>,
    pub ports: Vec<Port>,
    pub metrics_port: u16,
    pub mount: Option<PathBuf>,
}

/// Controller, nodes, gateway: in the order of starting.
pub fn processes(dir: &DevDir, state: &DevState) -> Vec<PlannedProcess> {
    let mut planned = vec![controller(dir, state)];
    planned.extend(state.nodes.iter().map(|node| agent(dir, state, node)));
    planned.push(gateway(dir, state));
    planned
}

/// HTTP and native port of the group with this index.
pub fn group_ports(settings: &Settings, index: usize) -> (u16, u16) {
    let index = u16::try_from(index).expect("Settings::check admits few groups");
    (settings.port_base + 10 + index, settings.port_base + 20 + index)
}

/// Refuses a base from which the ports of this many nodes would run past 65535.
pub fn check_port_range(state: &DevState) -> Result<(), CtlError> {
    let slots = state.nodes.iter().map(|node| u32::from(node.slot) + 1).max().unwrap_or(0);
    let last = u32::from(state.settings.port_base) + NODES_FROM + slots * (NODE_FIXED_PORTS + state.settings.shards);
    if last <= u32::from(u16::MAX) {
        return Ok(());
    }
    let problem = format!("{slots} nodes with {} shards need ports up to {last}", state.settings.shards);
    Err(CtlError::bad_input(problem, "take a lower --port-base, fewer nodes or fewer --shards"))
}

fn controller(dir: &DevDir, state: &DevState) -> PlannedProcess {
    let settings = &state.settings;
    let (listen, metrics) = (settings.port_base, settings.port_base + 1);
    let mut args = flags([
        ("--listen", address(listen)),
        ("--metrics", address(metrics)),
        ("--store", settings.store.clone()),
        ("--objects", settings.objects.clone()),
        ("--shards", settings.shards.to_string()),
        ("--user", format!("{ADMIN_USER}:{}", state.admin_password_sha256_hex())),
        ("--lease-ttl-ms", LEASE_TTL_MS.to_string()),
    ]);
    for group in &settings.groups {
        args.extend(flags([("--group", group.name.clone())]));
    }
    args.extend(tls(dir, settings, CONTROLLER));
    if settings.tls {
        args.extend(flags([("--issuer", dir.certificates(AUTHORITY).display().to_string())]));
    }
    PlannedProcess {
        name: CONTROLLER.to_owned(),
        program: "moorhouse-controller",
        args,
        ports: vec![port(listen, "the controller"), port(metrics, "the controller's metrics")],
        metrics_port: metrics,
        mount: None,
    }
}

/// One node's agent, which runs the engine.
pub fn agent(dir: &DevDir, state: &DevState, node: &DevNode) -> PlannedProcess {
    let settings = &state.settings;
    let block = NODES_FROM + u32::from(node.slot) * (NODE_FIXED_PORTS + settings.shards);
    let at = |offset: u32| {
        u16::try_from(u32::from(settings.port_base) + block + offset).expect("check_port_range has passed")
    };
    let mount = dir.node_mount(&node.name);
    let mut args = flags([
        ("--controller", settings.controller_url()),
        ("--name", node.name.clone()),
        ("--group", node.group.clone()),
        ("--data", dir.node_data(&node.name).display().to_string()),
        ("--mount", mount.display().to_string()),
        ("--listen", address(at(0))),
        ("--metrics", address(at(1))),
        ("--engine-http-port", at(2).to_string()),
        ("--engine-native-port", at(3).to_string()),
        ("--router-port-base", at(NODE_FIXED_PORTS).to_string()),
        ("--cache-bytes", settings.cache_bytes.to_string()),
        ("--settle-ms", settings.settle_ms.to_string()),
        ("--engine", settings.engine.clone()),
    ]);
    args.extend(tls(dir, settings, &node.name));
    let name = &node.name;
    let mut ports = vec![
        port(at(0), format!("{name}'s agent")),
        port(at(1), format!("{name}'s metrics")),
        port(at(2), format!("{name}'s engine over HTTP")),
        port(at(3), format!("{name}'s engine over the native protocol")),
    ];
    ports.extend(
        (0..settings.shards)
            .map(|shard| port(at(NODE_FIXED_PORTS + shard), format!("{name}'s router for shard {shard}"))),
    );
    PlannedProcess {
        name: name.clone(),
        program: "moorhouse-agent",
        args,
        ports,
        metrics_port: at(1),
        mount: Some(mount),
    }
}

fn gateway(dir: &DevDir, state: &DevState) -> PlannedProcess {
    let settings = &state.settings;
    let metrics = settings.port_base + 2;
    let mut args = flags([("--controller", settings.controller_url()), ("--metrics", address(metrics))]);
    args.extend(tls(dir, settings, GATEWAY));
    let mut ports = vec![port(metrics, "the gateway's metrics")];
    for (index, group) in settings.groups.iter().enumerate() {
        let (http, native) = group_ports(settings, index);
        args.extend(flags([("--listen-group", format!("{}={},{}", group.name, address(http), address(native)))]));
        ports.push(port(http, format!("the gateway's HTTP for group {}", group.name)));
        ports.push(port(native, format!("the gateway's native protocol for group {}", group.name)));
    }
    PlannedProcess {
        name: GATEWAY.to_owned(),
        program: "moorhouse-gateway",
        args,
        ports,
        metrics_port: metrics,
        mount: None,
    }
}

/// As in `18200-18203 18216-18223`.
pub fn port_ranges(ports: &[Port]) -> String {
    let mut numbers: Vec<u16> = ports.iter().map(|port| port.number).collect();
    numbers.sort_unstable();
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let words =
        runs.map(|run| if run.len() == 1 { run[0].to_string() } else { format!("{}-{}", run[0], run[run.len() - 1]) });
    words.collect::<Vec<_>>().join(" ")
}

fn tls(dir: &DevDir, settings: &Settings, holder: &str) -> Vec<String> {
    if settings.tls { flags([("--tls", dir.certificates(holder).display().to_string())]) } else { Vec::new() }
}

fn address(port: u16) -> String {
    format!("{HOST}:{port}")
}

fn port(number: u16, purpose: impl Into<String>) -> Port {
    Port { number, purpose: purpose.into() }
}

fn flags<const N: usize>(pairs: [(&str, String); N]) -> Vec<String> {
    pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::args::UpArgs;

    fn state(args: &UpArgs) -> (DevDir, DevState) {
        let dir = DevDir::new(Path::new("/nowhere/warehouse")).expect("a path");
        let settings = Settings::resolve(args, &dir, None).expect("right settings");
        (dir, DevState::new(settings))
    }

    #[test]
    fn no_port_is_used_twice() {
        let (dir, mut state) = state(&UpArgs { shards: Some(64), ..UpArgs::default() });
        state.add_node("etl", "etl-2".to_owned());
        let ports: Vec<u16> =
            processes(&dir, &state).into_iter().flat_map(|p| p.ports).map(|port| port.number).collect();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
    }

    #[test]
    fn ports_are_shown_as_ranges() {
        let ports = [5, 1, 2, 3].map(|number| port(number, "x"));
        assert_eq!(port_ranges(&ports), "1-3 5");
    }

    #[test]
    fn the_password_is_passed_as_its_hash() {
        let (dir, state) = state(&UpArgs::default());
        let words = processes(&dir, &state).into_iter().flat_map(|p| p.args).collect::<Vec<_>>().join(" ");
        assert!(!words.contains(&state.admin_password));
        assert!(words.contains(&state.admin_password_sha256_hex()));
    }

    #[test]
    fn ports_past_the_end_are_refused() {
        let (_, state) = state(&UpArgs { shards: Some(1024), port_base: Some(64_000), ..UpArgs::default() });
        assert!(check_port_range(&state).expect_err("too high").to_string().contains("--port-base"));
    }
}
