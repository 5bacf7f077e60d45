//! `config.xml`: listening, paths, logs, pools, the cluster.

use std::path::Path;

use super::xml::Xml;
use super::{ClusterConfig, EngineConfig, EngineKind};

pub fn render(config: &EngineConfig, kind: EngineKind) -> String {
    Xml::document("clickhouse", |xml| {
        listening(xml, config);
        paths(xml, config, kind);
        logs(xml, config);
        limits(xml, config);
        pools(xml);
        if let Some(cluster) = &config.cluster {
            xml.node("remote_servers", |xml| remote_servers(xml, cluster));
        }
    })
}

fn listening(xml: &mut Xml, config: &EngineConfig) {
    xml.leaf("listen_host", &config.listen_host);
    xml.leaf("http_port", config.http_port);
    xml.leaf("tcp_port", config.native_port);
    xml.leaf("keep_alive_timeout", 60);
    xml.leaf("max_connections", 4096);
    // Chunked framing lets the shard router see packet boundaries; "optional" still admits clients that don't know it.
    xml.node("proto_caps", |xml| xml.leaves(&[("send", "chunked_optional"), ("recv", "chunked_optional")]));
}

fn paths(xml: &mut Xml, config: &EngineConfig, kind: EngineKind) {
    let data = config.data_path();
    xml.leaf("path", directory(&data));
    xml.leaf("tmp_path", directory(&data.join("tmp")));
    xml.leaf("user_files_path", directory(&data.join("user_files")));
    xml.leaf("format_schema_path", directory(&data.join("format_schemas")));
    xml.leaf("users_config", config.users_path().display());
    xml.leaf("default_profile", "default");
    xml.leaf("default_database", "default");
    if kind == EngineKind::Server {
        xml.leaf("mlock_executable", 0);
        // Access objects come from the catalog through users.xml; none is kept by the server itself.
        xml.node("user_directories", |xml| {
            xml.node("users_xml", |xml| xml.leaf("path", config.users_path().display()));
        });
    }
    if let Some(base) = &config.disks_base {
        xml.leaf("custom_local_disks_base_directory", directory(base));
    }
    // The engine would remove directories below `store/` that it has no table for.
    xml.leaf("database_catalog_unused_dir_cleanup_period_sec", 0);
    // Without it disk paths read `[HIDDEN]` when a table's definition is read back.
    xml.leaf("display_secrets_in_show_and_select", 1);
}

fn logs(xml: &mut Xml, config: &EngineConfig) {
    let dir = config.log_dir();
    xml.node("logger", |xml| {
        xml.leaf("level", "information");
        xml.leaf("log", dir.join("engine.log").display());
        xml.leaf("errorlog", dir.join("engine.err.log").display());
        xml.leaves(&[("size", "20M"), ("count", "3"), ("console", "0")]);
    });
    for table in ["query_log", "part_log"] {
        xml.node(table, |xml| {
            xml.leaves(&[
                ("database", "system"),
                ("table", table),
                ("flush_interval_milliseconds", "7500"),
                ("max_size_rows", "100000"),
                ("reserved_size_rows", "1024"),
                ("buffer_size_rows_flush_threshold", "50000"),
                ("ttl", "event_date + INTERVAL 1 DAY DELETE"),
            ]);
        });
    }
}

/// Several engines share a small machine: caches are bounded well below ClickHouse's defaults.
fn limits(xml: &mut Xml, config: &EngineConfig) {
    if let Some(bytes) = config.max_memory_bytes {
        xml.leaf("max_server_memory_usage", bytes);
    }
    xml.leaves(&[
        ("mark_cache_size", "268435456"),
        ("primary_index_cache_size", "134217728"),
        ("index_mark_cache_size", "67108864"),
        ("uncompressed_cache_size", "0"),
        ("index_uncompressed_cache_size", "0"),
        ("mmap_cache_size", "1000"),
        ("compiled_expression_cache_size", "67108864"),
        ("asynchronous_metrics_update_period_s", "10"),
    ]);
}

fn pools(xml: &mut Xml) {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let merges = cores.clamp(2, 16);
    xml.leaf("background_pool_size", merges);
    xml.leaf("background_merges_mutations_concurrency_ratio", 2);
    xml.leaf("background_common_pool_size", cores.clamp(2, 8));
    // 0 in the embedded engine unless named: background work and Distributed queues would never run.
    xml.leaf("background_schedule_pool_size", 16);
    xml.leaf("background_distributed_schedule_pool_size", 4);
    xml.leaves(&[
        ("background_fetches_pool_size", "1"),
        ("background_move_pool_size", "1"),
        ("background_buffer_flush_schedule_pool_size", "1"),
        ("background_message_broker_schedule_pool_size", "1"),
        ("tables_loader_foreground_pool_size", "2"),
        ("tables_loader_background_pool_size", "2"),
    ]);
    // These must stay below background_pool_size × ratio, or ClickHouse refuses to start.
    xml.node("merge_tree", |xml| {
        xml.leaves(&[
            ("number_of_free_entries_in_pool_to_execute_mutation", "2"),
            ("number_of_free_entries_in_pool_to_lower_max_size_of_merge", "2"),
            ("number_of_free_entries_in_pool_to_execute_optimize_entire_partition", "2"),
        ]);
    });
}

fn remote_servers(xml: &mut Xml, cluster: &ClusterConfig) {
    xml.node(&cluster.name, |xml| {
        xml.leaf("secret", &cluster.secret);
        for shard in &cluster.shards {
            xml.node("shard", |xml| {
                xml.leaf("internal_replication", true);
                xml.node("replica", |xml| {
                    xml.leaf("host", &shard.host);
                    xml.leaf("port", shard.port);
                    xml.leaf("default_database", &shard.default_database);
                    xml.node("proto_caps", |xml| xml.leaves(&[("send", "chunked"), ("recv", "chunked")]));
                });
            });
        }
    });
}

/// ClickHouse joins paths by appending: a directory ends with '/'.
fn directory(path: &Path) -> String {
    format!("{}/", path.display().to_string().trim_end_matches('/'))
}
