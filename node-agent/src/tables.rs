//! The SQL that makes an engine's tables what the catalog says. Text only: nothing is run here.

use moorhouse_catalog::{ShardId, Table, TableShard};
use moorhouse_engine::{quote_identifier, quote_string};
use uuid::Uuid;

/// Where tables are described and templates live for a moment; never holds a row.
pub const SCRATCH_DATABASE: &str = "moorhouse_scratch";

/// The fallback if a refresh was missed; every change asks for one at once.
const READER_REFRESH_SECONDS: u32 = 10;

pub fn shard_database(shard: ShardId) -> String {
    format!("shard_{shard}")
}

pub fn create_database(name: &str) -> String {
    format!("CREATE DATABASE IF NOT EXISTS {} ENGINE = Atomic", quote_identifier(name))
}

pub fn drop_database(name: &str) -> String {
    format!("DROP DATABASE IF EXISTS {} SYNC", quote_identifier(name))
}

/// What the engine does with parts that it cannot read while it attaches a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenParts {
    /// Not attach the table: to the engine an error of reading, which passes, is no other than a part that is broken for good, and
    /// up to a hundred of those it would put away, with their rows.
    Refuse,
    /// What the engine does by itself: they become detached parts.
    PutAway,
}

impl BrokenParts {
    fn settings(self) -> &'static str {
        match self {
            Self::Refuse => "max_suspicious_broken_parts = 0, ",
            Self::PutAway => "",
        }
    }
}

/// Attaches a table shard that this node writes. Also right for a new one: the mount shows its empty directory.
pub fn attach_writer(table: &Table, shard: ShardId, mount: &str, broken: BrokenParts) -> String {
    let path = quote_string(&format!("{mount}/{shard}/"));
    let disk = format!("{}disk = disk(name = 'shard_{shard}', type = 'local', path = {path})", broken.settings());
    let uuid = TableShard { table: table.id, shard }.engine_uuid();
    attach(table, &in_shard(shard, &table.physical), uuid, &disk)
}

/// Where a reader finds a table shard: below the mount, a disk of its own.
#[derive(Debug, Clone, Copy)]
pub struct ReaderDirectory<'a> {
    pub generation: u32,
    /// Absolute, with a `/` at its end.
    pub path: &'a str,
}

/// Attaches a table shard that another group writes, under this name. Its UUID is of no matter: the directory is the disk.
pub fn attach_reader(table: &Table, shard: ShardId, name: &str, directory: ReaderDirectory<'_>) -> String {
    let disk = format!(
        "{}refresh_parts_interval = {READER_REFRESH_SECONDS}, table_disk = 1, disk = disk(name = {}, readonly = true, \
         type = 'object_storage', object_storage_type = 'local', metadata_type = 'plain', path = {})",
        BrokenParts::Refuse.settings(),
        quote_string(&reader_disk(table, shard, directory.generation)),
        quote_string(directory.path),
    );
    attach(table, &in_shard(shard, name), Uuid::new_v4(), &disk)
}

fn attach(table: &Table, name: &str, uuid: Uuid, settings: &str) -> String {
    // The engine prints SETTINGS last, and always for this family.
    let join = if table.engine_full.contains(" SETTINGS ") { "," } else { " SETTINGS" };
    format!("ATTACH TABLE {name} UUID '{uuid}' {} ENGINE = {}{join} {settings}", table.columns, table.engine_full)
}

fn in_shard(shard: ShardId, name: &str) -> String {
    format!("{}.{}", shard_database(shard), quote_identifier(name))
}

fn reader_disk(table: &Table, shard: ShardId, generation: u32) -> String {
    match generation {
        0 => format!("reader_{}_{shard}", table.physical),
        number => format!("reader_{}_{shard}_{number}", table.physical),
    }
}

/// Makes a reader see the parts that have come to its directory.
pub fn refresh_reader(table: &Table, shard: ShardId, generation: u32) -> String {
    format!("SYSTEM RESTART DISK {}", quote_identifier(&reader_disk(table, shard, generation)))
}

/// Gives each of two tables the other's name, at once for every statement to come.
pub fn exchange(shard: ShardId, name: &str, other: &str) -> String {
    format!("EXCHANGE TABLES {} AND {}", in_shard(shard, name), in_shard(shard, other))
}

/// Takes away a read-only table, whose data the engine cannot touch. Statements that run on it go on.
pub fn drop_reader(shard: ShardId, name: &str) -> String {
    format!("DROP TABLE IF EXISTS {}", in_shard(shard, name))
}

/// Takes a table shard out of the engine and leaves its data alone.
pub fn detach(table: &str, shard: ShardId) -> String {
    format!("DETACH TABLE IF EXISTS {} PERMANENTLY SYNC", in_shard(shard, table))
}

/// The names of the tables that the engine has of a shard, a row each.
pub fn list_tables(shard: ShardId) -> String {
    format!("SELECT name FROM system.tables WHERE database = '{}'", shard_database(shard))
}

/// What the user sees as `db.t`: first a template that only lends its columns, then the Distributed table, then the
/// template goes. (An engine that holds no shard has no physical table to copy from.)
pub fn create_distributed(table: &Table, cluster: &str) -> [String; 4] {
    let template = format!("{SCRATCH_DATABASE}.{}", quote_identifier(&table.physical));
    let user_table = user_table(table.database.as_str(), table.name.as_str());
    [
        format!("DROP TABLE IF EXISTS {template} SYNC"),
        format!("CREATE TABLE {template} {} ENGINE = {}", table.columns, table.engine_full),
        format!(
            "CREATE TABLE {user_table} AS {template} ENGINE = Distributed({cluster}, '', {}, {}) COMMENT {}",
            quote_string(&table.physical),
            table.sharding_key,
            quote_string(&table.comment),
        ),
        format!("DROP TABLE {template} SYNC"),
    ]
}

pub fn drop_user_table(database: &str, name: &str) -> String {
    format!("DROP TABLE IF EXISTS {} SYNC", user_table(database, name))
}

fn user_table(database: &str, name: &str) -> String {
    format!("{}.{}", quote_identifier(database), quote_identifier(name))
}

/// The column list of a CREATE TABLE as the engine prints it: from the first parenthesis to its partner.
pub fn column_list(create_query: &str) -> Option<&str> {
    let start = create_query.find('(')?;
    let mut depth = 0usize;
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (at, c) in create_query[start..].char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '`' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, _) => {}
        }
        if depth == 0 {
            return Some(&create_query[start..=start + at]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorhouse_catalog::{DdlSeq, GroupName, SqlName, TableId, TableState, TableStorage};

    fn table() -> Table {
        Table {
            id: TableId(uuid::Uuid::from_u128(0xabc << 116)),
            database: SqlName::new("sales").unwrap(),
            name: SqlName::new("or`ders").unwrap(),
            physical: "orders_abc000".into(),
            owner: GroupName::new("etl").unwrap(),
            columns: "(`a` UInt64)".into(),
            engine: "MergeTree".into(),
            engine_full: "MergeTree ORDER BY a SETTINGS index_granularity = 8192".into(),
            comment: "it's".into(),
            sharding_key: "rand()".into(),
            state: TableState::Active,
            ddl_seq: DdlSeq(1),
            storage: TableStorage::default(),
        }
    }

    #[test]
    fn settings_are_continued_not_repeated() {
        let sql = attach_writer(&table(), ShardId(2), "/m", BrokenParts::PutAway);
        assert!(
            sql.contains("index_granularity = 8192, disk = disk(name = 'shard_2', type = 'local', path = '/m/2/')"),
            "{sql}"
        );
        let plain = Table { engine_full: "MergeTree ORDER BY a".into(), ..table() };
        assert!(
            attach_writer(&plain, ShardId(2), "/m", BrokenParts::Refuse)
                .contains("ORDER BY a SETTINGS max_suspicious_broken_parts = 0, disk = ")
        );
    }

    #[test]
    fn names_and_comments_are_quoted() {
        let sql = &create_distributed(&table(), "moorhouse")[2];
        assert!(sql.contains(r"`sales`.`or\`ders`"), "{sql}");
        assert!(sql.ends_with(r"COMMENT 'it\'s'"), "{sql}");
    }

    #[test]
    fn the_column_list_ends_at_its_own_parenthesis() {
        let sql =
            "CREATE TABLE s.d (`a)` Decimal(15, 2) DEFAULT ')\\'(', INDEX i (a, b) TYPE minmax) ENGINE = MergeTree(x)";
        assert_eq!(column_list(sql), Some("(`a)` Decimal(15, 2) DEFAULT ')\\'(', INDEX i (a, b) TYPE minmax)"));
        assert_eq!(column_list("CREATE TABLE s.d (`a` UInt8"), None);
    }
}
