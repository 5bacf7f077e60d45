//! A warehouse: where its metadata and its objects are, and the controllers that keep it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shared::{Durability, Resources};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "moorhouse.io",
    version = "v1alpha1",
    kind = "Warehouse",
    namespaced,
    status = "WarehouseStatus",
    derive = "PartialEq",
    shortname = "mwh",
    category = "moorhouse",
    category = "all",
    doc = "A Moorhouse warehouse: metadata, object store and controllers. Compute groups refer to it by name.",
    annotation("helm.sh/resource-policy", "keep"),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name: at most 40 characters, since pods and services are named after it"),
    printcolumn(name = "Shards", type_ = "integer", json_path = ".spec.shards"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Bucket", type_ = "string", json_path = ".spec.objects.bucket"),
    printcolumn(name = "Controllers", type_ = "integer", json_path = ".status.controllersReady", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct WarehouseSpec {
    /// Slices of every table; each is on one node of a group at a time. Fixed when the warehouse is made.
    #[serde(default = "default_shards")]
    #[schemars(range(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("shards are fixed when the warehouse is made: make another warehouse and copy the tables"))]
    pub shards: i32,
    /// Where the metadata is kept.
    pub metadata: Metadata,
    /// Where the data is kept.
    pub objects: Objects,
    /// The SQL user that the warehouse begins with.
    pub admin: AdminUser,
    #[serde(default)]
    pub controller: ControllerSpec,
    /// The gateways of each compute group.
    #[serde(default)]
    pub gateway: GatewaySpec,
    #[serde(default)]
    pub images: Images,
    /// For tables that do not say it themselves.
    #[serde(default)]
    pub durability: Durability,
    /// What becomes of bucket and etcd when the warehouse is deleted. Retain leaves both as they are.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// The processes of the warehouse speak plaintext among each other, behind network policies. This version's operator knows
    /// no other way, and wants it said by name.
    #[x_kube(validation = Rule::new("self")
        .message("must be true: this version's operator cannot hand out certificates, so it wants plaintext between the warehouse's own processes to be asked for by name"))]
    pub insecure_plaintext: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub etcd: Etcd,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Etcd {
    /// HOST:PORT of each member.
    #[schemars(length(min = 1, max = 9), inner(length(max = 260), regex(pattern = r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")))]
    pub endpoints: Vec<String>,
    /// Key prefix; each warehouse needs its own.
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$"))]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("the prefix cannot change: the warehouse's metadata lies below it"))]
    pub prefix: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.prefix == oldSelf.prefix")
    .message("the prefix cannot change: the warehouse's objects lie below it"))]
#[x_kube(validation = Rule::new("!has(self.endpoint) || self.endpoint.startsWith('https://') || self.allowHttp")
    .message("an endpoint without https:// sends data and keys unencrypted: use https://, or set allowHttp: true"))]
#[x_kube(validation = Rule::new("has(self.credentialsSecret) != has(self.serviceAccountName)")
    .message("give either credentialsSecret or serviceAccountName (workload identity), and not both"))]
pub struct Objects {
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*$"))]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("the bucket cannot change: the warehouse's objects lie in it"))]
    pub bucket: String,
    /// Key prefix in the bucket; empty: the whole bucket.
    #[serde(default)]
    #[schemars(length(max = 200), regex(pattern = r"^([A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*)?$"))]
    pub prefix: String,
    /// URL of an S3 server; absent: Amazon's own for the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 260), regex(pattern = r"^https?://[A-Za-z0-9.:\[\]-]+/?$"))]
    pub endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 60), regex(pattern = r"^[a-z0-9-]+$"))]
    pub region: Option<String>,
    /// Allows an endpoint without encryption.
    #[serde(default)]
    pub allow_http: bool,
    /// Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret: Option<String>,
    /// Service account whose identity the bucket trusts (IRSA, workload identity).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdminUser {
    /// Secret with the keys `username` and `passwordSha256` (64 hex digits). Read when the warehouse is made.
    #[schemars(length(min = 1, max = 253))]
    pub secret: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControllerSpec {
    /// One leads, the others stand by.
    #[serde(default = "default_controllers")]
    #[schemars(range(min = 1, max = 5))]
    pub replicas: i32,
    #[serde(default)]
    pub resources: Resources,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Of each compute group.
    #[serde(default = "default_gateways")]
    #[schemars(range(min = 1, max = 100))]
    pub replicas: i32,
    /// How clients outside of the cluster get in.
    #[serde(default)]
    pub service_type: ServiceType,
    /// Secret of type kubernetes.io/tls for clients: then ports 8443 and 9440 are served, and 8123 and 9000 are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_secret: Option<String>,
    #[serde(default)]
    pub resources: Resources,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    #[serde(default = "default_controller_image")]
    #[schemars(length(min = 1, max = 500))]
    pub controller: String,
    #[serde(default = "default_gateway_image")]
    #[schemars(length(min = 1, max = 500))]
    pub gateway: String,
    /// Agent and ClickHouse.
    #[serde(default = "default_node_image")]
    #[schemars(length(min = 1, max = 500))]
    pub node: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    #[default]
    Retain,
}

/// Nothing that changes fast.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WarehouseStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods that are up, standbys included.
    #[serde(default)]
    pub controllers_ready: i32,
    /// Where agents, gateways and moorctl find the controllers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_url: Option<String>,
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

impl Default for ControllerSpec {
    fn default() -> Self {
        Self { replicas: default_controllers(), resources: Resources::default() }
    }
}

impl Default for GatewaySpec {
    fn default() -> Self {
        Self {
            replicas: default_gateways(),
            service_type: ServiceType::default(),
            tls_secret: None,
            resources: Resources::default(),
        }
    }
}

impl Default for Images {
    fn default() -> Self {
        Self { controller: default_controller_image(), gateway: default_gateway_image(), node: default_node_image() }
    }
}

fn default_shards() -> i32 {
    16
}

fn default_controllers() -> i32 {
    2
}

fn default_gateways() -> i32 {
    2
}

fn image(name: &str) -> String {
    format!("ghcr.io/moorhouse/{name}:{}", env!("CARGO_PKG_VERSION"))
}

fn default_controller_image() -> String {
    image("controller")
}

fn default_gateway_image() -> String {
    image("gateway")
}

fn default_node_image() -> String {
    image("node")
}
