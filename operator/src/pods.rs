//! What the pods of several components have in common. Pure.

use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::crd::Objects;

/// As the API server wants it of an object whose end is its owner's end.
pub fn owned_by<K: Resource<DynamicType = ()>>(owner: &K) -> Value {
    json!([{
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "name": owner.name_any(),
        "uid": owner.uid().unwrap_or_default(),
        "controller": true,
        "blockOwnerDeletion": true,
    }])
}

/// `--flag=value`, one word each.
pub fn flags<const N: usize>(pairs: [(&str, String); N]) -> Vec<String> {
    pairs.into_iter().map(|(flag, value)| format!("{flag}={value}")).collect()
}

pub fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

pub fn secret(name: &str, secret: &str, key: &str) -> Value {
    json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": secret, "key": key } } })
}

/// Nothing for a workload identity: the cloud puts its variables in itself.
pub fn credentials(objects: &Objects) -> Vec<Value> {
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    objects.credentials_secret.iter().flat_map(|name| keys.map(|key| secret(key, name, key))).collect()
}

fn health(failures: u32, period: u32) -> Value {
    json!({
        "httpGet": { "path": "/healthz", "port": "metrics" },
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    })
}

/// For readiness.
pub fn healthy() -> Value {
    health(3, 3)
}

/// For liveness: patient, since a restart helps only against a process that hangs.
pub fn alive() -> Value {
    health(12, 10)
}

/// For the start of a node, which looks through its whole volume: 30 minutes.
pub fn starting() -> Value {
    health(360, 5)
}

pub fn not_root() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

pub fn locked_down() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    })
}

/// Evenly, as far as there is room.
pub fn spread(over: &str, selector: &Value) -> Value {
    json!({
        "maxSkew": 1,
        "topologyKey": over,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": selector },
    })
}
