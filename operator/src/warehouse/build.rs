//! The objects of a warehouse. Pure: the same warehouse gives the same objects.

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::apply::{Built, Kind};
use crate::context::Settings;
use crate::crd::{Objects, Warehouse};
use crate::names::{self, Component};
use crate::pods;

pub fn build(warehouse: &Warehouse, settings: &Settings) -> Vec<Built> {
    let at = Place {
        name: warehouse.name_any(),
        namespace: warehouse.namespace().unwrap_or_default(),
        owners: pods::owned_by(warehouse),
    };
    let mut objects = Vec::new();
    if warehouse.spec.objects.service_account_name.is_none() {
        objects.push(service_account(&at));
    }
    objects.extend([service(&at), disruption_budget(&at), network_policy(&at, settings), controllers(warehouse, &at)]);
    objects
}

/// Every controller pod by name, whoever leads.
pub fn controller_url(warehouse: &Warehouse, namespace: &str) -> String {
    let name = names::controller(&warehouse.name_any());
    let pods = 0..warehouse.spec.controller.replicas;
    let urls = pods.map(|n| format!("http://{name}-{n}.{name}.{namespace}.svc:{}", names::CONTROLLER_PORT));
    urls.collect::<Vec<_>>().join(",")
}

/// Service account of all pods of the warehouse.
pub fn account_of(warehouse: &Warehouse) -> String {
    let own = || names::internal(&warehouse.name_any());
    warehouse.spec.objects.service_account_name.clone().unwrap_or_else(own)
}

struct Place {
    name: String,
    namespace: String,
    owners: Value,
}

impl Place {
    fn metadata(&self) -> Value {
        json!({
            "namespace": self.namespace,
            "labels": names::labels(Component::Controller, &self.name, None),
            "ownerReferences": self.owners,
        })
    }

    fn selector(&self) -> Value {
        names::selector(Component::Controller, &self.name, None)
    }
}

/// With no rights at all: the pods do not speak to the API server.
fn service_account(at: &Place) -> Built {
    let content = json!({ "metadata": at.metadata(), "automountServiceAccountToken": false });
    Built { kind: Kind::ServiceAccount, name: names::internal(&at.name), content }
}

/// Gives each controller a name. Those that are not ready have one, too: a standby must find the leader that is just starting.
fn service(at: &Place) -> Built {
    let content = json!({
        "metadata": at.metadata(),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": at.selector(),
            "ports": [
                { "name": "grpc", "port": names::CONTROLLER_PORT, "targetPort": "grpc", "protocol": "TCP" },
                { "name": "metrics", "port": names::CONTROLLER_METRICS, "targetPort": "metrics", "protocol": "TCP" },
            ],
        },
    });
    Built { kind: Kind::Service, name: names::controller(&at.name), content }
}

fn disruption_budget(at: &Place) -> Built {
    let content = json!({
        "metadata": at.metadata(),
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": at.selector() } },
    });
    Built { kind: Kind::PodDisruptionBudget, name: names::controller(&at.name), content }
}

/// Controllers and nodes are for the warehouse's own pods; the controllers for the operator, too. Metrics are for everybody.
fn network_policy(at: &Place, settings: &Settings) -> Built {
    let own = json!({ "podSelector": { "matchLabels": { names::WAREHOUSE_LABEL: at.name } } });
    let operator = json!({
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": settings.namespace } },
        "podSelector": { "matchLabels": { "app.kubernetes.io/name": names::MANAGER } },
    });
    let port = |port: u16| json!({ "port": port, "protocol": "TCP" });
    let content = json!({
        "metadata": at.metadata(),
        "spec": {
            "podSelector": {
                "matchLabels": { names::WAREHOUSE_LABEL: at.name },
                "matchExpressions": [{
                    "key": "app.kubernetes.io/component",
                    "operator": "In",
                    "values": [Component::Controller.label(), Component::Node.label()],
                }],
            },
            "policyTypes": ["Ingress"],
            "ingress": [
                { "from": [own] },
                { "from": [operator], "ports": [port(names::CONTROLLER_PORT)] },
                { "ports": [port(names::CONTROLLER_METRICS), port(names::AGENT_METRICS)] },
            ],
        },
    });
    Built { kind: Kind::NetworkPolicy, name: names::internal(&at.name), content }
}

fn controllers(warehouse: &Warehouse, at: &Place) -> Built {
    let spec = &warehouse.spec;
    let name = names::controller(&at.name);
    let advertise = format!("$(POD_NAME).{name}.{}.svc:{}", at.namespace, names::CONTROLLER_PORT);
    let etcd = &spec.metadata.etcd;
    let args = pods::flags([
        ("--listen", format!("0.0.0.0:{}", names::CONTROLLER_PORT)),
        ("--metrics", format!("0.0.0.0:{}", names::CONTROLLER_METRICS)),
        ("--advertise", advertise),
        ("--store", format!("etcd://{}/{}", etcd.endpoints.join(","), etcd.prefix)),
        ("--objects", objects_url(&spec.objects)),
        ("--shards", spec.shards.to_string()),
    ]);
    let mut env = vec![
        pods::field("POD_NAME", "metadata.name"),
        pods::secret("ADMIN_NAME", &spec.admin.secret, "username"),
        pods::secret("ADMIN_SHA256", &spec.admin.secret, "passwordSha256"),
        json!({ "name": "MOORHOUSE_USERS", "value": "$(ADMIN_NAME):$(ADMIN_SHA256)" }),
        json!({ "name": "MOORHOUSE_INSECURE_PLAINTEXT", "value": "true" }),
    ];
    env.extend(pods::credentials(&spec.objects));
    let container = json!({
        "name": "controller",
        "image": spec.images.controller,
        "args": args,
        "env": env,
        "ports": [
            { "name": "grpc", "containerPort": names::CONTROLLER_PORT, "protocol": "TCP" },
            { "name": "metrics", "containerPort": names::CONTROLLER_METRICS, "protocol": "TCP" },
        ],
        "readinessProbe": pods::healthy(),
        "livenessProbe": pods::alive(),
        "resources": spec.controller.resources,
        "securityContext": pods::locked_down(),
    });
    let content = json!({
        "metadata": at.metadata(),
        "spec": {
            "serviceName": name,
            "replicas": spec.controller.replicas,
            // They elect a leader among themselves, in any order.
            "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": at.selector() },
            "template": {
                "metadata": { "labels": names::labels(Component::Controller, &at.name, None) },
                "spec": {
                    "serviceAccountName": account_of(warehouse),
                    "securityContext": pods::not_root(),
                    "topologySpreadConstraints": [pods::spread("kubernetes.io/hostname", &at.selector())],
                    "containers": [container],
                },
            },
        },
    });
    Built { kind: Kind::StatefulSet, name, content }
}

/// As the controller's flag says it.
fn objects_url(objects: &Objects) -> String {
    let mut url = format!("s3://{}", objects.bucket);
    if !objects.prefix.is_empty() {
        url.push('/');
        url.push_str(&objects.prefix);
    }
    let endpoint = objects.endpoint.iter().map(|endpoint| format!("endpoint={}", endpoint.trim_end_matches('/')));
    let region = objects.region.iter().map(|region| format!("region={region}"));
    let allow_http = objects.allow_http.then(|| "allow_http=true".to_owned());
    let query: Vec<String> = endpoint.chain(region).chain(allow_http).collect();
    if query.is_empty() { url } else { format!("{url}?{}", query.join("&")) }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
