//! What the view's documents mean for this engine: users with their grants, on the tables as users see them and on the
//! physical ones, where row filters stand. Text only: nothing is run here.

use std::collections::{BTreeMap, BTreeSet};

use moorhouse_catalog::access::{AccessType, AccessUser, Grant, Quota};
use moorhouse_catalog::{NodeView, Table};
use moorhouse_engine::{EngineAccess, GrantedUser, QuotaLimits, RowFilter, quote_identifier};

use crate::tables::shard_database;

/// What every user may do besides: temporary tables, and table functions without a source.
const BESIDES: [&str; 2] =
    ["GRANT CREATE TEMPORARY TABLE, CREATE ARBITRARY TEMPORARY TABLE ON *.*", "GRANT TABLE ENGINE ON Memory"];

/// Shows no row: what stands for a filter that the engine cannot read.
pub const NO_ROW: &str = "0";

/// `is_readable` says whether the engine can read an expression.
pub fn engine_access(view: &NodeView, is_readable: impl Fn(&str) -> bool) -> EngineAccess {
    let user = |user: &AccessUser| GrantedUser {
        name: user.name.clone(),
        password_sha256_hex: user.password_sha256_hex.expose().to_owned(),
        networks: user.networks.clone(),
        settings: user.settings.clone(),
        quota: user.quota.as_ref().map(limits),
        grants: grants(user, view),
        filters: filters(user, view, &is_readable),
    };
    EngineAccess { users: view.access.users.iter().map(user).collect(), settings: view.access.settings.clone() }
}

/// Every row filter of the view, once.
pub fn expressions(view: &NodeView) -> BTreeSet<&str> {
    view.access.users.iter().flat_map(|user| &user.grants).filter_map(|grant| grant.rows.as_deref()).collect()
}

fn is_on(grant: &Grant, table: &Table) -> bool {
    grant.database == table.database.as_str() && grant.table.as_ref().is_none_or(|name| name == table.name.as_str())
}

fn grants(user: &AccessUser, view: &NodeView) -> Vec<String> {
    let mut statements: Vec<String> = BESIDES.iter().map(ToString::to_string).collect();
    for grant in &user.grants {
        let what = what(grant);
        let table = grant.table.as_deref().map_or("*".to_owned(), quote_identifier);
        statements.push(format!("GRANT {what} ON {}.{table}", quote_identifier(&grant.database)));
        for table in view.tables.iter().filter(|table| is_on(grant, table)) {
            let physical = quote_identifier(&table.physical);
            let each = view.shards.iter().map(|shard| format!("GRANT {what} ON {}.{physical}", shard_database(shard)));
            statements.extend(each);
        }
    }
    statements
}

/// `SELECT(a, b), INSERT(a, b)`.
fn what(grant: &Grant) -> String {
    let columns: Vec<String> = grant.columns.iter().map(|column| quote_identifier(column)).collect();
    let columns = if columns.is_empty() { String::new() } else { format!("({})", columns.join(", ")) };
    let words = grant.access.iter().map(|access| match access {
        AccessType::Select => format!("SELECT{columns}"),
        AccessType::Insert => format!("INSERT{columns}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// On each table that the user may read in part alone.
fn filters(user: &AccessUser, view: &NodeView, is_readable: impl Fn(&str) -> bool) -> Vec<RowFilter> {
    let mut filters = Vec::new();
    for table in &view.tables {
        let reads = |grant: &&Grant| grant.access.contains(&AccessType::Select) && is_on(grant, table);
        let rows: Vec<Option<&String>> = user.grants.iter().filter(reads).map(|grant| grant.rows.as_ref()).collect();
        // A grant of all rows stands above those of some.
        let Some(rows) = rows.into_iter().collect::<Option<Vec<_>>>().filter(|rows| !rows.is_empty()) else { continue };
        let readable = |rows: &String| if is_readable(rows) { format!("({rows})") } else { NO_ROW.to_owned() };
        let expression = rows.into_iter().map(readable).collect::<Vec<_>>().join(" OR ");
        filters.extend(view.shards.iter().map(|shard| RowFilter {
            database: shard_database(shard),
            table: table.physical.clone(),
            expression: expression.clone(),
        }));
    }
    filters
}

fn limits(quota: &Quota) -> QuotaLimits {
    let Quota { interval_s, queries, errors, result_rows, read_rows, execution_time_s } = quota;
    let bounds = [
        ("queries", queries),
        ("errors", errors),
        ("result_rows", result_rows),
        ("read_rows", read_rows),
        ("execution_time", execution_time_s),
    ];
    let bounds: BTreeMap<_, _> = bounds.into_iter().filter_map(|(name, bound)| Some((name, (*bound)?))).collect();
    QuotaLimits { interval_s: *interval_s, bounds }
}
