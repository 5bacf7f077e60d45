//! Join tokens and the audit.

use super::*;
use crate::trust::{AuditOutcome, AuditSeq, Deed, TokenHash, TokenState};

fn hash(digit: char) -> TokenHash {
    TokenHash::new(digit.to_string().repeat(64)).expect("a hash")
}

fn with_token(expires_ms: u64) -> (Catalog, GroupName) {
    let mut catalog = World::new().catalog;
    let group = group("etl");
    let create = Command::CreateJoinToken { hash: hash('a'), group: group.clone(), expires_ms };
    catalog.apply(create, 1).expect("a token");
    (catalog, group)
}

fn uses(node: &str, group: &GroupName, request: &str) -> Command {
    let node = NodeName::new(node).expect("valid");
    Command::UseJoinToken { hash: hash('a'), node, group: group.clone(), request_sha256: request.to_owned() }
}

fn refusal(catalog: &mut Catalog, command: Command, now_ms: u64) -> String {
    let before = catalog.clone();
    let refused = catalog.apply(command, now_ms).expect_err("refused").to_string();
    assert_eq!(*catalog, before, "a refusal changes nothing");
    refused
}

#[test]
fn a_token_lets_exactly_one_node_in() {
    let (mut catalog, group) = with_token(100);
    catalog.apply(uses("new-1", &group, "r1"), 2).expect("the first");
    assert!(refusal(&mut catalog, uses("new-2", &group, "r2"), 3).contains("node new-1 has used it"));
    // Its own answer was lost: it asks again with the same request, and with no other.
    assert_eq!(catalog.apply(uses("new-1", &group, "r1"), 4).expect("again").reply, Reply::Changed(false));
    assert!(refusal(&mut catalog, uses("new-1", &group, "r2"), 5).contains("has used it"));
}

#[test]
fn a_token_ends() {
    let (mut catalog, group) = with_token(100);
    assert!(refusal(&mut catalog, uses("new-1", &group, "r"), 100).contains("expired"));
    catalog.apply(Command::RevokeJoinToken(hash('a')), 5).expect("revoked");
    assert!(refusal(&mut catalog, uses("new-1", &group, "r"), 6).contains("revoked"));
    assert!(refusal(&mut catalog, Command::RevokeJoinToken(hash('b')), 6).contains("no join token"));
}

#[test]
fn a_token_is_for_its_group_and_for_a_new_name() {
    let (mut catalog, group) = with_token(100);
    assert!(refusal(&mut catalog, uses("new-1", &super::group("bi"), "r"), 2).contains("for group etl"));
    assert!(refusal(&mut catalog, uses("b", &group, "r"), 3).contains("there is a node b already"));
}

#[test]
fn old_tokens_are_forgotten() {
    let (mut catalog, group) = with_token(100);
    let late = 100 + catalog.limits().token_kept_ms + 1;
    let create = Command::CreateJoinToken { hash: hash('b'), group, expires_ms: late + 1 };
    catalog.apply(create, late).expect("another");
    assert_eq!(catalog.tokens().keys().collect::<Vec<_>>(), [&hash('b')]);
}

#[test]
fn the_audit_is_numbered_bounded_and_final() {
    let limits = Limits { audit_kept: 3, audit_kept_ms: 1_000, ..Limits::default() };
    let mut catalog = World::new().catalog;
    catalog.limits = limits;
    let deed = |action: &str| Deed {
        identity: "admin/ada".to_owned(),
        user: None,
        from: "127.0.0.1:1".to_owned(),
        action: action.to_owned(),
        target: "ü".repeat(1_000),
    };
    for number in 1..=5 {
        let reply = catalog.apply(Command::BeginAudit(deed("drain_node")), number).expect("noted").reply;
        assert_eq!(reply, Reply::Audited(AuditSeq(number)));
    }
    assert_eq!(catalog.audit().keys().map(|seq| seq.0).collect::<Vec<_>>(), [3, 4, 5]);
    assert!(catalog.audit()[&AuditSeq(5)].deed.target.len() < Deed::FIELD_BYTES + 8);
    let done = Command::FinishAudit { seq: AuditSeq(5), outcome: AuditOutcome::Done };
    catalog.apply(done.clone(), 6).expect("ended");
    assert!(refusal(&mut catalog, done, 7).contains("its outcome already"));
    let pruned = Command::FinishAudit { seq: AuditSeq(1), outcome: AuditOutcome::Done };
    assert_eq!(catalog.apply(pruned, 8).expect("gone").reply, Reply::Changed(false));
    catalog.apply(Command::BeginAudit(deed("drain_node")), 5_000).expect("noted");
    assert_eq!(catalog.audit().keys().map(|seq| seq.0).collect::<Vec<_>>(), [6], "by age, and numbers go on");
}

#[test]
fn a_stored_token_state_is_read_back() {
    let (mut catalog, group) = with_token(100);
    catalog.apply(uses("new-1", &group, "r"), 2).expect("used");
    let state = &catalog.tokens()[&hash('a')].state;
    assert!(matches!(state, TokenState::Used { node, .. } if node.as_str() == "new-1"));
}
