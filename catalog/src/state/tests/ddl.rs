//! The DDL queue: a request is one task, a task changes the catalog once, and its end settles what it made.

use super::*;
use crate::ddl::{DdlOutcome, DdlStep};
use crate::ids::{DdlSeq, DdlToken, TableId};

fn submit(statement: DdlStatement, token: DdlToken) -> Command {
    Command::SubmitDdl { statement, token, audit: None }
}

fn database(name: &str) -> DdlStatement {
    DdlStatement::CreateDatabase { database: sql(name), if_not_exists: false }
}

fn change(seq: u64, change: Command) -> Command {
    Command::ChangeByDdl { seq: DdlSeq(seq), change: Box::new(change) }
}

fn create(name: &str) -> Command {
    Command::CreateDatabase { database: sql(name), if_not_exists: false }
}

fn finish(seq: u64, outcome: DdlOutcome) -> Command {
    Command::FinishDdl { seq: DdlSeq(seq), outcome, nodes: vec![] }
}

fn failed() -> DdlOutcome {
    DdlOutcome::Failed { error: "Code: 1".to_owned() }
}

#[test]
fn a_request_is_one_task_however_often_it_is_sent() {
    let mut world = World::new();
    let token = DdlToken::random();
    for _ in 0..3 {
        assert_eq!(world.must(submit(database("x"), token)), Reply::Submitted(DdlSeq(1)));
    }
    assert!(matches!(world.refused(submit(database("y"), token)), CatalogError::Invalid(_)));
    assert_eq!(world.must(submit(database("y"), DdlToken::random())), Reply::Submitted(DdlSeq(2)));
    world.must(finish(1, failed()));
    assert_eq!(world.must(submit(database("x"), token)), Reply::Submitted(DdlSeq(1)), "after its end too");
}

#[test]
fn a_task_changes_the_catalog_once() {
    let mut world = World::new();
    world.must(submit(database("x"), DdlToken::random()));
    assert!(matches!(world.refused(change(7, create("x"))), CatalogError::UnknownDdl(_)));
    for _ in 0..2 {
        assert_eq!(world.must(change(1, create("x"))), Reply::Changed(true), "repeated, it is no error");
    }
    assert_eq!(world.catalog.ddl()[&DdlSeq(1)].step, DdlStep::Applying { changed: true });
    world.must(finish(1, DdlOutcome::Done));
    assert!(world.catalog.directory().databases.contains_key(&sql("x")));
    assert!(matches!(world.refused(change(1, create("x"))), CatalogError::NotNow(_)));
    // One that is there is not the task's: nothing is noted, and its failure takes nothing away.
    world.must(submit(database("x"), DdlToken::random()));
    world.refused(change(2, create("x")));
    world.must(finish(2, failed()));
    assert!(world.catalog.directory().databases.contains_key(&sql("x")));
}

#[test]
fn what_a_failed_task_had_made_goes_with_its_end() {
    let mut world = World::new();
    world.must(submit(database("x"), DdlToken::random()));
    world.must(change(1, create("x")));
    world.must(finish(1, failed()));
    assert!(!world.catalog.directory().databases.contains_key(&sql("x")));
    for (seq, outcome, is_there) in [(2, failed(), false), (3, DdlOutcome::Done, true)] {
        let drop = DdlStatement::DropTable { database: sql("default"), name: sql("n"), if_exists: true };
        world.must(submit(drop, DdlToken::random()));
        let database = world.catalog.directory().databases.keys().next().expect("one").clone();
        let table = Table {
            id: TableId::random(),
            database,
            name: sql("n"),
            physical: format!("n_{seq}"),
            state: TableState::Creating,
            ddl_seq: DdlSeq(seq),
            ..world.catalog.directory().tables.values().next().expect("the world has a table").clone()
        };
        let id = table.id;
        world.must(change(seq, Command::CreateTable { table: Box::new(table), if_not_exists: false }));
        world.must(finish(seq, outcome));
        let state = world.catalog.directory().tables.get(&id).map(|table| table.state);
        assert_eq!(state, is_there.then_some(TableState::Active));
    }
}
