//! The control plane: started before the tests, ended after them.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moorhouse_base::ports::free;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::kubelet::Kubelet;
use crate::support::{output_of, repository};

/// As in scripts/setup.sh.
const VERSION: &str = "1.36.3";
const START: Duration = Duration::from_secs(120);
const ADMIN_TOKEN: &str = "admin-token-of-the-tests";
const OPERATOR_TOKEN: &str = "operator-token-of-the-tests";
pub const OPERATOR_NAMESPACE: &str = "moorhouse-system";

/// Where the programs are.
pub struct Components {
    etcd: PathBuf,
    api_server: PathBuf,
    controller_manager: PathBuf,
    kubectl: PathBuf,
    pub helm: PathBuf,
}

impl Components {
    /// The first that is not there is the error.
    pub fn find() -> Result<Self, String> {
        Ok(Self {
            etcd: find("etcd")?,
            api_server: find("kube-apiserver")?,
            controller_manager: find("kube-controller-manager")?,
            kubectl: find("kubectl")?,
            helm: find("helm")?,
        })
    }
}

fn find(program: &str) -> Result<PathBuf, String> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let built = cache.map(|cache| cache.join("moorhouse/k8s").join(VERSION));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = assets.into_iter().chain(built).chain(std::env::split_paths(&path));
    places.map(|dir| dir.join(program)).find(|path| path.is_file()).ok_or_else(|| program.to_owned())
}

/// A process that ends with this value, and with the tests.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = fs::File::create(log).expect("the directory is writable");
        let errors = file.try_clone().expect("a file can be opened twice");
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        // SAFETY: prctl alone is called between fork and exec. The tests run on the main thread, which is the last to end.
        unsafe {
            command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
        }
        Self(command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")))
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("it is my child").is_some()
    }
}

impl Drop for Process {
    /// SIGKILL: as a crash.
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Cluster {
    dir: TempDir,
    kubectl: PathBuf,
    pub helm: PathBuf,
    _kubelet: Kubelet,
    _processes: Vec<Process>,
}

impl Cluster {
    pub fn start(components: &Components) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [etcd, etcd_peer, api] = free().expect("free ports");
        let keys = write_files(dir.path(), api);
        let mut processes = vec![start_etcd(components, dir.path(), etcd, etcd_peer)];
        processes.push(start_api_server(components, dir.path(), &keys, etcd, api));
        let kubelet = Kubelet::new(dir.path().join("admin.kubeconfig"));
        let mut cluster = Self {
            kubectl: components.kubectl.clone(),
            helm: components.helm.clone(),
            _kubelet: kubelet,
            _processes: Vec::new(),
            dir,
        };
        cluster.wait_until_ready(processes.last_mut().expect("just started"));
        processes.push(start_controller_manager(components, cluster.dir.path(), &keys));
        cluster._processes = processes;
        cluster.install();
        cluster
    }

    fn wait_until_ready(&self, api_server: &mut Process) {
        let deadline = Instant::now() + START;
        loop {
            let asked = self.kubectl().args(["get", "--raw", "/readyz"]).output().expect("kubectl runs");
            if asked.status.success() {
                return;
            }
            let log = || fs::read_to_string(self.dir.path().join("api-server.log")).unwrap_or_default();
            let late = Instant::now() > deadline;
            assert!(!late && !api_server.has_ended(), "the API server does not become ready: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The definitions, and the operator's rights as the chart gives them.
    fn install(&self) {
        let crds = repository().join("charts/moorhouse/crds");
        self.ok(&["apply", "--server-side", "-f", &crds.display().to_string()]);
        self.ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
        self.ok(&["create", "namespace", OPERATOR_NAMESPACE]);
        let rendered =
            self.render(&["--show-only", "templates/rbac.yaml", "--show-only", "templates/serviceaccount.yaml"]);
        self.apply(OPERATOR_NAMESPACE, &rendered);
    }

    /// What Helm makes of the chart, as release `moorhouse` in the operator's namespace.
    pub fn render(&self, args: &[&str]) -> String {
        let chart = repository().join("charts/moorhouse");
        let mut helm = Command::new(&self.helm);
        helm.args(["template", "moorhouse"]).arg(chart).args(["--namespace", OPERATOR_NAMESPACE]).args(args);
        helm.args(["--kube-version", VERSION]).env("HOME", self.dir.path());
        output_of(&mut helm)
    }

    pub fn version(&self) -> String {
        let text = self.ok(&["get", "--raw", "/version"]);
        let version: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        format!("Kubernetes {}", version["gitVersion"].as_str().unwrap_or_default())
    }

    /// As the cluster's administrator.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", self.dir.path().join("admin.kubeconfig")).env("HOME", self.dir.path());
        command.stdin(Stdio::null());
        command
    }

    /// kubectl with these arguments; what it says.
    ///
    /// # Panics
    /// If it fails.
    pub fn ok(&self, args: &[&str]) -> String {
        output_of(self.kubectl().args(args))
    }

    /// What kubectl complains about.
    ///
    /// # Panics
    /// If it does not.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.kubectl().args(args).output().expect("kubectl runs");
        assert!(!output.status.success(), "kubectl {args:?} was not refused");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn manifest(&self, text: &str) -> PathBuf {
        let path = self.dir.path().join("manifest.yaml");
        fs::write(&path, text).expect("the directory is writable");
        path
    }

    pub fn apply(&self, namespace: &str, text: &str) -> String {
        let path = self.manifest(text).display().to_string();
        self.ok(&["apply", "-n", namespace, "-f", &path])
    }

    pub fn apply_refused(&self, namespace: &str, text: &str) -> String {
        let path = self.manifest(text).display().to_string();
        self.refused(&["apply", "-n", namespace, "-f", &path])
    }

    /// Taken in every respect, and not kept.
    pub fn dry_run(&self, namespace: &str, text: &str) -> String {
        let path = self.manifest(text).display().to_string();
        self.ok(&["apply", "--server-side", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", &path])
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// For a process that has the operator's rights, and no others.
    pub fn operator_kubeconfig(&self) -> PathBuf {
        self.dir.path().join("operator.kubeconfig")
    }
}

struct Keys {
    certificate: PathBuf,
    key: PathBuf,
    accounts: PathBuf,
    accounts_public: PathBuf,
    tokens: PathBuf,
}

fn write_files(dir: &Path, api: u16) -> Keys {
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let serving = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let accounts = rcgen::KeyPair::generate().expect("a key");
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).expect("the directory is writable");
        path
    };
    let account = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:moorhouse-operator");
    let tokens = format!(
        "{ADMIN_TOKEN},admin,admin,system:masters\n\
         {OPERATOR_TOKEN},{account},operator,\"system:serviceaccounts,system:authenticated\"\n"
    );
    let certificate = file("api.crt", &serving.cert.pem());
    for (name, token) in [("admin", ADMIN_TOKEN), ("operator", OPERATOR_TOKEN)] {
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: \"https://127.0.0.1:{api}\", certificate-authority: \"{}\"}}}}]\n\
             users: [{{name: test, user: {{token: {token}}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n",
            certificate.display()
        );
        file(&format!("{name}.kubeconfig"), &config);
    }
    Keys {
        certificate,
        key: file("api.key", &serving.signing_key.serialize_pem()),
        accounts: file("accounts.key", &accounts.serialize_pem()),
        accounts_public: file("accounts.pub", &accounts.public_key_pem()),
        tokens: file("tokens.csv", &tokens),
    }
}

fn start_etcd(components: &Components, dir: &Path, client: u16, peer: u16) -> Process {
    let (client_url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let mut command = Command::new(&components.etcd);
    command.arg("--data-dir").arg(dir.join("etcd")).arg("--unsafe-no-fsync");
    command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
    command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
    command.args(["--initial-cluster", &format!("default={peer_url}")]);
    let log = dir.join("etcd.log");
    let mut process = Process::start(&mut command, &log);
    let deadline = Instant::now() + START;
    while TcpStream::connect(("127.0.0.1", client)).is_err() {
        let is_over = process.has_ended() || Instant::now() > deadline;
        assert!(!is_over, "etcd does not start: {}", fs::read_to_string(&log).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(20));
    }
    process
}

fn start_api_server(components: &Components, dir: &Path, keys: &Keys, etcd: u16, port: u16) -> Process {
    let mut command = Command::new(&components.api_server);
    command.arg(format!("--etcd-servers=http://127.0.0.1:{etcd}"));
    command.arg(format!("--secure-port={port}")).arg("--bind-address=127.0.0.1");
    command.arg(format!("--tls-cert-file={}", keys.certificate.display()));
    command.arg(format!("--tls-private-key-file={}", keys.key.display()));
    command.arg(format!("--token-auth-file={}", keys.tokens.display()));
    command.arg(format!("--service-account-key-file={}", keys.accounts_public.display()));
    command.arg(format!("--service-account-signing-key-file={}", keys.accounts.display()));
    command.args(["--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC"]);
    command.args(["--service-cluster-ip-range=10.0.0.0/16", "--allow-privileged=true"]);
    command.args(["--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"]);
    // Owners are checked as careful clusters do.
    command.arg("--enable-admission-plugins=OwnerReferencesPermissionEnforcement");
    Process::start(&mut command, &dir.join("api-server.log"))
}

fn start_controller_manager(components: &Components, dir: &Path, keys: &Keys) -> Process {
    let mut command = Command::new(&components.controller_manager);
    command.arg(format!("--kubeconfig={}", dir.join("admin.kubeconfig").display()));
    command.arg(format!("--service-account-private-key-file={}", keys.accounts.display()));
    command.args(["--leader-elect=false", "--use-service-account-credentials=false", "--secure-port=0"]);
    // What the operator's objects need, and no clouds and no machines.
    command.arg(
        "--controllers=deployment-controller,replicaset-controller,statefulset-controller,garbage-collector-controller,\
         namespace-controller,serviceaccount-controller,disruption-controller,persistentvolumeclaim-protection-controller",
    );
    Process::start(&mut command, &dir.join("controller-manager.log"))
}
