//! What a gateway counts. Labels come from enums only.

use std::sync::LazyLock;

use prometheus::{
    HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, register_histogram_vec, register_int_counter,
    register_int_counter_vec, register_int_gauge_vec,
};

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Read,
    Insert,
    Ddl,
    Kill,
    /// What the gateway answered itself with an error, before any node.
    Refused,
    /// No statement: `/play`, `/replicas_status`.
    Page,
}

impl Class {
    pub fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Insert => "insert",
            Self::Ddl => "ddl",
            Self::Kill => "kill",
            Self::Refused => "refused",
            Self::Page => "page",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// Answered with an error in ClickHouse's words.
    Exception,
    /// The client or the node went away before the end of the answer.
    Broken,
}

impl Outcome {
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Exception => "exception",
            Self::Broken => "broken",
        }
    }
}

/// A protocol that clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Native,
}

impl Protocol {
    pub fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Native => "native",
        }
    }
}

const REGISTERED: &str = "each metric is registered once, under its own name";

pub static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "moorhouse_gateway_requests_total",
        "Native statements and HTTP requests ended",
        &["class", "outcome"]
    )
    .expect(REGISTERED)
});
pub static SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = vec![0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];
    let help = "Seconds from a statement or an HTTP request to the end of its answer";
    register_histogram_vec!("moorhouse_gateway_request_seconds", help, &["class"], buckets).expect(REGISTERED)
});
pub static IN_FLIGHT: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "HTTP requests, and native connections, that are open now";
    register_int_gauge_vec!("moorhouse_gateway_in_flight", help, &["protocol"]).expect(REGISTERED)
});
pub static BYTES_IN: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("moorhouse_gateway_in_bytes_total", "Bytes from clients to nodes", &["protocol"])
        .expect(REGISTERED)
});
pub static BYTES_OUT: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("moorhouse_gateway_out_bytes_total", "Bytes from nodes to clients", &["protocol"])
        .expect(REGISTERED)
});
pub static RETRIES: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Times that a node was away, or died with a read, and another attempt was made";
    register_int_counter!("moorhouse_gateway_retries_total", help).expect(REGISTERED)
});

/// Counts one request or connection as open until dropped.
pub struct Open(Protocol);

impl Open {
    pub fn new(protocol: Protocol) -> Self {
        IN_FLIGHT.with_label_values(&[protocol.label()]).inc();
        Self(protocol)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        IN_FLIGHT.with_label_values(&[self.0.label()]).dec();
    }
}
