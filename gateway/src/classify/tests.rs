use proptest::prelude::*;

use super::*;
use crate::lexer::Lexer;

fn whole(sql: &str) -> Statement {
    classify(sql.as_bytes(), Extent::Whole, &|name| (name == "t").then(|| "from_parameter".to_owned()))
        .expect("a whole statement is always told")
}

fn insert(database: Option<&str>, table: &str) -> Statement {
    Statement::Insert(TableName { database: database.map(str::to_owned), table: table.to_owned() })
}

fn refused_with(sql: &str) -> i32 {
    match whole(sql) {
        Statement::Refused(exception) => exception.code.number(),
        other => panic!("{sql}: {other:?}"),
    }
}

fn create_table(sql: &str) -> CreateTable {
    match whole(sql) {
        Statement::Ddl(Ddl::CreateTable(create)) => create,
        other => panic!("{sql}: {other:?}"),
    }
}

const READS: &[&str] = &[
    "SELECT 1",
    "select * from t format JSON",
    "(SELECT 1) UNION ALL (SELECT 2)",
    "WITH 1 AS x SELECT x",
    "WITH a AS (INSERT INTO t SELECT 1) SELECT 1",
    "WITH RECURSIVE r AS (SELECT 1) SELECT * FROM r",
    "FROM t SELECT x",
    "SHOW TABLES",
    "SHOW CREATE TABLE t",
    "DESCRIBE t",
    "DESC t",
    "EXISTS TABLE t",
    "EXPLAIN SELECT 1",
    "EXPLAIN SYNTAX CREATE TABLE t (a Int8) ENGINE = Memory",
    "CHECK TABLE t",
    "-- CREATE TABLE t\nSELECT 1",
    "/* INSERT INTO t */ SELECT 1",
    "SELECT 'x; INSERT INTO t'",
    "SELECT /* unclosed",
];

/// What must not be said twice, or is not known to be harmless.
const OTHERS: &[&str] = &[
    "",
    ";",
    "VALUES (1)",
    "INSERT INTO FUNCTION null('a Int8') VALUES (1)",
    "INSERT INTO TABLE FUNCTION null('a Int8') SELECT 1",
    "INSERT INTO",
    "INSERT INTO 'string' VALUES (1)",
    "CREATE",
    "DROP TEMPORARY TABLE t",
    "nonsense",
    "'unclosed",
];

#[test]
fn what_nobody_knows_goes_to_a_node_once() {
    for sql in OTHERS {
        assert_eq!(whole(sql), Statement::Other, "{sql}");
    }
}

#[test]
fn what_changes_a_session_stays_with_it() {
    let temporary = |name: &str| Statement::Session(Some(name.to_owned()));
    assert_eq!(whole("SET max_threads = 1"), Statement::Session(None));
    assert_eq!(whole("CREATE TEMPORARY TABLE t (a Int8)"), temporary("t"));
    assert_eq!(whole("create temporary table if not exists `a b` as select 1"), temporary("a b"));
}

#[test]
fn reads_go_to_a_node() {
    for sql in READS {
        assert_eq!(whole(sql), Statement::Read, "{sql}");
    }
}

#[test]
fn inserts_name_their_table() {
    for (sql, expected) in [
        ("INSERT INTO t VALUES (1)", insert(None, "t")),
        ("insert into db.t (a, b) format CSV\n1,2", insert(Some("db"), "t")),
        ("INSERT INTO TABLE db . t SELECT 1", insert(Some("db"), "t")),
        ("INSERT t VALUES (1)", insert(None, "t")),
        ("INSERT INTO `my db`.\"my``t\" VALUES", insert(Some("my db"), "my``t")),
        ("INSERT/**/INTO--x\n`a``b`VALUES", insert(None, "a`b")),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", insert(None, "t")),
        ("INSERT INTO {t:Identifier} VALUES (1)", insert(None, "from_parameter")),
        ("INSERT INTO db.{t:Identifier} VALUES (1)", insert(Some("db"), "from_parameter")),
        ("INSERT INTO 1st.2nd VALUES (1)", insert(Some("1st"), "2nd")),
        ("INSERT INTO t (* EXCEPT(b)) Values (1); (2)", insert(None, "t")),
    ] {
        assert_eq!(whole(sql), expected, "{sql}");
    }
}

#[test]
fn use_and_kill() {
    assert_eq!(whole("USE db"), Statement::Use("db".into()));
    assert_eq!(whole("use `a b`;"), Statement::Use("a b".into()));
    assert_eq!(whole("KILL QUERY WHERE query_id = 'x' SYNC"), Statement::KillQuery);
    assert_eq!(refused_with("KILL MUTATION WHERE 1"), 48);
}

#[test]
fn databases() {
    let create = |if_not_exists, database: &str| {
        Statement::Ddl(Ddl::CreateDatabase(CreateDatabase { if_not_exists, database: database.into() }))
    };
    let drop = |if_exists, database: &str| {
        Statement::Ddl(Ddl::DropDatabase(DropDatabase { if_exists, database: database.into() }))
    };
    assert_eq!(whole("CREATE DATABASE d"), create(false, "d"));
    assert_eq!(whole("create schema if not exists `d e` on cluster '{cluster}';"), create(true, "d e"));
    assert_eq!(whole("CREATE DATABASE d ENGINE = Atomic"), create(false, "d"));
    assert_eq!(whole("CREATE DATABASE d FORMAT Null"), create(false, "d"));
    assert_eq!(whole("DROP DATABASE IF EXISTS d ON CLUSTER c SYNC"), drop(true, "d"));
    assert_eq!(refused_with("CREATE DATABASE d ENGINE = Memory"), 48);
    assert_eq!(refused_with("CREATE DATABASE d COMMENT 'x'"), 48);
    assert_eq!(refused_with("DROP DATABASE a, b"), 48);
    assert_eq!(refused_with("DROP DATABASE d; DROP DATABASE e"), 62);
    assert_eq!(refused_with("DROP DATABASE"), 62);
}

#[test]
fn create_table_is_taken_apart() {
    let plain =
        create_table("CREATE TABLE IF NOT EXISTS d.t ON CLUSTER c (a Int8) ENGINE = MergeTree ORDER BY a ; -- end");
    assert!(plain.if_not_exists);
    assert_eq!(plain.name, TableName { database: Some("d".into()), table: "t".into() });
    assert_eq!(plain.tail, "(a Int8) ENGINE = MergeTree ORDER BY a");
    assert_eq!(plain.shard_by, None);
    for sql in [
        "CREATE TABLE t(a Int8)ENGINE=MergeTree ORDER BY a FORMAT Null",
        "CREATE TABLE t AS other ENGINE = MergeTree ORDER BY a",
    ] {
        assert_eq!(create_table(sql).name, TableName { database: None, table: "t".into() });
    }
    let empty = create_table("CREATE TABLE t ENGINE = MergeTree ORDER BY x EMPTY AS SELECT 1 AS x");
    assert_eq!(empty.tail, "ENGINE = MergeTree ORDER BY x EMPTY AS SELECT 1 AS x");
}

#[test]
fn shard_by_is_cut_out() {
    for (sql, tail, key) in [
        (
            "CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a SHARD BY a",
            "(a Int8) ENGINE = MergeTree ORDER BY a",
            "a",
        ),
        (
            "CREATE TABLE t (a Int8) ENGINE = MergeTree SHARD BY cityHash64(a, b) -- key\n ORDER BY a SETTINGS x = 1; -- end",
            "(a Int8) ENGINE = MergeTree ORDER BY a SETTINGS x = 1",
            "cityHash64(a, b)",
        ),
        (
            "CREATE TABLE t (a Int8) shard by intHash64(a) % 7 engine = MergeTree order by a",
            "(a Int8) engine = MergeTree order by a",
            "intHash64(a) % 7",
        ),
        // A comment before the clause once swallowed all that followed it.
        (
            "CREATE TABLE t (a Int8) ENGINE = MergeTree-- \nSHARD BY f(a)/**/ORDER BY a",
            "(a Int8) ENGINE = MergeTree ORDER BY a",
            "f(a)",
        ),
        (
            "CREATE TABLE t (a Int8) ENGINE=MergeTree PRIMARY KEY a SHARD BY rand() COMMENT 'SHARD BY x'",
            "(a Int8) ENGINE=MergeTree PRIMARY KEY a COMMENT 'SHARD BY x'",
            "rand()",
        ),
    ] {
        let create = create_table(sql);
        assert_eq!((create.tail.as_str(), create.shard_by.as_deref()), (tail, Some(key)), "{sql}");
    }
    let not_at_top =
        create_table("CREATE TABLE t (shard Int8 COMMENT 'SHARD BY', by Int8) ENGINE = MergeTree ORDER BY (shard, by)");
    assert_eq!(not_at_top.shard_by, None);
    assert_eq!(refused_with("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a SHARD BY"), 62);
    assert_eq!(refused_with("CREATE TABLE t (a Int8) ENGINE = MergeTree SHARD BY ORDER BY a"), 62);
    assert_eq!(refused_with("CREATE TABLE t (a Int8) SHARD BY a ENGINE = MergeTree SHARD BY b ORDER BY a"), 62);
}

#[test]
fn create_table_refusals() {
    for (sql, code) in [
        ("CREATE TABLE t", 62),
        ("CREATE TABLE", 62),
        ("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a; SELECT 1", 62),
        ("CREATE TABLE t (a Int8 COMMENT 'open) ENGINE = MergeTree", 62),
        ("CREATE TABLE t UUID 'x' (a Int8) ENGINE = MergeTree ORDER BY a", 48),
        ("CREATE TABLE t ENGINE = MergeTree ORDER BY x AS SELECT 1 AS x", 48),
        ("CREATE TABLE t ENGINE = MergeTree ORDER BY x AS (SELECT 1 AS x)", 48),
        ("CREATE TABLE t ENGINE = MergeTree ORDER BY x AS WITH 1 AS x SELECT x", 48),
        ("CREATE TABLE t CLONE AS u", 48),
        ("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a PARALLEL WITH DROP TABLE u", 48),
        ("CREATE OR REPLACE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a", 48),
        ("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a SETTINGS storage_policy = 'x'", 36),
        (
            "CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a SETTINGS index_granularity = 1, `disk` = disk(type = 'local')",
            36,
        ),
    ] {
        assert_eq!(refused_with(sql), code, "{sql}");
    }
    create_table(
        "CREATE TABLE t (disk Int8, storage_policy Int8 DEFAULT disk = 1) ENGINE = MergeTree ORDER BY disk SETTINGS index_granularity = 1",
    );
}

#[test]
fn drop_table() {
    let drop = |if_exists, database: Option<&str>, table: &str| {
        let name = TableName { database: database.map(str::to_owned), table: table.into() };
        Statement::Ddl(Ddl::DropTable(DropTable { if_exists, name }))
    };
    assert_eq!(whole("DROP TABLE t"), drop(false, None, "t"));
    assert_eq!(whole("drop table if exists d.`t` on cluster c sync;"), drop(true, Some("d"), "t"));
    assert_eq!(whole("DROP TABLE t NO DELAY"), drop(false, None, "t"));
    assert_eq!(refused_with("DROP TABLE t, u"), 48);
    assert_eq!(refused_with("DROP TABLE IF EMPTY t"), 48);
    assert_eq!(refused_with("DROP TABLE t u"), 62);
}

#[test]
fn what_is_not_there_yet_is_refused_with_a_remedy() {
    for sql in [
        "ALTER TABLE t ADD COLUMN b Int8",
        "TRUNCATE TABLE t",
        "RENAME TABLE t TO u",
        "EXCHANGE TABLES t AND u",
        "OPTIMIZE TABLE t FINAL",
        "DELETE FROM t WHERE 1",
        "UPDATE t SET a = 1 WHERE 1",
        "SYSTEM FLUSH LOGS",
        "GRANT SELECT ON t TO u",
        "REVOKE SELECT ON t FROM u",
        "CREATE VIEW v AS SELECT 1",
        "CREATE USER u",
        "CREATE MATERIALIZED VIEW v TO t AS SELECT 1",
        "CREATE DICTIONARY d",
        "DROP VIEW v",
        "DROP USER u",
        "ATTACH TABLE t",
        "DETACH TABLE t",
        "REPLACE TABLE t",
        "BACKUP TABLE t TO Disk('a', 'b')",
        "UNDROP TABLE t",
        "CREATE FUNCTION f AS x -> x",
        "BEGIN TRANSACTION",
        "RESTORE TABLE t FROM Disk('a', 'b')",
    ] {
        match whole(sql) {
            Statement::Refused(exception) => {
                assert_eq!(exception.http_status(), 501, "{sql}");
                assert!(exception.text.contains("is not supported in this version"), "{sql}: {exception}");
            }
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[test]
fn a_prefix_is_told_as_soon_as_it_is_certain_and_never_wrongly() {
    let more = |sql: &str| classify(sql.as_bytes(), Extent::More, &|_| None);
    assert_eq!(more("SELE"), None);
    assert_eq!(more("SELECT "), Some(Statement::Read));
    assert_eq!(more("INSERT INTO t"), None);
    assert_eq!(more("INSERT INTO t "), None, "a dot may follow");
    assert_eq!(more("INSERT INTO t ("), None, "what touches the end is not trusted");
    assert_eq!(more("INSERT INTO t (a"), Some(insert(None, "t")));
    assert_eq!(more("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a;"), None);
    assert_eq!(more("KILL QUERY WHERE"), Some(Statement::KillQuery));
}

#[test]
fn a_cut_definition_is_refused_and_a_cut_read_is_not() {
    let cut = |sql: &str| classify(sql.as_bytes(), Extent::Cut, &|_| None);
    assert!(matches!(cut("CREATE TABLE t (a Int8"), Some(Statement::Refused(e)) if e.http_status() == 413));
    assert_eq!(cut("WITH x AS (SELECT 1"), Some(Statement::Read));
}

/// Statements whose class must not depend on spaces, comments and case.
const SHAPES: &[&str] = &[
    "SELECT a FROM b.c WHERE d = 'x y'",
    "INSERT INTO db.t (a, b) VALUES (1, 'SELECT')",
    "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
    "CREATE TABLE IF NOT EXISTS d.t (a Int8) ENGINE = MergeTree SHARD BY f(a) ORDER BY a SETTINGS x = 1",
    "CREATE DATABASE IF NOT EXISTS d",
    "DROP TABLE IF EXISTS d.t SYNC",
    "ALTER TABLE t DROP COLUMN a",
    "KILL QUERY WHERE query_id = 'x'",
    "USE d",
];

/// The class and all names, without text that may hold comments.
fn essence(statement: Statement) -> String {
    match statement {
        Statement::Ddl(Ddl::CreateTable(create)) => {
            let tokens = |text: &str| {
                Lexer::new(text.as_bytes()).map(|t| text[t.start..t.end].to_owned()).collect::<Vec<_>>().join(" ")
            };
            format!("{:?} {} {:?}", create.name, tokens(&create.tail), create.shard_by.as_deref().map(tokens))
        }
        other => format!("{other:?}"),
    }
}

fn separator() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(" ".to_owned()),
        Just("\n\t ".to_owned()),
        Just("\u{a0}".to_owned()),
        "-- [a-zA-Z'\"`(;$]{0,12}\n",
        "# [a-zA-Z'\"`(;$]{0,12}\n",
        "/\\*[a-zA-Z '\"`(;$\n]{0,12}\\*/",
        "/\\* /\\*[a-z]{0,4}\\*/ '\\*/",
    ]
}

proptest! {
    #[test]
    fn spaces_and_comments_change_nothing(
        shape in proptest::sample::select(SHAPES),
        separators in proptest::collection::vec(separator(), 64),
    ) {
        let mut spaced = separators[0].clone();
        for (token, separator) in Lexer::new(shape.as_bytes()).zip(separators[1..].iter().cycle()) {
            spaced.push_str(&shape[token.start..token.end]);
            spaced.push_str(separator);
        }
        prop_assert_eq!(essence(whole(&spaced)), essence(whole(shape)), "{}", spaced);
    }

    #[test]
    fn a_prefix_that_is_told_is_told_right(shape in proptest::sample::select(SHAPES), part in 0.0..1.0_f64) {
        let cut = (shape.len() as f64 * part) as usize;
        if let Some(told) = classify(&shape.as_bytes()[..cut], Extent::More, &|_| None) {
            prop_assert_eq!(told, whole(shape));
        }
    }

    #[test]
    fn nothing_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        for extent in [Extent::Whole, Extent::More, Extent::Cut] {
            let _ = classify(&text, extent, &|_| None);
        }
    }

    #[test]
    fn words_in_any_order_do_not_panic(words in proptest::collection::vec(proptest::sample::select(&[
        "CREATE", "TABLE", "DATABASE", "DROP", "IF", "NOT", "EXISTS", "SHARD", "BY", "ORDER", "ENGINE", "=", "AS", "SELECT",
        "SETTINGS", "disk", ",", "(", ")", "{", "}", ";", ".", "t", "`q`", "'s'", "$h$", "ON", "CLUSTER", "INSERT", "INTO",
        "WITH", "EMPTY", "FORMAT", "--\n", "/*", "*/", "‘", "\u{a0}",
    ][..]), 0..24)) {
        for glue in [" ", ""] {
            let text = words.join(glue);
            for extent in [Extent::Whole, Extent::More, Extent::Cut] {
                let _ = classify(text.as_bytes(), extent, &|_| None);
            }
        }
    }
}
