//! `moorctl` for one dev directory, as an operator uses it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::error::BenchError;

#[derive(Debug, Clone)]
pub struct Moorctl {
    dir: PathBuf,
    /// For the processes that it starts.
    environment: Vec<(String, String)>,
}

impl Moorctl {
    pub fn new(dir: &Path, environment: Vec<(String, String)>) -> Self {
        Self { dir: dir.to_owned(), environment }
    }

    /// What it printed.
    pub async fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String, BenchError> {
        let mut command = tokio::process::Command::from(self.command(arguments)?);
        let output = command.output().await.map_err(BenchError::io("cannot run moorctl"))?;
        said(arguments, &output)
    }

    pub async fn json<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Value, BenchError> {
        let with_format: Vec<&OsStr> =
            arguments.iter().map(AsRef::as_ref).chain(["--output", "json"].map(OsStr::new)).collect();
        let text = self.run(&with_format).await?;
        serde_json::from_str(&text).map_err(|error| BenchError::Moorctl {
            command: words(&with_format),
            said: format!("its output is not JSON: {error}"),
        })
    }

    /// For the way out, where nothing can be awaited any more.
    pub fn run_blocking(&self, arguments: &[&str]) -> Result<String, BenchError> {
        let output = self.command(arguments)?.output().map_err(BenchError::io("cannot run moorctl"))?;
        said(arguments, &output)
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<std::process::Command, BenchError> {
        let here = std::env::current_exe().map_err(BenchError::io("cannot tell where this program is"))?;
        let program = here.with_file_name("moorctl");
        if !program.is_file() {
            let said = format!("{} is not there: build it beside this program", program.display());
            return Err(BenchError::Moorctl { command: words(arguments), said });
        }
        let mut command = std::process::Command::new(program);
        command.arg("--dir").arg(&self.dir).args(arguments).stdin(Stdio::null());
        command.env_remove("MOORHOUSE_CONTROLLER").env_remove("MOORHOUSE_DEV_DIR");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }
}

fn said<S: AsRef<OsStr>>(arguments: &[S], output: &Output) -> Result<String, BenchError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(BenchError::Moorctl { command: words(arguments), said })
}

fn words<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ")
}
