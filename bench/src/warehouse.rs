//! A dev warehouse to measure: real controller, agents, engines and gateway, its objects behind a proxy.
//!
//! Statements go to the physical table on its node, as the engine's own administrator: what is measured is the file system,
//! without gateway and Distributed. Tables are made and dropped through the gateway, as a user does.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use moorhouse_base::ports::free_row;
use moorhouse_catalog::entry::Entry;
use moorhouse_catalog::packed::Layouts;
use moorhouse_catalog::store::Store;
use moorhouse_catalog::store::embedded::EmbeddedStore;
use moorhouse_engine::SqlClient;
use serde_json::Value;

use crate::error::BenchError;
use crate::moorctl::Moorctl;

/// The agents' user on their engines.
const ENGINE_ADMIN: &str = "moorhouse_agent";
/// The group that owns the tables, and the one that only reads them.
pub const OWNER: &str = "etl";
pub const READERS: &str = "bi";
/// The database of every table of the bench.
pub const DATABASE: &str = "bench";
/// Where a table of the warehouse is on its node: there is one shard.
pub const SHARD_DATABASE: &str = "shard_0";
/// Ports that a warehouse of two nodes may use, from its base.
const PORTS: u16 = 300;
const POLL: Duration = Duration::from_millis(100);
/// For the settling time, and for uploads of everything that is staged through a slow store.
const STORED_DEADLINE: Duration = Duration::from_secs(400);

/// For a view to reach a node.
const KNOWN_DEADLINE: Duration = Duration::from_secs(30);

/// What a warehouse is to be like.
pub struct Shape<'a> {
    /// With a second group that reads.
    pub readers: bool,
    pub settle: Duration,
    pub cache_bytes: u64,
    pub objects_url: String,
    pub credentials: &'a [(&'static str, &'static str)],
}

/// Stopped and unmounted when it is dropped.
pub struct Warehouse {
    moorctl: Moorctl,
    dir: PathBuf,
    gateway: SqlClient,
    engine_password: String,
}

/// One node's agent and engine.
pub struct Node {
    pub name: String,
    pub sql: SqlClient,
}

impl Warehouse {
    /// In `dir`, which must not exist yet.
    pub async fn start(dir: &Path, shape: &Shape<'_>) -> Result<Self, BenchError> {
        let environment = shape.credentials.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let moorctl = Moorctl::new(dir, environment.collect());
        let port_base = free_row(PORTS).map_err(BenchError::io("no free ports for a warehouse"))?;
        let store = dir.join("catalog.redb");
        let mut up =
            vec!["dev", "up", "--shards", "1", "--group", "etl=1"].into_iter().map(str::to_owned).collect::<Vec<_>>();
        if shape.readers {
            up.extend(["--group", "bi=1"].map(str::to_owned));
        }
        up.extend(["--store".to_owned(), format!("embedded:{}", store.display())]);
        up.extend(["--objects".to_owned(), shape.objects_url.clone()]);
        up.extend(["--port-base".to_owned(), port_base.to_string()]);
        up.extend(["--settle-ms".to_owned(), shape.settle.as_millis().to_string()]);
        up.extend(["--cache-bytes".to_owned(), shape.cache_bytes.to_string()]);
        let connections = moorctl.json(&up).await?;
        // From here on a failure stops it again.
        let mut warehouse =
            Self { moorctl, dir: dir.to_owned(), gateway: gateway(&connections)?, engine_password: String::new() };
        // Only the controller knows the engines' administrator, and only while it is down its store can be read.
        warehouse.moorctl.run(&["dev", "down"]).await?;
        warehouse.engine_password = engine_password(&store).await?;
        warehouse.moorctl.run(&["dev", "up"]).await?;
        let database = format!("CREATE DATABASE {DATABASE}");
        warehouse.gateway.execute(&database).await.map_err(BenchError::sql(database))?;
        Ok(warehouse)
    }

    /// A user's way in.
    pub fn gateway(&self) -> &SqlClient {
        &self.gateway
    }

    /// The only node of a group.
    pub async fn node(&self, group: &str) -> Result<Node, BenchError> {
        let nodes = self.moorctl.json(&["node", "list", "--group", group]).await?;
        let field = |name: &str| nodes[0][name].as_str().map(str::to_owned);
        let (Some(name), Some(engine)) = (field("node"), field("engine_http")) else {
            return Err(BenchError::Unexpected(format!("moorctl lists the group {group} as {nodes}")));
        };
        let sql = SqlClient::new(&engine, ENGINE_ADMIN, &self.engine_password);
        Ok(Node { name, sql })
    }

    /// The physical name of a table of the bench.
    pub async fn physical(&self, node: &Node, table: &str) -> Result<String, BenchError> {
        let sql = format!(
            "SELECT name FROM system.tables WHERE database = '{SHARD_DATABASE}' AND startsWith(name, '{table}_')"
        );
        let names = node.sql.query(&sql).await.map_err(BenchError::sql(&sql))?;
        match names.lines().collect::<Vec<_>>()[..] {
            [name] => Ok(name.to_owned()),
            _ => Err(BenchError::Unexpected(format!("{table} has these physical tables: {names:?}"))),
        }
    }

    /// Waits until every active part is in the object store.
    pub async fn wait_until_stored(&self) -> Result<(), BenchError> {
        let started = Instant::now();
        loop {
            let status = self.moorctl.json(&["status"]).await?;
            if status["parts_staged"].as_u64() == Some(0) {
                return Ok(());
            }
            if started.elapsed() > STORED_DEADLINE {
                return Err(BenchError::Unexpected(format!("after {STORED_DEADLINE:?} not all is stored: {status}")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Empties the node's SSD of everything that is stored.
    pub async fn drop_cache(&self, node: &Node) -> Result<(), BenchError> {
        self.moorctl.run(&["cache", "drop", "--node", &node.name]).await.map(drop)
    }

    /// Kills a node's agent with its engine and starts them again.
    pub async fn restart(&self, node: &Node) -> Result<(), BenchError> {
        self.moorctl.run(&["dev", "kill", &node.name]).await?;
        node.sql.close_idle();
        self.moorctl.run(&["dev", "start", &node.name]).await.map(drop)
    }

    /// Changes settings of a table, NAME=VALUE, and waits until the node knows them.
    pub async fn set(&self, node: &Node, table: &str, settings: &[String]) -> Result<(), BenchError> {
        let words: Vec<&str> = ["table", "set", table].into_iter().chain(settings.iter().map(String::as_str)).collect();
        self.moorctl.run(&words).await?;
        let wanted = self.moorctl.json(&["status"]).await?["revision"].as_u64();
        let started = Instant::now();
        loop {
            let nodes = self.moorctl.json(&["node", "list", "--group", OWNER]).await?;
            let listed = nodes.as_array().into_iter().flatten().find(|listed| listed["node"] == *node.name);
            if wanted.is_some() && listed.and_then(|listed| listed["view_revision"].as_u64()) >= wanted {
                return Ok(());
            }
            if started.elapsed() > KNOWN_DEADLINE {
                return Err(BenchError::Unexpected(format!("{} is not at revision {wanted:?}: {nodes}", node.name)));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Where the node's agent has mounted the shards.
    pub fn mount(&self, node: &Node) -> PathBuf {
        self.dir.join("mounts").join(&node.name)
    }

    /// Of the node's agent.
    pub fn agent_pid(&self, node: &Node) -> Result<u32, BenchError> {
        let file = self.dir.join("dev.json");
        let text = std::fs::read_to_string(&file).map_err(BenchError::io(file.display().to_string()))?;
        let state: Value = serde_json::from_str(&text).unwrap_or_default();
        let pid = state["running"][&node.name]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.ok_or_else(|| BenchError::Unexpected(format!("{} runs no {}", file.display(), node.name)))
    }
}

impl Drop for Warehouse {
    fn drop(&mut self) {
        if let Err(error) = self.moorctl.run_blocking(&["dev", "down"]) {
            eprintln!("moorhouse-bench: {error}");
        }
    }
}

fn gateway(connections: &Value) -> Result<SqlClient, BenchError> {
    let unknown = || BenchError::Unexpected(format!("dev up printed {connections}"));
    let listed = connections.as_array().ok_or_else(unknown)?;
    let owner = listed.iter().find(|connection| connection["group"] == OWNER).ok_or_else(unknown)?;
    // http://USER:PASSWORD@HOST:PORT
    let url = owner["http"].as_str().and_then(|url| url.strip_prefix("http://")).ok_or_else(unknown)?;
    let (login, host_port) = url.trim_end_matches('/').split_once('@').ok_or_else(unknown)?;
    let (user, password) = login.split_once(':').ok_or_else(unknown)?;
    Ok(SqlClient::new(host_port, user, password))
}

async fn engine_password(store: &Path) -> Result<String, BenchError> {
    let unreadable = |error: &dyn std::fmt::Display| BenchError::Unexpected(format!("{}: {error}", store.display()));
    let opened = EmbeddedStore::open(store).map_err(|error| unreadable(&error))?;
    let records = opened.range(b"warehouse").await.map_err(|error| unreadable(&error))?;
    for (key, value) in records {
        let entry = Entry::read(&key, &value, &Layouts::default()).map_err(|error| unreadable(&error))?;
        if let Entry::Warehouse(Some(warehouse)) = entry {
            return Ok(warehouse.engine_admin_password.expose().to_owned());
        }
    }
    Err(unreadable(&"it holds no warehouse"))
}
