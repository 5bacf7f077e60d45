//! The demo's whole flow, small: on the embedded store and a directory, and on real etcd and a real S3 server.

use std::process::Command;

use moorhouse_base::ports::free_row;
use moorhouse_tests::binaries::{binary, output, stderr, stdout};
use moorhouse_tests::servers::{Etcd, Garage};
use moorhouse_tests::warehouse::DevHome;
use serde_json::Value;

fn run_demo(home: &DevHome, more: &[String], environment: &[(&str, &str)]) -> Value {
    let out = home.scratch().join("demo.json");
    let mut command = Command::new(binary("moorhouse-demo"));
    command.args(["--scale", "0.01", "--port-base", &free_row(300).expect("free ports").to_string()]).args(more);
    command.arg("--dir").arg(home.path()).arg("--out").arg(&out).envs(environment.iter().copied());
    let done = output(&mut command);
    assert!(done.status.success(), "the demo failed: {}{}{}", stdout(&done), stderr(&done), home.logs());
    println!("{}", stdout(&done));
    serde_json::from_slice(&std::fs::read(&out).expect("the numbers are written")).expect("they are JSON")
}

fn check(report: &Value) {
    let number = |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {report}"));
    assert!(number("rows_loaded") > 80_000, "TPC-H at 0.01 has 86 thousand rows: {report}");
    assert_eq!(number("queries_checked"), 5);
    assert_eq!(number("queries_equal"), 5);
    assert!(number("parts_stored") > 0 && number("object_puts") > 0, "{report}");
    assert!(number("shards_moved") >= 2, "a third of 8 shards goes to the third node: {report}");
    assert!(number("move_hold_ms_max") > 0, "{report}");
    assert_eq!(number("failed_statements"), 0);
    assert_eq!(number("rows_lost"), 0);
    assert_eq!(number("rows_duplicated"), 0);
    assert!(report["seconds_total"].as_f64().is_some_and(|seconds| seconds > 0.0));
}

#[test]
fn demo_on_the_embedded_store_and_a_directory() {
    let home = DevHome::new();
    check(&run_demo(&home, &[], &[]));
}

#[test]
fn demo_on_etcd_and_s3() {
    let (etcd, garage, home) = (Etcd::start(), Garage::start(), DevHome::new());
    let stores = ["--store".to_owned(), etcd.store_url("demo"), "--objects".to_owned(), garage.objects_url("demo")];
    let report = run_demo(&home, &stores, &garage.credentials());
    check(&report);
    assert!(!home.path().join("objects").exists(), "nothing went to a local directory");
}
