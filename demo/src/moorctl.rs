//! `moorctl` as a person uses it: a command line and its output.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::error::DemoError;

/// moorctl for one dev directory.
#[derive(Debug, Clone)]
pub struct Moorctl {
    binary: PathBuf,
    dir: PathBuf,
}

impl Moorctl {
    /// The one beside this program; a test program lies one directory below its siblings.
    pub fn beside_this_program(dir: &Path) -> Result<Self, DemoError> {
        let here = std::env::current_exe().map_err(DemoError::io("cannot tell where this program is"))?;
        let folders = here.ancestors().skip(1).take(2);
        let binary = folders.map(|folder| folder.join("moorctl")).find(|path| path.is_file());
        let binary = binary.ok_or_else(|| DemoError::Moorctl {
            command: String::new(),
            code: Some(2),
            said: format!("there is no moorctl beside {}; build it: make build", here.display()),
        })?;
        Ok(Self { binary, dir: dir.to_owned() })
    }

    /// What it printed on stdout; what it says on stderr is passed on.
    pub async fn run(&self, arguments: &[&str]) -> Result<String, DemoError> {
        self.call(arguments, true).await
    }

    /// The same without passing anything on.
    pub async fn run_quietly(&self, arguments: &[&str]) -> Result<String, DemoError> {
        self.call(arguments, false).await
    }

    /// Its output as JSON.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value, DemoError> {
        let with_format = [arguments, &["--output", "json"]].concat();
        let text = self.call(&with_format, true).await?;
        serde_json::from_str(&text).map_err(|error| DemoError::Moorctl {
            command: arguments.join(" "),
            code: Some(0),
            said: format!("its output is not JSON: {error}"),
        })
    }

    async fn call(&self, arguments: &[&str], pass_on: bool) -> Result<String, DemoError> {
        let mut command = Command::new(&self.binary);
        // In a group of its own, so that Ctrl-C reaches the demo alone, which then stops things in order.
        command.arg("--dir").arg(&self.dir).args(arguments).stdin(Stdio::null()).process_group(0);
        let started = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(false).spawn();
        let child = started.map_err(DemoError::io("cannot run moorctl"))?;
        let output = child.wait_with_output().await.map_err(DemoError::io("cannot run moorctl"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let said = said.trim().trim_start_matches("moorctl: ").to_owned();
            return Err(DemoError::Moorctl { command: arguments.join(" "), code: output.status.code(), said });
        }
        if pass_on {
            said.lines().for_each(crate::console::say);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
