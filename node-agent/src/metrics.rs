//! The agent's metrics; docs/METRICS.md lists them.

use std::sync::LazyLock;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntGauge, exponential_buckets, register_histogram, register_int_counter,
    register_int_gauge,
};

fn counter(name: &str, help: &str) -> IntCounter {
    register_int_counter!(name, help).expect("metric names are unique")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    register_int_gauge!(name, help).expect("metric names are unique")
}

fn seconds(name: &str, help: &str) -> Histogram {
    let buckets = exponential_buckets(0.0005, 2.0, 16).expect("positive buckets");
    register_histogram!(HistogramOpts::new(name, help).buckets(buckets)).expect("metric names are unique")
}

pub static COMMITS: LazyLock<IntCounter> =
    LazyLock::new(|| counter("moorhouse_agent_commits_total", "Changes committed to the controller"));
pub static COMMITS_REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("moorhouse_agent_commits_refused_total", "Commits refused because another node writes the shard")
});
pub static COMMIT_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    seconds("moorhouse_agent_commit_seconds", "From a part's rename to its answer, fsync and commit included")
});
pub static FUSE_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "moorhouse_agent_fuse_errors_total",
        "File system requests that failed for a reason a person should look at",
    )
});
pub static PEER_READ_BYTES: LazyLock<IntCounter> =
    LazyLock::new(|| counter("moorhouse_agent_peer_read_bytes_total", "Bytes read from other agents"));
pub static STAGED_PARTS: LazyLock<IntGauge> =
    LazyLock::new(|| gauge("moorhouse_agent_staged_parts", "Active parts that wait for their upload"));
pub static UPLOADED_PARTS: LazyLock<IntCounter> =
    LazyLock::new(|| counter("moorhouse_agent_uploaded_parts_total", "Parts packed into an object and re-located"));
pub static UPLOAD_PUTS: LazyLock<IntCounter> =
    LazyLock::new(|| counter("moorhouse_agent_upload_puts_total", "PUT requests that uploads took"));
pub static UPLOAD_BYTES: LazyLock<IntCounter> =
    LazyLock::new(|| counter("moorhouse_agent_upload_bytes_total", "Bytes uploaded"));
pub static UPLOADS_UNFINISHED: LazyLock<IntGauge> =
    LazyLock::new(|| gauge("moorhouse_agent_uploads_unfinished", "Objects whose upload is to be tried again"));
pub static UPLOAD_RETRIES: LazyLock<IntCounter> =
    LazyLock::new(|| counter("moorhouse_agent_upload_retries_total", "Uploads that did not get through at once"));
pub static UPLOAD_SECONDS: LazyLock<Histogram> =
    LazyLock::new(|| seconds("moorhouse_agent_upload_seconds", "One object's put, all its pieces included"));
pub static UPLOAD_PIECES_SPARED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("moorhouse_agent_upload_pieces_spared_total", "Pieces that an earlier try of an upload had sent already")
});
pub static REPACKED_FILES: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "moorhouse_agent_repacked_files_total",
        "Stored files moved because their object was mostly dead, or to be together",
    )
});
pub static REPACKED_BYTES: LazyLock<IntCounter> =
    LazyLock::new(|| counter("moorhouse_agent_repacked_bytes_total", "Bytes put again by re-packing"));
pub static STAGING_USED_BYTES: LazyLock<IntGauge> = LazyLock::new(|| {
    gauge(
        "moorhouse_agent_staging_used_bytes",
        "What staged files take of the budget, in whole disk sectors, files that are being written included",
    )
});
pub static INSERTS_DELAYED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("moorhouse_agent_inserts_delayed_total", "Commits of INSERTs that waited for room in staging")
});
pub static INSERTS_REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("moorhouse_agent_inserts_refused_total", "Commits of INSERTs that found no room in staging in time")
});
pub static COPIES_KEPT: LazyLock<IntGauge> =
    LazyLock::new(|| gauge("moorhouse_agent_copies_kept", "Staged files that this node keeps for other nodes"));
pub static COPIES_KEPT_BYTES: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("moorhouse_agent_copied_for_others_bytes_total", "Bytes copied to be kept for other nodes")
});
pub static COPIES_READ_BYTES: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "moorhouse_agent_copies_read_bytes_total",
        "Bytes read from copies because the node that has them staged is away",
    )
});
pub static ENGINE_STARTS: LazyLock<IntCounter> =
    LazyLock::new(|| counter("moorhouse_agent_engine_starts_total", "Starts of the engine, the first included"));
pub static READER_REFRESHES: LazyLock<IntCounter> =
    LazyLock::new(|| counter("moorhouse_agent_reader_refreshes_total", "Read-only tables told to look for new parts"));
pub static READER_REATTACHES: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "moorhouse_agent_reader_attaches_total",
        "Read-only tables attached anew in place of one that missed a change",
    )
});
pub static VIEWS_APPLIED: LazyLock<IntCounter> =
    LazyLock::new(|| counter("moorhouse_agent_views_applied_total", "Views that the engine was brought in line with"));
pub static HEADS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("moorhouse_agent_heads_total", "Requests that brought small files of one or more parts together")
});
pub static HEAD_COMPANIONS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("moorhouse_agent_head_companions_total", "Files that came along with another one's request")
});
