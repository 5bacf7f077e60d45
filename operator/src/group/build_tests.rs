//! The objects of groups, whole.

use super::*;
use crate::golden::assert_golden;

fn warehouse(gateway: Value) -> Warehouse {
    let whole = json!({
        "apiVersion": "moorhouse.io/v1alpha1",
        "kind": "Warehouse",
        "metadata": { "name": "main", "namespace": "data", "uid": "uid-of-main" },
        "spec": {
            "metadata": { "etcd": { "endpoints": ["etcd:2379"], "prefix": "main" } },
            "objects": { "bucket": "lake", "credentialsSecret": "s3" },
            "admin": { "secret": "admin" },
            "durability": "Replicated",
            "gateway": gateway,
            "insecurePlaintext": true,
        },
    });
    serde_json::from_value(whole).expect("a warehouse")
}

fn group(spec: Value) -> ComputeGroup {
    let whole = json!({
        "apiVersion": "moorhouse.io/v1alpha1",
        "kind": "ComputeGroup",
        "metadata": { "name": "etl", "namespace": "data", "uid": "uid-of-etl" },
        "spec": spec,
    });
    serde_json::from_value(whole).expect("a group")
}

#[test]
fn minimal() {
    let group = group(json!({ "warehouse": "main", "cache": { "size": "100Gi" } }));
    assert_golden("group-minimal.yaml", &build(&group, &warehouse(json!({})), "100Gi", 1));
}

#[test]
fn everything_is_said() {
    let group = group(json!({
        "warehouse": "main",
        "replicas": 4,
        "resources": { "requests": { "cpu": "8" }, "limits": { "memory": "64Gi" } },
        "cache": { "size": "2Ti", "storageClass": "local-nvme" },
        "image": "registry.example/node:26.7",
        "fuse": { "devicePlugin": "github.com/fuse" },
        "spreadOver": "topology.kubernetes.io/zone",
        "nodeSelector": { "disk": "nvme" },
        "stopTimeoutSeconds": 300,
    }));
    let warehouse = warehouse(json!({ "replicas": 3, "serviceType": "LoadBalancer", "tlsSecret": "clients" }));
    assert_golden("group-full.yaml", &build(&group, &warehouse, "1Ti", 5));
    assert_eq!(connection_string(&group, &warehouse).native, "clickhouse://etl-gateway.data.svc:9440?secure=true");
}

#[test]
fn the_set_keeps_the_size_that_it_was_made_with() {
    let group = group(json!({ "warehouse": "main", "cache": { "size": "200Gi" } }));
    let objects = build(&group, &warehouse(json!({})), "100Gi", 1);
    let set = objects.iter().find(|object| object.kind == Kind::StatefulSet).expect("a set");
    let claim = &set.content["spec"]["volumeClaimTemplates"][0]["spec"];
    assert_eq!(claim["resources"]["requests"]["storage"], "100Gi");
    // The budget follows what is asked for.
    let args = set.content["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(args.contains(&format!("--cache-bytes={}", (200_u64 << 30) / 100 * 90)), "{args}");
}
