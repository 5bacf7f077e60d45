//! What the tests share.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use moorhouse_base::ports::free;
use serde_json::Value;

use crate::cluster::{Cluster, Process};

const WAIT: Duration = Duration::from_secs(60);

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_owned()
}

/// # Panics
/// If it fails; with what it complained about.
pub fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks until it is so.
///
/// # Panics
/// After a minute, with what the last answer was.
pub fn until(what: &str, mut ask: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + WAIT;
    loop {
        match ask() {
            Ok(()) => return,
            Err(last) => assert!(Instant::now() < deadline, "{what} did not come to pass; in the end: {last}"),
        }
        std::thread::sleep(Duration::from_millis(150));
    }
}

/// A namespace of a test.
pub struct Space<'a> {
    pub cluster: &'a Cluster,
    pub name: String,
}

impl<'a> Space<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        cluster.ok(&["create", "namespace", &name]);
        Self { cluster, name }
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        self.cluster.ok(&[&["-n", &self.name], args].concat())
    }

    pub fn apply(&self, text: &str) {
        self.cluster.apply(&self.name, text);
    }

    pub fn example(&self, file: &str) {
        let path = repository().join("charts/moorhouse/examples").join(file).display().to_string();
        self.kubectl(&["apply", "-f", &path]);
    }

    /// None if it is not there.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let text = self.kubectl(&["get", kind, name, "-o", "json", "--ignore-not-found"]);
        (!text.is_empty()).then(|| serde_json::from_str(&text).expect("kubectl writes JSON"))
    }

    pub fn names(&self, kind: &str) -> Vec<String> {
        let text = self.kubectl(&["get", kind, "-o", "name"]);
        text.lines().filter_map(|line| Some(line.split_once('/')?.1.to_owned())).collect()
    }

    pub fn until_exists(&self, kind: &str, name: &str) -> Value {
        let mut found = None;
        until(&format!("{kind} {name}"), || {
            found = self.get(kind, name);
            found.as_ref().map(|_| ()).ok_or_else(|| "it is not there".to_owned())
        });
        found.expect("just found")
    }

    /// Until the condition has this status and reason; its message.
    pub fn until_condition(&self, object: (&str, &str), condition: &str, status: &str, reason: &str) -> String {
        let mut message = String::new();
        until(&format!("{object:?} {condition}={status} ({reason})"), || {
            let whole = self.get(object.0, object.1).ok_or("it is not there")?;
            let all = whole["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_it = |one: &&Value| one["type"] == condition && one["status"] == status && one["reason"] == reason;
            let found = all.iter().find(is_it).ok_or_else(|| whole["status"].to_string())?;
            message = found["message"].as_str().unwrap_or_default().to_owned();
            Ok(())
        });
        message
    }

    pub fn until_replicas(&self, set: &str, replicas: u32) {
        until(&format!("{replicas} replicas of {set}"), || {
            let found = self.get("statefulset", set).ok_or("it is not there")?;
            if found["spec"]["replicas"] == replicas { Ok(()) } else { Err(found["spec"]["replicas"].to_string()) }
        });
    }

    /// What the API server has of every object that the operator made: name and version.
    pub fn versions(&self) -> Vec<String> {
        let kinds = "statefulsets,deployments,services,serviceaccounts,poddisruptionbudgets,networkpolicies,warehouses,computegroups";
        let path = "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
        let text = self.kubectl(&["get", kinds, "-o", path]);
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        // The cluster ends soon; that this may be refused then is no matter.
        let _ = self.cluster.kubectl().args(["delete", "namespace", &self.name, "--wait=false"]).output();
    }
}

/// The operator as a process, with the rights that the chart gives it. Dropped: killed.
pub struct Operator {
    process: Process,
    log: PathBuf,
}

impl Operator {
    /// Without arguments it finds no controller: nobody listens where it looks.
    pub fn start(space: &Space<'_>, args: &[String]) -> Self {
        let [port, nobody] = free().expect("free ports");
        let nowhere = ["--controller-at".to_owned(), format!("{}/main=http://127.0.0.1:{nobody}", space.name)];
        let args = if args.is_empty() { &nowhere } else { args };
        let mut command = Command::new(env!("CARGO_BIN_EXE_moorhouse-operator"));
        command.args(["run", "--namespace", &space.name, "--metrics", &format!("127.0.0.1:{port}")]).args(args);
        command.env("KUBECONFIG", space.cluster.operator_kubeconfig()).env("MOORHOUSE_LOG", "info");
        let log = space.cluster.dir().join(format!("operator-{port}.log"));
        Self { process: Process::start(&mut command, &log), log }
    }

    /// # Panics
    /// If it has ended, or was not allowed to do something that it tried.
    pub fn assert_well(&mut self) {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        assert!(!self.process.has_ended(), "the operator has ended: {said}");
        assert!(!said.contains("forbidden"), "the chart gives too few rights: {said}");
    }
}
