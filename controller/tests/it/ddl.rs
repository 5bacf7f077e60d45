//! DDL: from the statement to every live node, or back.

use moorhouse_catalog::{ClusterView, DdlStatement, DdlToken, TableState, codec};
use moorhouse_proto::{ListDdlRequest, WatchClusterRequest};
use tonic::Status;

use crate::harness::{Cluster, create_table, sql};

async fn tables_shown(cluster: &Cluster) -> Vec<String> {
    let watch = cluster.controller().await.watch_cluster(WatchClusterRequest {}).await.expect("watches");
    let update = watch.into_inner().message().await.expect("no error").expect("a view at once");
    let view: ClusterView = codec::decode(&update.view_record).expect("a view");
    view.tables.iter().map(|t| format!("{}.{} of {}", t.database, t.name, t.owner)).collect()
}

#[tokio::test]
async fn a_table_is_made_on_all_nodes_before_the_statement_ends() {
    let cluster = Cluster::start().await;
    let etl = cluster.node("etl-0", "etl").await;
    let bi = cluster.node("bi-0", "bi").await;
    assert_eq!(cluster.create_table("t").await, Ok(1));
    for node in [&etl, &bi] {
        let states: Vec<TableState> = {
            let script = node.script.lock().expect("no panic");
            script.views.iter().filter_map(|view| view.tables.first()).map(|table| table.state).collect()
        };
        assert_eq!(states.first(), Some(&TableState::Creating), "each node made it while the statement ran");
    }
    assert_eq!(etl.calls()[0], "describe (a UInt64) ENGINE = MergeTree ORDER BY a");
    assert_eq!(tables_shown(&cluster).await, ["default.t of etl"]);
    let table = etl.view().tables[0].clone();
    assert!(table.physical.starts_with("t_") && table.sharding_key == "rand()" && table.ddl_seq.0 == 1);

    let again = cluster.create_table("t").await.expect_err("it is there");
    assert_eq!(again, "Code: 57. DB::Exception: Table default.t already exists. (TABLE_ALREADY_EXISTS)");
    assert_eq!(cluster.ddl(create_table("t", true)).await, Ok(3));
    let drop = |if_exists| DdlStatement::DropTable { database: sql("default"), name: sql("t"), if_exists };
    assert_eq!(cluster.ddl(drop(false)).await, Ok(4));
    assert!(etl.view().tables.is_empty() && tables_shown(&cluster).await.is_empty());
    let gone = cluster.ddl(drop(false)).await.expect_err("it is gone");
    assert_eq!(gone, "Code: 60. DB::Exception: Table default.t does not exist. (UNKNOWN_TABLE)");
    assert_eq!(cluster.ddl(drop(true)).await, Ok(6));
}

#[tokio::test]
async fn a_table_that_one_node_cannot_make_is_removed_again() {
    let cluster = Cluster::start().await;
    let etl = cluster.node("etl-0", "etl").await;
    let bi = cluster.node("bi-0", "bi").await;
    let words = "Code: 47. DB::Exception: Missing columns";
    bi.script.lock().expect("no panic").cannot_make = Some(("bad", words));
    let error = cluster.create_table("bad").await.expect_err("bi cannot make it");
    assert_eq!(error, format!("{words} (on node bi-0)"));
    assert!(tables_shown(&cluster).await.is_empty());
    assert_eq!(cluster.create_table("good").await, Ok(2));
    assert_eq!(etl.view().tables.len(), 1);
}

#[tokio::test]
async fn the_engine_s_refusal_is_the_statement_s_error() {
    let cluster = Cluster::start().await;
    let no_node = cluster.create_table("t").await.expect_err("nobody can describe it");
    assert!(no_node.contains("no node of group etl is up"), "{no_node}");
    let etl = cluster.node("etl-0", "etl").await;
    let words = "Code: 62. DB::Exception: Syntax error. (SYNTAX_ERROR)";
    etl.fail("describe", Some(Status::invalid_argument(words)));
    assert_eq!(cluster.create_table("t").await, Err(words.to_owned()));
}

#[tokio::test]
async fn a_node_that_goes_down_is_not_waited_for() {
    let cluster = Cluster::start().await;
    let _etl = cluster.node("etl-0", "etl").await;
    let bi = cluster.node("bi-0", "bi").await;
    bi.script.lock().expect("no panic").stuck = true;
    let statement = cluster.create_table("t");
    tokio::pin!(statement);
    let early = tokio::time::timeout(std::time::Duration::from_millis(600), &mut statement).await;
    assert!(early.is_err(), "bi is up and has not applied it");
    bi.kill();
    assert_eq!(statement.await, Ok(1));
}

#[tokio::test]
async fn a_statement_that_is_sent_again_is_the_same_task() {
    let cluster = Cluster::start().await;
    let _etl = cluster.node("etl-0", "etl").await;
    let bi = cluster.node("bi-0", "bi").await;
    bi.script.lock().expect("no panic").stuck = true;
    let token = DdlToken::random();
    let first = cluster.ddl_under(create_table("t", false), token);
    tokio::pin!(first);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut first).await;
    assert!(early.is_err(), "bi has not applied it");
    let second = cluster.ddl_under(create_table("t", false), token);
    tokio::pin!(second);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut second).await;
    assert!(early.is_err(), "it follows the first");
    bi.script.lock().expect("no panic").stuck = false;
    assert_eq!(tokio::join!(first, second), (Ok(1), Ok(1)));
    assert_eq!(cluster.ddl_under(create_table("t", false), token).await, Ok(1), "and so does one after its end");
    assert_eq!(cluster.ddl(create_table("u", false)).await, Ok(2));
}

#[tokio::test]
async fn failures_are_reported_for_each_shard() {
    let cluster = Cluster::start().await;
    let _etl = cluster.node("etl-0", "etl").await;
    let bi = cluster.node("bi-0", "bi").await;
    let words = "Code: 47. DB::Exception: Missing columns";
    bi.script.lock().expect("no panic").cannot_make = Some(("bad", words));
    bi.script.lock().expect("no panic").failing_shards = vec![1, 3];
    let error = cluster.create_table("bad").await.expect_err("bi cannot make it");
    assert_eq!(error, format!("{words} (on node bi-0, shard 1; 1 more: see `moorctl ddl show`)"));
    let tasks = cluster.admin().await.list_ddl(ListDdlRequest { seq: 1 }).await.expect("lists").into_inner().tasks;
    let nodes: Vec<_> = tasks[0].nodes.iter().map(|n| (n.node.as_str(), n.state.as_str(), n.failures.len())).collect();
    assert_eq!(nodes, [("bi-0", "failed", 2), ("etl-0", "applied", 0)]);
    assert_eq!((tasks[0].nodes[0].failures[1].shard, tasks[0].nodes[0].shards.len()), (Some(3), 4));
    assert_eq!((tasks[0].outcome.as_str(), tasks[0].error.as_str()), ("failed", error.as_str()));
}

#[tokio::test]
async fn databases_come_and_go_with_their_tables() {
    let cluster = Cluster::start().await;
    let etl = cluster.node("etl-0", "etl").await;
    let create = |if_not_exists| DdlStatement::CreateDatabase { database: sql("sales"), if_not_exists };
    assert_eq!(cluster.ddl(create(false)).await, Ok(1));
    let again = cluster.ddl(create(false)).await.expect_err("it is there");
    assert_eq!(again, "Code: 82. DB::Exception: Database sales already exists. (DATABASE_ALREADY_EXISTS)");
    assert_eq!(cluster.ddl(create(true)).await, Ok(3));
    let DdlStatement::CreateTable { group, name, create_tail, session_database, .. } = create_table("t", false) else {
        unreachable!("made so");
    };
    let in_sales = DdlStatement::CreateTable {
        group,
        database: sql("sales"),
        name,
        if_not_exists: false,
        create_tail,
        session_database,
        sharding_key: Some("cityHash64(a)".to_owned()),
    };
    assert_eq!(cluster.ddl(in_sales.clone()).await, Ok(4));
    assert_eq!(etl.view().tables[0].sharding_key, "cityHash64(a)");
    let drop = DdlStatement::DropDatabase { database: sql("sales"), if_exists: false };
    assert_eq!(cluster.ddl(drop.clone()).await, Ok(5));
    assert!(etl.view().tables.is_empty());
    for statement in [drop, in_sales] {
        let gone = cluster.ddl(statement).await.expect_err("no such database");
        assert_eq!(gone, "Code: 81. DB::Exception: Database sales does not exist. (UNKNOWN_DATABASE)");
    }
    let reserved = DdlStatement::CreateDatabase { database: sql("shard_1"), if_not_exists: false };
    assert!(cluster.ddl(reserved).await.expect_err("ours").starts_with("Code: 36."));
}
