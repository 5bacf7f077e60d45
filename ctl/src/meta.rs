//! `moorctl meta`: backup, restore and check of the metadata.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use moorhouse_proto::{BackupMetaRequest, CheckMetaRequest};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::args::Output;
use crate::controller::{Controller, in_words};
use crate::dev::process::sibling;
use crate::error::{CtlError, one_line};
use crate::show::{Listing, print_text};

#[derive(Debug, Subcommand)]
pub enum MetaCommand {
    /// Writes all metadata, as of one moment, to a new file; it holds secrets
    Backup { file: PathBuf },
    /// Puts a backup into an empty store, before any controller is started on it
    Restore {
        file: PathBuf,
        /// The empty store: embedded:PATH or etcd://HOST:PORT/PREFIX
        #[arg(long)]
        store: String,
        /// The object store of the warehouse
        #[arg(long)]
        objects: String,
    },
    /// Reads the whole store, and looks whether every invariant holds
    Check,
}

/// A backup ends with the SHA-256 of all before.
const DIGEST_BYTES: usize = 32;

/// The file has its name only when it is whole and on disk.
pub async fn backup(controller: &mut Controller, file: &Path) -> Result<(), CtlError> {
    if file.exists() {
        return Err(CtlError::bad_input(format!("{} is there already", file.display()), "name a new file"));
    }
    let partial = file.with_added_extension("partial");
    let failed = |error: std::io::Error| CtlError::failed(format!("{}: {error}", partial.display()));
    let mut options = OpenOptions::new();
    let mut out = options.create(true).truncate(true).write(true).mode(0o600).open(&partial).map_err(failed)?;
    let written = receive(controller, &mut out).await;
    if let Err(error) = written.and_then(|bytes| out.sync_all().map(|()| bytes).map_err(failed)).map(|bytes| {
        eprintln!("{bytes} bytes");
    }) {
        // What is not whole is no backup.
        let _ = std::fs::remove_file(&partial);
        return Err(error);
    }
    std::fs::rename(&partial, file).map_err(failed)?;
    print_text(&format!("{} holds the metadata, secrets included: keep it as safe as the store", file.display()))
}

async fn receive(controller: &mut Controller, out: &mut File) -> Result<u64, CtlError> {
    let mut pieces = controller.admin().backup_meta(BackupMetaRequest {}).await.map_err(in_words)?.into_inner();
    let mut digest = Sha256::new();
    // Not hashed yet: it may be the checksum.
    let mut tail: Vec<u8> = Vec::new();
    let mut bytes = 0;
    while let Some(piece) = pieces.message().await.map_err(in_words)? {
        out.write_all(&piece.data).map_err(|error| CtlError::failed(error.to_string()))?;
        bytes += piece.data.len() as u64;
        tail.extend_from_slice(&piece.data);
        let hashed = tail.len().saturating_sub(DIGEST_BYTES);
        digest.update(&tail[..hashed]);
        tail.drain(..hashed);
    }
    if digest.finalize()[..] == tail[..] {
        return Ok(bytes);
    }
    Err(CtlError::failed("the backup came damaged or cut short: take it again"))
}

/// The controller's own program does it: nobody else knows the stores.
pub async fn restore(file: &Path, store: &str, objects: &str) -> Result<(), CtlError> {
    let program = sibling("moorhouse-controller")?;
    let mut command = tokio::process::Command::new(&program);
    command.arg("--restore").arg(file).args(["--store", store, "--objects", objects]);
    let output = command.output().await;
    let output = output.map_err(|error| CtlError::failed(format!("{}: {error}", program.display())))?;
    if output.status.success() {
        return print_text(String::from_utf8_lossy(&output.stdout).trim_end());
    }
    Err(CtlError::failed(one_line(&String::from_utf8_lossy(&output.stderr))))
}

/// Fails if something is wrong, after having listed it.
pub async fn check(controller: &mut Controller, output: Output) -> Result<(), CtlError> {
    let reply = controller.admin().check_meta(CheckMetaRequest {}).await.map_err(in_words)?.into_inner();
    let mut listing = Listing::new(&["invariant", "detail"]);
    for violation in &reply.violations {
        listing.push([json!(violation.invariant), json!(violation.detail)]);
    }
    if reply.violations.is_empty() && matches!(output, Output::Table) {
        return print_text(&format!("{} records, {} parts: every invariant holds", reply.records, reply.parts));
    }
    listing.print(output)?;
    match reply.violations.len() {
        0 => Ok(()),
        count => Err(CtlError::failed(format!("{count} violations in {} records", reply.records))),
    }
}
