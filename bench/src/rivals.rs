//! The same engine without Moorhouse: tables on a local disk, on ClickHouse's `s3` disk, and on that below its `cache` disk.

use std::path::Path;
use std::time::Duration;

use moorhouse_base::ports;
use moorhouse_engine::{Admin, Engine, EngineBinary, EngineChoice, EngineConfig, SqlClient, quote_string};

use crate::error::BenchError;
use crate::warehouse::DATABASE;

const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How the `s3` disks reach the object store.
pub struct S3Access {
    /// With the bucket and the prefix of the disk.
    pub endpoint: String,
    /// Else each request is refused first, and repeated with the region that the answer names.
    pub region: &'static str,
    pub access_key: String,
    pub secret_key: String,
}

/// One engine with all three; killed when it is dropped.
pub struct Rivals {
    engine: Engine,
    s3: S3Access,
    s3_below_cache: S3Access,
    cache_bytes: u64,
}

impl Rivals {
    /// `dir` is made.
    pub async fn start(
        dir: &Path,
        s3: S3Access,
        s3_below_cache: S3Access,
        cache_bytes: u64,
    ) -> Result<Self, BenchError> {
        let [http_port, native_port] = ports::free().map_err(BenchError::io("no free port for an engine"))?;
        let config = EngineConfig {
            dir: dir.to_owned(),
            listen_host: "127.0.0.1".to_owned(),
            http_port,
            native_port,
            admin: Admin { name: "bench".to_owned(), password: "bench".to_owned() },
            users: Vec::new(),
            cluster: None,
            disks_base: None,
            max_memory_bytes: None,
            access: moorhouse_engine::EngineAccess::default(),
        };
        let binary = EngineBinary::find(&EngineChoice::Auto)?;
        let engine = Engine::start(&binary, &config).await?;
        let database = format!("CREATE DATABASE {DATABASE}");
        engine.sql().execute(&database).await.map_err(BenchError::sql(database))?;
        Ok(Self { engine, s3, s3_below_cache, cache_bytes })
    }

    pub fn sql(&self) -> &SqlClient {
        self.engine.sql()
    }

    /// The table setting that puts a table there.
    pub fn s3_disk(&self) -> String {
        format!("disk = disk(name = 'bench_s3', {})", parameters(&self.s3))
    }

    /// The same with the cache disk before it.
    pub fn cached_s3_disk(&self) -> String {
        format!(
            "disk = disk(name = 'bench_s3_cache', type = 'cache', path = 'bench_s3_cache', max_size = '{}', \
             disk = disk(name = 'bench_s3_below', {}))",
            self.cache_bytes,
            parameters(&self.s3_below_cache),
        )
    }

    pub async fn stop(self) -> Result<(), BenchError> {
        Ok(self.engine.stop(STOP_DEADLINE).await?)
    }
}

fn parameters(access: &S3Access) -> String {
    format!(
        "type = 's3', endpoint = {}, region = {}, access_key_id = {}, secret_access_key = {}",
        quote_string(&access.endpoint),
        quote_string(access.region),
        quote_string(&access.access_key),
        quote_string(&access.secret_key),
    )
}
