//! CREATE and DROP of databases and tables: read far enough to hand them to the controller.

use crate::classify::parser::{Parser, Stop, is_word};
use crate::classify::{Ddl, Statement, TableName, refuse};
use crate::exception::{Code, Exception};
use crate::lexer::{Kind, Token, identifier};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateDatabase {
    pub if_not_exists: bool,
    pub database: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropDatabase {
    pub if_exists: bool,
    pub database: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTable {
    pub if_not_exists: bool,
    pub name: TableName,
    /// What follows the name, without `ON CLUSTER`, `SHARD BY` and `FORMAT`.
    pub tail: String,
    /// The expression of `SHARD BY`.
    pub shard_by: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropTable {
    pub if_exists: bool,
    pub name: TableName,
}

/// After `CREATE`.
pub fn create(parser: &mut Parser<'_>) -> Result<Statement, Stop> {
    if parser.accept_all(&["OR", "REPLACE"])? {
        return Err(refuse::not_implemented("CREATE OR REPLACE", "DROP it and CREATE it again."));
    }
    match parser.keyword()?.as_deref() {
        Some("TABLE") => Ok(Statement::Ddl(Ddl::CreateTable(create_table(parser)?))),
        Some("DATABASE" | "SCHEMA") => Ok(Statement::Ddl(Ddl::CreateDatabase(create_database(parser)?))),
        // Lives in the session of one node, which session stickiness finds again.
        Some("TEMPORARY") if parser.accept("TABLE")? => {
            parser.accept_all(&["IF", "NOT", "EXISTS"])?;
            Ok(Statement::Session(parser.name()?))
        }
        Some("TEMPORARY") => Err(refuse::definition("CREATE", "TEMPORARY VIEW")),
        Some(object) => Err(refuse::definition("CREATE", object)),
        None => Ok(Statement::Other),
    }
}

/// After `DROP`.
pub fn drop(parser: &mut Parser<'_>) -> Result<Statement, Stop> {
    match parser.keyword()?.as_deref() {
        Some("TABLE") => Ok(Statement::Ddl(Ddl::DropTable(drop_table(parser)?))),
        Some("DATABASE" | "SCHEMA") => Ok(Statement::Ddl(Ddl::DropDatabase(drop_database(parser)?))),
        Some("TEMPORARY") => Ok(Statement::Other),
        Some(object) => Err(refuse::definition("DROP", object)),
        None => Ok(Statement::Other),
    }
}

fn create_database(parser: &mut Parser<'_>) -> Result<CreateDatabase, Stop> {
    let if_not_exists = parser.accept_all(&["IF", "NOT", "EXISTS"])?;
    let database = parser.name()?.ok_or_else(|| Stop::syntax("CREATE DATABASE needs a name."))?;
    parser.skip_on_cluster()?;
    let tokens = without_format(parser.text(), parser.rest()?);
    let words: Vec<&[u8]> = tokens.iter().map(|t| &parser.text()[t.start..t.end]).collect();
    match words.as_slice() {
        [] => Ok(CreateDatabase { if_not_exists, database }),
        [engine, middle @ .., name]
            if engine.eq_ignore_ascii_case(b"ENGINE") && *name == b"Atomic" && matches!(middle, [] | [b"="]) =>
        {
            Ok(CreateDatabase { if_not_exists, database })
        }
        _ => Err(refuse::not_implemented(
            "CREATE DATABASE with an engine, comment or settings",
            "Leave out what follows the database's name.",
        )),
    }
}

fn drop_database(parser: &mut Parser<'_>) -> Result<DropDatabase, Stop> {
    let if_exists = parser.accept_all(&["IF", "EXISTS"])?;
    let database = parser.name()?.ok_or_else(|| Stop::syntax("DROP DATABASE needs a name."))?;
    end_of_drop(parser, "DROP DATABASE")?;
    Ok(DropDatabase { if_exists, database })
}

fn drop_table(parser: &mut Parser<'_>) -> Result<DropTable, Stop> {
    let if_exists = parser.accept_all(&["IF", "EXISTS"])?;
    if parser.accept_all(&["IF", "EMPTY"])? {
        return Err(refuse::not_implemented("DROP TABLE IF EMPTY", "Count the rows first, then DROP TABLE."));
    }
    let name = parser.table_name()?.ok_or_else(|| Stop::syntax("DROP TABLE needs a name."))?;
    end_of_drop(parser, "DROP TABLE")?;
    Ok(DropTable { if_exists, name })
}

/// `[ON CLUSTER c] [PERMANENTLY] [SYNC | NO DELAY]`: dropping always waits for every node and is for good.
fn end_of_drop(parser: &mut Parser<'_>, statement: &str) -> Result<(), Stop> {
    parser.skip_on_cluster()?;
    let tokens = without_format(parser.text(), parser.rest()?);
    if tokens.first().is_some_and(|token| token.kind == Kind::Comma) {
        return Err(refuse::not_implemented(&format!("{statement} of several names"), "DROP them one by one."));
    }
    let harmless = ["PERMANENTLY", "SYNC", "NO", "DELAY"];
    match tokens.iter().find(|t| !harmless.iter().any(|word| is_word(parser.text(), **t, word))) {
        None => Ok(()),
        Some(token) => Err(Stop::syntax(format!(
            "{statement} does not go on with {:?}.",
            String::from_utf8_lossy(&parser.text()[token.start..token.end])
        ))),
    }
}

fn create_table(parser: &mut Parser<'_>) -> Result<CreateTable, Stop> {
    let if_not_exists = parser.accept_all(&["IF", "NOT", "EXISTS"])?;
    let name = parser.table_name()?.ok_or_else(|| Stop::syntax("CREATE TABLE needs a name."))?;
    if parser.accept("UUID")? {
        return Err(refuse::not_implemented("CREATE TABLE … UUID", "Leave it out: the warehouse gives the UUID."));
    }
    parser.skip_on_cluster()?;
    let text = parser.text();
    let tokens = without_format(text, parser.rest()?);
    let top = at_top(&tokens);
    check_tail(text, &top)?;
    let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else {
        return Err(Stop::syntax("CREATE TABLE needs columns and an engine after the table's name."));
    };
    let (tail, shard_by) = match shard_by(text, &top, &tokens)? {
        None => (piece(text, first.start, last.end)?, None),
        Some(clause) => {
            let before = piece(text, first.start, clause.before.max(first.start))?;
            let after = piece(text, clause.after, last.end)?;
            let expression = piece(text, clause.expression.0, clause.expression.1)?;
            (format!("{before} {after}").trim().to_owned(), Some(expression))
        }
    };
    Ok(CreateTable { if_not_exists, name, tail, shard_by })
}

/// Some clients add `FORMAT name` to every statement; a definition has no result to format.
fn without_format(text: &[u8], mut tokens: Vec<Token>) -> Vec<Token> {
    if let [.., format, name] = tokens.as_slice()
        && is_word(text, *format, "FORMAT")
        && name.kind == Kind::Word
    {
        tokens.truncate(tokens.len() - 2);
    }
    tokens
}

fn at_top(tokens: &[Token]) -> Vec<Token> {
    let mut depth = 0_usize;
    let mut top = Vec::new();
    for token in tokens {
        match token.kind {
            Kind::Open(_) => {
                if depth == 0 {
                    top.push(*token);
                }
                depth += 1;
            }
            Kind::Close(_) => depth = depth.saturating_sub(1),
            _ if depth == 0 => top.push(*token),
            _ => {}
        }
    }
    top
}

/// Refuses what would be lost or would lead past the warehouse's own storage.
fn check_tail(text: &[u8], top: &[Token]) -> Result<(), Stop> {
    let word = |at: usize, keyword: &str| top.get(at).is_some_and(|token| is_word(text, *token, keyword));
    let mut in_settings = false;
    for at in 0..top.len() {
        if word(at, "PARALLEL") && word(at + 1, "WITH") {
            return Err(refuse::not_implemented("PARALLEL WITH", "Send one statement a request."));
        }
        if word(at, "CLONE") && word(at + 1, "AS") {
            return Err(refuse::not_implemented("CREATE TABLE … CLONE AS", FILL_LATER));
        }
        let is_query = word(at + 1, "SELECT")
            || word(at + 1, "WITH")
            || word(at + 1, "FROM")
            || word(at + 1, "VALUES")
            || top.get(at + 1).is_some_and(|token| token.kind == Kind::Open(b'('));
        if word(at, "AS") && is_query {
            if at > 0 && word(at - 1, "EMPTY") {
                return Ok(());
            }
            return Err(refuse::not_implemented("CREATE TABLE … AS SELECT with its rows", FILL_LATER));
        }
        in_settings |= word(at, "SETTINGS");
        let starts_setting = in_settings && at > 0 && (word(at - 1, "SETTINGS") || top[at - 1].kind == Kind::Comma);
        let is_set = top.get(at + 1).is_some_and(|token| token.kind == Kind::Equals);
        if starts_setting && is_set && names_a_disk(text, top[at]) {
            return Err(Stop::Refused(Exception::new(
                Code::BadArguments,
                "A table's disk and storage_policy are given by the warehouse. Leave these settings out.",
            )));
        }
    }
    Ok(())
}

const FILL_LATER: &str = "CREATE TABLE … EMPTY AS SELECT makes the table; INSERT … SELECT fills it.";

fn names_a_disk(text: &[u8], token: Token) -> bool {
    identifier(text, token).is_some_and(|name| matches!(name.as_str(), "disk" | "storage_policy" | "table_disk"))
}

/// Where `SHARD BY expression` stands. Each piece ends with its last token, so that no open `--` comment is glued to what
/// follows.
struct ShardBy {
    /// The end of what stands before the clause.
    before: usize,
    expression: (usize, usize),
    /// The start of what stands after it.
    after: usize,
}

fn shard_by(text: &[u8], top: &[Token], all: &[Token]) -> Result<Option<ShardBy>, Stop> {
    let word = |at: usize, keyword: &str| top.get(at).is_some_and(|token| is_word(text, *token, keyword));
    let Some(at) = (0..top.len()).find(|at| word(*at, "SHARD") && word(at + 1, "BY")) else { return Ok(None) };
    let ends = |at: usize| {
        let before_by =
            ["ORDER", "PARTITION", "SAMPLE", "SHARD"].iter().any(|first| word(at, first)) && word(at + 1, "BY");
        let primary_key = word(at, "PRIMARY") && word(at + 1, "KEY");
        before_by
            || primary_key
            || ["ENGINE", "TTL", "SETTINGS", "COMMENT", "EMPTY", "AS"].iter().any(|next| word(at, next))
    };
    let next_clause = (at + 2..top.len()).find(|next| ends(*next));
    if at + 2 == next_clause.unwrap_or(top.len()) {
        return Err(Stop::syntax("SHARD BY needs an expression, for example SHARD BY cityHash64(id)."));
    }
    if (at + 2..top.len()).any(|later| word(later, "SHARD") && word(later + 1, "BY")) {
        return Err(Stop::syntax("SHARD BY may be said once."));
    }
    let end_of_last_before = |limit: usize| all.iter().rev().find(|token| token.start < limit).map(|token| token.end);
    let after = next_clause.map_or(text.len(), |next| top[next].start);
    Ok(Some(ShardBy {
        before: end_of_last_before(top[at].start).unwrap_or(0),
        expression: (top[at + 2].start, end_of_last_before(after).unwrap_or(after)),
        after,
    }))
}

fn piece(text: &[u8], from: usize, to: usize) -> Result<String, Stop> {
    let bytes = text.get(from..to).unwrap_or_default();
    String::from_utf8(bytes.to_vec()).map_err(|_| Stop::syntax("The statement is not UTF-8 text."))
}
