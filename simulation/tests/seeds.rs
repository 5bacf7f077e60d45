//! The simulation in CI: many seeds, and the same seed twice.

use std::process::{Command, Output};

const SIMULATE: &str = env!("CARGO_BIN_EXE_moorhouse-simulate");

fn simulate(args: &[&str]) -> Output {
    Command::new(SIMULATE).args(args).output().expect("the simulation runs")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Each seed is a run of its own. `make simulate SEEDS=n` runs more.
#[test]
fn every_seed_keeps_the_rules() {
    let output = simulate(&["--seeds", "1000"]);
    assert!(output.status.success(), "{}", text(&output));
    let all = text(&output);
    let commits = all.rsplit("with ").next().and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(commits.is_some_and(|commits| commits > 40_000), "runs in which little happens prove little: {all}");
}

/// The hash is over every event and its time.
#[test]
fn a_seed_replays_exactly() {
    for seed in ["1", "2", "3", "4", "5"] {
        let (first, second) = (text(&simulate(&["--seed", seed])), text(&simulate(&["--seed", seed])));
        assert!(first.contains("hash "), "{first}");
        assert_eq!(first, second);
    }
    let (one, other) = (text(&simulate(&["--seed", "1"])), text(&simulate(&["--seed", "2"])));
    assert_ne!(one.split("hash").nth(1), other.split("hash").nth(1), "another seed is another history");
}
