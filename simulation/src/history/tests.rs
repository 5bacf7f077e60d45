//! Hand-made histories: one good one, and for each rule one that breaks it.

use moorhouse_catalog::{DdlStatement, FileEntry, FilePath, SqlName};
use uuid::Uuid;

use super::*;

const GRACE_MS: u64 = 1_000;

fn at() -> TableShard {
    TableShard { table: TableId(Uuid::from_u128(7)), shard: ShardId(0) }
}
fn group() -> GroupName {
    GroupName::new("etl").expect("valid")
}
fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("valid")
}
fn holder(name: &str, epoch: u64) -> Holder {
    Holder { node: node(name), epoch: Epoch(epoch) }
}
fn path(name: &str) -> PartPath {
    PartPath::new(name).expect("valid")
}

fn part(name: &str, blob: u128) -> Manifest {
    let location = Location::Staged { node: node("a") };
    let file = FilePath::new("data.bin").expect("valid");
    let files = vec![FileEntry { path: file, blob: BlobId(Uuid::from_u128(blob)), bytes: 4, location }];
    Manifest { part: path(name), rows: 1, committed_ms: 0, files, copies: Vec::new() }
}

fn asked(commit: u64, by: Holder, added: &[Manifest]) -> Event {
    let change = PartChange { added: added.to_vec(), ..PartChange::default() };
    Event::Asked(Asked { commit, group: group(), holder: by, at: at(), change, truncates: false })
}

fn assigned(term: u64, to: Holder) -> Event {
    let assigned = vec![(group(), ShardId(0), to)];
    Event::Wrote(Transaction { term, assigned, ..Transaction::default() })
}

fn wrote(version: u64, added: &[Manifest], removed: &[&str]) -> Event {
    let names = Names {
        added: added.iter().map(|part| part.part.clone()).collect(),
        removed: removed.iter().map(|name| path(name)).collect(),
        relocated: Vec::new(),
    };
    let put = added.iter().map(|part| (at(), part.part.clone(), Some(Arc::new(part.clone()))));
    let deleted = removed.iter().map(|name| (at(), path(name), None));
    Event::Wrote(Transaction {
        term: 1,
        changed: vec![(at(), Version(version), names)],
        parts: put.chain(deleted).collect(),
        ..Transaction::default()
    })
}

fn acknowledged(commit: u64, version: u64) -> Event {
    Event::Acknowledged { commit, version: Version(version) }
}

fn shown(version: u64, parts: &[Manifest]) -> Event {
    let parts = parts.iter().map(|part| (part.part.clone(), Arc::new(part.clone()))).collect();
    Event::Shown { reader: node("r"), at: at(), version: Version(version), parts }
}

fn task(seq: u64, table: &str, outcome: DdlOutcome) -> Event {
    let name = |name: &str| SqlName::new(name).expect("valid");
    let statement = DdlStatement::DropTable { database: name("default"), name: name(table), if_exists: true };
    let ddl = vec![DdlTask { outcome, ..DdlTask::new(DdlSeq(seq), statement) }];
    Event::Wrote(Transaction { term: 1, ddl, ..Transaction::default() })
}

/// Node a holds the shard at epoch 1 and has committed block 1.
fn beginning() -> Vec<Event> {
    let first = part("all_1_1_0", 1);
    vec![
        Event::Led { term: 1 },
        assigned(1, holder("a", 1)),
        asked(1, holder("a", 1), std::slice::from_ref(&first)),
        wrote(1, std::slice::from_ref(&first), &[]),
        acknowledged(1, 1),
        shown(1, &[first]),
    ]
}

fn check(events: impl IntoIterator<Item = Event>) -> Check {
    let mut checker = Checker::new(GRACE_MS);
    let all = beginning().into_iter().chain(events);
    all.enumerate().try_for_each(|(now, event)| checker.observe(now as u64, &event))?;
    checker.finish()
}

fn broken(events: impl IntoIterator<Item = Event>) -> &'static str {
    check(events).expect_err("a rule is broken").rule
}

#[test]
fn a_good_history_breaks_nothing() {
    let (second, merged) = (part("all_2_2_0", 2), part("all_1_2_1", 3));
    let events = [
        asked(2, holder("a", 1), std::slice::from_ref(&second)),
        wrote(2, std::slice::from_ref(&second), &[]),
        acknowledged(2, 2),
        asked(3, holder("a", 1), std::slice::from_ref(&merged)),
        wrote(3, std::slice::from_ref(&merged), &[]),
        wrote(4, &[], &["all_1_1_0", "all_2_2_0"]),
        shown(4, std::slice::from_ref(&merged)),
        assigned(1, holder("b", 2)),
        asked(4, holder("a", 1), &[part("all_9_9_0", 9)]),
        Event::Refused { commit: 4 },
        task(1, "t", DdlOutcome::Running),
        task(1, "t", DdlOutcome::Done),
    ];
    assert_eq!(check(events), Ok(()));
}

#[test]
fn a_deposed_leader_that_writes_is_found() {
    assert_eq!(broken([Event::Led { term: 2 }, assigned(1, holder("a", 1))]), "a_deposed_leader_writes_nothing");
    assert_eq!(broken([Event::Led { term: 1 }]), "terms_grow");
}

#[test]
fn an_epoch_that_goes_back_or_changes_hands_is_found() {
    assert_eq!(broken([assigned(1, holder("a", 0))]), "an_epoch_never_goes_back");
    assert_eq!(broken([assigned(1, holder("b", 1))]), "an_epoch_never_goes_back");
}

#[test]
fn a_gap_and_a_repeated_number_are_found() {
    let second = part("all_2_2_0", 2);
    let ask = || asked(2, holder("a", 1), std::slice::from_ref(&second));
    assert_eq!(broken([ask(), wrote(3, std::slice::from_ref(&second), &[])]), "a_changelog_has_no_gap");
    assert_eq!(broken([ask(), wrote(1, std::slice::from_ref(&second), &[])]), "a_changelog_has_no_gap");
}

#[test]
fn a_second_writer_is_found() {
    let second = part("all_2_2_0", 2);
    let events =
        [asked(2, holder("b", 2), std::slice::from_ref(&second)), wrote(2, std::slice::from_ref(&second), &[])];
    assert_eq!(broken(events), "one_writer_at_a_time");
    let stale = [
        assigned(1, holder("b", 2)),
        // The transaction after: the epoch of before does not count any more.
        assigned(1, holder("b", 2)),
        asked(2, holder("a", 1), std::slice::from_ref(&second)),
        wrote(2, std::slice::from_ref(&second), &[]),
    ];
    assert_eq!(broken(stale), "one_writer_at_a_time");
    assert_eq!(broken([wrote(2, &[second], &[])]), "every_part_was_asked_for");
}

#[test]
fn an_answer_without_a_stored_change_is_found() {
    let second = part("all_2_2_0", 2);
    let ask = || asked(2, holder("a", 1), std::slice::from_ref(&second));
    assert_eq!(broken([ask(), acknowledged(2, 2)]), "what_is_acknowledged_is_stored");
    assert_eq!(broken([ask(), acknowledged(2, 1)]), "what_is_acknowledged_is_stored");
    assert_eq!(broken([acknowledged(5, 1)]), "every_answer_was_asked_for");
}

#[test]
fn a_refused_change_that_is_there_is_found() {
    let second = part("all_2_2_0", 2);
    let ask = || asked(2, holder("a", 1), std::slice::from_ref(&second));
    let write = || wrote(2, std::slice::from_ref(&second), &[]);
    assert_eq!(broken([ask(), write(), Event::Refused { commit: 2 }]), "what_was_refused_leaves_nothing");
    assert_eq!(broken([ask(), Event::Refused { commit: 2 }, write()]), "what_was_refused_leaves_nothing");
}

#[test]
fn lost_replaced_and_returning_rows_are_found() {
    assert_eq!(broken([wrote(2, &[], &["all_1_1_0"])]), "rows_go_only_when_asked");
    let other = part("all_1_1_0", 2);
    let replaced = [asked(2, holder("a", 1), std::slice::from_ref(&other)), wrote(2, &[other], &[])];
    assert_eq!(broken(replaced), "a_part_never_changes");
    let merged = part("all_1_1_1", 2);
    let events = [
        asked(2, holder("a", 1), std::slice::from_ref(&merged)),
        wrote(2, &[merged], &[]),
        wrote(3, &[], &["all_1_1_0"]),
        wrote(4, &[part("all_1_1_0", 1)], &[]),
    ];
    assert_eq!(broken(events), "what_was_removed_never_returns");
}

#[test]
fn a_manifest_that_changes_without_an_entry_is_found() {
    let mut moved = part("all_1_1_0", 1);
    moved.files[0].location = Location::Staged { node: node("b") };
    let parts = vec![(at(), moved.part.clone(), Some(Arc::new(moved)))];
    let silent = Event::Wrote(Transaction { term: 1, parts, ..Transaction::default() });
    assert_eq!(broken([silent]), "a_part_changes_with_an_entry");
    let parts = vec![(at(), path("all_1_1_0"), None)];
    let vanished = Event::Wrote(Transaction { term: 1, parts, ..Transaction::default() });
    assert_eq!(broken([vanished]), "parts_are_what_the_changelog_says");
}

#[test]
fn rows_in_two_active_parts_are_found() {
    // The same level: neither covers the other.
    let twice = part("all_1_2_0", 2);
    let events = [asked(2, holder("a", 1), std::slice::from_ref(&twice)), wrote(2, &[twice], &[])];
    assert_eq!(broken(events), "acknowledged_rows_are_there_once");
}

#[test]
fn readers_ahead_behind_and_of_deleted_objects_are_found() {
    let second = part("all_2_2_0", 2);
    assert_eq!(broken([shown(2, &[part("all_1_1_0", 1), second.clone()])]), "a_reader_sees_what_is_committed");
    assert_eq!(broken([shown(1, &[])]), "a_reader_sees_what_is_committed");
    assert_eq!(broken([shown(1, &[part("all_1_1_0", 1), second])]), "a_reader_sees_what_is_committed");
    let read = |as_of_ms, found| Event::Read {
        reader: node("r"),
        object: ObjectKey::new("objects/x").expect("valid"),
        found,
        as_of_ms,
    };
    assert_eq!(broken([read(5, false)]), "objects_outlive_their_readers");
    assert_eq!(check([read(5, true)]), Ok(()));
    let mut checker = Checker::new(GRACE_MS);
    assert_eq!(checker.observe(5 + GRACE_MS, &read(5, false)), Ok(()), "the grace is over");
}

#[test]
fn ddl_out_of_order_or_without_an_end_is_found() {
    let running = || DdlOutcome::Running;
    assert_eq!(broken([task(1, "t", running())]), "a_ddl_task_ends");
    assert_eq!(broken([task(2, "t", running())]), "ddl_tasks_are_numbered");
    assert_eq!(broken([task(1, "t", running()), task(2, "t", running())]), "ddl_tasks_on_one_table_run_in_order");
    assert_eq!(broken([task(1, "t", DdlOutcome::Done), task(1, "t", running())]), "a_ddl_task_ends_once");
    let both = [
        task(1, "t", running()),
        task(2, "u", running()),
        task(2, "u", DdlOutcome::Done),
        task(1, "t", DdlOutcome::Done),
    ];
    assert_eq!(check(both), Ok(()));
}

#[test]
fn ddl_told_otherwise_than_kept_or_run_twice_is_found() {
    let told = |result| Event::Told { seq: DdlSeq(1), result };
    let wrong = "a_user_is_told_the_outcome_that_is_kept";
    assert_eq!(broken([told(Ok(()))]), wrong);
    assert_eq!(broken([task(1, "t", DdlOutcome::Running), told(Ok(()))]), wrong);
    assert_eq!(broken([task(1, "t", DdlOutcome::Done), told(Err("no".to_owned()))]), wrong);
    assert_eq!(check([task(1, "t", DdlOutcome::Done), told(Ok(()))]), Ok(()));
    let asked_for = |event| match event {
        Event::Wrote(mut transaction) => {
            transaction.ddl[0].token = Some(moorhouse_catalog::DdlToken(uuid::Uuid::from_u128(7)));
            Event::Wrote(transaction)
        }
        other => other,
    };
    let twice = [task(1, "t", DdlOutcome::Done), task(2, "t", DdlOutcome::Done)].map(asked_for);
    assert_eq!(broken(twice), "a_request_is_one_ddl_task");
}

#[test]
fn a_dropped_table_that_leaves_parts_is_found() {
    let dropped = Event::Wrote(Transaction { term: 1, dropped: vec![at().table], ..Transaction::default() });
    assert_eq!(broken([dropped]), "a_dropped_table_leaves_no_part");
}
