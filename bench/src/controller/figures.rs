//! What `moorhouse-bench controller` measures, and what it should be. docs/BENCH.md explains each; a test compares the lists.

use crate::report::{Figure, Unit};

/// In the order of the report.
pub const FIGURES: &[Figure] = &[
    Figure::shown("commits_per_s_1", Unit::PerSecond),
    Figure::shown("commits_per_s_16", Unit::PerSecond),
    Figure::shown("commits_per_s_256", Unit::PerSecond),
    Figure::shown("commit_vs_etcd_put_1", Unit::Speed),
    Figure::shown("commit_vs_etcd_put_16", Unit::Speed),
    Figure::goal("commit_vs_etcd_put_256", Unit::Speed, 1.0),
    Figure::shown("commit_p50_1", Unit::Milliseconds),
    Figure::shown("commit_p99_1", Unit::Milliseconds),
    Figure::shown("commit_p50_16", Unit::Milliseconds),
    Figure::shown("commit_p99_16", Unit::Milliseconds),
    Figure::shown("commit_p50_256", Unit::Milliseconds),
    Figure::shown("commit_p99_256", Unit::Milliseconds),
    Figure::goal("etcd_bytes_per_part", Unit::Bytes, 600.0),
    Figure::shown("etcd_bytes_per_compact_part", Unit::Bytes),
    Figure::shown("etcd_bytes_per_wide_part", Unit::Bytes),
    Figure::goal("memory_bytes_per_part", Unit::Bytes, 400.0),
    Figure::shown("startup", Unit::Milliseconds),
    Figure::shown("startup_memory", Unit::Mebibytes),
    Figure::goal("takeover", Unit::Milliseconds, 5_000.0),
    Figure::shown("snapshot_100k_first", Unit::Milliseconds),
    Figure::shown("snapshot_100k", Unit::Milliseconds),
    Figure::shown("fan_out_200_p50", Unit::Milliseconds),
    Figure::shown("fan_out_200_p99", Unit::Milliseconds),
];

#[cfg(test)]
mod tests {
    use super::super::{commits, million, readers};
    use super::FIGURES;
    use crate::report::lists::{assert_documented, assert_staged};

    #[test]
    fn every_figure_is_documented_with_its_goal() {
        assert_documented(FIGURES, "## The controller");
    }

    #[test]
    fn every_figure_belongs_to_one_stage() {
        assert_staged(FIGURES, &[commits::FIGURES, million::FIGURES, readers::FIGURES]);
    }
}
