//! A Garage server for one test: a single node in a temporary directory, on free ports of the loopback address.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moorhouse_objects::S3Credentials;
use tempfile::TempDir;

const ACCESS_KEY: &str = "GK000000000000000000000001";
const BUCKET: &str = "warehouse";
const READY_DEADLINE: Duration = Duration::from_secs(30);

pub struct Garage {
    process: Child,
    dir: TempDir,
    s3_port: u16,
}

impl Garage {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (s3_port, rpc_port) = (free_port(), free_port());
        std::fs::write(config(dir.path()), config_text(dir.path(), s3_port, rpc_port)).expect("writes the config");
        let log = std::fs::File::create(dir.path().join("log")).expect("creates the log");
        let process = Command::new(binary())
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_CONFIG_FILE", config(dir.path()))
            .env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY)
            .env("GARAGE_DEFAULT_SECRET_KEY", secret())
            .env("GARAGE_DEFAULT_BUCKET", BUCKET)
            .stdout(log.try_clone().expect("clones a descriptor"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("starts garage");
        let mut garage = Self { process, dir, s3_port };
        garage.wait_until_ready();
        garage
    }

    /// `prefix` is empty or starts with a slash.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}{prefix}?endpoint=http://127.0.0.1:{}&region=garage&allow_http=true", self.s3_port)
    }

    pub fn credentials(&self) -> S3Credentials {
        S3Credentials { access_key_id: ACCESS_KEY.to_owned(), secret_access_key: secret() }
    }

    pub fn make_bucket_of_nobody(&self, name: &str) {
        let made = Command::new(binary())
            .args(["bucket", "create", name])
            .env("GARAGE_CONFIG_FILE", config(self.dir.path()))
            .output()
            .expect("runs garage");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// The S3 port opens after the bucket was made; the server makes it before it listens.
    fn wait_until_ready(&mut self) {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.s3_port)).is_err() {
            let ended = self.process.try_wait().expect("asks for the process");
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(ended.is_none(), "garage ended by itself:\n{}", log());
            assert!(started.elapsed() < READY_DEADLINE, "garage is not ready:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn binary() -> PathBuf {
    let path = match std::env::var_os("MOORHOUSE_GARAGE") {
        Some(path) => PathBuf::from(path),
        None => cache_home().join("moorhouse/garage-2.5.0/bin/garage"),
    };
    assert!(path.is_file(), "no Garage at {}: run `make setup`, or set MOORHOUSE_GARAGE", path.display());
    path
}

fn cache_home() -> PathBuf {
    match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(home)) => PathBuf::from(home).join(".cache"),
        (None, None) => panic!("neither XDG_CACHE_HOME nor HOME is set"),
    }
}

fn config(dir: &Path) -> PathBuf {
    dir.join("garage.toml")
}

fn config_text(dir: &Path, s3_port: u16, rpc_port: u16) -> String {
    let dir = dir.display();
    let rpc_secret = "5a".repeat(32);
    format!(
        r#"
metadata_dir = "{dir}/meta"
data_dir = "{dir}/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc_port}"
rpc_public_addr = "127.0.0.1:{rpc_port}"
rpc_secret = "{rpc_secret}"
[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:{s3_port}"
"#
    )
}

fn secret() -> String {
    "ab".repeat(32)
}

fn free_port() -> u16 {
    moorhouse_base::ports::free_row(1).expect("a free port")
}
