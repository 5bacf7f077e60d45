//! Who is compared, and how each of them gets a table.

use std::fmt;

use moorhouse_engine::{SqlClient, SqlError, quote_identifier};
use serde::Serialize;

use crate::error::BenchError;
use crate::rivals::Rivals;
use crate::warehouse::{DATABASE, Node, SHARD_DATABASE, Warehouse};

/// Characters, in an error.
const SHOWN_OF_A_STATEMENT: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// The shard file system, with its objects in the store.
    Moorhouse,
    /// A plain disk; nothing is synced.
    Local,
    /// A plain disk, and every part synced before an INSERT answers.
    LocalFsync,
    S3,
    S3Cache,
}

impl Contender {
    fn extra_settings(self) -> &'static [&'static str] {
        match self {
            Self::LocalFsync => &["fsync_after_insert = 1", "fsync_part_directory = 1"],
            Self::Moorhouse | Self::Local | Self::S3 | Self::S3Cache => &[],
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Moorhouse => "moorhouse",
            Self::Local => "local",
            Self::LocalFsync => "local_fsync",
            Self::S3 => "s3",
            Self::S3Cache => "s3_cache",
        })
    }
}

/// What a table is, wherever it is.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// In parentheses.
    pub columns: &'static str,
    pub order_by: &'static str,
    pub settings: &'static [&'static str],
}

/// One table of one contender.
pub struct Table {
    pub contender: Contender,
    /// As the engine has it.
    pub database: &'static str,
    pub table: String,
    /// What a user calls it.
    logical: String,
    pub sql: SqlClient,
}

impl Table {
    /// One that is there already and is dropped by somebody else.
    pub fn at(contender: Contender, database: &'static str, table: &str, sql: SqlClient) -> Self {
        let logical = format!("{database}.{}", quote_identifier(table));
        Self { contender, database, table: table.to_owned(), logical, sql }
    }

    /// As statements name it.
    pub fn name(&self) -> String {
        format!("{}.{}", quote_identifier(self.database), quote_identifier(&self.table))
    }

    /// Runs a statement in which `{t}` stands for the table.
    pub async fn run(&self, statement: &str) -> Result<(), BenchError> {
        let statement = statement.replace("{t}", &self.name());
        self.sql.execute(&statement).await.map_err(|source| self.error(&statement, source))
    }

    /// The answer of one.
    pub async fn ask(&self, statement: &str) -> Result<String, BenchError> {
        let statement = statement.replace("{t}", &self.name());
        self.sql.query(&statement).await.map_err(|source| self.error(&statement, source))
    }

    /// Active parts.
    pub async fn count_parts(&self) -> Result<u64, BenchError> {
        let (database, table) = (self.database, &self.table);
        let sql =
            format!("SELECT count() FROM system.parts WHERE active AND database = '{database}' AND table = '{table}'");
        let text = self.ask(&sql).await?;
        text.trim().parse().map_err(|_| BenchError::Unexpected(format!("{text:?} is no number of parts")))
    }

    fn error(&self, statement: &str, source: SqlError) -> BenchError {
        let beginning: String = statement.chars().take(SHOWN_OF_A_STATEMENT).collect();
        BenchError::Sql { what: format!("{}: {beginning}", self.contender), source }
    }
}

/// All contenders of one stage.
pub struct Field<'a> {
    pub warehouse: &'a Warehouse,
    pub owner: &'a Node,
    pub rivals: &'a Rivals,
}

impl Field<'_> {
    /// `name` must be no other table's beginning.
    pub async fn create(&self, who: Contender, name: &str, table: &Definition) -> Result<Table, BenchError> {
        let Definition { columns, order_by, settings } = table;
        let own_name = format!("{name}_{who}");
        let logical = format!("{DATABASE}.{}", quote_identifier(&own_name));
        let disk = match who {
            Contender::Moorhouse | Contender::Local | Contender::LocalFsync => None,
            Contender::S3 => Some(self.rivals.s3_disk()),
            Contender::S3Cache => Some(self.rivals.cached_s3_disk()),
        };
        let settings: Vec<&str> = settings.iter().chain(who.extra_settings()).copied().chain(disk.as_deref()).collect();
        let mut create = format!("CREATE TABLE {logical} {columns} ENGINE = MergeTree ORDER BY {order_by}");
        if !settings.is_empty() {
            create.push_str(&format!(" SETTINGS {}", settings.join(", ")));
        }
        if who != Contender::Moorhouse {
            let sql = self.rivals.sql().clone();
            // The statement holds the store's key.
            sql.execute(&create).await.map_err(BenchError::sql(format!("{who}: CREATE TABLE {logical}")))?;
            return Ok(Table { contender: who, database: DATABASE, table: own_name, logical, sql });
        }
        create.push_str(" SHARD BY rand()");
        let made = self.warehouse.gateway().execute(&create).await;
        made.map_err(BenchError::sql(format!("{who}: {create}")))?;
        let physical = self.warehouse.physical(self.owner, &own_name).await?;
        Ok(Table { contender: who, database: SHARD_DATABASE, table: physical, logical, sql: self.owner.sql.clone() })
    }

    pub async fn create_all<const N: usize>(
        &self,
        who: [Contender; N],
        name: &str,
        table: &Definition,
    ) -> Result<Vec<Table>, BenchError> {
        let mut tables = Vec::with_capacity(N);
        for contender in who {
            tables.push(self.create(contender, name, table).await?);
        }
        Ok(tables)
    }

    /// Changes settings of one of ours.
    pub async fn set(&self, table: &Table, settings: &[String]) -> Result<(), BenchError> {
        self.warehouse.set(self.owner, &table.logical.replace('`', ""), settings).await
    }

    pub async fn drop(&self, tables: Vec<Table>) -> Result<(), BenchError> {
        for table in tables {
            let statement = format!("DROP TABLE {} SYNC", table.logical);
            let client = match table.contender {
                Contender::Moorhouse => self.warehouse.gateway(),
                _ => self.rivals.sql(),
            };
            client.execute(&statement).await.map_err(|source| table.error(&statement, source))?;
        }
        Ok(())
    }
}
