//! What `moorhouse-bench fs` measures, and what it should be. docs/BENCH.md explains each; a test compares the two lists.

use crate::report::{Figure, Unit};

const fn ratio(name: &'static str, goal: f64) -> Figure {
    Figure::goal(name, Unit::Ratio, goal)
}

/// In the order of the report.
pub const FIGURES: &[Figure] = &[
    ratio("hot_scan_vs_local", 1.05),
    ratio("hot_groupby_vs_local", 1.05),
    ratio("point_query_vs_local", 1.5),
    ratio("insert_vs_local", 1.10),
    ratio("small_insert_vs_local", 2.0),
    Figure::shown("small_insert_vs_local_fsync", Unit::Ratio),
    ratio("merge_vs_local", 1.10),
    ratio("mutation_vs_local", 1.3),
    ratio("cold_scan_vs_s3", 0.7),
    ratio("cold_scan_vs_s3_20ms", 0.7),
    Figure::shown("cold_scan_vs_s3_cache", Unit::Ratio),
    Figure::shown("cold_scan_vs_s3_cache_20ms", Unit::Ratio),
    ratio("cold_point_query_vs_s3", 0.7),
    ratio("cold_point_query_vs_s3_20ms", 0.7),
    Figure::shown("cold_point_query_vs_s3_cache", Unit::Ratio),
    Figure::shown("cold_point_query_vs_s3_cache_20ms", Unit::Ratio),
    ratio("attach_1000_parts_vs_s3", 0.2),
    ratio("attach_1000_parts_vs_s3_20ms", 0.2),
    Figure::goal("attach_1000_parts_gets", Unit::Count, 50.0),
    Figure::shown("attach_1000_parts_gets_s3", Unit::Count),
    ratio("puts_vs_s3", 0.01),
    ratio("objects_vs_s3", 0.1),
    ratio("reader_attach_vs_local", 1.5),
    ratio("reader_refresh_vs_local", 1.5),
    Figure::shown("meta_create_vs_local", Unit::Ratio),
    Figure::shown("meta_stat_vs_local", Unit::Ratio),
    Figure::shown("meta_rename_vs_local", Unit::Ratio),
    Figure::shown("meta_link_vs_local", Unit::Ratio),
    Figure::shown("meta_readdir_vs_local", Unit::Ratio),
    Figure::shown("meta_unlink_vs_local", Unit::Ratio),
    Figure::shown("agent_memory_per_100k_parts", Unit::Mebibytes),
    Figure::shown("reader_agent_memory_per_100k_parts", Unit::Mebibytes),
    Figure::shown("durability_local_small_insert", Unit::Milliseconds),
    Figure::shown("durability_replicated_small_insert", Unit::Milliseconds),
    Figure::shown("durability_object_small_insert", Unit::Milliseconds),
    Figure::shown("durability_object_small_insert_20ms", Unit::Milliseconds),
];

#[cfg(test)]
mod tests {
    use super::super::{many_parts, speed, uploads};
    use super::FIGURES;
    use crate::report::lists::{assert_documented, assert_staged};

    #[test]
    fn every_figure_is_documented_with_its_goal() {
        assert_documented(FIGURES, "## Figures");
    }

    #[test]
    fn every_figure_belongs_to_one_stage() {
        assert_staged(FIGURES, &[many_parts::FIGURES, speed::FIGURES, uploads::FIGURES]);
    }
}
