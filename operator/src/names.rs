//! Names, labels and ports of everything that the operator makes. The names are never made of two names of users: so no two of
//! their objects can mean the same one.

use serde_json::{Value, json};

pub const MANAGER: &str = "moorhouse-operator";
pub const FINALIZER: &str = "moorhouse.io/operator";
pub const WAREHOUSE_LABEL: &str = "moorhouse.io/warehouse";
pub const GROUP_LABEL: &str = "moorhouse.io/group";
/// On the volume of a node that was drained: it holds nothing any more.
pub const EMPTIED_ANNOTATION: &str = "moorhouse.io/emptied";
/// What everything is selected by that the operator made.
pub const MANAGED: &str = "app.kubernetes.io/managed-by=moorhouse-operator";

pub const CONTROLLER_PORT: u16 = 7400;
pub const CONTROLLER_METRICS: u16 = 7401;
pub const AGENT_PORT: u16 = 7410;
pub const AGENT_METRICS: u16 = 7411;
pub const GATEWAY_METRICS: u16 = 7421;
pub const HTTP: u16 = 8123;
pub const NATIVE: u16 = 9000;
pub const HTTPS: u16 = 8443;
pub const NATIVE_TLS: u16 = 9440;
/// The routers of the shards follow.
pub const ROUTER_BASE: u16 = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    Controller,
    Node,
    Gateway,
}

impl Component {
    pub fn label(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Node => "node",
            Self::Gateway => "gateway",
        }
    }
}

pub fn controller(warehouse: &str) -> String {
    format!("{warehouse}-controller")
}

pub fn internal(warehouse: &str) -> String {
    format!("{warehouse}-internal")
}

/// StatefulSet and headless Service of a group's nodes.
pub fn nodes(group: &str) -> String {
    format!("{group}-node")
}

pub fn gateway(group: &str) -> String {
    format!("{group}-gateway")
}

/// Pod, and the node's name in the warehouse.
pub fn node(group: &str, ordinal: u32) -> String {
    format!("{}-{ordinal}", nodes(group))
}

pub const CLAIM: &str = "cache";

/// Volume claim of a node.
pub fn claim(group: &str, ordinal: u32) -> String {
    format!("{CLAIM}-{}", node(group, ordinal))
}

/// The number at the end of the name of one of a group's nodes.
pub fn ordinal_of(group: &str, node: &str) -> Option<u32> {
    let digits = node.strip_prefix(&nodes(group))?.strip_prefix('-')?;
    let ordinal: u32 = digits.parse().ok()?;
    (ordinal.to_string() == digits).then_some(ordinal)
}

/// What selects the pods of a component; a group's with `group`.
pub fn selector(component: Component, warehouse: &str, group: Option<&str>) -> Value {
    let mut labels = json!({
        "app.kubernetes.io/name": "moorhouse",
        "app.kubernetes.io/component": component.label(),
        WAREHOUSE_LABEL: warehouse,
    });
    if let Some(group) = group {
        labels[GROUP_LABEL] = json!(group);
    }
    labels
}

pub fn labels(component: Component, warehouse: &str, group: Option<&str>) -> Value {
    let mut labels = selector(component, warehouse, group);
    labels["app.kubernetes.io/managed-by"] = json!(MANAGER);
    labels["app.kubernetes.io/part-of"] = json!(warehouse);
    labels
}

/// As kubectl and autoscalers write it.
pub fn selector_text(component: Component, warehouse: &str, group: Option<&str>) -> String {
    let labels = selector(component, warehouse, group);
    let pairs = labels.as_object().into_iter().flatten();
    pairs.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_name_gives_its_number_back() {
        assert_eq!(ordinal_of("etl", &node("etl", 12)), Some(12));
        for other in ["etl-node-", "etl-node-01", "etl-node-x", "etl-2", "bi-node-1", "etl-node-node-1"] {
            assert_eq!(ordinal_of("etl", other), None, "{other}");
        }
    }
}
