//! An access policy: users and what they may do, by reference to their secrets.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "moorhouse.io",
    version = "v1alpha1",
    kind = "AccessPolicy",
    plural = "accesspolicies",
    namespaced,
    status = "AccessPolicyStatus",
    derive = "PartialEq",
    shortname = "map",
    category = "moorhouse",
    doc = "Users of a warehouse and their roles. Passwords are given by reference to secrets only.",
    annotation("helm.sh/resource-policy", "keep"),
    printcolumn(name = "Warehouse", type_ = "string", json_path = ".spec.warehouse"),
    printcolumn(name = "Applied", type_ = "string", json_path = ".status.conditions[?(@.type=='Applied')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Applied')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicySpec {
    /// The Warehouse in the same namespace.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a policy stays with its warehouse: make another policy"))]
    pub warehouse: String,
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    #[serde(default)]
    pub users: Vec<PolicyUser>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyUser {
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z][A-Za-z0-9_]*$"))]
    #[x_kube(validation = Rule::new("self != 'default' && !self.startsWith('moorhouse')")
        .message("names that begin with moorhouse, and default, belong to Moorhouse"))]
    pub name: String,
    /// Secret with the key `passwordSha256` (64 hex digits).
    #[schemars(length(min = 1, max = 253))]
    pub password_secret: String,
    /// Names of roles.
    #[serde(default)]
    #[schemars(length(max = 100), inner(length(min = 1, max = 64)))]
    pub roles: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicyStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}
