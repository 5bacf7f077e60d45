//! The command line, checked as a whole: every mistake is named at once.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use moorhouse_base::secret::Secret;
use moorhouse_catalog::{Durability, GroupName, NodeName};
use moorhouse_engine::EngineChoice;
use moorhouse_security::TlsFlags;

use crate::limits;
use crate::upload::SettleRule;
use crate::upload::repacking::RepackRule;

/// A Moorhouse node: mounts the shards that the controller assigns, and runs ClickHouse over them.
#[derive(Debug, Clone, Parser)]
#[command(name = "moorhouse-agent", version)]
pub struct Args {
    /// The controller, http://host:port, or https://host:port with --tls; several with commas between
    #[arg(long, env = "MOORHOUSE_CONTROLLER")]
    pub controller: String,
    /// This node's name, unique in the warehouse and kept over restarts
    #[arg(long, env = "MOORHOUSE_NODE")]
    pub name: NodeName,
    /// The compute group that this node works for
    #[arg(long, env = "MOORHOUSE_GROUP")]
    pub group: GroupName,
    /// Directory on the node's SSD; staged parts live here until they are stored
    #[arg(long, env = "MOORHOUSE_DATA")]
    pub data: PathBuf,
    /// Where to mount the shards; must not be used by anything else
    #[arg(long, env = "MOORHOUSE_MOUNT")]
    pub mount: PathBuf,
    /// Address of the agent's own service
    #[arg(long, env = "MOORHOUSE_LISTEN")]
    pub listen: SocketAddr,
    /// What other nodes call to reach this agent and its engine, if not the listening host
    #[arg(long, env = "MOORHOUSE_ADVERTISE_HOST")]
    pub advertise_host: Option<String>,
    /// Address for /metrics and /healthz; answers once the node is ready
    #[arg(long, env = "MOORHOUSE_METRICS")]
    pub metrics: SocketAddr,
    #[arg(long, env = "MOORHOUSE_ENGINE_HTTP_PORT")]
    pub engine_http_port: u16,
    #[arg(long, env = "MOORHOUSE_ENGINE_NATIVE_PORT")]
    pub engine_native_port: u16,
    /// First port of the shard router; it takes one for each shard
    #[arg(long, env = "MOORHOUSE_ROUTER_PORT_BASE")]
    pub router_port_base: u16,
    /// Budget for staged and cached bytes together
    #[arg(long, env = "MOORHOUSE_CACHE_BYTES", default_value_t = 10 << 30)]
    pub cache_bytes: u64,
    /// A part that nothing has merged for this long is uploaded
    #[arg(long, env = "MOORHOUSE_SETTLE_MS", default_value_t = 60_000)]
    pub settle_ms: u64,
    /// A part of this many bytes is uploaded at once
    #[arg(long, env = "MOORHOUSE_SETTLE_BYTES", default_value_t = limits::SETTLED_BYTES)]
    pub settle_bytes: u64,
    /// A part that was merged this many times over is uploaded at once
    #[arg(long, env = "MOORHOUSE_SETTLE_LEVEL", default_value_t = limits::SETTLED_LEVEL)]
    pub settle_level: u32,
    /// How long an INSERT waits for room when staging is full before it is refused
    #[arg(long, env = "MOORHOUSE_STAGING_PATIENCE_MS", default_value_t = 30_000)]
    pub staging_patience_ms: u64,
    /// Most bytes a second that this node uploads; absent: as fast as it can
    #[arg(long, env = "MOORHOUSE_UPLOAD_BYTES_PER_SECOND")]
    pub upload_bytes_per_second: Option<NonZeroU64>,
    /// How often stored files are looked at that are worth packing anew: in objects that are mostly dead, or scattered over many
    #[arg(long, env = "MOORHOUSE_REPACK_EVERY_MS", default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub repack_every_ms: u64,
    /// Parts younger than this are not packed anew
    #[arg(long, env = "MOORHOUSE_REPACK_AGE_MS", default_value_t = 900_000)]
    pub repack_age_ms: u64,
    /// Where a part's bytes are before its commit answers, for tables that do not say it themselves: local (synced on this
    /// node's disk), replicated (on another node's, too), object (in the object store)
    #[arg(long, env = "MOORHOUSE_DURABILITY", default_value_t = Durability::Local)]
    pub durability: Durability,
    /// auto, or the path of a clickhouse binary or libchdb.so
    #[arg(long, env = "MOORHOUSE_ENGINE", default_value = "auto")]
    pub engine: EngineChoice,
    /// Start although files are missing that only this node had: the engine then sets their parts aside as broken
    #[arg(long)]
    pub accept_lost_parts: bool,
    /// Memory limit of the engine; absent: ClickHouse's own
    #[arg(long, env = "MOORHOUSE_ENGINE_MEMORY_BYTES")]
    pub engine_memory_bytes: Option<u64>,
    #[command(flatten)]
    pub tls: TlsFlags,
    /// Get a certificate from the controller into the directory of --tls, by a token of `moorctl token create`
    #[arg(long, env = "MOORHOUSE_JOIN_TOKEN", hide_env_values = true, value_parser = secret)]
    pub join_token: Option<Secret>,
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

impl Args {
    /// Everything wrong that can be seen without touching another process.
    pub fn mistakes(&self, shards: Option<u16>) -> Vec<String> {
        let mut found = self.tls.mistakes(Some(self.listen), Some(&self.controller));
        if self.join_token.is_some() && self.tls.tls.is_none() {
            found.push("--join-token: say with --tls DIR where the certificate is to be kept".to_owned());
        }
        if self.mount.starts_with(&self.data) || self.data.starts_with(&self.mount) {
            found.push(format!(
                "--mount {} and --data {} lie in each other: give them separate directories",
                self.mount.display(),
                self.data.display()
            ));
        }
        if self.cache_bytes < 64 << 20 {
            found.push(format!(
                "--cache-bytes {} is too small to stage a part: give at least 67108864",
                self.cache_bytes
            ));
        }
        if let Some(shards) = shards
            && self.router_port_base.checked_add(shards).is_none()
        {
            found.push(format!(
                "--router-port-base {} leaves no room for {shards} shards below port 65536: choose a lower one",
                self.router_port_base
            ));
        }
        let ports = [self.engine_http_port, self.engine_native_port, self.listen.port(), self.metrics.port()];
        for (at, port) in ports.iter().enumerate() {
            if *port != 0 && ports[..at].contains(port) {
                found.push(format!("port {port} is given twice: every listener needs its own"));
            }
        }
        found
    }

    pub fn settle_rule(&self) -> SettleRule {
        SettleRule { age: Duration::from_millis(self.settle_ms), bytes: self.settle_bytes, level: self.settle_level }
    }

    pub fn repack_rule(&self) -> RepackRule {
        RepackRule {
            every: Duration::from_millis(self.repack_every_ms),
            settled: Duration::from_millis(self.repack_age_ms),
        }
    }

    pub fn host(&self) -> String {
        self.advertise_host.clone().unwrap_or_else(|| self.listen.ip().to_string())
    }
}
