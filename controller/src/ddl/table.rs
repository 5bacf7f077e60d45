//! From `CREATE TABLE` to a table of the catalog, with the engine's help.

use moorhouse_catalog::state::CatalogError;
use moorhouse_catalog::{DdlSeq, GroupName, SqlName, Table, TableId, TableState};
use moorhouse_proto::{DescribeTableReply, DescribeTableRequest};
use tonic::{Code, Status};

use crate::agents::{Agents, within};
use crate::limits;
use crate::published::Published;

/// What the user asked for.
pub struct Wanted {
    pub group: GroupName,
    pub database: SqlName,
    pub name: SqlName,
    pub create_tail: String,
    pub session_database: SqlName,
    pub sharding_key: Option<String>,
}

/// Rows with equal sorting keys must meet in one shard for these to do their work.
const MERGING_BY_KEY: [&str; 7] =
    ["Replacing", "Collapsing", "VersionedCollapsing", "Summing", "Aggregating", "Graphite", "Coalescing"];

/// Where a table's parts are is the warehouse's business.
const REFUSED_SETTINGS: [&str; 3] = ["disk", "storage_policy", "table_disk"];

/// Asks a node of the group; the error is for the user.
pub async fn describe(shown: &Published, agents: &Agents, wanted: Wanted, seq: DdlSeq) -> Result<Table, String> {
    let described = ask_some_node(shown, agents, &wanted).await?;
    build(wanted, described, TableId::random(), seq).map_err(|error| error.to_string())
}

async fn ask_some_node(shown: &Published, agents: &Agents, wanted: &Wanted) -> Result<DescribeTableReply, String> {
    let mut nodes = shown.nodes_up(&wanted.group);
    // A node whose engine has applied a view is likely to answer at once.
    nodes.sort_by_key(|node| !shown.is_ready(node));
    let mut last = format!("no node of group {} is up: start one", wanted.group);
    for node in nodes {
        let request = DescribeTableRequest {
            create_tail: wanted.create_tail.clone(),
            database: wanted.session_database.as_str().to_owned(),
        };
        let answer = match agents.of(&node) {
            Ok(mut agent) => agent.describe_table(within(request, limits::DESCRIBE_TIMEOUT)).await,
            Err(status) => Err(status),
        };
        match answer {
            Ok(described) => return Ok(described.into_inner()),
            Err(status) if is_passing(&status) => {
                last = format!("node {} did not describe the table: {}", node.name, status.message());
            }
            Err(status) => return Err(status.message().to_owned()),
        }
    }
    Err(CatalogError::Sql { code: 210, name: "NETWORK_ERROR", message: last }.to_string())
}

/// Another node may do better.
fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

fn build(wanted: Wanted, described: DescribeTableReply, id: TableId, seq: DdlSeq) -> Result<Table, CatalogError> {
    let DescribeTableReply { columns, engine, engine_full, sorting_key, comment } = described;
    check_engine(&engine)?;
    check_settings(&engine_full)?;
    let sharding_key = wanted.sharding_key.unwrap_or_else(|| sharding_key(&engine, &sorting_key));
    Ok(Table {
        id,
        physical: physical_name(&wanted.name, id),
        database: wanted.database,
        name: wanted.name,
        owner: wanted.group,
        columns,
        engine,
        engine_full,
        comment,
        sharding_key,
        state: TableState::Creating,
        ddl_seq: seq,
        storage: moorhouse_catalog::TableStorage::default(),
    })
}

fn check_engine(engine: &str) -> Result<(), CatalogError> {
    let problem = if !engine.ends_with("MergeTree") {
        "is not of the MergeTree family, which is all that this version shards"
    } else if engine.starts_with("Replicated") || engine.starts_with("Shared") {
        "brings its own replication: leave that word out, the warehouse keeps the data"
    } else {
        return Ok(());
    };
    Err(CatalogError::bad_arguments(format!("Table engine {engine} {problem}")))
}

fn check_settings(engine_full: &str) -> Result<(), CatalogError> {
    let settings = engine_full.rsplit_once(" SETTINGS ").map_or("", |(_, settings)| settings);
    let mut names = settings.split(',').filter_map(|setting| Some(setting.split_once('=')?.0.trim()));
    match names.find(|name| REFUSED_SETTINGS.contains(name)) {
        Some(name) => {
            let message = format!("Setting {name} is not allowed here: the warehouse places the data. Leave it out");
            Err(CatalogError::bad_arguments(message))
        }
        None => Ok(()),
    }
}

fn sharding_key(engine: &str, sorting_key: &str) -> String {
    if sorting_key.is_empty() || !MERGING_BY_KEY.iter().any(|prefix| engine.starts_with(prefix)) {
        return "rand()".to_owned();
    }
    format!("cityHash64({sorting_key})")
}

/// Stable over renames, without dots (a dotted name would void row filters): `orders_6f1c2a`.
fn physical_name(name: &SqlName, id: TableId) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let readable: String = name.as_str().chars().map(plain).take(40).collect();
    let unique: String = id.0.simple().to_string().chars().take(6).collect();
    format!("{readable}_{unique}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(name: &str) -> SqlName {
        SqlName::new(name).expect("valid")
    }

    fn table(engine: &str, engine_full: &str, shard_by: Option<&str>) -> Result<Table, CatalogError> {
        let wanted = Wanted {
            group: GroupName::new("etl").expect("valid"),
            database: sql("sales"),
            name: sql("Orders.2024 ü"),
            create_tail: String::new(),
            session_database: sql("default"),
            sharding_key: shard_by.map(str::to_owned),
        };
        let described = DescribeTableReply {
            columns: "(`a` UInt64)".to_owned(),
            engine: engine.to_owned(),
            engine_full: engine_full.to_owned(),
            sorting_key: "a, toDate(b)".to_owned(),
            comment: String::new(),
        };
        build(wanted, described, TableId::random(), DdlSeq(7))
    }

    #[test]
    fn the_sharding_key_follows_the_engine() {
        let key = |engine, shard_by| table(engine, engine, shard_by).expect("fine").sharding_key;
        assert_eq!(key("MergeTree", None), "rand()");
        assert_eq!(key("ReplacingMergeTree", None), "cityHash64(a, toDate(b))");
        assert_eq!(key("VersionedCollapsingMergeTree", None), "cityHash64(a, toDate(b))");
        assert_eq!(key("SummingMergeTree", Some("intHash64(a)")), "intHash64(a)");
    }

    #[test]
    fn the_physical_name_is_plain_and_unique() {
        let table = table("MergeTree", "MergeTree ORDER BY a", None).expect("fine");
        let unique = &table.id.0.simple().to_string()[..6];
        assert_eq!(table.physical, format!("orders_2024___{unique}"));
    }

    #[test]
    fn what_does_not_fit_is_refused_in_clickhouses_form() {
        for (engine, full) in [
            ("Log", "Log"),
            ("ReplicatedMergeTree", "ReplicatedMergeTree('/x', 'r') ORDER BY a"),
            ("MergeTree", "MergeTree ORDER BY a SETTINGS index_granularity = 8192, storage_policy = 'x'"),
            ("MergeTree", "MergeTree ORDER BY a SETTINGS disk = disk(type = local, path = '/')"),
        ] {
            let error = table(engine, full, None).expect_err(full).to_string();
            assert!(error.starts_with("Code: 36. DB::Exception: "), "{error}");
        }
        let harmless = "MergeTree ORDER BY disk SETTINGS index_granularity = 8192";
        table("MergeTree", harmless, None).expect("a column may have any name");
    }
}
