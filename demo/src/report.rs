//! The numbers of one run, as `demo.json` holds them: a flat object.

use serde::Serialize;

#[derive(Debug, Clone, Default, Serialize)]
pub struct DemoReport {
    pub scale: f64,
    /// Into the warehouse, by the demo's own count.
    pub rows_loaded: u64,
    pub load_seconds: f64,
    /// From the end of the load until the other group counted every row.
    pub reader_lag_ms: u64,
    pub queries_checked: u64,
    pub queries_equal: u64,
    pub parts_stored: u64,
    pub object_puts: u64,
    pub bytes_stored: u64,
    pub shards_moved: u64,
    pub move_hold_ms_max: u64,
    /// In the loops that ran while shards moved.
    pub statements: u64,
    /// Refused, broken or wrongly answered, of those.
    pub failed_statements: u64,
    /// By inserts that were answered with success.
    pub rows_acknowledged: u64,
    /// Acknowledged and not there after the crash.
    pub rows_lost: u64,
    /// There more than once after the crash.
    pub rows_duplicated: u64,
    /// From the start of the killed node until every row was counted again.
    pub recovery_ms: u64,
    pub seconds_total: f64,
}

impl DemoReport {
    pub fn is_good(&self) -> bool {
        self.faults().is_empty()
    }

    /// What keeps the run from being good, in words.
    pub fn faults(&self) -> Vec<String> {
        let checks = [
            (self.queries_checked == 0, "no query was checked".to_owned()),
            (
                self.queries_equal != self.queries_checked,
                format!("{} of {} answers differ", self.queries_checked - self.queries_equal, self.queries_checked),
            ),
            (self.failed_statements > 0, format!("{} statements failed", self.failed_statements)),
            (self.rows_lost > 0, format!("{} rows are lost", self.rows_lost)),
            (self.rows_duplicated > 0, format!("{} rows are there twice", self.rows_duplicated)),
        ];
        checks.into_iter().filter(|(wrong, _)| *wrong).map(|(_, words)| words).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_right_answers_and_kept_rows_are_good() {
        let good = DemoReport { queries_checked: 5, queries_equal: 5, ..DemoReport::default() };
        assert!(good.is_good());
        assert!(!DemoReport { queries_equal: 4, ..good.clone() }.is_good());
        assert!(!DemoReport { failed_statements: 1, ..good.clone() }.is_good());
        assert!(!DemoReport { rows_lost: 1, ..good.clone() }.is_good());
        assert!(!DemoReport::default().is_good(), "nothing checked is not good");
    }
}
