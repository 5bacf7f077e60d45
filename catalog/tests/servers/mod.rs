//! Real etcd servers of a test: one or three members, in plaintext or with TLS and users.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moorhouse_catalog::store::etcd::EtcdStore;
use moorhouse_catalog::store::{StoreAccess, StoreError};

/// Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Etcd {
    members: Vec<Option<Child>>,
    /// `host:port` of each member.
    pub endpoints: Vec<String>,
    home: tempfile::TempDir,
    scheme: &'static str,
}

/// What a server is started with.
#[derive(Default)]
pub struct Shape {
    pub members: usize,
    /// TLS with client certificates, from [`Certificates`].
    pub certificates: Option<Certificates>,
    pub more: Vec<String>,
}

/// Made with openssl: a CA, the server's certificate, and one of the client, whose name is `moorhouse`.
pub struct Certificates {
    pub dir: PathBuf,
}

impl Certificates {
    pub fn make(dir: &Path) -> Self {
        let certificates = Self { dir: dir.to_owned() };
        std::fs::create_dir_all(dir.join("client")).expect("a directory");
        openssl(
            dir,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.crt",
        );
        certificates.issue("server", "/O=etcd");
        certificates.issue("client/tls", "/CN=moorhouse");
        std::fs::copy(dir.join("ca.crt"), dir.join("client/ca.crt")).expect("copies");
        certificates
    }

    /// Anew, in place of what is there.
    pub fn issue(&self, name: &str, subject: &str) {
        let dir = &self.dir;
        openssl(
            dir,
            &format!(
                "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj {subject} -keyout {name}.key -out request.csr"
            ),
        );
        std::fs::write(dir.join("extensions"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").expect("writes");
        openssl(
            dir,
            &format!(
                "x509 -req -in request.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.crt"
            ),
        );
    }

    /// For `--store-tls`.
    pub fn client(&self) -> PathBuf {
        self.dir.join("client")
    }
}

fn openssl(dir: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output();
    let done = done.expect("openssl is needed for this test");
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Etcd {
    pub async fn start(shape: &Shape) -> Self {
        let count = shape.members.max(1);
        let home = tempfile::tempdir().expect("a directory");
        let ports: Vec<[u16; 2]> = (0..count).map(|_| moorhouse_base::ports::free().expect("free ports")).collect();
        let scheme = if shape.certificates.is_some() { "https" } else { "http" };
        let peers: Vec<String> =
            ports.iter().enumerate().map(|(n, [_, peer])| format!("m{n}=http://127.0.0.1:{peer}")).collect();
        let member = |n: usize, [client, peer]: [u16; 2]| {
            let (client, peer) = (format!("{scheme}://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let mut command = Command::new(if Path::new("/usr/bin/etcd").exists() { "/usr/bin/etcd" } else { "etcd" });
            command.arg("--name").arg(format!("m{n}")).arg("--data-dir").arg(home.path().join(n.to_string()));
            command.args(["--log-level", "error", "--unsafe-no-fsync"]).args(&shape.more);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &peers.join(",")]);
            if let Some(certificates) = &shape.certificates {
                let file = |name: &str| certificates.dir.join(name);
                command.arg("--cert-file").arg(file("server.crt")).arg("--key-file").arg(file("server.key"));
                command.arg("--trusted-ca-file").arg(file("ca.crt")).arg("--client-cert-auth");
            }
            let spawned = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            Some(spawned.expect("etcd is needed for this test: run scripts/setup.sh (Debian's etcd-server)"))
        };
        let members = ports.iter().enumerate().map(|(n, ports)| member(n, *ports)).collect();
        let endpoints = ports.iter().map(|[client, _]| format!("127.0.0.1:{client}")).collect();
        Self { members, endpoints, home, scheme }
    }

    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].take() {
            child.kill().expect("it is my child");
            child.wait().expect("it ends");
        }
    }

    /// Waits until it answers.
    pub async fn store(&self, access: &StoreAccess) -> EtcdStore {
        let begun = Instant::now();
        loop {
            match EtcdStore::connect_with(&self.endpoints, "wh", access).await {
                Ok(store) => return store,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
        }
    }

    pub async fn refusal(&self, access: &StoreAccess) -> String {
        match EtcdStore::connect_with(&self.endpoints, "wh", access).await {
            Err(StoreError::Open(text)) => text,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("{access:?} is let in"),
        }
    }

    /// etcdctl, as whoever `more` says.
    pub fn ctl(&self, arguments: &str, more: &[&str]) -> Result<String, String> {
        let endpoints: Vec<String> = self.endpoints.iter().map(|e| format!("{}://{e}", self.scheme)).collect();
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(endpoints.join(",")).args(more);
        let done = command.args(arguments.split(' ')).output().expect("etcdctl is needed for this test");
        if done.status.success() {
            Ok(String::from_utf8_lossy(&done.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&done.stderr).into_owned())
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
        let _ = &self.home;
    }
}
