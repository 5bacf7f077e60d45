//! A warehouse in small for the gateway's tests: real engines, the real gateway process, and a controller whose side of the
//! protocol the test plays.

#![allow(dead_code, reason = "the bench uses a part of it")]

pub mod client;
pub mod controller;
pub mod native;

use std::process::Stdio;
use std::time::Duration;

use moorhouse_catalog::{
    ClusterView, GroupName, GroupView, NodeEndpoint, NodeName, Revision, ShardCount, SqlName, TableView,
};
use moorhouse_engine::{Admin, Engine, EngineBinary, EngineChoice, EngineConfig, SqlUser};
use tokio::process::{Child, Command};

use client::{Client, Request};
use controller::PlayedController;

/// `echo -n secret | sha256sum`
const SECRET_SHA256: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

pub const GATEWAY: &str = env!("CARGO_BIN_EXE_moorhouse-gateway");

/// Ports that were free a moment ago.
pub fn free_ports<const N: usize>() -> [u16; N] {
    moorhouse_base::ports::free().expect("free ports")
}

/// One node: a real engine with user `sales` / `secret`.
pub struct Node {
    pub name: &'static str,
    pub group: &'static str,
    pub engine: Engine,
    pub http: String,
    pub native: String,
    _dir: tempfile::TempDir,
}

impl Node {
    async fn start(name: &'static str, group: &'static str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let [http_port, native_port] = free_ports();
        let config = EngineConfig {
            dir: dir.path().join("engine"),
            listen_host: "127.0.0.1".into(),
            http_port,
            native_port,
            admin: Admin { name: "agent".into(), password: "agent".into() },
            users: vec![SqlUser { name: "sales".into(), password_sha256_hex: SECRET_SHA256.into() }],
            cluster: None,
            disks_base: None,
            max_memory_bytes: Some(2 << 30),
            access: moorhouse_engine::EngineAccess::default(),
        };
        let binary = EngineBinary::find(&EngineChoice::Auto).expect("an engine; run `make setup`");
        let engine = Engine::start(&binary, &config).await.expect("the engine starts");
        let (http, native) = (format!("127.0.0.1:{http_port}"), format!("127.0.0.1:{native_port}"));
        Self { name, group, engine, http, native, _dir: dir }
    }

    pub fn endpoint(&self) -> NodeEndpoint {
        endpoint(self.name, &self.http, &self.native)
    }

    /// The trimmed answer, as administrator.
    pub async fn ask(&self, sql: &str) -> String {
        self.engine.sql().query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")).trim().to_owned()
    }
}

pub fn endpoint(name: &str, http: &str, native: &str) -> NodeEndpoint {
    let node = NodeName::new(name).expect("a name");
    NodeEndpoint { node, engine_http: http.into(), engine_native: native.into(), ready: true }
}

pub fn group(name: &str) -> GroupName {
    GroupName::new(name).expect("a name")
}

pub fn table(database: &str, name: &str, owner: &str) -> TableView {
    let sql = |name: &str| SqlName::new(name).expect("a name");
    TableView { database: sql(database), name: sql(name), owner: group(owner) }
}

pub struct World {
    pub nodes: Vec<Node>,
    pub controller: PlayedController,
    pub gateway: Child,
    pub etl: Client,
    pub bi: Client,
    /// Where the host name says the group.
    pub shared: Client,
    pub etl_native: String,
    pub bi_native: String,
    pub metrics: String,
}

impl World {
    /// Starts these nodes (name, group), a controller that shows them, and the gateway with groups etl and bi.
    pub async fn start(nodes: &[(&'static str, &'static str)]) -> Self {
        let mut started = Vec::new();
        for (name, group) in nodes {
            started.push(Node::start(name, group).await);
        }
        let controller = PlayedController::start(view(&started), &started).await;
        let [etl, etl_native, bi, bi_native, shared, shared_native, metrics] = free_ports();
        let gateway = Command::new(GATEWAY)
            .args(["--controller", &format!("http://{}", controller.address)])
            .args(["--listen-group", &format!("etl=127.0.0.1:{etl},127.0.0.1:{etl_native}")])
            .args(["--listen-group", &format!("bi=127.0.0.1:{bi},127.0.0.1:{bi_native}")])
            .args(["--listen-shared", &format!("127.0.0.1:{shared},127.0.0.1:{shared_native}")])
            .args(["--metrics", &format!("127.0.0.1:{metrics}")])
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .expect("the gateway starts");
        let metrics = format!("127.0.0.1:{metrics}");
        let healthy = async || Client::new(&metrics).try_send(Request::get("/healthz")).await.is_ok();
        eventually("the gateway is ready", healthy).await;
        let [etl, bi, shared] = [etl, bi, shared].map(|port| Client::new(&format!("127.0.0.1:{port}")));
        let [etl_native, bi_native] = [etl_native, bi_native].map(|port| format!("127.0.0.1:{port}"));
        Self { nodes: started, controller, gateway, etl, bi, shared, etl_native, bi_native, metrics }
    }

    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("a node of this world")
    }

    /// Makes a table of one number on every node's engine, owned by etl, and shows it to the gateway.
    pub async fn make_table(&self, database: &str, name: &str) {
        for node in &self.nodes {
            node.ask(&format!("CREATE DATABASE IF NOT EXISTS {database}")).await;
            node.ask(&format!("CREATE TABLE {database}.{name} (id UInt64) ENGINE = MergeTree ORDER BY id")).await;
        }
        self.controller.change(|view| view.tables.push(table(database, name, "etl")));
        // The view is on its way; a statement tells that it arrived.
        let arrived = async || {
            self.bi.sales(&format!("INSERT INTO {database}.{name} SELECT 0")).await;
            self.nodes_with_rows(database, name).await.iter().any(|node| node.starts_with("etl"))
        };
        eventually("the gateway knows the table", arrived).await;
        for node in &self.nodes {
            node.ask(&format!("TRUNCATE TABLE {database}.{name}")).await;
        }
    }

    pub async fn nodes_with_rows(&self, database: &str, name: &str) -> Vec<&'static str> {
        let mut found = Vec::new();
        for node in &self.nodes {
            if node.ask(&format!("SELECT count() FROM {database}.{name}")).await != "0" {
                found.push(node.name);
            }
        }
        found
    }

    /// The gateway's greatest resident memory so far, in MiB.
    pub fn gateway_peak_mib(&self) -> u64 {
        self.gateway_status_kib("VmHWM") / 1024
    }

    /// The gateway's resident memory now, in KiB.
    pub fn gateway_resident_kib(&self) -> u64 {
        self.gateway_status_kib("VmRSS")
    }

    fn gateway_status_kib(&self, field: &str) -> u64 {
        let pid = self.gateway.id().expect("running");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("running");
        let line = status.lines().find(|line| line.starts_with(field)).expect("Linux tells it");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number")
    }
}

fn view(nodes: &[Node]) -> ClusterView {
    let of = |name: &str| GroupView {
        name: group(name),
        nodes: nodes.iter().filter(|node| node.group == name).map(Node::endpoint).collect(),
    };
    ClusterView {
        revision: Revision(1),
        shards: ShardCount::new(8).expect("a count"),
        groups: vec![of("etl"), of("bi")],
        databases: vec![],
        tables: vec![],
    }
}

/// Waits up to 20 s for something to become true.
pub async fn eventually(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if is_true().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}
