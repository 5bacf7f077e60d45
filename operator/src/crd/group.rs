//! A compute group: nodes that serve a warehouse's tables, with an endpoint of their own.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shared::Resources;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "moorhouse.io",
    version = "v1alpha1",
    kind = "ComputeGroup",
    namespaced,
    status = "ComputeGroupStatus",
    derive = "PartialEq",
    shortname = "mcg",
    category = "moorhouse",
    category = "all",
    doc = "Nodes that serve the tables of a warehouse, with an endpoint of their own. Its name is the group's name in SQL and moorctl.",
    annotation("helm.sh/resource-policy", "keep"),
    validation = Rule::new("self.metadata.name.size() <= 40 && !self.metadata.name.contains('.')")
        .message("metadata.name: at most 40 of a-z, 0-9 and '-', since nodes are named after it"),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Warehouse", type_ = "string", json_path = ".spec.warehouse"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Up", type_ = "integer", json_path = ".status.nodesReady"),
    printcolumn(name = "Shards", type_ = "integer", json_path = ".status.shardsMounted"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Http", type_ = "string", json_path = ".status.connectionString.http", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ComputeGroupSpec {
    /// The Warehouse in the same namespace.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("a group stays with its warehouse: make another group"))]
    pub warehouse: String,
    /// Nodes. Fewer: the last ones are drained first. 0 suspends the group.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 64))]
    pub replicas: i32,
    /// True: everything is stored, then the nodes end; endpoint and volumes stay. False: they come back.
    #[serde(default)]
    pub suspend: bool,
    /// Of a node: the agent and ClickHouse together.
    #[serde(default)]
    pub resources: Resources,
    /// The node's SSD: staged parts and cache.
    pub cache: CacheVolume,
    /// Agent and ClickHouse; absent: the warehouse's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub image: Option<String>,
    /// How the agent gets at /dev/fuse.
    #[serde(default)]
    pub fuse: Fuse,
    /// Label of the machines over whose values the nodes are spread; empty: anywhere.
    #[serde(default = "default_spread")]
    #[schemars(length(max = 253))]
    pub spread_over: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// How long a node that is being stopped has for what is under way, in seconds.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 5, max = 3600))]
    pub stop_timeout_seconds: i32,
    /// How long the deletion of the group waits for staged parts to be stored, in seconds. The volumes stay in any case.
    #[serde(default = "default_settle")]
    #[schemars(range(min = 0, max = 86400))]
    pub settle_timeout_seconds: i32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.storageClass) == has(oldSelf.storageClass) && (!has(self.storageClass) || self.storageClass == oldSelf.storageClass)")
    .message("storageClass cannot change: make another group and let it take over"))]
pub struct CacheVolume {
    /// As 500Gi; may grow, and does so in place where the storage class can.
    #[schemars(length(max = 20), regex(pattern = r"^[0-9]+(Mi|Gi|Ti)$"))]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity(oldSelf)) >= 0")
        .message("a volume cannot shrink: make another group with smaller volumes"))]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('128Mi')) >= 0")
        .message("too small to stage a part: at least 128Mi"))]
    pub size: String,
    /// Absent: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fuse {
    /// Resource of a device plugin that gives /dev/fuse, as `github.com/fuse`. The container then has SYS_ADMIN and nothing
    /// else; without it, it must be privileged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 253), regex(pattern = r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$"))]
    pub device_plugin: Option<String>,
}

/// Nothing that changes fast.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComputeGroupStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nodes that there are, those included that are being drained.
    #[serde(default)]
    pub replicas: i32,
    /// Of the nodes' pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    #[serde(default)]
    pub nodes_ready: i32,
    /// Shards that have a node.
    #[serde(default)]
    pub shards_mounted: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_string: Option<ConnectionString>,
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionString {
    pub http: String,
    pub native: String,
}

fn default_replicas() -> i32 {
    1
}

fn default_spread() -> String {
    "topology.kubernetes.io/zone".to_owned()
}

fn default_grace() -> i32 {
    120
}

fn default_settle() -> i32 {
    600
}
