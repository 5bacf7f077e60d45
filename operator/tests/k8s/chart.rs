//! The chart, by the real Helm, against the API server.

use std::process::Command;

use crate::cluster::{Cluster, OPERATOR_NAMESPACE};
use crate::support::{Space, output_of, repository};

pub fn every_rendered_object_is_taken(cluster: &Cluster) {
    let chart = repository().join("charts/moorhouse");
    let linted =
        output_of(Command::new(&cluster.helm).args(["lint", "--strict"]).arg(&chart).env("HOME", cluster.dir()));
    assert!(linted.contains("0 chart(s) failed"), "{linted}");
    let ways: [&[&str]; 3] = [
        &[],
        &["--set", "watchNamespace=moorhouse-system", "--set", "image.tag=x", "--set", "log=debug"],
        &["--set", "nodeSelector.disk=nvme", "--set", "imagePullSecrets[0].name=pull", "--set", "roles.create=false"],
    ];
    for args in ways {
        let rendered = cluster.render(args);
        for kind in ["Deployment", "ServiceAccount", "Service"] {
            assert!(rendered.contains(&format!("kind: {kind}\n")), "no {kind} with {args:?}");
        }
        let said = cluster.dry_run(OPERATOR_NAMESPACE, &rendered);
        let objects = rendered.lines().filter(|line| line.starts_with("kind: ")).count();
        let taken = said.lines().filter(|line| line.contains("(server dry run)")).count();
        assert_eq!(taken, objects, "{said}");
    }
    // The operator's rights are in one namespace if it watches one.
    let narrow = cluster.render(&["--set", "watchNamespace=default", "--show-only", "templates/rbac.yaml"]);
    assert!(!narrow.contains("kind: ClusterRole"), "{narrow}");
    // These need the Prometheus operator's definitions; here, that they are rendered at all.
    let watched = cluster.render(&["--set", "metrics.serviceMonitor=true", "--set", "metrics.rules=true"]);
    assert!(
        ["ServiceMonitor", "PodMonitor", "PrometheusRule"]
            .iter()
            .all(|kind| watched.contains(&format!("kind: {kind}\n")))
    );
}

pub fn wrong_values_are_refused(cluster: &Cluster) {
    let chart = repository().join("charts/moorhouse");
    for (value, word) in [
        ("replicas=2", "replicas"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("watchNamespace=A_b", "watchNamespace"),
    ] {
        let mut helm = Command::new(&cluster.helm);
        helm.args(["template", "moorhouse"]).arg(&chart).args(["--set", value]).env("HOME", cluster.dir());
        let output = helm.output().expect("helm runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(word), "{value}: {said}");
    }
}

pub fn examples_are_taken(cluster: &Cluster) {
    let space = Space::new(cluster);
    let dir = repository().join("charts/moorhouse/examples");
    let files: Vec<_> =
        std::fs::read_dir(dir).expect("examples").map(|entry| entry.expect("readable").path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        let said = cluster.dry_run(&space.name, &text);
        let objects = text.lines().filter(|line| line.starts_with("kind: ")).count();
        assert_eq!(said.lines().count(), objects, "{}: {said}", file.display());
    }
}
