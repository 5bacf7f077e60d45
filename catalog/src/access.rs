//! What documents mean: who may do what, and how the engines are set. Pure: bodies in, rights of each user out.
//!
//! A **user** has roles by itself and by the groups of **people** that it is in. A **role** is a list of grants: access to a
//! database, a table, some columns, some rows. Rights add up: a row is seen if any grant shows it, and a grant without a row
//! filter shows all. Nothing is allowed that no grant names.

use std::collections::{BTreeMap, BTreeSet};

use moorhouse_base::secret::Secret;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::documents::{Document, DocumentKey, DocumentKind};
use crate::ids::GroupName;
use crate::records::{Group, Warehouse};

type Documents = BTreeMap<DocumentKey, Document>;

/// Name of the engine document for all groups; `group/NAME` is one group's.
pub const FOR_ALL: &str = "warehouse";

/// Settings that the warehouse itself depends on.
const OWN_SETTINGS: [&str; 8] = [
    "local_filesystem_read_method",
    "distributed_foreground_insert",
    "distributed_product_mode",
    "prefer_localhost_replica",
    "connect_timeout_with_failover_ms",
    "handshake_timeout_ms",
    "readonly",
    "allow_ddl",
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserBody {
    password_sha256: Secret,
    #[serde(default)]
    roles: BTreeSet<String>,
    /// Addresses and networks from which it may come; none: from everywhere.
    #[serde(default)]
    networks: Vec<String>,
    profile: Option<String>,
    quota: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleBody {
    grants: Vec<Grant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeopleBody {
    members: BTreeSet<String>,
    roles: BTreeSet<String>,
}

/// Names and values of ClickHouse settings.
type Settings = BTreeMap<String, Value>;

/// As written: a word, a number, or yes and no.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Value {
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
}

impl Value {
    fn text(&self) -> String {
        match self {
            Self::Bool(is) => u8::from(*is).to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// Settings of all users, in one place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EngineBody {
    #[serde(default)]
    profile: Settings,
}

/// One right, on tables as users see them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    pub database: String,
    /// `None`: all tables of the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Empty: all columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    pub access: BTreeSet<AccessType>,
    /// An expression over the table's columns; `None`: all rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessType {
    Select,
    Insert,
}

/// Bounds for one user in each interval; `None`: none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    pub interval_s: u64,
    pub queries: Option<u64>,
    pub errors: Option<u64>,
    pub result_rows: Option<u64>,
    pub read_rows: Option<u64>,
    pub execution_time_s: Option<u64>,
}

/// A user with all that it may do, as a node is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessUser {
    pub name: String,
    pub password_sha256_hex: Secret,
    pub networks: Vec<String>,
    pub settings: BTreeMap<String, String>,
    pub quota: Option<Quota>,
    pub grants: Vec<Grant>,
}

/// What documents make of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAccess {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<AccessUser>,
    /// Settings of every user on the engine, below each one's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

impl NodeAccess {
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.settings.is_empty()
    }
}

/// Whether the documents make sense together; the error names the document and the remedy, and no body.
pub fn check(documents: &Documents, warehouse: &Warehouse, groups: &BTreeMap<GroupName, Group>) -> Result<(), String> {
    for (key, _) in present(documents) {
        let said = |problem: String| format!("{key}: {problem}");
        match key.kind {
            DocumentKind::Engine => check_engine(key, documents, groups).map_err(said)?,
            DocumentKind::User => check_user(key, documents, warehouse).map_err(said)?,
            DocumentKind::Role => {
                let role: RoleBody = body(documents, key).map_err(said)?;
                role.grants.iter().try_for_each(check_grant).map_err(said)?;
            }
            DocumentKind::People => {
                let people: PeopleBody = body(documents, key).map_err(said)?;
                exist(documents, DocumentKind::User, &people.members).map_err(said)?;
                exist(documents, DocumentKind::Role, &people.roles).map_err(said)?;
            }
            DocumentKind::Profile => {
                let settings: Settings = body(documents, key).map_err(said)?;
                check_settings(&settings).map_err(said)?;
            }
            DocumentKind::Quota => {
                let quota: Quota = body(documents, key).map_err(said)?;
                if quota.interval_s == 0 {
                    return Err(said("interval_s must be at least 1".to_owned()));
                }
            }
        }
    }
    Ok(())
}

/// For the nodes of one group. The documents have been checked; what cannot be read lets nobody in.
pub fn resolve(documents: &Documents, group: &GroupName) -> NodeAccess {
    let own = format!("group/{group}");
    let settings = [FOR_ALL, &own].into_iter().flat_map(|name| {
        let key = DocumentKey::new(DocumentKind::Engine, name);
        let engine: Option<EngineBody> = key.and_then(|key| body(documents, &key).ok());
        engine.map(|engine| engine.profile).unwrap_or_default()
    });
    let settings = settings.map(|(name, value)| (name, value.text())).collect();
    let users = present(documents).filter(|(key, _)| key.kind == DocumentKind::User);
    NodeAccess { users: users.filter_map(|(key, _)| resolve_user(documents, key)).collect(), settings }
}

fn resolve_user(documents: &Documents, user_key: &DocumentKey) -> Option<AccessUser> {
    let user: UserBody = body(documents, user_key).ok()?;
    let mut roles = user.roles;
    for (key, _) in present(documents).filter(|(key, _)| key.kind == DocumentKind::People) {
        let people: PeopleBody = body(documents, key).ok()?;
        if people.members.contains(user_key.name()) {
            roles.extend(people.roles);
        }
    }
    let mut grants = Vec::new();
    for role in &roles {
        let role: RoleBody = named(documents, DocumentKind::Role, role)?;
        grants.extend(role.grants.into_iter().filter(|grant| !grants.contains(grant)).collect::<Vec<_>>());
    }
    let settings: Settings = match &user.profile {
        Some(profile) => named(documents, DocumentKind::Profile, profile)?,
        None => Settings::new(),
    };
    let quota = match &user.quota {
        Some(quota) => Some(named(documents, DocumentKind::Quota, quota)?),
        None => None,
    };
    Some(AccessUser {
        name: user_key.name().to_owned(),
        password_sha256_hex: user.password_sha256,
        networks: user.networks,
        settings: settings.into_iter().map(|(name, value)| (name, value.text())).collect(),
        quota,
        grants,
    })
}

/// Those that are not removed.
fn present(documents: &Documents) -> impl Iterator<Item = (&DocumentKey, &Secret)> {
    documents.iter().filter_map(|(key, document)| Some((key, document.body.as_ref()?)))
}

fn body<T: DeserializeOwned>(documents: &Documents, key: &DocumentKey) -> Result<T, String> {
    let text = documents.get(key).and_then(|document| document.body.as_ref()).ok_or("it is removed")?;
    serde_json::from_str(text.expose()).map_err(|error| format!("its body is not valid: {error}"))
}

fn named<T: DeserializeOwned>(documents: &Documents, kind: DocumentKind, name: &str) -> Option<T> {
    body(documents, &DocumentKey::new(kind, name)?).ok()
}

fn exist<'a>(
    documents: &Documents,
    kind: DocumentKind,
    names: impl IntoIterator<Item = &'a String>,
) -> Result<(), String> {
    for name in names {
        let key = DocumentKey::new(kind, name.as_str());
        let there = key.is_some_and(|key| documents.get(&key).is_some_and(|document| document.body.is_some()));
        if !there {
            return Err(format!("there is no {} {name:?}: make it in the same change, or name another", kind.as_str()));
        }
    }
    Ok(())
}

fn check_engine(key: &DocumentKey, documents: &Documents, groups: &BTreeMap<GroupName, Group>) -> Result<(), String> {
    let is_group = |name: &str| GroupName::new(name).is_ok_and(|name| groups.contains_key(&name));
    match key.name().strip_prefix("group/") {
        None if key.name() == FOR_ALL => {}
        Some(group) if is_group(group) => {}
        _ => {
            return Err(format!(
                "an engine document is for {FOR_ALL:?}, or for \"group/NAME\" of a group that is there"
            ));
        }
    }
    let engine: EngineBody = body(documents, key)?;
    check_settings(&engine.profile)
}

fn check_user(key: &DocumentKey, documents: &Documents, warehouse: &Warehouse) -> Result<(), String> {
    let name = key.name();
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !first || name.contains(['.', '/']) {
        return Err("a user's name is a letter or '_', then letters, digits, '_' and '-'".to_owned());
    }
    let taken = warehouse.users.iter().any(|user| user.name == name);
    if taken || name == "default" || name.starts_with("moorhouse") {
        return Err("this name is taken by the warehouse itself: choose another".to_owned());
    }
    let user: UserBody = body(documents, key)?;
    let hash = user.password_sha256.expose();
    if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("password_sha256 takes the 64 hexadecimal digits of a SHA-256, never the password".to_owned());
    }
    for network in &user.networks {
        let (address, bits) = network.split_once('/').map_or((network.as_str(), None), |(a, b)| (a, Some(b)));
        let longest = |ip: std::net::IpAddr| if ip.is_ipv4() { 32 } else { 128u8 };
        let fits = |ip| bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| bits <= longest(ip)));
        if !address.parse().is_ok_and(fits) {
            return Err(format!("network {network:?} is neither an address nor ADDRESS/BITS"));
        }
    }
    exist(documents, DocumentKind::Role, &user.roles)?;
    exist(documents, DocumentKind::Profile, &user.profile)?;
    exist(documents, DocumentKind::Quota, &user.quota)
}

fn check_grant(grant: &Grant) -> Result<(), String> {
    let Grant { database, table, columns, access, rows } = grant;
    let named = |name: &String| !name.is_empty() && name.len() <= 206 && !name.contains('\0');
    let place = format!("the grant on {database}.{}", table.as_deref().unwrap_or("*"));
    if !named(database) || !table.iter().all(named) || !columns.iter().all(named) {
        return Err(format!("{place}: names have 1 to 206 bytes"));
    }
    if database == "system" || database.starts_with("shard_") || database.starts_with("moorhouse") {
        return Err(format!("{place}: this database is the engine's own"));
    }
    if access.is_empty() {
        return Err(format!("{place}: access names nothing: say select, insert, or both"));
    }
    if table.is_none() && (rows.is_some() || !columns.is_empty()) {
        return Err(format!("{place}: columns and rows take a table"));
    }
    let Some(rows) = rows else { return Ok(()) };
    if rows.trim().is_empty() || !access.contains(&AccessType::Select) {
        return Err(format!("{place}: rows takes an expression, and the access select"));
    }
    // The filter stands in XML under the table's physical name, which begins as the table's does.
    if table.as_ref().is_some_and(|table| table.starts_with(|c: char| c.is_ascii_digit())) {
        return Err(format!("{place}: a table whose name begins with a digit cannot have a row filter: rename it"));
    }
    Ok(())
}

fn check_settings(settings: &Settings) -> Result<(), String> {
    for (name, value) in settings {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.is_empty() || !name.bytes().all(plain) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(format!("{name:?} is no setting's name"));
        }
        if OWN_SETTINGS.contains(&name.as_str()) {
            return Err(format!("setting {name} is the warehouse's own: leave it out"));
        }
        if value.text().chars().any(char::is_control) {
            return Err(format!("setting {name} has a value that is no plain text"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
