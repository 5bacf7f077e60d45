//! What the rendered files must contain.

use super::*;

fn config() -> EngineConfig {
    EngineConfig {
        dir: "/var/lib/moor & house".into(),
        listen_host: "127.0.0.1".into(),
        http_port: 8123,
        native_port: 9000,
        admin: Admin { name: "moorhouse_agent".into(), password: "p<w>".into() },
        users: vec![SqlUser { name: "sales".into(), password_sha256_hex: "A".repeat(64) }],
        cluster: Some(ClusterConfig {
            name: "moorhouse".into(),
            secret: "s&<\"'>".into(),
            shards: vec![ClusterShard { host: "127.0.0.1".into(), port: 7000, default_database: "shard_0".into() }],
        }),
        disks_base: Some("/mnt/moorhouse".into()),
        max_memory_bytes: Some(1 << 30),
        access: super::EngineAccess::default(),
    }
}

fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn the_server_file_names_ports_paths_and_the_cluster() {
    let text = config().render(EngineKind::Embedded).expect("valid").config_xml;
    assert_has(
        &text,
        &[
            "<http_port>8123</http_port>",
            "<tcp_port>9000</tcp_port>",
            "<path>/var/lib/moor &amp; house/data/</path>",
            "<users_config>/var/lib/moor &amp; house/users.xml</users_config>",
            "<custom_local_disks_base_directory>/mnt/moorhouse/</custom_local_disks_base_directory>",
            "<max_server_memory_usage>1073741824</max_server_memory_usage>",
            "<secret>s&amp;&lt;&quot;&apos;&gt;</secret>",
            "<default_database>shard_0</default_database>",
            "<send>chunked</send>",
            "<send>chunked_optional</send>",
            "<background_schedule_pool_size>16</background_schedule_pool_size>",
            "<database_catalog_unused_dir_cleanup_period_sec>0</database_catalog_unused_dir_cleanup_period_sec>",
        ],
    );
}

#[test]
fn what_is_not_asked_for_is_not_there() {
    let config = EngineConfig { cluster: None, disks_base: None, max_memory_bytes: None, ..config() };
    let text = config.render(EngineKind::Embedded).expect("valid").config_xml;
    for absent in ["remote_servers", "custom_local_disks", "max_server_memory_usage", "user_directories"] {
        assert!(!text.contains(absent), "{absent}");
    }
    let server = config.render(EngineKind::Server).expect("valid").config_xml;
    assert_has(&server, &["<user_directories>"]);
}

#[test]
fn only_the_embedded_engine_gets_the_internal_login() {
    let embedded = config().render(EngineKind::Embedded).expect("valid").users_xml;
    assert_has(&embedded, &["GRANT SYSTEM LISTEN ON *.*", "<default>\n            <password></password>"]);
    let server = config().render(EngineKind::Server).expect("valid").users_xml;
    assert!(!server.contains("SYSTEM LISTEN"));
}

#[test]
fn passwords_are_kept_as_hashes_and_settings_as_constants() {
    let text = config().render(EngineKind::Server).expect("valid").users_xml;
    assert!(!text.contains("p&lt;w&gt;") && !text.contains("p<w>"));
    assert_has(&text, &[&"a".repeat(64), "<local_filesystem_read_method>pread<", "<distributed_foreground_insert>1<"]);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let mut wrong = config();
    wrong.dir = "relative".into();
    wrong.listen_host = "localhost".into();
    wrong.users[0] = SqlUser { name: "a.b".into(), password_sha256_hex: "12".into() };
    let Err(EngineError::Config(mistakes)) = wrong.render(EngineKind::Server) else { panic!("refused") };
    assert_eq!(mistakes.len(), 4, "{mistakes:#?}");
    wrong.users[0].name = "default".into();
    let text = wrong.render(EngineKind::Server).expect_err("reserved").to_string();
    assert!(text.contains("reserved"), "{text}");
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let text = format!("{:?}", config());
    assert!(!text.contains("p<w>") && !text.contains("s&<") && !text.contains(&"A".repeat(64)), "{text}");
}
