//! What a CREATE TABLE means, in the engine's own words: it is run in a scratch database and read back.

use moorhouse_engine::{SqlClient, quote_identifier};
use moorhouse_proto::DescribeTableReply;
use serde::Deserialize;
use uuid::Uuid;

use crate::tables::{self, SCRATCH_DATABASE};

#[derive(Deserialize)]
struct Row {
    engine: String,
    engine_full: String,
    sorting_key: String,
    comment: String,
    create_table_query: String,
}

/// `create_tail` is what follows the table's name. Leaves nothing behind; errors are the engine's text.
pub async fn describe(sql: &SqlClient, create_tail: &str, database: &str) -> Result<DescribeTableReply, String> {
    let name = format!("d_{}", Uuid::new_v4().simple());
    let table = format!("{SCRATCH_DATABASE}.{}", quote_identifier(&name));
    let create = format!("CREATE TABLE {table} {create_tail}");
    sql.with_setting("database", database).execute(&create).await.map_err(|error| error.to_string())?;
    let described = read_back(sql, &name).await;
    let dropped = sql.execute(&format!("DROP TABLE {table} SYNC")).await;
    if let Err(error) = dropped {
        tracing::warn!(%error, table, "a scratch table stays until the engine's next start");
    }
    described
}

async fn read_back(sql: &SqlClient, name: &str) -> Result<DescribeTableReply, String> {
    let query = format!(
        "SELECT engine, engine_full, sorting_key, comment, create_table_query FROM system.tables \
         WHERE database = '{SCRATCH_DATABASE}' AND name = '{name}'"
    );
    let rows: Vec<Row> = sql.rows(&query).await.map_err(|error| error.to_string())?;
    let row = rows.into_iter().next().ok_or("the engine did not keep the table that it had made")?;
    let columns = tables::column_list(&row.create_table_query)
        .ok_or_else(|| format!("no column list in what the engine printed: {}", row.create_table_query))?;
    Ok(DescribeTableReply {
        columns: columns.to_string(),
        engine: row.engine,
        engine_full: row.engine_full,
        sorting_key: row.sorting_key,
        comment: row.comment,
    })
}
