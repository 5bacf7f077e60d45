//! From what users write to what the cluster has.

use serde_json::json;

use crate::cluster::Cluster;
use crate::support::{Operator, Space, until};

pub fn definitions_are_there_with_short_names_and_columns(cluster: &Cluster) {
    let space = Space::new(cluster);
    space.example("minimal.yaml");
    let warehouses = space.kubectl(&["get", "mwh"]);
    let columns: Vec<&str> = warehouses.lines().next().expect("a header").split_whitespace().collect();
    assert_eq!(columns, ["NAME", "SHARDS", "READY", "REASON", "BUCKET", "AGE"]);
    assert!(warehouses.contains("moorhouse-main"), "{warehouses}");
    let groups = space.kubectl(&["get", "mcg"]);
    let columns: Vec<&str> = groups.lines().next().expect("a header").split_whitespace().collect();
    assert_eq!(columns, ["NAME", "WAREHOUSE", "NODES", "UP", "SHARDS", "READY", "REASON", "AGE"]);
    let everything = space.kubectl(&["get", "moorhouse", "-o", "name"]);
    let mut everything: Vec<&str> = everything.lines().collect();
    everything.sort_unstable();
    assert_eq!(everything, ["computegroup.moorhouse.io/etl", "warehouse.moorhouse.io/main"]);
    let defaults = space.get("warehouse", "main").expect("applied")["spec"].clone();
    assert_eq!((&defaults["shards"], &defaults["durability"]), (&json!(16), &json!("Local")));
    assert_eq!((&defaults["controller"]["replicas"], &defaults["gateway"]["replicas"]), (&json!(2), &json!(2)));
    let explained = cluster.ok(&["explain", "computegroup.spec.suspend"]);
    assert!(explained.contains("everything is stored"), "{explained}");
    // Scaling from the outside goes through the scale subresource.
    space.kubectl(&["scale", "computegroup", "etl", "--replicas=3"]);
    assert_eq!(space.get("computegroup", "etl").expect("there")["spec"]["replicas"], 3);
}

pub fn minimal_example_becomes_objects(cluster: &Cluster) {
    let space = Space::new(cluster);
    let mut operator = Operator::start(&space, &[]);
    space.example("minimal.yaml");
    space.until_exists("statefulset", "etl-node");
    space.until_exists("deployment", "etl-gateway");
    assert_eq!(space.names("statefulsets"), ["etl-node", "main-controller"]);
    assert_eq!(space.names("deployments"), ["etl-gateway"]);
    assert_eq!(space.names("services"), ["etl-gateway", "etl-node", "main-controller"]);
    assert_eq!(space.names("poddisruptionbudgets"), ["etl-gateway", "etl-node", "main-controller"]);
    assert_eq!(space.names("networkpolicies"), ["main-internal"]);
    // Kubernetes' own controllers make the pods and the volumes.
    until("the pods", || {
        let pods = space.names("pods");
        let nodes = ["etl-node-0", "etl-node-1", "main-controller-0", "main-controller-1"];
        if nodes.iter().all(|node| pods.iter().any(|pod| pod == node)) { Ok(()) } else { Err(format!("{pods:?}")) }
    });
    assert_eq!(space.names("persistentvolumeclaims"), ["cache-etl-node-0", "cache-etl-node-1"]);
    // No controller answers: that is said, and no node is called ready.
    let said = space.until_condition(("warehouse", "main"), "Ready", "False", "ControllersStarting");
    assert!(said.contains("of 2 controllers are up"), "{said}");
    space.until_condition(("computegroup", "etl"), "Ready", "False", "ControllerSilent");
    let status = space.get("computegroup", "etl").expect("there")["status"].clone();
    assert_eq!(status["connectionString"]["native"], format!("clickhouse://etl-gateway.{}.svc:9000", space.name));
    assert!(
        status["selector"].as_str().is_some_and(|selector| selector.contains("moorhouse.io/group=etl")),
        "{status}"
    );
    let described = space.kubectl(&["describe", "warehouse", "main"]);
    assert!(described.contains("ControllersStarting"), "no event: {described}");
    operator.assert_well();
}

pub fn missing_secret_is_named(cluster: &Cluster) {
    let space = Space::new(cluster);
    let mut operator = Operator::start(&space, &[]);
    space.example("minimal.yaml");
    space.until_exists("statefulset", "etl-node");
    drop(operator);
    space.kubectl(&["delete", "statefulset", "main-controller"]);
    space.kubectl(&["delete", "secret", "main-admin"]);
    operator = Operator::start(&space, &[]);
    let said = space.until_condition(("warehouse", "main"), "Ready", "False", "SecretNotFound");
    assert_eq!(said, "spec.admin.secret: there is no secret 'main-admin' in this namespace");
    assert!(space.get("statefulset", "main-controller").is_none(), "half of the objects were made");
    let said = space.until_condition(("computegroup", "etl"), "Degraded", "True", "WarehouseDegraded");
    assert!(said.contains("main-admin"), "{said}");

    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "main-admin" },
        "stringData": { "username": "admin", "passwordSha256": "plain text" },
    });
    space.apply(&secret.to_string());
    let said = space.until_condition(("warehouse", "main"), "Degraded", "True", "SecretInvalid");
    assert!(said.contains("64 hex digits") && !said.contains("plain text"), "{said}");
    space.example("minimal.yaml");
    space.until_exists("statefulset", "main-controller");
    operator.assert_well();
}

/// Killed at any moment, any number of times: the same objects, none of them written anew.
pub fn operator_killed_changes_nothing(cluster: &Cluster) {
    let space = Space::new(cluster);
    space.example("minimal.yaml");
    for wait_ms in [100, 200, 400, 800] {
        let operator = Operator::start(&space, &[]);
        // In the midst of making the objects: where exactly, is chance, and must not matter.
        std::thread::sleep(std::time::Duration::from_millis(wait_ms));
        drop(operator);
    }
    let mut operator = Operator::start(&space, &[]);
    space.until_exists("deployment", "etl-gateway");
    until("all pods are ready", || {
        let set = space.get("statefulset", "etl-node").ok_or("no set")?;
        if set["status"]["readyReplicas"] == 2 { Ok(()) } else { Err(set["status"].to_string()) }
    });
    space.until_condition(("computegroup", "etl"), "Ready", "False", "ControllerSilent");
    let mut before = Vec::new();
    until("all is still", || {
        let now = space.versions();
        std::thread::sleep(std::time::Duration::from_secs(2));
        before = space.versions();
        if now == before { Ok(()) } else { Err(format!("{now:?}")) }
    });
    drop(operator);
    operator = Operator::start(&space, &[]);
    // It has looked at everything when it has undone this.
    space.kubectl(&["delete", "service", "etl-gateway"]);
    space.until_exists("service", "etl-gateway");
    let but_that =
        |all: Vec<String>| all.into_iter().filter(|one| !one.contains("Service/etl-gateway")).collect::<Vec<_>>();
    assert_eq!(but_that(before), but_that(space.versions()));
    operator.assert_well();
}

pub fn others_changes_are_undone(cluster: &Cluster) {
    let space = Space::new(cluster);
    let mut operator = Operator::start(&space, &[]);
    space.example("minimal.yaml");
    space.until_exists("deployment", "etl-gateway");
    space.kubectl(&["patch", "deployment", "etl-gateway", "-p", r#"{"spec":{"replicas":7}}"#]);
    until("the replicas are the operator's again", || {
        let found = space.get("deployment", "etl-gateway").ok_or("gone")?;
        if found["spec"]["replicas"] == 2 { Ok(()) } else { Err(found["spec"]["replicas"].to_string()) }
    });
    // What the operator does not say is others' to say.
    space.kubectl(&["annotate", "deployment", "etl-gateway", "team=lake"]);
    space.kubectl(&["patch", "warehouse", "main", "--type=merge", "-p", r#"{"spec":{"gateway":{"replicas":3}}}"#]);
    until("three gateways", || {
        let found = space.get("deployment", "etl-gateway").ok_or("gone")?;
        if found["spec"]["replicas"] == 3 { Ok(()) } else { Err(found["spec"]["replicas"].to_string()) }
    });
    let found = space.get("deployment", "etl-gateway").expect("there");
    assert_eq!(found["metadata"]["annotations"]["team"], "lake");
    operator.assert_well();
}

pub fn somebody_elses_object_is_left_alone(cluster: &Cluster) {
    let space = Space::new(cluster);
    let theirs = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "etl-gateway" },
        "spec": { "ports": [{ "port": 80 }], "selector": { "app": "other" } },
    });
    space.apply(&theirs.to_string());
    let mut operator = Operator::start(&space, &[]);
    space.example("minimal.yaml");
    let said = space.until_condition(("computegroup", "etl"), "Degraded", "True", "NameTaken");
    assert!(said.contains("etl-gateway") && said.contains("rename or delete it"), "{said}");
    assert_eq!(space.get("service", "etl-gateway").expect("there")["spec"]["ports"][0]["port"], 80);
    space.kubectl(&["delete", "service", "etl-gateway"]);
    space.until_exists("deployment", "etl-gateway");
    operator.assert_well();
}

pub fn volumes_grow_in_place(cluster: &Cluster) {
    let space = Space::new(cluster);
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": { "name": "growable", "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
        "provisioner": "test.example/none", "allowVolumeExpansion": true,
    });
    space.apply(&class.to_string());
    let mut operator = Operator::start(&space, &[]);
    space.example("minimal.yaml");
    let claim = ["patch", "persistentvolumeclaim", "cache-etl-node-0", "--type=merge"];
    space.until_exists("persistentvolumeclaim", "cache-etl-node-0");
    // As the provisioner of a cluster would say it.
    space.kubectl(&[&claim[..], &["-p", r#"{"spec":{"volumeName":"volume-0"}}"#]].concat());
    let bound = r#"{"status":{"phase":"Bound","capacity":{"storage":"100Gi"}}}"#;
    space.kubectl(&[&claim[..], &["--subresource=status", "-p", bound]].concat());
    let uid = space.get("persistentvolumeclaim", "cache-etl-node-0").expect("there")["metadata"]["uid"].clone();
    space.kubectl(&["patch", "computegroup", "etl", "--type=merge", "-p", r#"{"spec":{"cache":{"size":"150Gi"}}}"#]);
    until("the volume grows", || {
        let claim = space.get("persistentvolumeclaim", "cache-etl-node-0").ok_or("gone")?;
        let size = &claim["spec"]["resources"]["requests"]["storage"];
        if *size == "150Gi" { Ok(()) } else { Err(size.to_string()) }
    });
    assert_eq!(space.get("persistentvolumeclaim", "cache-etl-node-0").expect("there")["metadata"]["uid"], uid);
    operator.assert_well();
    space.kubectl(&["delete", "storageclass", "growable"]);
}

pub fn access_policy_says_that_it_is_not_applied(cluster: &Cluster) {
    let space = Space::new(cluster);
    let mut operator = Operator::start(&space, &[]);
    let policy = json!({
        "apiVersion": "moorhouse.io/v1alpha1", "kind": "AccessPolicy", "metadata": { "name": "staff" },
        "spec": { "warehouse": "main", "users": [{ "name": "ada", "passwordSecret": "ada", "roles": ["reader"] }] },
    });
    space.apply(&policy.to_string());
    let said = space.until_condition(("accesspolicy", "staff"), "Applied", "False", "NotSupported");
    assert!(said.contains("nothing of this policy is in force"), "{said}");
    operator.assert_well();
}

pub fn warehouse_waits_for_its_groups_and_retains(cluster: &Cluster) {
    let space = Space::new(cluster);
    let mut operator = Operator::start(&space, &[]);
    space.example("minimal.yaml");
    space.until_exists("deployment", "etl-gateway");
    until("the volumes", || {
        let claims = space.names("persistentvolumeclaims");
        if claims.len() == 2 { Ok(()) } else { Err(format!("{claims:?}")) }
    });
    space.kubectl(&["delete", "warehouse", "main", "--wait=false"]);
    let said = space.until_condition(("warehouse", "main"), "Progressing", "True", "WaitingForGroups");
    assert!(said.contains("etl"), "{said}");
    assert!(space.get("statefulset", "main-controller").is_some(), "the controllers went before the groups");
    space.kubectl(&["delete", "computegroup", "etl", "--timeout=60s"]);
    until("the warehouse goes", || match space.get("warehouse", "main") {
        None => Ok(()),
        Some(left) => Err(left["status"].to_string()),
    });
    until("its objects go", || {
        let left = [space.names("statefulsets"), space.names("services"), space.names("deployments")].concat();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    // Volumes and secrets are not the operator's to delete.
    assert_eq!(space.names("persistentvolumeclaims"), ["cache-etl-node-0", "cache-etl-node-1"]);
    assert!(space.get("secret", "main-bucket").is_some());
    operator.assert_well();
    // A namespace that is deleted at once, everything in it, is not held up.
    space.example("minimal.yaml");
    space.until_exists("deployment", "etl-gateway");
    cluster.ok(&["delete", "namespace", &space.name, "--timeout=90s"]);
}
