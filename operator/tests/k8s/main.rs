//! The operator against a real control plane: etcd, kube-apiserver and kube-controller-manager as processes, kubectl as the
//! user. Its own main, since one control plane serves all tests and must end with them.
//!
//! The API server's pods have no machines here: a small kubelet of the harness says that they run.

mod chart;
mod cluster;
mod kubelet;
mod node;
mod reconcile;
mod refused;
mod scaling;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use cluster::{Cluster, Components};

type Test = (&'static str, fn(&Cluster));

const TESTS: &[Test] = &[
    (
        "definitions_are_there_with_short_names_and_columns",
        reconcile::definitions_are_there_with_short_names_and_columns,
    ),
    ("invalid_objects_are_refused_with_readable_messages", refused::invalid_objects_are_refused_with_readable_messages),
    ("impossible_changes_are_refused", refused::impossible_changes_are_refused),
    ("every_rendered_object_is_taken", chart::every_rendered_object_is_taken),
    ("wrong_values_are_refused", chart::wrong_values_are_refused),
    ("examples_are_taken", chart::examples_are_taken),
    ("minimal_example_becomes_objects", reconcile::minimal_example_becomes_objects),
    ("missing_secret_is_named", reconcile::missing_secret_is_named),
    ("operator_killed_changes_nothing", reconcile::operator_killed_changes_nothing),
    ("others_changes_are_undone", reconcile::others_changes_are_undone),
    ("somebody_elses_object_is_left_alone", reconcile::somebody_elses_object_is_left_alone),
    ("volumes_grow_in_place", reconcile::volumes_grow_in_place),
    ("access_policy_says_that_it_is_not_applied", reconcile::access_policy_says_that_it_is_not_applied),
    ("warehouse_waits_for_its_groups_and_retains", reconcile::warehouse_waits_for_its_groups_and_retains),
    ("scale_in_drains_first", scaling::scale_in_drains_first),
    ("scale_in_waits_for_staged_parts", scaling::scale_in_waits_for_staged_parts),
    ("scale_in_stands_still_without_the_controller", scaling::scale_in_stands_still_without_the_controller),
    ("suspended_and_resumed", scaling::suspended_and_resumed),
];

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let chosen =
        || TESTS.iter().filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str())));
    if chosen().next().is_none() {
        println!("k8s: no test has {filters:?} in its name");
        return ExitCode::SUCCESS;
    }
    let components = match Components::find() {
        Ok(components) => components,
        Err(missing) => return leave_out(&missing),
    };
    let started = Instant::now();
    let cluster = Cluster::start(&components);
    println!("k8s: {} is up after {:.1} s", cluster.version(), started.elapsed().as_secs_f64());
    let mut failed = Vec::new();
    for (name, test) in chosen() {
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| test(&cluster)));
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({:.1} s)", started.elapsed().as_secs_f64());
        if outcome.is_err() {
            failed.push(*name);
        }
    }
    println!("k8s: {} passed, {} failed {failed:?}", chosen().count() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Elsewhere than in CI, a machine without Go may do without: but it says so.
fn leave_out(missing: &str) -> ExitCode {
    let remedy = "`make setup-k8s` builds it with Go; KUBEBUILDER_ASSETS names one that is there";
    println!("k8s: THE KUBERNETES TESTS WERE LEFT OUT: {missing} is not there ({remedy})");
    if std::env::var("CI").is_ok_and(|ci| ci == "true") { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
