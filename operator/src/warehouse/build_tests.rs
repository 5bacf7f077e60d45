//! The objects of warehouses, whole.

use super::*;
use crate::golden::assert_golden;

fn settings() -> Settings {
    Settings { namespace: "moorhouse-system".to_owned() }
}

fn warehouse(spec: Value) -> Warehouse {
    let whole = json!({
        "apiVersion": "moorhouse.io/v1alpha1",
        "kind": "Warehouse",
        "metadata": { "name": "main", "namespace": "data", "uid": "uid-of-main" },
        "spec": spec,
    });
    serde_json::from_value(whole).expect("a warehouse")
}

#[test]
fn minimal() {
    let warehouse = warehouse(json!({
        "metadata": { "etcd": { "endpoints": ["etcd:2379"], "prefix": "main" } },
        "objects": { "bucket": "lake", "region": "eu-west-1", "credentialsSecret": "s3" },
        "admin": { "secret": "admin" },
        "insecurePlaintext": true,
    }));
    assert_golden("warehouse-minimal.yaml", &build(&warehouse, &settings()));
}

#[test]
fn everything_is_said() {
    let warehouse = warehouse(json!({
        "shards": 64,
        "metadata": { "etcd": { "endpoints": ["a:2379", "b:2379", "c:2379"], "prefix": "prod/eu" } },
        "objects": {
            "bucket": "lake", "prefix": "prod", "endpoint": "http://garage:3900/", "region": "garage", "allowHttp": true,
            "serviceAccountName": "lake-writer",
        },
        "admin": { "secret": "admin" },
        "controller": { "replicas": 3, "resources": { "requests": { "cpu": "1" }, "limits": { "memory": "2Gi" } } },
        "images": { "controller": "registry.example/controller:1" },
        "insecurePlaintext": true,
    }));
    assert_golden("warehouse-full.yaml", &build(&warehouse, &settings()));
}

#[test]
fn secrets_are_referred_to_and_never_written() {
    let warehouse = warehouse(json!({
        "metadata": { "etcd": { "endpoints": ["etcd:2379"], "prefix": "main" } },
        "objects": { "bucket": "lake", "credentialsSecret": "s3" },
        "admin": { "secret": "admin" },
        "insecurePlaintext": true,
    }));
    for object in build(&warehouse, &settings()) {
        let text = object.to_json().to_string();
        assert!(!text.contains("\"kind\":\"Secret\""), "{text}");
        assert!(!text.contains("--user"), "{text}");
    }
}
