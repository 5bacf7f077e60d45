//! Certificates, join tokens and the audit.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use moorhouse_proto::{CreateJoinTokenRequest, ListAuditRequest, ListJoinTokensRequest, RevokeJoinTokenRequest};
use moorhouse_security::{
    Authority, AuthorityError, CA_FILE, CERTIFICATE_FILE, Identity, KEY_FILE, Lifetime, RoleKind, write_private,
};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::args::Output;
use crate::controller::{Controller, in_words};
use crate::error::CtlError;
use crate::show::{Listing, print_json, print_text};

pub const CA_KEY_FILE: &str = "ca.key";

#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Makes a certificate authority: ca.crt, and ca.key, which issues
    Init {
        /// New directory for it; keep it where only administrators can read
        dir: PathBuf,
        /// Name of the warehouse, part of every identity
        #[arg(long, default_value = "moorhouse")]
        warehouse: String,
    },
    /// Issues a certificate: tls.crt, tls.key and ca.crt, as --tls and --certificate take them
    Issue {
        /// Directory for the three files
        dir: PathBuf,
        /// The authority's directory
        #[arg(long)]
        ca: PathBuf,
        /// controller, agent, gateway, admin or viewer
        #[arg(long)]
        role: RoleKind,
        /// The holder; for an agent its node's name
        #[arg(long)]
        name: String,
        /// How long it is good for: 90d, 12h, 30m
        #[arg(long = "for", default_value = "90d", value_name = "TIME")]
        lifetime: Lifetime,
    },
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Makes a token that lets one new node in; it is shown this once
    Create {
        #[arg(long)]
        group: String,
        /// How long it can be used: 1h, 30m
        #[arg(long, default_value = "1h")]
        ttl: Lifetime,
    },
    /// Lists tokens, without what makes them valid
    List,
    /// Ends a token before its time
    Revoke { id: String },
}

pub fn cert(command: CertCommand) -> Result<(), CtlError> {
    match command {
        CertCommand::Init { dir, warehouse } => {
            init(&dir, &warehouse)?;
            let key = dir.join(CA_KEY_FILE);
            print_text(&format!("the CA is in {}; {} issues certificates: guard it", dir.display(), key.display()))
        }
        CertCommand::Issue { dir, ca, role, name, lifetime } => {
            let identity = issue(&ca, &dir, role, &name, lifetime)?;
            print_text(&format!("{identity} is in {}", dir.display()))
        }
    }
}

/// A new authority in `dir`; one that is there is never written over.
pub fn init(dir: &Path, warehouse: &str) -> Result<(), CtlError> {
    Identity::new(warehouse, RoleKind::Admin, "x")
        .map_err(|error| CtlError::bad_input(error.to_string(), "choose another --warehouse"))?;
    if dir.join(CA_KEY_FILE).exists() || dir.join(CA_FILE).exists() {
        let problem = format!("{} holds an authority already", dir.display());
        return Err(CtlError::bad_input(problem, "name another directory"));
    }
    let (certificate, key) = Authority::create(warehouse).map_err(|error| CtlError::failed(error.to_string()))?;
    make_directory(dir)?;
    write(&dir.join(CA_KEY_FILE), key.expose())?;
    write(&dir.join(CA_FILE), &certificate)
}

/// A certificate with a new key in `dir`, in place of what is there.
pub fn issue(ca: &Path, dir: &Path, role: RoleKind, name: &str, lifetime: Lifetime) -> Result<Identity, CtlError> {
    let authority = Authority::open(ca).map_err(|error| match error {
        AuthorityError::Read { .. } => CtlError::bad_input(error.to_string(), "make one: moorctl cert init DIR"),
        AuthorityError::Bad(_) | AuthorityError::Request(_) => CtlError::bad_input(error.to_string(), "correct --ca"),
    })?;
    let warehouse = authority.warehouse().unwrap_or_else(|| "moorhouse".to_owned());
    let identity = Identity::new(&warehouse, role, name)
        .map_err(|error| CtlError::bad_input(error.to_string(), "choose another --name"))?;
    let issued = authority.issue(&identity, lifetime).map_err(|error| CtlError::failed(error.to_string()))?;
    make_directory(dir)?;
    write(&dir.join(CA_FILE), &issued.ca_pem)?;
    write(&dir.join(KEY_FILE), issued.key_pem.expose())?;
    // Last: with it the three belong together.
    write(&dir.join(CERTIFICATE_FILE), &issued.certificate_pem)?;
    Ok(identity)
}

fn make_directory(dir: &Path) -> Result<(), CtlError> {
    std::fs::create_dir_all(dir).map_err(|error| {
        CtlError::bad_input(format!("cannot make {}: {error}", dir.display()), "name a writable directory")
    })
}

fn write(path: &Path, content: &str) -> Result<(), CtlError> {
    write_private(path, content).map_err(|error| {
        CtlError::bad_input(format!("cannot write {}: {error}", path.display()), "name a writable directory")
    })
}

pub async fn token(controller: &mut Controller, command: TokenCommand, output: Output) -> Result<(), CtlError> {
    match command {
        TokenCommand::Create { group, ttl } => {
            let request = CreateJoinTokenRequest { group, ttl_ms: ttl.0.as_millis() as u64 };
            let made = controller.security.create_join_token(request).await.map_err(in_words)?.into_inner();
            match output {
                Output::Json => {
                    print_json(&json!({"token": made.token, "id": made.id, "expires": moment(made.expires_ms)}))
                }
                Output::Table => print_text(&made.token),
            }
        }
        TokenCommand::List => {
            let mut listing = Listing::new(&["id", "group", "state", "node", "created", "expires"]);
            let request = ListJoinTokensRequest {};
            for token in controller.security.list_join_tokens(request).await.map_err(in_words)?.into_inner().tokens {
                listing.push([
                    json!(token.id),
                    json!(token.group),
                    json!(token.state),
                    json!(token.node),
                    json!(moment(token.created_ms)),
                    json!(moment(token.expires_ms)),
                ]);
            }
            listing.print(output)
        }
        TokenCommand::Revoke { id } => {
            let request = RevokeJoinTokenRequest { id: id.clone() };
            controller.security.revoke_join_token(request).await.map_err(in_words)?;
            print_text(&format!("token {id} is revoked"))
        }
    }
}

pub async fn audit(controller: &mut Controller, since: Option<Lifetime>, last: u32) -> Result<Listing, CtlError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since_ms = since.map_or(0, |since| now.saturating_sub(since.0).as_millis() as u64);
    let request = ListAuditRequest { since_ms, at_most: last };
    let mut listing = Listing::new(&["seq", "at", "identity", "user", "from", "action", "target", "outcome", "error"]);
    for entry in controller.security.list_audit(request).await.map_err(in_words)?.into_inner().entries {
        listing.push([
            json!(entry.seq),
            json!(moment(entry.at_ms)),
            json!(entry.identity),
            json!(entry.user),
            json!(entry.from),
            json!(entry.action),
            json!(entry.target),
            json!(entry.outcome),
            json!(entry.error),
        ]);
    }
    Ok(listing)
}

/// Unix milliseconds as RFC 3339, in UTC; the number itself for a time that has no such form.
pub fn moment(ms: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok();
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| ms.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_authority_issues_and_is_not_written_over() {
        let home = tempfile::tempdir().expect("a directory");
        let (ca, dir) = (home.path().join("ca"), home.path().join("etl-0"));
        init(&ca, "prod").expect("made");
        assert!(init(&ca, "prod").expect_err("there").to_string().contains("already"));
        let identity = issue(&ca, &dir, RoleKind::Agent, "etl-0", Lifetime::days(1)).expect("issued");
        assert_eq!(identity.to_string(), "moorhouse://prod/agent/etl-0");
        for file in [ca.join(CA_KEY_FILE), dir.join(KEY_FILE)] {
            let mode = std::fs::metadata(&file).expect("there").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{} is its owner's alone", file.display());
        }
        let material = moorhouse_security::Material::read(&dir).expect("usable");
        assert_eq!(material.identity, identity);
        assert!(issue(&ca, &dir, RoleKind::Agent, "no name", Lifetime::days(1)).is_err());
    }

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
    }
}
