//! One engine process: started with empty metadata, watched, stopped.
//!
//! The process dies with its parent (PDEATHSIG) and with its [`Engine`]. Its standard output and error go to
//! `dir/log/output.log`.

mod spawner;

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::binary::{EngineBinary, EngineVersion};
use crate::config::{EngineConfig, EngineKind};
use crate::error::EngineError;
use crate::sql::{SqlClient, SqlError};

/// A busy machine with a cold page cache takes seconds to load 600 MB of engine.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// To one question while it starts.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const READY_POLL: Duration = Duration::from_millis(20);
/// For a port that looks taken.
const PORT_PATIENCE: Duration = Duration::from_millis(500);
/// Of the log, shown in errors.
const LOG_TAIL_BYTES: usize = 4096;

/// A running engine. Dropping it kills the process; [`Engine::stop`] ends it cleanly.
#[derive(Debug)]
pub struct Engine {
    child: Child,
    pid: u32,
    sql: SqlClient,
}

impl Engine {
    /// Wipes `config.dir/data`, writes the configuration, starts the process and waits until it answers on both ports.
    /// The process is new enough when this returns.
    pub async fn start(binary: &EngineBinary, config: &EngineConfig) -> Result<Self, EngineError> {
        let rendered = config.render(binary.kind())?;
        check_ports(config).await?;
        prepare(config, binary.kind())?;
        write_private(&config.config_path(), &rendered.config_xml)?;
        write_private(&config.users_path(), &rendered.users_xml)?;
        let child = spawner::spawn(command(binary, config)?).await.map_err(EngineError::io("start", binary.path()))?;
        let pid = child.id().unwrap_or_default();
        let host_port = format!("{}:{}", reachable(&config.listen_host), config.http_port);
        let sql = SqlClient::new(&host_port, &config.admin.name, &config.admin.password);
        let mut engine = Self { child, pid, sql };
        let version = engine.wait_ready(config).await?;
        if version < EngineVersion::OLDEST {
            return Err(EngineError::TooOld { path: binary.path().to_path_buf(), found: version });
        }
        tracing::info!(pid, %version, http_port = config.http_port, native_port = config.native_port, "engine started");
        Ok(engine)
    }

    /// Takes a new configuration into use without a restart, as far as a server can: users, rights and profiles at once,
    /// of the rest what it reloads. The embedded engine reloads nothing: start it again.
    pub async fn reload(&self, config: &EngineConfig) -> Result<(), EngineError> {
        let rendered = config.render(EngineKind::Server)?;
        write_private(&config.config_path(), &rendered.config_xml)?;
        write_private(&config.users_path(), &rendered.users_xml)?;
        Ok(self.sql.execute("SYSTEM RELOAD CONFIG").await?)
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// As the administrator.
    pub fn sql(&self) -> &SqlClient {
        &self.sql
    }

    /// Resolves when the process has ended by itself. May be dropped and called again.
    pub async fn exited(&mut self) -> ExitStatus {
        match self.child.wait().await {
            Ok(status) => status,
            // Only a process that is not our child any more can't be waited for: it is gone.
            Err(error) => {
                tracing::warn!(%error, pid = self.pid, "cannot wait for the engine");
                ExitStatus::default()
            }
        }
    }

    /// Asks for a clean stop and kills the process if it has not ended by the deadline. The process is gone afterwards.
    pub async fn stop(mut self, deadline: Duration) -> Result<(), EngineError> {
        // An engine with open connections waits 5 s for them.
        self.sql.close_idle();
        self.signal(Signal::SIGTERM);
        if tokio::time::timeout(deadline, self.child.wait()).await.is_err() {
            tracing::warn!(pid = self.pid, ?deadline, "the engine did not stop in time and is killed");
            self.child.kill().await.map_err(EngineError::io("kill the engine in", "/proc"))?;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        // `id()` is empty once the process was reaped, so a reused pid is never hit.
        let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) else { return };
        if let Err(error) = kill(Pid::from_raw(pid), signal) {
            tracing::debug!(%error, pid, "the engine could not be signalled");
        }
    }

    async fn wait_ready(&mut self, config: &EngineConfig) -> Result<EngineVersion, EngineError> {
        let started = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(EngineError::Died { status, log: log_tail(config) });
            }
            let asked = tokio::time::timeout(ANSWER_LIMIT, self.sql.query("SELECT version()")).await;
            let last = match asked.unwrap_or_else(|_| Err(SqlError::Transport("no answer yet".into()))) {
                Ok(text) => match EngineVersion::parse(&text) {
                    Some(version) => return Ok(version),
                    None => format!("its version is {text:?}"),
                },
                Err(error) => error.to_string(),
            };
            if started.elapsed() > START_DEADLINE {
                return Err(EngineError::NotReady { waited: START_DEADLINE, last, log: log_tail(config) });
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }
}

fn command(binary: &EngineBinary, config: &EngineConfig) -> Result<Command, EngineError> {
    let config_file = format!("--config-file={}", config.config_path().display());
    let mut command = match binary {
        EngineBinary::Server { clickhouse } => {
            let mut command = Command::new(clickhouse);
            command.args(["server", &config_file]);
            command
        }
        EngineBinary::Embedded { libchdb, launcher } => {
            let mut command = Command::new(launcher);
            command.arg(libchdb).args([
                config_file.as_str(),
                "--interactive",
                "--history_file=/dev/null",
                "--disable_suggestion",
                "--highlight=0",
                "--progress=off",
                // `logger.level` of the configuration is not honoured.
                "--log-level=information",
                // HTTP last: once it answers, both listen.
                "--query",
                "SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP;",
            ]);
            command
        }
    };
    let output = open_log(config)?;
    let errors = output.try_clone().map_err(EngineError::io("share", config.log_dir()))?;
    command
        .current_dir(config.data_path())
        // The server's watchdog would be our child in its place, and PDEATHSIG would not reach the server.
        .env("CLICKHOUSE_WATCHDOG_ENABLE", "0")
        .stdin(std::process::Stdio::null())
        .stdout(output)
        .stderr(errors)
        // A Ctrl-C on the agent's terminal is the agent's to handle.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

/// A taken port would let a foreign server answer in place of ours. A port that looks taken is looked at again for a moment:
/// a socket that this process has just closed stays open in a child that another thread is starting, until its exec.
async fn check_ports(config: &EngineConfig) -> Result<(), EngineError> {
    let host = config.listen_host.trim_matches(['[', ']']);
    let address = host.parse::<std::net::IpAddr>().map_err(|error| EngineError::Config(vec![error.to_string()]))?;
    let until = Instant::now() + PORT_PATIENCE;
    for port in [config.http_port, config.native_port] {
        while let Err(source) = TcpListener::bind((address, port)) {
            if Instant::now() >= until {
                return Err(EngineError::PortInUse { host: config.listen_host.clone(), port, source });
            }
            tokio::time::sleep(PORT_PATIENCE / 20).await;
        }
    }
    Ok(())
}

/// Where to reach a server that listens on `host`.
fn reachable(host: &str) -> String {
    match host {
        "0.0.0.0" => "127.0.0.1".into(),
        "::" => "[::1]".into(),
        host if host.contains(':') => format!("[{host}]"),
        host => host.into(),
    }
}

fn prepare(config: &EngineConfig, kind: EngineKind) -> Result<(), EngineError> {
    make_dir(&config.dir)?;
    make_dir(&config.log_dir())?;
    let data = config.data_path();
    match std::fs::remove_dir_all(&data) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(EngineError::io("wipe", data)(error));
        }
        _ => {}
    }
    make_dir(&data)?;
    if kind == EngineKind::Embedded {
        // Without it the embedded engine keeps `system` in memory only, and query_log has no place.
        let metadata = data.join("metadata");
        make_dir(&metadata)?;
        let uuid = uuid::Uuid::new_v4();
        write_private(&metadata.join("system.sql"), &format!("ATTACH DATABASE _ UUID '{uuid}'\nENGINE = Atomic\n"))?;
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), EngineError> {
    DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(EngineError::io("make the directory", path))
}

/// The files hold the cluster's secret.
fn write_private(path: &Path, text: &str) -> Result<(), EngineError> {
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(EngineError::io("write", path))
}

fn open_log(config: &EngineConfig) -> Result<File, EngineError> {
    let path = config.log_dir().join("output.log");
    File::options().write(true).create(true).truncate(true).open(&path).map_err(EngineError::io("open", path))
}

/// Of what the process said, else of its log.
fn log_tail(config: &EngineConfig) -> String {
    let tail = |name: &str| {
        let bytes = std::fs::read(config.log_dir().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]).trim().to_string()
    };
    format!("{}\n{}", tail("engine.err.log"), tail("output.log")).trim().to_string()
}
