//! The object store's metrics. One request here may be several on the wire when the store asked to try again.

use std::sync::LazyLock;

use prometheus::{HistogramVec, IntCounterVec, exponential_buckets, register_histogram_vec, register_int_counter_vec};

/// The label `method` of every metric here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Every request that a store bills as a write: puts, multipart begin, pieces and completion.
    Put,
    Get,
    Delete,
    List,
}

impl Method {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Put => "PUT",
            Self::Get => "GET",
            Self::Delete => "DELETE",
            Self::List => "LIST",
        }
    }
}

/// Requests, failed ones included.
pub static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("moorhouse_object_requests", "Requests to the object store", &["method"])
        .expect("the name is registered once")
});

/// Requests that ended in an error; a missing object counts, deleting an absent one does not.
pub static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("moorhouse_object_request_errors", "Failed requests to the object store", &["method"])
        .expect("the name is registered once")
});

/// Payload bytes of requests that succeeded.
pub static DATA_BYTES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "moorhouse_object_request_data_bytes",
        "Bytes moved to or from the object store",
        &["method"]
    )
    .expect("the name is registered once")
});

/// Seconds from call to answer, retries included; a multipart put is observed per request.
pub static SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = exponential_buckets(0.001, 2.0, 16).expect("a positive start, a factor above one");
    register_histogram_vec!(
        "moorhouse_object_request_durations_histogram_seconds",
        "Duration of requests to the object store",
        &["method"],
        buckets
    )
    .expect("the name is registered once")
});

/// Observes one request: counts it, times it, and counts its error.
pub(crate) async fn observed<T, E>(method: Method, request: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let label = [method.label()];
    REQUESTS.with_label_values(&label).inc();
    let timer = SECONDS.with_label_values(&label).start_timer();
    let answer = request.await;
    timer.observe_duration();
    if answer.is_err() {
        ERRORS.with_label_values(&label).inc();
    }
    answer
}

pub(crate) fn moved(method: Method, bytes: u64) {
    DATA_BYTES.with_label_values(&[method.label()]).inc_by(bytes);
}
