//! What `moorhouse-bench controller` measures, and what it should be. docs/BENCH.md explains each; a test compares the lists.

use crate::report::{Figure, Unit};

const fn shown(name: &'static str, unit: Unit) -> Figure {
    Figure { name, goal: None, unit }
}

const fn goal(name: &'static str, unit: Unit, goal: f64) -> Figure {
    Figure { name, goal: Some(goal), unit }
}

/// In the order of the report.
pub const FIGURES: &[Figure] = &[
    shown("commits_per_s_1", Unit::PerSecond),
    shown("commits_per_s_16", Unit::PerSecond),
    shown("commits_per_s_256", Unit::PerSecond),
    shown("commit_vs_etcd_put_1", Unit::Speed),
    shown("commit_vs_etcd_put_16", Unit::Speed),
    goal("commit_vs_etcd_put_256", Unit::Speed, 1.0),
    shown("commit_p50_1", Unit::Milliseconds),
    shown("commit_p99_1", Unit::Milliseconds),
    shown("commit_p50_16", Unit::Milliseconds),
    shown("commit_p99_16", Unit::Milliseconds),
    shown("commit_p50_256", Unit::Milliseconds),
    shown("commit_p99_256", Unit::Milliseconds),
    goal("etcd_bytes_per_part", Unit::Bytes, 600.0),
    shown("etcd_bytes_per_compact_part", Unit::Bytes),
    shown("etcd_bytes_per_wide_part", Unit::Bytes),
    goal("memory_bytes_per_part", Unit::Bytes, 400.0),
    shown("startup", Unit::Milliseconds),
    shown("startup_memory", Unit::Mebibytes),
    goal("takeover", Unit::Milliseconds, 5_000.0),
    shown("snapshot_100k_first", Unit::Milliseconds),
    shown("snapshot_100k", Unit::Milliseconds),
    shown("fan_out_200_p50", Unit::Milliseconds),
    shown("fan_out_200_p99", Unit::Milliseconds),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::commits, super::million, super::readers, FIGURES};

    #[test]
    fn every_figure_is_documented_with_its_goal() {
        let text = include_str!("../../../docs/BENCH.md");
        let section = text.split("## The controller").nth(1).and_then(|rest| rest.split("\n## ").next());
        let rows = section.expect("a section").lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            Some((cells.next()?.trim_end_matches('`'), cells.next()?.parse::<f64>().ok()))
        });
        let documented: BTreeMap<&str, Option<f64>> = rows.collect();
        let measured: BTreeMap<&str, Option<f64>> = FIGURES.iter().map(|figure| (figure.name, figure.goal)).collect();
        assert_eq!(documented, measured);
    }

    #[test]
    fn every_figure_belongs_to_one_stage() {
        let mut staged: Vec<&str> = [commits::FIGURES, million::FIGURES, readers::FIGURES].concat();
        staged.sort_unstable();
        let mut all: Vec<&str> = FIGURES.iter().map(|figure| figure.name).collect();
        all.sort_unstable();
        assert_eq!(staged, all);
    }
}
