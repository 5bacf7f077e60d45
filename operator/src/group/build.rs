//! The objects of a compute group. Pure: the same input gives the same objects.

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::apply::{Built, Kind};
use crate::crd::{ComputeGroup, ConnectionString, Warehouse};
use crate::names::{self, Component};
use crate::warehouse::{account_of, controller_url};
use crate::{limits, pods, quantity};

/// `claim_size` is what the StatefulSet was made with, `replicas` what it is to have now.
pub fn build(group: &ComputeGroup, warehouse: &Warehouse, claim_size: &str, replicas: u32) -> Vec<Built> {
    let at = Place {
        group: group.name_any(),
        warehouse: warehouse.name_any(),
        namespace: group.namespace().unwrap_or_default(),
        owners: pods::owned_by(group),
        controller: controller_url(warehouse, &group.namespace().unwrap_or_default()),
    };
    vec![
        at.headless_service(),
        at.disruption_budget(Component::Node),
        nodes(&at, group, warehouse, claim_size, replicas),
        client_service(&at, warehouse),
        at.disruption_budget(Component::Gateway),
        gateway(&at, warehouse),
    ]
}

/// Where clients inside the cluster connect.
pub fn connection_string(group: &ComputeGroup, warehouse: &Warehouse) -> ConnectionString {
    let host = format!("{}.{}.svc", names::gateway(&group.name_any()), group.namespace().unwrap_or_default());
    match warehouse.spec.gateway.tls_secret {
        Some(_) => ConnectionString {
            http: format!("https://{host}:{}", names::HTTPS),
            native: format!("clickhouse://{host}:{}?secure=true", names::NATIVE_TLS),
        },
        None => ConnectionString {
            http: format!("http://{host}:{}", names::HTTP),
            native: format!("clickhouse://{host}:{}", names::NATIVE),
        },
    }
}

struct Place {
    group: String,
    warehouse: String,
    namespace: String,
    owners: Value,
    controller: String,
}

impl Place {
    fn labels(&self, component: Component) -> Value {
        names::labels(component, &self.warehouse, Some(&self.group))
    }

    fn selector(&self, component: Component) -> Value {
        names::selector(component, &self.warehouse, Some(&self.group))
    }

    fn metadata(&self, component: Component) -> Value {
        json!({
            "namespace": self.namespace,
            "labels": self.labels(component),
            "ownerReferences": self.owners,
        })
    }

    /// Gives each node a name. A node that is not ready yet has one, too: it must be reached to become ready.
    fn headless_service(&self) -> Built {
        let port = |name: &str, port: u16| json!({ "name": name, "port": port, "targetPort": port, "protocol": "TCP" });
        let content = json!({
            "metadata": self.metadata(Component::Node),
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": true,
                "selector": self.selector(Component::Node),
                "ports": [
                    port("agent", names::AGENT_PORT),
                    port("metrics", names::AGENT_METRICS),
                    port("http", names::HTTP),
                    port("native", names::NATIVE),
                ],
            },
        });
        Built { kind: Kind::Service, name: names::nodes(&self.group), content }
    }

    fn disruption_budget(&self, component: Component) -> Built {
        let name = match component {
            Component::Gateway => names::gateway(&self.group),
            Component::Node | Component::Controller => names::nodes(&self.group),
        };
        let content = json!({
            "metadata": self.metadata(component),
            "spec": { "maxUnavailable": 1, "selector": { "matchLabels": self.selector(component) } },
        });
        Built { kind: Kind::PodDisruptionBudget, name, content }
    }
}

fn nodes(at: &Place, group: &ComputeGroup, warehouse: &Warehouse, claim_size: &str, replicas: u32) -> Built {
    let name = names::nodes(&at.group);
    let spec = &group.spec;
    let mut claim = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": claim_size } },
    });
    if let Some(class) = &spec.cache.storage_class {
        claim["storageClassName"] = json!(class);
    }
    let mut pod = json!({
        "serviceAccountName": account_of(warehouse),
        "terminationGracePeriodSeconds": spec.stop_timeout_seconds,
        "containers": [node_container(at, group, warehouse)],
        "volumes": [{ "name": "mount", "emptyDir": {} }],
    });
    if !spec.spread_over.is_empty() {
        pod["topologySpreadConstraints"] = json!([pods::spread(&spec.spread_over, &at.selector(Component::Node))]);
    }
    if !spec.node_selector.is_empty() {
        pod["nodeSelector"] = json!(spec.node_selector);
    }
    let content = json!({
        "metadata": at.metadata(Component::Node),
        "spec": {
            "serviceName": name,
            "replicas": replicas,
            // New nodes start at once; updates go node by node all the same, and stop at one that does not become ready.
            "podManagementPolicy": "Parallel",
            "updateStrategy": { "type": "RollingUpdate" },
            // Volumes are deleted by the operator alone, after the controller has let go of their nodes.
            "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Retain", "whenScaled": "Retain" },
            "selector": { "matchLabels": at.selector(Component::Node) },
            "template": { "metadata": { "labels": at.labels(Component::Node) }, "spec": pod },
            "volumeClaimTemplates": [{
                "metadata": { "name": names::CLAIM, "labels": at.selector(Component::Node) },
                "spec": claim,
            }],
        },
    });
    Built { kind: Kind::StatefulSet, name, content }
}

/// Agent and engine together: the agent mounts, and runs ClickHouse over it, in one mount namespace.
fn node_container(at: &Place, group: &ComputeGroup, warehouse: &Warehouse) -> Value {
    let spec = &group.spec;
    let host = format!("$(POD_NAME).{}.{}.svc", names::nodes(&at.group), at.namespace);
    let volume = quantity::bytes(&spec.cache.size).unwrap_or(0);
    let args = pods::flags([
        ("--controller", at.controller.clone()),
        ("--name", "$(POD_NAME)".to_owned()),
        ("--group", at.group.clone()),
        ("--data", "/var/lib/moorhouse/data".to_owned()),
        ("--mount", "/run/moorhouse/shards".to_owned()),
        ("--listen", format!("0.0.0.0:{}", names::AGENT_PORT)),
        ("--advertise-host", host),
        ("--metrics", format!("0.0.0.0:{}", names::AGENT_METRICS)),
        ("--engine-http-port", names::HTTP.to_string()),
        ("--engine-native-port", names::NATIVE.to_string()),
        ("--router-port-base", names::ROUTER_BASE.to_string()),
        ("--cache-bytes", (volume / 100 * limits::CACHE_PERCENT).to_string()),
        ("--durability", warehouse.spec.durability.to_string()),
    ]);
    let mut env = vec![
        pods::field("POD_NAME", "metadata.name"),
        json!({ "name": "MOORHOUSE_INSECURE_PLAINTEXT", "value": "true" }),
    ];
    env.extend(pods::credentials(&warehouse.spec.objects));
    let mut resources = json!(spec.resources);
    let security = match &spec.fuse.device_plugin {
        Some(resource) => {
            resources["limits"][resource] = json!("1");
            json!({ "capabilities": { "add": ["SYS_ADMIN"] } })
        }
        None => json!({ "privileged": true }),
    };
    let port = |name: &str, port: u16| json!({ "name": name, "containerPort": port, "protocol": "TCP" });
    json!({
        "name": "node",
        "image": spec.image.as_ref().unwrap_or(&warehouse.spec.images.node),
        "args": args,
        "env": env,
        "ports": [
            port("agent", names::AGENT_PORT),
            port("metrics", names::AGENT_METRICS),
            port("http", names::HTTP),
            port("native", names::NATIVE),
        ],
        "startupProbe": pods::starting(),
        "readinessProbe": pods::healthy(),
        "livenessProbe": pods::alive(),
        "resources": resources,
        "securityContext": security,
        "volumeMounts": [
            { "name": names::CLAIM, "mountPath": "/var/lib/moorhouse" },
            { "name": "mount", "mountPath": "/run/moorhouse" },
        ],
    })
}

fn client_ports(warehouse: &Warehouse) -> [(&'static str, u16); 2] {
    match warehouse.spec.gateway.tls_secret {
        Some(_) => [("https", names::HTTPS), ("native-tls", names::NATIVE_TLS)],
        None => [("http", names::HTTP), ("native", names::NATIVE)],
    }
}

/// The group's endpoint. It stays while the group is suspended.
fn client_service(at: &Place, warehouse: &Warehouse) -> Built {
    let ports = client_ports(warehouse)
        .map(|(name, port)| json!({ "name": name, "port": port, "targetPort": name, "protocol": "TCP" }));
    let content = json!({
        "metadata": at.metadata(Component::Gateway),
        "spec": {
            "type": warehouse.spec.gateway.service_type,
            "selector": at.selector(Component::Gateway),
            "ports": ports,
        },
    });
    Built { kind: Kind::Service, name: names::gateway(&at.group), content }
}

fn gateway(at: &Place, warehouse: &Warehouse) -> Built {
    let spec = &warehouse.spec.gateway;
    let [(_, http), (_, native)] = client_ports(warehouse);
    let listen = format!("{}=0.0.0.0:{http},0.0.0.0:{native}", at.group);
    let mut args = pods::flags([
        ("--controller", at.controller.clone()),
        ("--metrics", format!("0.0.0.0:{}", names::GATEWAY_METRICS)),
    ]);
    let mut ports: Vec<Value> = client_ports(warehouse)
        .iter()
        .map(|(name, port)| json!({ "name": name, "containerPort": port, "protocol": "TCP" }))
        .collect();
    ports.push(json!({ "name": "metrics", "containerPort": names::GATEWAY_METRICS, "protocol": "TCP" }));
    let mut container = json!({
        "name": "gateway",
        "image": warehouse.spec.images.gateway,
        "env": [{ "name": "MOORHOUSE_INSECURE_PLAINTEXT", "value": "true" }],
        "ports": ports,
        "readinessProbe": pods::healthy(),
        "livenessProbe": pods::alive(),
        "resources": spec.resources,
        "securityContext": pods::locked_down(),
    });
    let mut pod = json!({
        "securityContext": pods::not_root(),
        "topologySpreadConstraints": [pods::spread("kubernetes.io/hostname", &at.selector(Component::Gateway))],
    });
    if let Some(secret) = &spec.tls_secret {
        args.extend(pods::flags([
            ("--listen-group-tls", listen),
            ("--tls-certificate", "/etc/moorhouse/tls/tls.crt".to_owned()),
            ("--tls-key", "/etc/moorhouse/tls/tls.key".to_owned()),
        ]));
        container["volumeMounts"] = json!([{ "name": "tls", "mountPath": "/etc/moorhouse/tls", "readOnly": true }]);
        pod["volumes"] = json!([{ "name": "tls", "secret": { "secretName": secret } }]);
    } else {
        args.extend(pods::flags([("--listen-group", listen)]));
    }
    container["args"] = json!(args);
    pod["serviceAccountName"] = json!(account_of(warehouse));
    pod["containers"] = json!([container]);
    let content = json!({
        "metadata": at.metadata(Component::Gateway),
        "spec": {
            "replicas": spec.replicas,
            "selector": { "matchLabels": at.selector(Component::Gateway) },
            "template": { "metadata": { "labels": at.labels(Component::Gateway) }, "spec": pod },
        },
    });
    Built { kind: Kind::Deployment, name: names::gateway(&at.group), content }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
