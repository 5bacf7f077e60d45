//! What `moorhouse-bench fs` measures, and what it should be. docs/BENCH.md explains each; a test compares the two lists.

use crate::report::{Figure, Unit};

const fn ratio(name: &'static str, goal: f64) -> Figure {
    Figure { name, goal: Some(goal), unit: Unit::Ratio }
}

/// Without a goal: to be looked at.
const fn shown(name: &'static str, unit: Unit) -> Figure {
    Figure { name, goal: None, unit }
}

/// In the order of the report.
pub const FIGURES: &[Figure] = &[
    ratio("hot_scan_vs_local", 1.05),
    ratio("hot_groupby_vs_local", 1.05),
    ratio("point_query_vs_local", 1.5),
    ratio("insert_vs_local", 1.10),
    ratio("small_insert_vs_local", 2.0),
    shown("small_insert_vs_local_fsync", Unit::Ratio),
    ratio("merge_vs_local", 1.10),
    ratio("mutation_vs_local", 1.3),
    ratio("cold_scan_vs_s3", 0.7),
    ratio("cold_scan_vs_s3_20ms", 0.7),
    shown("cold_scan_vs_s3_cache", Unit::Ratio),
    shown("cold_scan_vs_s3_cache_20ms", Unit::Ratio),
    ratio("cold_point_query_vs_s3", 0.7),
    ratio("cold_point_query_vs_s3_20ms", 0.7),
    shown("cold_point_query_vs_s3_cache", Unit::Ratio),
    shown("cold_point_query_vs_s3_cache_20ms", Unit::Ratio),
    ratio("attach_1000_parts_vs_s3", 0.2),
    ratio("attach_1000_parts_vs_s3_20ms", 0.2),
    Figure { name: "attach_1000_parts_gets", goal: Some(50.0), unit: Unit::Count },
    shown("attach_1000_parts_gets_s3", Unit::Count),
    ratio("puts_vs_s3", 0.01),
    ratio("objects_vs_s3", 0.1),
    ratio("reader_attach_vs_local", 1.5),
    ratio("reader_refresh_vs_local", 1.5),
    shown("meta_create_vs_local", Unit::Ratio),
    shown("meta_stat_vs_local", Unit::Ratio),
    shown("meta_rename_vs_local", Unit::Ratio),
    shown("meta_link_vs_local", Unit::Ratio),
    shown("meta_readdir_vs_local", Unit::Ratio),
    shown("meta_unlink_vs_local", Unit::Ratio),
    shown("agent_memory_per_100k_parts", Unit::Mebibytes),
    shown("reader_agent_memory_per_100k_parts", Unit::Mebibytes),
    shown("durability_local_small_insert", Unit::Milliseconds),
    shown("durability_replicated_small_insert", Unit::Milliseconds),
    shown("durability_object_small_insert", Unit::Milliseconds),
    shown("durability_object_small_insert_20ms", Unit::Milliseconds),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::many_parts, super::speed, super::uploads, FIGURES};

    #[test]
    fn every_figure_is_documented_with_its_goal() {
        let text = include_str!("../../../docs/BENCH.md");
        let section = text.split("## Figures").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
        let rows = section.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            Some((cells.next()?.trim_end_matches('`'), cells.next()?.parse::<f64>().ok()))
        });
        let documented: BTreeMap<&str, Option<f64>> = rows.collect();
        let measured: BTreeMap<&str, Option<f64>> = FIGURES.iter().map(|figure| (figure.name, figure.goal)).collect();
        assert_eq!(documented, measured);
    }

    #[test]
    fn every_figure_belongs_to_one_stage() {
        let mut staged: Vec<&str> = [speed::FIGURES, many_parts::FIGURES, uploads::FIGURES].concat();
        staged.sort_unstable();
        let mut all: Vec<&str> = FIGURES.iter().map(|figure| figure.name).collect();
        all.sort_unstable();
        assert_eq!(staged, all);
    }
}
