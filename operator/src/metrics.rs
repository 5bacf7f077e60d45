//! What the operator counts. Labels come from enums only.

use std::sync::LazyLock;

use prometheus::{HistogramVec, IntCounterVec, register_histogram_vec, register_int_counter_vec};

/// What is reconciled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Warehouse,
    ComputeGroup,
    AccessPolicy,
}

impl Resource {
    pub fn label(self) -> &'static str {
        match self {
            Self::Warehouse => "warehouse",
            Self::ComputeGroup => "compute_group",
            Self::AccessPolicy => "access_policy",
        }
    }
}

/// How a reconciliation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// It is tried again.
    Failed,
}

impl Outcome {
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
        }
    }
}

pub static RECONCILIATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("moorhouse_operator_reconciliations_total", "Reconciliations", &["resource", "outcome"])
        .expect("registered once")
});

pub static SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!("moorhouse_operator_reconciliation_seconds", "Time of a reconciliation", &["resource"])
        .expect("registered once")
});
