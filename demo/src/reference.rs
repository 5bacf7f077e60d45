//! The plain ClickHouse that the answers are compared with: one server, ordinary MergeTree tables on its own disk.

use std::path::Path;
use std::time::Duration;

use moorhouse_engine::{Admin, Engine, EngineBinary, EngineChoice, EngineConfig, SqlClient};

use crate::error::DemoError;

const STOP_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Reference {
    engine: Engine,
}

impl Reference {
    pub async fn start(dir: &Path) -> Result<Self, DemoError> {
        let dir = std::path::absolute(dir).map_err(DemoError::io("cannot place the plain ClickHouse"))?;
        let [http_port, native_port] =
            moorhouse_base::ports::free().map_err(DemoError::io("no free port for the plain ClickHouse"))?;
        let config = EngineConfig {
            dir,
            listen_host: "127.0.0.1".to_owned(),
            http_port,
            native_port,
            admin: Admin { name: "reference".to_owned(), password: "reference".to_owned() },
            users: Vec::new(),
            cluster: None,
            disks_base: None,
            max_memory_bytes: None,
            access: moorhouse_engine::EngineAccess::default(),
        };
        let binary = EngineBinary::find(&EngineChoice::Auto)?;
        Ok(Self { engine: Engine::start(&binary, &config).await? })
    }

    pub fn sql(&self) -> &SqlClient {
        self.engine.sql()
    }

    pub async fn stop(self) -> Result<(), DemoError> {
        Ok(self.engine.stop(STOP_TIMEOUT).await?)
    }
}
