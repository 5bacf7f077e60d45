//! `moorctl cache …`: what is on the nodes' SSDs. Asks the agents themselves; the controller says where they are.

use std::time::Duration;

use clap::Subcommand;
use moorhouse_proto::node_cache_client::NodeCacheClient;
use moorhouse_proto::{CacheDropRequest, CacheStatReply, CacheStatRequest, CacheWarmReply, CacheWarmRequest, NodeInfo};
use moorhouse_security::{Dialer, Expected};
use serde_json::json;
use tonic::transport::Channel;

use crate::args::Output;
use crate::controller::{Controller, in_words};
use crate::error::CtlError;
use crate::show::Listing;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Bytes, hit rates and alarms of each node's cache
    Stat {
        /// Only this node
        node: Option<String>,
    },
    /// Fetches the active parts of a table, as far as room is free; nothing is evicted for it
    Warm {
        /// DATABASE.TABLE
        table: String,
        /// Only the nodes of this group
        #[arg(long)]
        group: Option<String>,
    },
    /// Removes everything that can be fetched again; staged bytes stay
    Drop {
        /// Only the nodes of this group
        #[arg(long, conflicts_with = "node")]
        group: Option<String>,
        /// Only this node
        #[arg(long)]
        node: Option<String>,
    },
}

pub async fn run(controller: &mut Controller, command: CacheCommand, output: Output) -> Result<(), CtlError> {
    let dialer = controller.dialer.clone();
    let listing = match command {
        CacheCommand::Stat { node } => stat(&dialer, live(controller, None, node.as_deref()).await?).await?,
        CacheCommand::Warm { table, group } => {
            let Some((database, table)) = table.split_once('.') else {
                return Err(CtlError::bad_input(
                    format!("'{table}' is no table"),
                    "give it as DATABASE.TABLE, for example tpch.lineitem",
                ));
            };
            warm(&dialer, live(controller, group.as_deref(), None).await?, database, table).await?
        }
        CacheCommand::Drop { group, node } => {
            drop_cached(&dialer, live(controller, group.as_deref(), node.as_deref()).await?).await?
        }
    };
    listing.print(output)
}

/// The live nodes that are meant; an error if there is none.
async fn live(controller: &mut Controller, group: Option<&str>, node: Option<&str>) -> Result<Vec<NodeInfo>, CtlError> {
    let mut nodes = controller.nodes(group.unwrap_or_default()).await?;
    nodes.retain(|info| info.up && node.is_none_or(|node| info.node == node));
    if nodes.is_empty() {
        let what = match (node, group) {
            (Some(node), _) => format!("there is no live node '{node}'"),
            (None, Some(group)) => format!("group '{group}' has no live node"),
            (None, None) => "there is no live node".to_owned(),
        };
        return Err(CtlError::bad_input(what, "`moorctl node list` shows the nodes"));
    }
    Ok(nodes)
}

async fn connect(dialer: &Dialer, node: &NodeInfo) -> Result<NodeCacheClient<Channel>, CtlError> {
    let no_answer = |reason: String| CtlError::failed(format!("{} at {}: {reason}", node.node, node.agent_address));
    let endpoint = dialer.endpoint(&node.agent_address);
    let endpoint = endpoint.map_err(|error| no_answer(error.to_string()))?.connect_timeout(CONNECT_TIMEOUT);
    let channel = dialer.connect(&endpoint, Expected::Agent(node.node.clone())).await;
    let channel = channel.map_err(|error| no_answer(error.to_string()))?;
    Ok(NodeCacheClient::new(channel))
}

async fn stat(dialer: &Dialer, nodes: Vec<NodeInfo>) -> Result<Listing, CtlError> {
    let mut listing = Listing::new(&[
        "node",
        "group",
        "budget_bytes",
        "used_bytes",
        "staged_blobs",
        "staged_bytes",
        "staged_used_bytes",
        "uploads_unfinished",
        "upload_limit_bytes_per_second",
        "cached_blobs",
        "cached_bytes",
        "partial_blobs",
        "block_bytes",
        "hits",
        "misses",
        "hit_percent",
        "evictions",
        "ghost_hits",
        "fetched_bytes",
        "coalesced",
        "checksum_failures",
        "disk_errors",
        "sick",
    ]);
    for node in &nodes {
        let stat = connect(dialer, node).await?.stat(CacheStatRequest {}).await.map_err(in_words)?.into_inner();
        listing.push([
            json!(node.node),
            json!(node.group),
            json!(stat.budget_bytes),
            json!(stat.used_bytes),
            json!(stat.staged_blobs),
            json!(stat.staged_bytes),
            json!(stat.staged_used_bytes),
            json!(stat.uploads_unfinished),
            json!(stat.upload_limit_bytes_per_second),
            json!(stat.cached_blobs),
            json!(stat.cached_bytes),
            json!(stat.partial_blobs),
            json!(stat.block_bytes),
            json!(stat.hits),
            json!(stat.misses),
            json!(hit_percent(&stat)),
            json!(stat.evictions),
            json!(stat.ghost_hits),
            json!(stat.fetched_bytes),
            json!(stat.coalesced),
            json!(stat.checksum_failures),
            json!(stat.disk_errors),
            json!(stat.is_sick),
        ]);
    }
    Ok(listing)
}

/// Absent before the first read.
fn hit_percent(stat: &CacheStatReply) -> Option<f64> {
    let reads = stat.hits + stat.misses;
    (reads > 0).then(|| (stat.hits as f64 * 1000.0 / reads as f64).round() / 10.0)
}

async fn warm(dialer: &Dialer, nodes: Vec<NodeInfo>, database: &str, table: &str) -> Result<Listing, CtlError> {
    let mut listing = Listing::new(&[
        "node",
        "fetched_blobs",
        "fetched_bytes",
        "present_blobs",
        "present_bytes",
        "skipped_blobs",
        "skipped_bytes",
    ]);
    let request = CacheWarmRequest { database: database.to_owned(), table: table.to_owned() };
    for node in &nodes {
        let warmed = connect(dialer, node).await?.warm(request.clone()).await.map_err(in_words)?.into_inner();
        let CacheWarmReply { fetched_blobs, fetched_bytes, present_blobs, present_bytes, skipped_blobs, skipped_bytes } =
            warmed;
        listing.push([
            json!(node.node),
            json!(fetched_blobs),
            json!(fetched_bytes),
            json!(present_blobs),
            json!(present_bytes),
            json!(skipped_blobs),
            json!(skipped_bytes),
        ]);
    }
    Ok(listing)
}

async fn drop_cached(dialer: &Dialer, nodes: Vec<NodeInfo>) -> Result<Listing, CtlError> {
    let mut listing = Listing::new(&["node", "dropped_blobs", "dropped_bytes"]);
    for node in &nodes {
        let dropped = connect(dialer, node).await?.drop(CacheDropRequest {}).await.map_err(in_words)?.into_inner();
        listing.push([json!(node.node), json!(dropped.blobs), json!(dropped.bytes)]);
    }
    Ok(listing)
}
