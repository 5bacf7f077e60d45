//! `DIR/dev.json`: what was asked for and what runs. It holds a password, so only its owner may read it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use moorhouse_security::TlsFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::args::{GroupSpec, UpArgs};
use crate::dev::process::RunningProcess;
use crate::error::CtlError;

const STATE_FORMAT: u32 = 1;
const DEFAULT_SHARDS: u32 = 8;
const DEFAULT_PORT_BASE: u16 = 18100;
const DEFAULT_SETTLE_MS: u64 = 3_000;
const DEFAULT_CACHE_BYTES: u64 = 2 << 30;
/// The one SQL user of a dev warehouse.
pub const ADMIN_USER: &str = "admin";

/// The directory of a dev warehouse, as an absolute path.
#[derive(Debug, Clone)]
pub struct DevDir(PathBuf);

impl DevDir {
    /// Does not have to exist yet.
    pub fn new(dir: &Path) -> Result<Self, CtlError> {
        let absolute = std::path::absolute(dir)
            .map_err(|error| CtlError::bad_input(format!("--dir {}: {error}", dir.display()), "name a directory"))?;
        Ok(Self(real_path(&absolute)))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
    pub fn state_file(&self) -> PathBuf {
        self.0.join("dev.json")
    }
    pub fn log(&self, process: &str) -> PathBuf {
        self.0.join("logs").join(format!("{process}.log"))
    }
    pub fn node_data(&self, node: &str) -> PathBuf {
        self.0.join("nodes").join(node)
    }
    pub fn certificates(&self, holder: &str) -> PathBuf {
        self.0.join("tls").join(holder)
    }
    /// Where this warehouse's own administrator has his certificate; `None` if it speaks plaintext.
    pub fn admin_certificate(&self, settings: &Settings) -> Option<PathBuf> {
        settings.tls.then(|| self.certificates(ADMIN_USER))
    }
    pub fn tls_flags(&self, settings: &Settings) -> TlsFlags {
        TlsFlags { tls: self.admin_certificate(settings), insecure_plaintext: false }
    }
    pub fn node_mount(&self, node: &str) -> PathBuf {
        self.0.join("mounts").join(node)
    }

    /// Absent: no `dev up` ever ran here.
    pub fn load(&self) -> Result<Option<DevState>, CtlError> {
        let file = self.state_file();
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(CtlError::bad_input(
                    format!("cannot read {}: {error}", file.display()),
                    "check its permissions",
                ));
            }
        };
        let state: DevState = serde_json::from_slice(&text).map_err(|error| {
            CtlError::bad_input(
                format!("{} is not a state of this moorctl: {error}", file.display()),
                "stop what still runs there by hand and remove the directory, or use the moorctl that wrote it",
            )
        })?;
        if state.format != STATE_FORMAT {
            let problem = format!("{} has format {}, this moorctl writes {STATE_FORMAT}", file.display(), state.format);
            return Err(CtlError::bad_input(problem, "use the moorctl that wrote it"));
        }
        Ok(Some(state))
    }

    pub fn load_or_refuse(&self) -> Result<DevState, CtlError> {
        let problem = || format!("{} holds no dev warehouse", self.0.display());
        self.load()?.ok_or_else(|| CtlError::bad_input(problem(), "start one with `moorctl dev up`, or name its --dir"))
    }

    /// Whole or not at all: written beside and renamed.
    pub fn save(&self, state: &DevState) -> Result<(), CtlError> {
        let write = || -> std::io::Result<()> {
            let beside = self.0.join("dev.json.new");
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(&serde_json::to_vec_pretty(state)?)?;
            file.sync_all()?;
            fs::rename(&beside, self.state_file())
        };
        write().map_err(|error| CtlError::failed(format!("cannot write {}: {error}", self.state_file().display())))
    }

    /// Makes the directory; only one moorctl changes it at a time, for as long as the answer lives.
    pub fn lock(&self) -> Result<fs::File, CtlError> {
        let open = || -> std::io::Result<fs::File> {
            fs::create_dir_all(self.0.join("logs"))?;
            fs::OpenOptions::new().create(true).append(true).open(self.0.join("lock"))
        };
        let file = open().map_err(|error| {
            CtlError::bad_input(
                format!("cannot write to {}: {error}", self.0.display()),
                "name a writable directory with --dir",
            )
        })?;
        file.try_lock().map_err(|_| {
            let problem = format!("another moorctl is at work in {}", self.0.display());
            CtlError::bad_input(problem, "wait until it has ended, or name another --dir")
        })?;
        Ok(file)
    }
}

/// `path` with the links resolved in as much of it as exists: the mount table, which it is compared with, shows real paths.
fn real_path(path: &Path) -> PathBuf {
    let real = path.ancestors().find_map(|ancestor| {
        let mut real = fs::canonicalize(ancestor).ok()?;
        real.extend(path.strip_prefix(ancestor).ok()?);
        Some(real)
    });
    real.unwrap_or_else(|| path.to_owned())
}

/// What `dev up` was asked for, with the defaults filled in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub shards: u32,
    pub groups: Vec<GroupSpec>,
    pub store: String,
    pub objects: String,
    pub port_base: u16,
    pub settle_ms: u64,
    pub cache_bytes: u64,
    pub engine: String,
    /// TLS between the processes.
    #[serde(default)]
    pub tls: bool,
}

impl Settings {
    pub fn controller_url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port_base)
    }

    /// The flags given, then what an earlier `dev up` left, then the defaults. What shapes the stored data cannot change.
    pub fn resolve(args: &UpArgs, dir: &DevDir, earlier: Option<&Self>) -> Result<Self, CtlError> {
        let groups = match (args.groups.is_empty(), earlier) {
            (false, _) => args.groups.clone(),
            (true, Some(earlier)) => earlier.groups.clone(),
            (true, None) => {
                vec![GroupSpec { name: "etl".to_owned(), nodes: 2 }, GroupSpec { name: "bi".to_owned(), nodes: 1 }]
            }
        };
        let settings = Self {
            shards: args.shards.or(earlier.map(|e| e.shards)).unwrap_or(DEFAULT_SHARDS),
            groups,
            store: pick(args.store.as_ref(), earlier.map(|e| &e.store), || {
                format!("embedded:{}", dir.path().join("catalog.redb").display())
            }),
            objects: pick(args.objects.as_ref(), earlier.map(|e| &e.objects), || {
                format!("file://{}", dir.path().join("objects").display())
            }),
            port_base: args.port_base.or(earlier.map(|e| e.port_base)).unwrap_or(DEFAULT_PORT_BASE),
            settle_ms: args.settle_ms.or(earlier.map(|e| e.settle_ms)).unwrap_or(DEFAULT_SETTLE_MS),
            cache_bytes: args.cache_bytes.or(earlier.map(|e| e.cache_bytes)).unwrap_or(DEFAULT_CACHE_BYTES),
            engine: pick(args.engine.as_ref(), earlier.map(|e| &e.engine), || "auto".to_owned()),
            tls: args.tls || earlier.is_some_and(|e| e.tls),
        };
        settings.check(dir, earlier)?;
        Ok(settings)
    }

    fn check(&self, dir: &DevDir, earlier: Option<&Self>) -> Result<(), CtlError> {
        let mut mistakes = Vec::new();
        for (index, group) in self.groups.iter().enumerate() {
            if self.groups[..index].iter().any(|other| other.name == group.name) {
                mistakes.push(format!("--group {} is given twice", group.name));
            }
        }
        if self.groups.len() > 8 {
            mistakes.push(format!("{} groups: a dev warehouse has at most 8", self.groups.len()));
        }
        if let Some(earlier) = earlier {
            let fixed = [
                ("--shards", self.shards.to_string(), earlier.shards.to_string()),
                ("--store", self.store.clone(), earlier.store.clone()),
                ("--objects", self.objects.clone(), earlier.objects.clone()),
                ("--group", group_words(&self.groups), group_words(&earlier.groups)),
            ];
            for (flag, asked, was) in fixed.into_iter().filter(|(_, asked, was)| asked != was) {
                mistakes.push(format!("{flag} was {was} when this warehouse was made, and is now {asked}"));
            }
        }
        if mistakes.is_empty() {
            return Ok(());
        }
        let remedy = format!(
            "leave such flags out to continue the warehouse in {}, or name another --dir",
            dir.path().display()
        );
        Err(CtlError::bad_input(mistakes.join("; "), remedy))
    }
}

fn pick(given: Option<&String>, earlier: Option<&String>, default: impl FnOnce() -> String) -> String {
    given.or(earlier).cloned().unwrap_or_else(default)
}

fn group_words(groups: &[GroupSpec]) -> String {
    groups.iter().map(|group| format!("{}={}", group.name, group.nodes)).collect::<Vec<_>>().join(" ")
}

/// A node of the warehouse; `slot` fixes its ports and is never given to another.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevNode {
    pub name: String,
    pub group: String,
    pub slot: u16,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevState {
    format: u32,
    pub settings: Settings,
    pub admin_password: String,
    pub nodes: Vec<DevNode>,
    next_slot: u16,
    /// By process name; what is missing here was stopped in order.
    pub running: BTreeMap<String, RunningProcess>,
}

/// A group's connection strings.
pub struct GroupEndpoint {
    pub group: String,
    pub http: String,
    pub native: String,
}

impl DevState {
    /// A new warehouse with a new password; no process runs yet.
    pub fn new(settings: Settings) -> Self {
        let mut state = Self {
            format: STATE_FORMAT,
            settings,
            // 122 random bits, in an alphabet that needs no quoting in a URL or a shell.
            admin_password: uuid::Uuid::new_v4().simple().to_string(),
            nodes: Vec::new(),
            next_slot: 0,
            running: BTreeMap::new(),
        };
        for group in state.settings.groups.clone() {
            for number in 0..group.nodes {
                state.add_node(&group.name, format!("{}-{number}", group.name));
            }
        }
        state
    }

    pub fn add_node(&mut self, group: &str, name: String) -> DevNode {
        let node = DevNode { name, group: group.to_owned(), slot: self.next_slot };
        self.next_slot += 1;
        self.nodes.push(node.clone());
        node
    }

    /// `<group>-<n>`, with the lowest n that no node of the group has.
    pub fn free_name(&self, group: &str) -> String {
        let taken = |name: &str| self.nodes.iter().any(|node| node.name == name);
        let mut number = 0;
        while taken(&format!("{group}-{number}")) {
            number += 1;
        }
        format!("{group}-{number}")
    }

    pub fn node(&self, name: &str) -> Result<&DevNode, CtlError> {
        let known = || self.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.nodes.iter().find(|node| node.name == name);
        found.ok_or_else(|| {
            CtlError::bad_input(format!("there is no node '{name}'"), format!("the nodes are: {}", known()))
        })
    }

    pub fn admin_password_sha256_hex(&self) -> String {
        Sha256::digest(self.admin_password.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn endpoints(&self) -> Vec<GroupEndpoint> {
        let login = format!("{ADMIN_USER}:{}", self.admin_password);
        let endpoint = |(index, group): (usize, &GroupSpec)| {
            let (http, native) = crate::dev::plan::group_ports(&self.settings, index);
            GroupEndpoint {
                group: group.name.clone(),
                http: format!("http://{login}@127.0.0.1:{http}/"),
                native: format!("clickhouse://{login}@127.0.0.1:{native}"),
            }
        };
        self.settings.groups.iter().enumerate().map(endpoint).collect()
    }

    pub fn endpoint(&self, group: &str) -> Option<GroupEndpoint> {
        self.endpoints().into_iter().find(|endpoint| endpoint.group == group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> DevDir {
        DevDir(PathBuf::from("/nowhere/warehouse"))
    }

    #[test]
    fn defaults_fill_what_is_not_given() {
        let settings = Settings::resolve(&UpArgs::default(), &dir(), None).expect("defaults are right");
        assert_eq!((settings.shards, settings.port_base), (8, 18100));
        assert_eq!(settings.store, "embedded:/nowhere/warehouse/catalog.redb");
        assert_eq!(group_words(&settings.groups), "etl=2 bi=1");
    }

    #[test]
    fn what_shapes_the_data_cannot_change_but_ports_can() {
        let first = Settings::resolve(&UpArgs::default(), &dir(), None).expect("defaults are right");
        let moved = UpArgs { port_base: Some(19000), ..UpArgs::default() };
        assert_eq!(Settings::resolve(&moved, &dir(), Some(&first)).expect("ports may change").port_base, 19000);
        let reshaped = UpArgs { shards: Some(4), store: Some("memory:".to_owned()), ..UpArgs::default() };
        let said = Settings::resolve(&reshaped, &dir(), Some(&first)).expect_err("shards may not change").to_string();
        assert!(said.contains("--shards was 8") && said.contains("--store was"), "all mistakes at once: {said}");
    }

    #[test]
    fn slots_are_not_used_twice() {
        let settings = Settings::resolve(&UpArgs::default(), &dir(), None).expect("defaults are right");
        let mut state = DevState::new(settings);
        assert_eq!(state.free_name("etl"), "etl-2");
        state.nodes.retain(|node| node.name != "bi-0");
        assert_eq!(state.free_name("bi"), "bi-0");
        assert_eq!(state.add_node("bi", "bi-0".to_owned()).slot, 3);
    }

    #[test]
    fn a_state_survives_its_file() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let dir = DevDir::new(home.path()).expect("it is there");
        assert!(dir.load().expect("nothing there yet").is_none());
        let state = DevState::new(Settings::resolve(&UpArgs::default(), &dir, None).expect("defaults are right"));
        dir.save(&state).expect("the directory is writable");
        let loaded = dir.load().expect("readable").expect("there");
        assert_eq!(loaded.admin_password, state.admin_password);
        assert_eq!(loaded.nodes.len(), 3);
    }
}
