//! Metrics of identities and connections, in the process's default registry.

use std::sync::LazyLock;

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, register_int_counter, register_int_counter_vec, register_int_gauge,
};

macro_rules! metric {
    ($(#[$doc:meta])* $name:ident: $type:ty = $make:expr) => {
        $(#[$doc])*
        pub static $name: LazyLock<$type> = LazyLock::new(|| $make.expect("a metric is registered once"));
    };
}

metric!(CERTIFICATE_EXPIRES: IntGauge = register_int_gauge!(
    "moorhouse_tls_certificate_expires_timestamp_seconds",
    "Unix time at which this process's own certificate, or the CA's, ends; whichever is first."));
metric!(
    /// Label `outcome`: `taken` or `refused`.
    RELOADS: IntCounterVec = register_int_counter_vec!(
    "moorhouse_tls_reloads_total",
    "Changes of the certificate files that were seen.",
    &["outcome"]));
metric!(HANDSHAKE_FAILURES: IntCounter = register_int_counter!(
    "moorhouse_tls_handshake_failures_total",
    "Incoming connections that ended before both sides knew each other."));
metric!(DENIED: IntCounter = register_int_counter!(
    "moorhouse_denied_requests_total",
    "Requests refused because of who asked."));
