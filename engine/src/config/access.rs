//! Users with rights of their own, in `users.xml`: grants, row filters, settings, quotas.
//!
//! Row filters stand on physical tables: on a Distributed table ClickHouse applies none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::is_element_name;
use super::users::password_and_networks;
use super::xml::Xml;

/// What the operator's documents make of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineAccess {
    pub users: Vec<GrantedUser>,
    /// Settings of everybody; a user's own stand above them.
    pub settings: BTreeMap<String, String>,
}

/// May do what its grants say, and nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct GrantedUser {
    pub name: String,
    /// 64 hexadecimal digits.
    pub password_sha256_hex: String,
    /// Addresses and networks; none: from everywhere.
    pub networks: Vec<String>,
    pub settings: BTreeMap<String, String>,
    pub quota: Option<QuotaLimits>,
    /// Whole statements, `GRANT SELECT ON db.t`.
    pub grants: Vec<String>,
    pub filters: Vec<RowFilter>,
}

impl fmt::Debug for GrantedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantedUser").field("name", &self.name).field("grants", &self.grants).finish_non_exhaustive()
    }
}

/// The rows of one table that a user sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFilter {
    pub database: String,
    pub table: String,
    pub expression: String,
}

/// Bounds in each interval of seconds; absent: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaLimits {
    pub interval_s: u64,
    pub bounds: BTreeMap<&'static str, u64>,
}

impl EngineAccess {
    pub(super) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let settings = self.users.iter().flat_map(|user| user.settings.keys()).chain(self.settings.keys());
        mistakes
            .extend(settings.filter(|name| !is_element_name(name)).map(|name| format!("setting {name:?}: no name")));
        for filter in self.users.iter().flat_map(|user| &user.filters) {
            if !is_element_name(&filter.database) || !is_element_name(&filter.table) {
                mistakes
                    .push(format!("row filter on {}.{}: no such table can have one", filter.database, filter.table));
            }
        }
        mistakes
    }

    /// Below `<profiles>`: one for each user, upon the default one.
    pub(super) fn profiles(&self, xml: &mut Xml) {
        for user in &self.users {
            xml.node(&own(&user.name), |xml| {
                xml.leaf("profile", "default");
                user.settings.iter().for_each(|(name, value)| xml.leaf(name, value));
            });
        }
    }

    /// Below `<quotas>`.
    pub(super) fn quotas(&self, xml: &mut Xml) {
        for user in &self.users {
            let Some(QuotaLimits { interval_s, bounds }) = &user.quota else { continue };
            xml.node(&own(&user.name), |xml| {
                xml.node("interval", |xml| {
                    xml.leaf("duration", interval_s);
                    bounds.iter().for_each(|(name, bound)| xml.leaf(name, bound));
                });
            });
        }
    }

    /// Below `<users>`.
    pub(super) fn users(&self, xml: &mut Xml) {
        for user in &self.users {
            xml.node(&user.name, |xml| granted_user(xml, user));
        }
    }
}

/// Profiles and quotas share no name with the engine's own.
fn own(user: &str) -> String {
    format!("of_{user}")
}

fn granted_user(xml: &mut Xml, user: &GrantedUser) {
    let everywhere = ["::/0".to_owned()];
    let networks = if user.networks.is_empty() { &everywhere[..] } else { &user.networks };
    password_and_networks(xml, &user.password_sha256_hex, networks);
    xml.leaf("profile", own(&user.name));
    xml.leaf("quota", if user.quota.is_some() { own(&user.name) } else { "default".to_owned() });
    // An empty list would mean that everything is granted.
    let nothing = ["GRANT SHOW ON system.one".to_owned()];
    let grants = if user.grants.is_empty() { &nothing[..] } else { &user.grants };
    xml.node("grants", |xml| grants.iter().for_each(|grant| xml.leaf("query", grant)));
    if user.filters.is_empty() {
        return;
    }
    let databases: BTreeSet<&str> = user.filters.iter().map(|filter| filter.database.as_str()).collect();
    xml.node("databases", |xml| {
        for database in databases {
            xml.node(database, |xml| {
                for filter in user.filters.iter().filter(|filter| filter.database == database) {
                    xml.node(&filter.table, |xml| xml.leaf("filter", &filter.expression));
                }
            });
        }
    });
}
