//! Which roles may call which method. Pure, and complete: a test compares the table with the proto file, and the guard
//! refuses what stands nowhere.

use crate::identity::RoleKind;
use RoleKind::{Admin, Agent, Controller, Gateway, Viewer};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Holders of a certificate with one of these roles.
    Roles(&'static [RoleKind]),
    /// Those who have no certificate yet; the request itself carries what lets them in.
    Anybody,
}

const LISTING: Rule = Rule::Roles(&[Admin, Viewer]);
const CHANGE: Rule = Rule::Roles(&[Admin]);
const NODE: Rule = Rule::Roles(&[Agent]);
const QUERY: Rule = Rule::Roles(&[Gateway]);
const ORDER: Rule = Rule::Roles(&[Controller]);

/// Service, method, rule: in the order of the proto file.
pub const RULES: &[(&str, &str, Rule)] = &[
    ("Controller", "Register", NODE),
    ("Controller", "Session", NODE),
    ("Controller", "CommitParts", NODE),
    ("Controller", "GetSnapshot", NODE),
    ("Controller", "StreamSnapshot", NODE),
    ("Controller", "GetChanges", NODE),
    ("Controller", "WatchChangelog", NODE),
    ("Controller", "ListStaged", NODE),
    ("Controller", "WatchCluster", QUERY),
    ("Controller", "SubmitDdl", QUERY),
    ("Reads", "StreamSnapshot", NODE),
    ("Reads", "GetChanges", NODE),
    ("Admin", "Status", LISTING),
    ("Admin", "ListNodes", LISTING),
    ("Admin", "ListShards", LISTING),
    ("Admin", "ListParts", LISTING),
    ("Admin", "ListMoves", LISTING),
    ("Admin", "ListDdl", LISTING),
    ("Admin", "CreateGroup", CHANGE),
    ("Admin", "DrainNode", CHANGE),
    ("Admin", "Rebalance", CHANGE),
    ("Admin", "RemoveNode", CHANGE),
    // A backup holds every secret of the warehouse.
    ("Admin", "BackupMeta", CHANGE),
    ("Admin", "CheckMeta", LISTING),
    ("Admin", "ShowTable", LISTING),
    ("Admin", "SetTable", CHANGE),
    // It may be asked to delete what it finds.
    ("Admin", "Fsck", CHANGE),
    // Reading the audit takes the role that it watches over: it shows statements, which may hold what a viewer may not see.
    ("Security", "CreateJoinToken", CHANGE),
    ("Security", "ListJoinTokens", CHANGE),
    ("Security", "RevokeJoinToken", CHANGE),
    ("Security", "ListAudit", CHANGE),
    ("Documents", "ListDocuments", LISTING),
    ("Documents", "GetHistory", LISTING),
    ("Documents", "PutDocuments", CHANGE),
    ("Enrolment", "Join", Rule::Anybody),
    ("Enrolment", "Renew", NODE),
    ("Agent", "ReadBlob", NODE),
    ("Agent", "ReadBlobs", NODE),
    ("Agent", "DescribeTable", ORDER),
    ("Agent", "PreCopy", ORDER),
    ("Agent", "Hold", ORDER),
    ("Agent", "Detach", ORDER),
    ("Agent", "Attach", ORDER),
    ("Agent", "Release", ORDER),
    ("Agent", "KeepCopies", NODE),
    ("Agent", "CheckStaged", ORDER),
    ("NodeCache", "Stat", LISTING),
    ("NodeCache", "Warm", CHANGE),
    ("NodeCache", "Drop", CHANGE),
];

/// The rule of a gRPC path, `/moorhouse.v1.Admin/Status`; `None` if no rule stands for it.
pub fn rule_of(path: &str) -> Option<Rule> {
    let (service, method) = path.strip_prefix("/moorhouse.v1.")?.split_once('/')?;
    RULES.iter().find(|(s, m, _)| *s == service && *m == method).map(|(_, _, rule)| *rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(service, method)` of every `rpc` line, in order.
    fn methods(proto: &str) -> Vec<(String, String)> {
        let mut service = String::new();
        let mut found = Vec::new();
        for line in proto.lines().map(str::trim) {
            let words: Vec<&str> = line.split(|c: char| c == '(' || c.is_whitespace()).collect();
            match words[..] {
                ["service", name, ..] => service = name.to_owned(),
                ["rpc", name, ..] => found.push((service.clone(), name.to_owned())),
                _ => {}
            }
        }
        found
    }

    #[test]
    fn every_method_of_the_wire_has_its_rule() {
        let proto = include_str!("../../proto/proto/moorhouse.proto");
        let on_the_wire = methods(proto);
        assert!(on_the_wire.len() > 20, "the proto file is read");
        for (service, method) in &on_the_wire {
            let count = RULES.iter().filter(|(s, m, _)| s == service && m == method).count();
            assert_eq!(count, 1, "{service}.{method} needs exactly one rule in security/src/rules.rs");
            assert!(rule_of(&format!("/moorhouse.v1.{service}/{method}")).is_some());
        }
        assert_eq!(RULES.len(), on_the_wire.len(), "a rule stands for a method that is gone");
    }

    #[test]
    fn what_has_no_rule_is_refused() {
        for path in ["/moorhouse.v1.Admin/Explode", "/grpc.health.v1.Health/Check", "/", "moorhouse.v1.Admin/Status"] {
            assert_eq!(rule_of(path), None, "{path}");
        }
    }

    #[test]
    fn nobody_but_the_named_roles() {
        let allowed = |path: &str| match rule_of(path) {
            Some(Rule::Roles(roles)) => roles.to_vec(),
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(allowed("/moorhouse.v1.Controller/CommitParts"), [Agent]);
        assert_eq!(allowed("/moorhouse.v1.Agent/Attach"), [Controller]);
        assert_eq!(allowed("/moorhouse.v1.Agent/ReadBlob"), [Agent]);
        assert_eq!(allowed("/moorhouse.v1.Admin/RemoveNode"), [Admin]);
        assert_eq!(allowed("/moorhouse.v1.Admin/Status"), [Admin, Viewer]);
        assert_eq!(allowed("/moorhouse.v1.Controller/SubmitDdl"), [Gateway]);
    }
}
