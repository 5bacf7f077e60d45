//! Engine configuration and access control: documents with versions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use moorhouse_proto::documents_client::DocumentsClient;
use moorhouse_proto::{DocumentInfo, DocumentPut, GetHistoryRequest, ListDocumentsRequest, PutDocumentsRequest};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::args::Output;
use crate::controller::{Controller, in_words};
use crate::error::CtlError;
use crate::show::{Listing, print_json, print_text};

const ENGINE: &str = "engine";
/// What the controller shows for a password's hash, and takes for "as it is".
const HIDDEN: &str = "***";

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Prints the document, or nothing if there is none
    Get {
        #[command(flatten)]
        of: Of,
    },
    /// Replaces it: YAML or JSON, `profile: {SETTING: VALUE}`; refused if somebody has changed it since --from
    Set {
        file: PathBuf,
        #[command(flatten)]
        of: Of,
        /// The version that the file was made from [default: the newest]
        #[arg(long)]
        from: Option<u64>,
    },
    /// Shows what `set` would change; exit code 0 either way
    Diff {
        file: PathBuf,
        #[command(flatten)]
        of: Of,
    },
    /// Lists the versions that are kept
    History {
        #[command(flatten)]
        of: Of,
    },
    /// Puts an older version in place, as a new one
    Rollback {
        /// Its number, by `history`
        #[arg(long)]
        to: u64,
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Debug, clap::Args)]
pub struct Of {
    /// Of this compute group alone [default: of the warehouse]
    #[arg(long)]
    group: Option<String>,
}

impl Of {
    fn name(&self) -> String {
        self.group.as_ref().map_or_else(|| "warehouse".to_owned(), |group| format!("group/{group}"))
    }
}

#[derive(Debug, Subcommand)]
pub enum AccessCommand {
    /// Makes users, roles, groups of people, profiles and quotas what the file says
    Apply {
        /// YAML or JSON with people, users, roles, profiles, quotas
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Removes what the file does not name
        #[arg(long)]
        prune: bool,
        /// Prints the plan, and changes nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Lists what there is; without password hashes
    Show,
}

type Client = DocumentsClient<Channel>;

pub async fn config(controller: &mut Controller, command: ConfigCommand, output: Output) -> Result<(), CtlError> {
    let client = &mut controller.documents;
    match command {
        ConfigCommand::Get { of } => {
            let Some(found) = find(client, &of.name()).await? else { return Ok(()) };
            match output {
                Output::Json => print_json(&json!({"version": found.version, "body": body(&found)?})),
                Output::Table => print_text(&pretty(&body(&found)?)?),
            }
        }
        ConfigCommand::Set { file, of, from } => {
            let newest = last_version(client, &of.name()).await?;
            let mut change = put(ENGINE, &of.name(), from.unwrap_or(newest));
            change.body = read(&file)?.to_string();
            say_version(&send(client, vec![change]).await?)
        }
        ConfigCommand::Diff { file, of } => {
            let now = find(client, &of.name()).await?.map(|found| body(&found)).transpose()?;
            let (now, new) = (now.unwrap_or_else(|| json!({})), read(&file)?);
            print_text(&diff(&pretty(&now)?, &pretty(&new)?))
        }
        ConfigCommand::History { of } => history(client, &of.name()).await?.print(output),
        ConfigCommand::Rollback { to, of } => {
            let from = last_version(client, &of.name()).await?;
            let change = DocumentPut { restore: to, ..put(ENGINE, &of.name(), from) };
            say_version(&send(client, vec![change]).await?)
        }
    }
}

pub async fn access(controller: &mut Controller, command: AccessCommand, output: Output) -> Result<(), CtlError> {
    let client = &mut controller.documents;
    let now = list(client).await?;
    match command {
        AccessCommand::Show => {
            let mut listing = Listing::new(&["kind", "name", "version", "body", "by"]);
            for found in now {
                let shown = if output == Output::Json { body(&found)? } else { json!(found.body) };
                listing.push([json!(found.kind), json!(found.name), json!(found.version), shown, json!(found.by)]);
            }
            listing.print(output)
        }
        AccessCommand::Apply { file, prune, dry_run } => {
            let plan = plan(&read(&file)?, &now, prune)?;
            for step in &plan {
                eprintln!("{} {} {}", step.sign, step.change.kind, step.change.name);
            }
            let changes: Vec<DocumentPut> = plan.into_iter().map(|step| step.change).collect();
            if changes.is_empty() || dry_run {
                return print_text(&format!("{} changes planned, none made", changes.len()));
            }
            let changes = with_versions(client, changes).await?;
            let made = send(client, changes).await?;
            print_text(&format!("{} changes made, and every live node obeys", made.len()))
        }
    }
}

/// One line of a plan.
struct Step {
    /// `+` new, `~` changed, `-` removed.
    sign: char,
    change: DocumentPut,
}

/// Section of the file, and the kind of its documents.
const SECTIONS: [(&str, &str); 5] =
    [("profiles", "profile"), ("quotas", "quota"), ("roles", "role"), ("users", "user"), ("people", "people")];

fn plan(file: &Value, now: &[DocumentInfo], prune: bool) -> Result<Vec<Step>, CtlError> {
    let wrong = |problem: String| CtlError::bad_input(problem, "correct the file; docs/OPERATIONS.md shows one");
    let sections = file.as_object().ok_or_else(|| wrong("the file holds no sections".to_owned()))?;
    if let Some(unknown) = sections.keys().find(|name| !SECTIONS.iter().any(|(section, _)| section == name)) {
        return Err(wrong(format!(
            "there is no section {unknown:?}: there are profiles, quotas, roles, users, people"
        )));
    }
    let known: BTreeMap<(&str, &str), &DocumentInfo> =
        now.iter().map(|found| ((found.kind.as_str(), found.name.as_str()), found)).collect();
    let mut steps = Vec::new();
    let mut named = Vec::new();
    for (section, kind) in SECTIONS {
        let Some(entries) = sections.get(section) else { continue };
        let entries = entries.as_object().ok_or_else(|| wrong(format!("{section} takes names with what they mean")))?;
        for (name, wanted) in entries {
            named.push((kind, name.as_str()));
            let found = known.get(&(kind, name.as_str()));
            let wanted = document(kind, wanted, found.is_some());
            let same = found.map(|found| body(found)).transpose()?.is_some_and(|body| body == wanted);
            if !same {
                let from = found.map_or(0, |found| found.version);
                let change = DocumentPut { body: wanted.to_string(), ..put(kind, name, from) };
                steps.push(Step { sign: if found.is_some() { '~' } else { '+' }, change });
            }
        }
    }
    let gone = now.iter().filter(|found| found.kind != ENGINE && prune);
    for found in gone.filter(|found| !named.contains(&(found.kind.as_str(), found.name.as_str()))) {
        let change = DocumentPut { remove: true, ..put(&found.kind, &found.name, found.version) };
        steps.push(Step { sign: '-', change });
    }
    Ok(steps)
}

/// As the controller keeps it: a role's list stands under `grants`, and a user without a hash keeps the one that it has.
fn document(kind: &str, written: &Value, is_there: bool) -> Value {
    match kind {
        "role" => json!({ "grants": written }),
        "user" if is_there && written.get("password_sha256").is_none() => {
            let mut user = written.clone();
            if let Some(fields) = user.as_object_mut() {
                fields.insert("password_sha256".to_owned(), HIDDEN.into());
            }
            user
        }
        _ => written.clone(),
    }
}

/// A document that was removed goes on from the version of its removal.
async fn with_versions(client: &mut Client, mut changes: Vec<DocumentPut>) -> Result<Vec<DocumentPut>, CtlError> {
    for change in changes.iter_mut().filter(|change| change.from_version == 0) {
        change.from_version = newest_of(client, &change.kind.clone(), &change.name.clone()).await?;
    }
    Ok(changes)
}

fn put(kind: &str, name: &str, from_version: u64) -> DocumentPut {
    DocumentPut { kind: kind.to_owned(), name: name.to_owned(), from_version, ..DocumentPut::default() }
}

async fn list(client: &mut Client) -> Result<Vec<DocumentInfo>, CtlError> {
    let request = ListDocumentsRequest { kind: String::new() };
    Ok(client.list_documents(request).await.map_err(in_words)?.into_inner().documents)
}

async fn find(client: &mut Client, name: &str) -> Result<Option<DocumentInfo>, CtlError> {
    Ok(list(client).await?.into_iter().find(|found| found.kind == ENGINE && found.name == name))
}

async fn last_version(client: &mut Client, name: &str) -> Result<u64, CtlError> {
    newest_of(client, ENGINE, name).await
}

/// 0 if it never was.
async fn newest_of(client: &mut Client, kind: &str, name: &str) -> Result<u64, CtlError> {
    let request = GetHistoryRequest { kind: kind.to_owned(), name: name.to_owned() };
    match client.get_history(request).await {
        Ok(reply) => Ok(reply.into_inner().documents.last().map_or(0, |newest| newest.version)),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(0),
        Err(status) => Err(in_words(status)),
    }
}

async fn history(client: &mut Client, name: &str) -> Result<Listing, CtlError> {
    let request = GetHistoryRequest { kind: ENGINE.to_owned(), name: name.to_owned() };
    let mut listing = Listing::new(&["version", "at", "by", "removed", "body"]);
    for version in client.get_history(request).await.map_err(in_words)?.into_inner().documents {
        let DocumentInfo { version, body, removed, by, at_ms, .. } = version;
        listing.push([json!(version), json!(crate::security::moment(at_ms)), json!(by), json!(removed), json!(body)]);
    }
    Ok(listing)
}

async fn send(client: &mut Client, changes: Vec<DocumentPut>) -> Result<Vec<DocumentInfo>, CtlError> {
    Ok(client.put_documents(PutDocumentsRequest { changes }).await.map_err(in_words)?.into_inner().documents)
}

fn say_version(made: &[DocumentInfo]) -> Result<(), CtlError> {
    let version = made.first().map_or(0, |made| made.version);
    print_text(&format!("version {version}, and every live node obeys"))
}

/// YAML, of which JSON is a part.
fn read(file: &Path) -> Result<Value, CtlError> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| CtlError::bad_input(format!("cannot read {shown}: {error}"), "name a file"))?;
    // The parser's message may repeat a line of the file, in which a password may stand.
    serde_saphyr::from_str(&text)
        .map_err(|_| CtlError::bad_input(format!("{shown} is neither YAML nor JSON"), "check it with a YAML linter"))
}

fn body(found: &DocumentInfo) -> Result<Value, CtlError> {
    serde_json::from_str(&found.body).map_err(|error| CtlError::failed(format!("a body cannot be read: {error}")))
}

fn pretty(value: &Value) -> Result<String, CtlError> {
    serde_json::to_string_pretty(value).map_err(|error| CtlError::failed(error.to_string()))
}

/// Line by line, by the longest common subsequence: small texts.
fn diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let mut common = vec![vec![0usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            let longer = common[i + 1][j].max(common[i][j + 1]);
            common[i][j] = if old[i] == new[j] { common[i + 1][j + 1] + 1 } else { longer };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(format!("  {}", old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(format!("- {}", old[i]));
            i += 1;
        } else {
            lines.push(format!("+ {}", new[j]));
            j += 1;
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(kind: &str, name: &str, body: Value) -> DocumentInfo {
        let (kind, name, body) = (kind.to_owned(), name.to_owned(), body.to_string());
        DocumentInfo { kind, name, version: 3, body, ..DocumentInfo::default() }
    }

    fn yaml(text: &str) -> Value {
        serde_saphyr::from_str(text).expect("YAML")
    }

    #[test]
    fn a_plan_changes_what_differs_and_prunes_when_asked() {
        let now = [
            known("user", "ada", json!({"password_sha256": "***", "roles": ["reader"]})),
            known("user", "bob", json!({"password_sha256": "***"})),
            known("role", "reader", json!({"grants": [{"database": "d", "access": ["select"]}]})),
            known("engine", "warehouse", json!({})),
        ];
        let file = yaml(
            "users:\n  ada: {roles: [reader]}\nroles:\n  reader:\n  - {database: d, table: t, access: [select]}\n",
        );
        let signs = |prune| -> Vec<String> {
            let steps = plan(&file, &now, prune).expect("a plan");
            steps.iter().map(|s| format!("{} {} {}", s.sign, s.change.name, s.change.from_version)).collect()
        };
        assert_eq!(signs(false), ["~ reader 3"]);
        assert_eq!(signs(true), ["~ reader 3", "- bob 3"]);
        assert!(plan(&yaml("user: {}"), &now, false).is_err());
    }

    #[test]
    fn a_diff_shows_the_lines_that_differ() {
        assert_eq!(diff("a\nb\nc", "a\nx\nc"), "  a\n- b\n+ x\n  c");
        assert_eq!(diff("", "a"), "+ a");
    }
}
