//! Somebody who makes and drops tables, and somebody who drains a node.

use std::time::Duration;

use moorhouse_catalog::{DdlStatement, DdlToken, GroupName, NodeName, SqlName};

use crate::agent::Surroundings;
use crate::chance::Chance;
use crate::controllers::{Controllers, Failure, Told};
use crate::history::Event;

const TABLES: u64 = 3;
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// For as long as the run is not quiet.
pub async fn run(name: String, group: GroupName, around: Surroundings, mut chance: Chance) {
    let controllers = Controllers::new(&around.network, &name, &around.controllers);
    loop {
        let pause = Duration::from_millis(chance.between(200, 2_000));
        tokio::time::sleep(pause).await;
        if around.is_quiet() {
            continue;
        }
        let statement = choose(&group, &mut chance);
        around.observer.note(&format!("{name} asks {statement:?}"));
        insist(&name, &statement, &controllers, &around).await;
    }
}

/// Asks under one token until somebody says what became of the statement: that is what is kept.
async fn insist(name: &str, statement: &DdlStatement, controllers: &Controllers, around: &Surroundings) {
    let token = DdlToken::random();
    loop {
        match controllers.ddl(statement, token).await {
            Ok(Told { seq, result }) => {
                around.observer.note(&format!("{name} was told {result:?}"));
                around.observer.saw(&Event::Told { seq, result });
                return;
            }
            Err(Failure::Refused(status)) => {
                around.observer.note(&format!("{name} was refused: {status}"));
                return;
            }
            Err(Failure::Unknown(status)) => around.observer.note(&format!("{name} asks again after {status}")),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Drains a node, once.
pub async fn drain(node: NodeName, after: Duration, around: Surroundings) {
    let controllers = Controllers::new(&around.network, "operator", &around.controllers);
    tokio::time::sleep(after).await;
    while controllers.drain(&node).await.is_err() {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    around.observer.note(&format!("{node} is to be drained"));
    std::future::pending().await
}

fn choose(group: &GroupName, chance: &mut Chance) -> DdlStatement {
    let named = |name: &str| SqlName::new(name).expect("a valid name");
    let name = named(&format!("t{}", chance.below(TABLES)));
    if chance.permille(120) {
        return DdlStatement::DropTable { database: named("default"), name, if_exists: true };
    }
    DdlStatement::CreateTable {
        group: group.clone(),
        database: named("default"),
        name,
        if_not_exists: true,
        create_tail: "(a UInt64) ENGINE = MergeTree ORDER BY a".to_owned(),
        session_database: named("default"),
        sharding_key: None,
    }
}
