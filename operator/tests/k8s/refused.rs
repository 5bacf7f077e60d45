//! What the API server refuses by the schemas alone, in words.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::support::Space;

fn warehouse() -> Value {
    json!({
        "apiVersion": "moorhouse.io/v1alpha1", "kind": "Warehouse", "metadata": { "name": "main" },
        "spec": {
            "metadata": { "etcd": { "endpoints": ["etcd:2379"], "prefix": "main" } },
            "objects": { "bucket": "lake", "credentialsSecret": "s3" },
            "admin": { "secret": "admin" },
            "insecurePlaintext": true,
        },
    })
}

fn group() -> Value {
    json!({
        "apiVersion": "moorhouse.io/v1alpha1", "kind": "ComputeGroup", "metadata": { "name": "etl" },
        "spec": { "warehouse": "main", "replicas": 2, "cache": { "size": "10Gi", "storageClass": "fast" } },
    })
}

fn policy() -> Value {
    json!({
        "apiVersion": "moorhouse.io/v1alpha1", "kind": "AccessPolicy", "metadata": { "name": "staff" },
        "spec": { "warehouse": "main", "users": [{ "name": "ada", "passwordSecret": "ada" }] },
    })
}

/// The object with another value at the JSON pointer; null takes the field away.
fn with(mut object: Value, pointer: &str, value: Value) -> String {
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
    let parent = object.pointer_mut(parent).expect("the parent is there");
    if value.is_null() {
        parent.as_object_mut().expect("an object").remove(field);
    } else {
        parent[field] = value;
    }
    object.to_string()
}

pub fn invalid_objects_are_refused_with_readable_messages(cluster: &Cluster) {
    let space = Space::new(cluster);
    let long = "a".repeat(41);
    let users = json!([{ "name": "ada", "passwordSecret": "a" }, { "name": "ada", "passwordSecret": "b" }]);
    // What is applied, and words of the refusal: the field, and the remedy where there is one.
    let cases: [(String, &[&str]); 25] = [
        (with(warehouse(), "/spec/shards", json!(0)), &["spec.shards", "greater than or equal to 1"]),
        (with(warehouse(), "/spec/shards", json!(1025)), &["spec.shards", "1024"]),
        (with(warehouse(), "/spec/admin", Value::Null), &["spec.admin", "Required"]),
        (with(warehouse(), "/spec/insecurePlaintext", json!(false)), &["spec.insecurePlaintext", "must be true"]),
        (with(warehouse(), "/spec/metadata/etcd/endpoints", json!([])), &["spec.metadata.etcd.endpoints"]),
        (with(warehouse(), "/spec/metadata/etcd/endpoints", json!(["etcd"])), &["spec.metadata.etcd.endpoints[0]"]),
        (with(warehouse(), "/spec/metadata/etcd/prefix", json!("/main/")), &["spec.metadata.etcd.prefix"]),
        (with(warehouse(), "/spec/objects/bucket", json!("No Bucket")), &["spec.objects.bucket"]),
        (
            with(warehouse(), "/spec/objects/endpoint", json!("http://garage:3900")),
            &["spec.objects", "allowHttp: true"],
        ),
        (
            with(warehouse(), "/spec/objects/credentialsSecret", Value::Null),
            &["credentialsSecret or serviceAccountName"],
        ),
        (with(warehouse(), "/spec/objects/serviceAccountName", json!("sa")), &["and not both"]),
        (with(warehouse(), "/spec/durability", json!("Sometimes")), &["spec.durability", "\"Local\", \"Replicated\""]),
        (with(warehouse(), "/spec/deletionPolicy", json!("Delete")), &["spec.deletionPolicy", "\"Retain\""]),
        (with(warehouse(), "/spec/controller", json!({ "replicas": 6 })), &["spec.controller.replicas"]),
        (with(warehouse(), "/spec/shard", json!(4)), &["unknown field", "spec.shard"]),
        (with(warehouse(), "/metadata/name", json!(long)), &["at most 40 characters"]),
        (with(group(), "/spec/replicas", json!(65)), &["spec.replicas"]),
        (with(group(), "/spec/replicas", json!(-1)), &["spec.replicas"]),
        (with(group(), "/spec/cache/size", json!("10")), &["spec.cache.size"]),
        (with(group(), "/spec/cache/size", json!("64Mi")), &["spec.cache.size", "at least 128Mi"]),
        (with(group(), "/spec/fuse", json!({ "devicePlugin": "fuse" })), &["spec.fuse.devicePlugin"]),
        (with(group(), "/metadata/name", json!("a.b")), &["metadata.name"]),
        (with(policy(), "/spec/users", users), &["spec.users[1]", "Duplicate value"]),
        (with(policy(), "/spec/users/0/name", json!("default")), &["belong to Moorhouse"]),
        (with(policy(), "/spec/users/0/password", json!("secret")), &["unknown field"]),
    ];
    for (object, words) in cases {
        let said = cluster.apply_refused(&space.name, &object);
        assert!(
            words.iter().all(|word| said.contains(word)),
            "{object}\nwas refused with: {said}\nand not with {words:?}"
        );
    }
}

pub fn impossible_changes_are_refused(cluster: &Cluster) {
    let space = Space::new(cluster);
    for whole in [warehouse(), group(), policy()] {
        space.apply(&whole.to_string());
    }
    let cases = [
        (with(warehouse(), "/spec/shards", json!(32)), "shards are fixed when the warehouse is made"),
        (with(warehouse(), "/spec/metadata/etcd/prefix", json!("other")), "the prefix cannot change"),
        (with(warehouse(), "/spec/objects/bucket", json!("other")), "the bucket cannot change"),
        (with(warehouse(), "/spec/objects/prefix", json!("other")), "the prefix cannot change"),
        (with(group(), "/spec/warehouse", json!("other")), "a group stays with its warehouse"),
        (with(group(), "/spec/cache/size", json!("5Gi")), "a volume cannot shrink"),
        (with(group(), "/spec/cache/storageClass", json!("slow")), "storageClass cannot change"),
        (with(group(), "/spec/cache/storageClass", Value::Null), "storageClass cannot change"),
        (with(policy(), "/spec/warehouse", json!("other")), "a policy stays with its warehouse"),
    ];
    for (object, words) in cases {
        let said = cluster.apply_refused(&space.name, &object);
        assert!(said.contains(words), "{object}\nwas refused with: {said}\nand not with: {words}");
    }
    // And what may change, may.
    space.apply(&with(group(), "/spec/cache/size", json!("20Gi")));
    space.apply(&with(warehouse(), "/spec/metadata/etcd/endpoints", json!(["etcd:2379", "etcd2:2379"])));
}
