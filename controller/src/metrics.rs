//! The controller's metrics, in the process's default registry.

use std::sync::LazyLock;

use prometheus::{
    Histogram, IntCounter, IntCounterVec, IntGauge, histogram_opts, register_histogram, register_int_counter,
    register_int_counter_vec, register_int_gauge,
};

macro_rules! metric {
    ($(#[$doc:meta])* $name:ident: $type:ty = $make:expr) => {
        $(#[$doc])*
        pub static $name: LazyLock<$type> = LazyLock::new(|| $make.expect("a metric is registered once"));
    };
}

metric!(COMMITS: IntCounter =
    register_int_counter!("moorhouse_controller_commands_total", "Commands that were applied and made durable."));
metric!(COMMIT_FAILURES: IntCounter = register_int_counter!(
    "moorhouse_controller_commit_failures_total",
    "Group commits that the store did not confirm; the state was loaded again."));
metric!(BATCH_SIZE: Histogram = register_histogram!(histogram_opts!(
    "moorhouse_controller_batch_commands",
    "Commands in one group commit.",
    vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0])));
metric!(COMMIT_SECONDS: Histogram = register_histogram!(histogram_opts!(
    "moorhouse_controller_commit_seconds",
    "Time that the store took for one group commit.",
    vec![0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0])));
metric!(STORE_FULL: IntGauge = register_int_gauge!(
    "moorhouse_controller_store_full",
    "1 while the store refuses writes because its quota is used up."));
metric!(TABLES: IntGauge = register_int_gauge!("moorhouse_controller_tables", "Tables, those being created included."));
metric!(PARTS_LOADED: IntGauge = register_int_gauge!(
    "moorhouse_controller_parts_loaded",
    "Parts in part lists that are in memory, covered ones included."));
metric!(PART_LISTS_BYTES: IntGauge =
    register_int_gauge!("moorhouse_controller_part_lists_bytes", "Memory that part lists take, about."));
metric!(PART_LISTS_DROPPED: IntCounter = register_int_counter!(
    "moorhouse_controller_part_lists_dropped_total",
    "Part lists that were dropped from memory to make room."));
metric!(PART_LIST_SECONDS: Histogram = register_histogram!(histogram_opts!(
    "moorhouse_controller_part_list_load_seconds",
    "Time to read one part list from the store.",
    vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0])));
metric!(NODES_UP: IntGauge = register_int_gauge!("moorhouse_controller_nodes_up", "Nodes whose lease is alive."));
metric!(VIEWS_PUBLISHED: IntCounter =
    register_int_counter!("moorhouse_controller_views_published_total", "Views sent to agents and gateways."));
metric!(
    /// Label `outcome`: `done` or `cancelled`.
    MOVES: IntCounterVec =
    register_int_counter_vec!("moorhouse_controller_moves_total", "Shard moves that have ended.", &["outcome"]));
metric!(HOLD_MS: Histogram = register_histogram!(histogram_opts!(
    "moorhouse_controller_move_hold_milliseconds",
    "Time that work on a moving shard was held.",
    vec![10.0, 25.0, 50.0, 100.0, 200.0, 300.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0])));
metric!(CLEARING_STEPS: IntCounter = register_int_counter!(
    "moorhouse_controller_clearing_steps_total",
    "Steps of removing the records of dropped tables."));
metric!(OBJECTS_DELETED: IntCounter = register_int_counter!(
    "moorhouse_controller_objects_deleted_total",
    "Objects that nothing referred to any more and that were deleted."));
metric!(ORPHANS_DELETED: IntCounter = register_int_counter!(
    "moorhouse_controller_orphans_deleted_total",
    "Objects of broken uploads that nothing ever referred to and that were deleted."));
metric!(UPLOADS_GIVEN_UP: IntCounter = register_int_counter!(
    "moorhouse_controller_uploads_given_up_total",
    "Broken uploads in pieces whose pieces were deleted."));
metric!(OBJECTS_DOOMED: IntGauge = register_int_gauge!(
    "moorhouse_controller_objects_doomed",
    "Objects that nothing refers to any more and that wait for their grace and their readers."));
