//! Real servers for a test: etcd, and Garage as the S3 server.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::binaries::installed;
use moorhouse_base::ports::free_row;

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A process that ends with this value.
struct Server {
    child: Child,
}

impl Server {
    fn start(mut command: Command, log: &Path) -> Self {
        let log = fs::File::create(log).expect("the directory is writable");
        let errors = log.try_clone().expect("a file can be opened twice");
        let spawned = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        Self {
            child: spawned.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}; run `make setup-tests`")),
        }
    }

    fn wait_for_port(&mut self, port: u16, log: &Path) {
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = self.child.try_wait().expect("it is my child");
            let late = Instant::now() > deadline;
            let said = || fs::read_to_string(log).unwrap_or_default();
            assert!(ended.is_none() && !late, "nothing listens on port {port} ({ended:?}): {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One etcd with an empty store.
pub struct Etcd {
    _server: Server,
    _dir: TempDir,
    client_port: u16,
}

impl Etcd {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let client_port = free_row(2).expect("free ports");
        let (client, peer) =
            (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{}", client_port + 1));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(dir.path().join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        let log = dir.path().join("log");
        let mut server = Server::start(command, &log);
        server.wait_for_port(client_port, &log);
        Self { _server: server, _dir: dir, client_port }
    }

    /// For `--store`.
    pub fn store_url(&self, prefix: &str) -> String {
        format!("etcd://127.0.0.1:{}/{prefix}", self.client_port)
    }
}

/// One Garage with one empty bucket.
pub struct Garage {
    _server: Server,
    _dir: TempDir,
    s3_port: u16,
}

pub const BUCKET: &str = "moorhouse-test";
pub const REGION: &str = "garage";
const ACCESS_KEY: &str = "GK31c2f218a2e44f485b94239e";
const SECRET_KEY: &str = "b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835";

impl Garage {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let s3_port = free_row(2).expect("free ports");
        let config = dir.path().join("garage.toml");
        fs::write(&config, Self::config(dir.path(), s3_port)).expect("the directory is writable");
        let mut command = Command::new(installed("garage-2.5.0/bin/garage"));
        command.arg("--config").arg(&config).args(["server", "--single-node", "--default-bucket"]);
        command.env("GARAGE_DEFAULT_BUCKET", BUCKET);
        command.env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY).env("GARAGE_DEFAULT_SECRET_KEY", SECRET_KEY);
        command.env("GARAGE_ALLOW_WORLD_READABLE_SECRETS", "true");
        let log = dir.path().join("log");
        let mut server = Server::start(command, &log);
        server.wait_for_port(s3_port, &log);
        Self { _server: server, _dir: dir, s3_port }
    }

    fn config(dir: &Path, s3_port: u16) -> String {
        let (dir, rpc_port) = (dir.display(), s3_port + 1);
        let secret = "1799bccfd7411eddcf9ebd316bc1f5287ad12a68094e1c6ac6abde7e6feae1ec";
        format!(
            "metadata_dir = \"{dir}/meta\"\ndata_dir = \"{dir}/data\"\ndb_engine = \"sqlite\"\nreplication_factor = 1\n\
             rpc_bind_addr = \"127.0.0.1:{rpc_port}\"\nrpc_public_addr = \"127.0.0.1:{rpc_port}\"\nrpc_secret = \"{secret}\"\n\
             [s3_api]\ns3_region = \"{REGION}\"\napi_bind_addr = \"127.0.0.1:{s3_port}\"\n"
        )
    }

    /// For `--objects`.
    pub fn objects_url(&self, prefix: &str) -> String {
        Self::objects_url_at(self.s3_port, prefix)
    }

    /// The same through another port of the loopback: that of a proxy in front of it.
    pub fn objects_url_at(port: u16, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{port}&region={REGION}&allow_http=true")
    }

    pub fn s3_port(&self) -> u16 {
        self.s3_port
    }

    /// What a process needs to be let in.
    pub fn credentials(&self) -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)]
    }
}
