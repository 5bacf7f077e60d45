//! The router's metrics.

use std::sync::LazyLock;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, register_histogram, register_int_counter,
    register_int_counter_vec, register_int_gauge,
};

/// How a hold ended.
#[derive(Clone, Copy)]
pub enum HoldOutcome {
    Released,
    StillBusy,
    Expired,
}

impl HoldOutcome {
    pub fn label(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::StillBusy => "still_busy",
            Self::Expired => "expired",
        }
    }
}

const UNIQUE: &str = "metric names are unique and well formed";

pub static CONNECTIONS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("moorhouse_router_connections", "Connections that reach a backend").expect(UNIQUE)
});
pub static WAITING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("moorhouse_router_waiting_connections", "Connections that wait for a hold or a target")
        .expect(UNIQUE)
});
pub static CUT: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("moorhouse_router_cut_connections_total", "Connections closed between two statements")
        .expect(UNIQUE)
});
pub static BYTES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("moorhouse_router_bytes_total", "Bytes forwarded", &["direction"]).expect(UNIQUE)
});
pub static HOLDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("moorhouse_router_holds_total", "Holds by how they ended", &["outcome"]).expect(UNIQUE)
});
pub static HOLD_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = vec![0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0];
    let options = HistogramOpts::new("moorhouse_router_hold_seconds", "From the start of a hold to its end");
    register_histogram!(options.buckets(buckets)).expect(UNIQUE)
});

/// So that all are shown from the start.
pub fn register() {
    LazyLock::force(&CONNECTIONS);
    LazyLock::force(&WAITING);
    LazyLock::force(&CUT);
    LazyLock::force(&HOLD_SECONDS);
    for outcome in [HoldOutcome::Released, HoldOutcome::StillBusy, HoldOutcome::Expired] {
        HOLDS.with_label_values(&[outcome.label()]);
    }
    for direction in ["to_backend", "to_client"] {
        BYTES.with_label_values(&[direction]);
    }
}
