//! What the tests of real engines share.

use std::net::TcpListener;
use std::path::Path;

use moorhouse_engine::{Admin, Engine, EngineBinary, EngineChoice, EngineConfig, SqlClient, SqlUser};

/// `echo -n secret | sha256sum`
pub const SECRET_SHA256: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// Ports that were free a moment ago.
pub fn free_ports<const N: usize>() -> [u16; N] {
    moorhouse_base::ports::free().expect("free ports")
}

pub fn assert_free(port: u16) {
    TcpListener::bind(("127.0.0.1", port)).expect("nobody listens any more");
}

/// One engine below `dir`, with user `sales` / `secret`.
pub fn config(dir: &Path) -> EngineConfig {
    let [http_port, native_port] = free_ports();
    EngineConfig {
        dir: dir.join("engine"),
        listen_host: "127.0.0.1".into(),
        http_port,
        native_port,
        admin: Admin { name: "agent".into(), password: "pa<ss>&\"'".into() },
        users: vec![SqlUser { name: "sales".into(), password_sha256_hex: SECRET_SHA256.into() }],
        cluster: None,
        disks_base: Some(dir.join("disks")),
        max_memory_bytes: Some(2 << 30),
        access: moorhouse_engine::EngineAccess::default(),
    }
}

pub fn engine_binary() -> EngineBinary {
    EngineBinary::find(&EngineChoice::Auto).expect("an engine; run `make setup`")
}

pub async fn engine(config: &EngineConfig) -> Engine {
    Engine::start(&engine_binary(), config).await.expect("the engine starts")
}

pub fn sales_client(config: &EngineConfig) -> SqlClient {
    SqlClient::new(&format!("127.0.0.1:{}", config.http_port), "sales", "secret")
}

/// The trimmed answer.
pub async fn ask(sql: &SqlClient, statement: &str) -> String {
    sql.query(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}")).trim().to_string()
}
