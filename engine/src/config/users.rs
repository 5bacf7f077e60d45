//! `users.xml`: who may log in, with which rights, under which settings.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::xml::Xml;
use super::{EngineConfig, EngineKind, SqlUser};

/// The embedded engine logs itself in as this user and could not start to listen without it.
pub const EMBEDDED_LOGIN: &str = "default";

/// Longer than any hold of a shard: a connection that waits in the shard router must not be given up.
const CONNECT_TIMEOUT_MS: &str = "15000";

/// What a user of the warehouse may do. No table definitions, no `SYSTEM`, no sources outside the warehouse: those go
/// through the controller, and a statement that reaches the engine by mistake is refused with 497.
const SQL_USER_GRANTS: &[&str] = &[
    "GRANT SELECT, INSERT, SHOW, dictGet, KILL QUERY ON *.*",
    // Also what table functions without a source ask for: numbers(), values(), …
    "GRANT CREATE TEMPORARY TABLE, CREATE ARBITRARY TEMPORARY TABLE ON *.*",
    // What a temporary table is made of.
    "GRANT TABLE ENGINE ON Memory",
];

pub fn render(config: &EngineConfig, kind: EngineKind) -> String {
    Xml::document("clickhouse", |xml| {
        xml.node("profiles", |xml| {
            profiles(xml, config);
            config.access.profiles(xml);
        });
        xml.node("quotas", |xml| {
            xml.node("default", |_| {});
            config.access.quotas(xml);
        });
        xml.node("users", |xml| {
            if kind == EngineKind::Embedded {
                xml.node(EMBEDDED_LOGIN, embedded_login);
            }
            xml.node(&config.admin.name, |xml| admin(xml, &config.admin.password));
            for user in &config.users {
                xml.node(&user.name, |xml| sql_user(xml, user));
            }
            config.access.users(xml);
        });
    })
}

fn profiles(xml: &mut Xml, config: &EngineConfig) {
    xml.node("default", |xml| {
        let own = [
            // The shard file system serves ordinary reads; O_DIRECT and mmap have their own rules there.
            ("local_filesystem_read_method", "pread"),
            ("distributed_foreground_insert", "1"),
            ("distributed_product_mode", "global"),
            ("connect_timeout_with_failover_ms", CONNECT_TIMEOUT_MS),
            ("handshake_timeout_ms", CONNECT_TIMEOUT_MS),
            // Every shard goes through the router, the local ones too: it alone knows where a shard is.
            ("prefer_localhost_replica", "0"),
            // A user who hangs up does not want the answer any more.
            ("cancel_http_readonly_queries_on_client_close", "1"),
            ("mutations_sync", "0"),
            ("async_insert", "0"),
        ];
        // One element of a name: of two the engine would read the first.
        own.iter().filter(|(name, _)| !config.access.settings.contains_key(*name)).for_each(|(n, v)| xml.leaf(n, v));
        config.access.settings.iter().for_each(|(name, value)| xml.leaf(name, value));
        xml.node("constraints", |xml| {
            xml.node("distributed_foreground_insert", |xml| xml.leaf("const", ""));
            xml.node("local_filesystem_read_method", |xml| xml.leaf("const", ""));
            xml.node("prefer_localhost_replica", |xml| xml.leaf("const", ""));
        });
    });
    xml.node("administration", |xml| {
        xml.leaves(&[("profile", "default"), ("format_display_secrets_in_show_and_select", "1")]);
    });
}

fn embedded_login(xml: &mut Xml) {
    xml.leaf("password", "");
    from_this_machine(xml);
    xml.leaves(&[("profile", "default"), ("quota", "default")]);
    xml.node("grants", |xml| xml.leaf("query", "GRANT SYSTEM LISTEN ON *.*"));
}

fn admin(xml: &mut Xml, password: &str) {
    xml.leaf("password_sha256_hex", sha256_hex(password));
    from_this_machine(xml);
    xml.leaves(&[
        ("profile", "administration"),
        ("quota", "default"),
        ("access_management", "1"),
        ("named_collection_control", "1"),
        ("show_named_collections", "1"),
        ("show_named_collections_secrets", "1"),
    ]);
}

fn sql_user(xml: &mut Xml, user: &SqlUser) {
    password_and_networks(xml, &user.password_sha256_hex, &["::/0".to_owned()]);
    xml.leaves(&[("profile", "default"), ("quota", "default")]);
    xml.node("grants", |xml| {
        for grant in SQL_USER_GRANTS {
            xml.leaf("query", grant);
        }
    });
}

pub(super) fn password_and_networks(xml: &mut Xml, sha256_hex: &str, networks: &[String]) {
    xml.leaf("password_sha256_hex", sha256_hex.to_ascii_lowercase());
    xml.node("networks", |xml| networks.iter().for_each(|network| xml.leaf("ip", network)));
}

fn from_this_machine(xml: &mut Xml) {
    xml.node("networks", |xml| {
        xml.leaf("ip", "127.0.0.1");
        xml.leaf("ip", "::1");
    });
}

fn sha256_hex(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
