//! Documents: all changes of a request or none, each from the version that is there.

use super::*;
use crate::documents::{DocumentChange, DocumentKey, DocumentKind, DocumentVersion};

fn key(kind: DocumentKind, name: &str) -> DocumentKey {
    DocumentKey::new(kind, name).expect("valid")
}

fn put(kind: DocumentKind, name: &str, from: u64, body: Option<&str>) -> DocumentChange {
    DocumentChange { key: key(kind, name), from: DocumentVersion(from), body: body.map(Secret::new) }
}

fn change(changes: Vec<DocumentChange>) -> Command {
    Command::PutDocuments { changes, by: "admin/ada".to_owned() }
}

fn engine(from: u64, threads: u64) -> Command {
    let body = format!("{{\"profile\":{{\"max_threads\":{threads}}}}}");
    change(vec![put(DocumentKind::Engine, "warehouse", from, Some(&body))])
}

#[test]
fn a_stale_change_is_refused_with_the_newer_version() {
    let mut world = World::new();
    world.must(engine(0, 1));
    world.must(engine(1, 2));
    let CatalogError::Stale { newest, claimed, .. } = world.refused(engine(1, 3)) else { panic!("stale") };
    assert_eq!((newest, claimed), (2, 1));
    assert_eq!(world.must(engine(2, 2)), Reply::Changed(false), "the same again is no new version");
    let access = world.catalog.directory().node_view(&node("a")).expect("known").access;
    assert_eq!(access.settings["max_threads"], "2");
    assert_eq!(world.reloaded(), world.catalog);
}

#[test]
fn all_changes_of_a_request_or_none() {
    let mut world = World::new();
    let hash = format!("{{\"password_sha256\":\"{}\",\"roles\":[\"r\"]}}", "b".repeat(64));
    let user = put(DocumentKind::User, "ada", 0, Some(&hash));
    let role = put(DocumentKind::Role, "r", 0, Some("{\"grants\":[]}"));
    assert!(matches!(world.refused(change(vec![user.clone()])), CatalogError::Invalid(_)), "its role is missing");
    let stale = put(DocumentKind::Quota, "q", 7, Some("{\"interval_s\":1}"));
    world.refused(change(vec![user.clone(), role.clone(), stale]));
    assert!(world.catalog.directory().documents.is_empty());
    world.must(change(vec![user, role]));
    let gone = put(DocumentKind::Role, "r", 1, None);
    assert!(matches!(world.refused(change(vec![gone.clone()])), CatalogError::Invalid(_)), "ada has it");
    world.must(change(vec![gone, put(DocumentKind::User, "ada", 1, None)]));
    let access = world.catalog.directory().node_view(&node("a")).expect("known").access;
    assert!(access.users.is_empty());
    // One that comes again counts on.
    world.must(change(vec![put(DocumentKind::Role, "r", 2, Some("{\"grants\":[]}"))]));
    assert_eq!(world.catalog.directory().documents[&key(DocumentKind::Role, "r")].version, DocumentVersion(3));
}

#[test]
fn the_newest_versions_are_kept() {
    let mut world = World::new();
    for version in 0..40 {
        world.must(engine(version, version + 1));
    }
    let kept: Vec<u64> =
        world.catalog.document_history(&key(DocumentKind::Engine, "warehouse")).map(|(v, _)| v.0).collect();
    assert_eq!(kept, (9..=40).collect::<Vec<_>>());
    assert_eq!(world.reloaded(), world.catalog);
}
