//! What kind of statement a text is, from its first bytes: enough to route it, never a judgement of its correctness.
//!
//! A statement that this file does not know goes to a node as a read; the node's engine judges it, and its grants refuse
//! what only the controller may do. So a mistake here costs a clear error, never a half-applied change.

mod ddl;
mod parser;
mod refuse;

use crate::exception::{Code, Exception};
use crate::lexer::Kind;

pub use ddl::{CreateDatabase, CreateTable, DropDatabase, DropTable};
use parser::{Parser, Stop};

/// `[db.]table`, unquoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    pub database: Option<String>,
    pub table: String,
}

/// A statement by where it must go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// To any node of the group: SELECT and all that only looks. May be said again elsewhere when a node dies.
    Read,
    /// To the session's node: settings, roles, temporary tables (whose name this is).
    Session(Option<String>),
    /// To any node of the group, once: what nobody here knows.
    Other,
    /// `USE db`: a read that changes the session's database.
    Use(String),
    /// To a node of the table's owner group.
    Insert(TableName),
    /// To every node of the group.
    KillQuery,
    /// To the controller.
    Ddl(Ddl),
    /// To nobody.
    Refused(Exception),
}

/// The definition statements of this version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ddl {
    CreateDatabase(CreateDatabase),
    DropDatabase(DropDatabase),
    CreateTable(CreateTable),
    DropTable(DropTable),
}

/// How much of the statement the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// More can be had for the asking.
    More,
    /// There is more, but the classifier will not see it.
    Cut,
}

/// Says where the statement goes, or `None` (only with [`Extent::More`]) if more text is needed to say it.
///
/// `parameter` gives the value of a query parameter, for names like `{table:Identifier}`.
pub fn classify(text: &[u8], extent: Extent, parameter: &dyn Fn(&str) -> Option<String>) -> Option<Statement> {
    let mut parser = Parser::new(text, extent == Extent::Whole, parameter);
    match statement(&mut parser) {
        Ok(statement) => Some(statement),
        Err(Stop::Refused(exception)) => Some(Statement::Refused(exception)),
        Err(Stop::NeedMore) if extent == Extent::More => None,
        Err(Stop::NeedMore) => Some(match Parser::new(text, false, parameter).keyword() {
            Ok(Some(word)) if matches!(word.as_str(), "CREATE" | "DROP") => Statement::Refused(Exception::new(
                Code::QueryIsTooLarge,
                "A CREATE or DROP statement may have up to 64 KiB. Shorten it, for example its comments.",
            )),
            Ok(Some(word)) if matches!(word.as_str(), "SELECT" | "WITH") => Statement::Read,
            _ => Statement::Other,
        }),
    }
}

fn statement(parser: &mut Parser<'_>) -> Result<Statement, Stop> {
    let Some(first) = parser.keyword()? else { return Ok(without_keyword(parser)) };
    match first.as_str() {
        "INSERT" => insert(parser),
        "WITH" => with(parser),
        "CREATE" => ddl::create(parser),
        "DROP" => ddl::drop(parser),
        "USE" => use_database(parser),
        "KILL" => match parser.keyword()?.as_deref() {
            Some("MUTATION") => Err(refuse::statement("KILL MUTATION")),
            _ => Ok(Statement::KillQuery),
        },
        "SET" => Ok(Statement::Session(None)),
        "SELECT" | "FROM" | "SHOW" | "DESC" | "DESCRIBE" | "EXISTS" | "EXPLAIN" | "CHECK" => Ok(Statement::Read),
        other => match refuse::by_first_word(other) {
            Some(refusal) => Err(refusal),
            None => Ok(Statement::Other),
        },
    }
}

/// A SELECT may stand in parentheses.
fn without_keyword(parser: &mut Parser<'_>) -> Statement {
    match parser.peek() {
        Ok(Some(token)) if token.kind == Kind::Open(b'(') => Statement::Read,
        _ => Statement::Other,
    }
}

/// After `INSERT`: `[INTO] [TABLE] [FUNCTION f(…) | [db.]t] …`.
fn insert(parser: &mut Parser<'_>) -> Result<Statement, Stop> {
    parser.accept("INTO")?;
    parser.accept("TABLE")?;
    if parser.accept("FUNCTION")? {
        return Ok(Statement::Other);
    }
    Ok(parser.table_name()?.map_or(Statement::Other, Statement::Insert))
}

/// After `WITH`: the list may stand before an INSERT as well as before a SELECT.
fn with(parser: &mut Parser<'_>) -> Result<Statement, Stop> {
    loop {
        let Some(token) = parser.next_at_top()? else { return Ok(Statement::Read) };
        if parser.is_word(token, "SELECT") || parser.is_word(token, "FROM") {
            return Ok(Statement::Read);
        }
        if parser.is_word(token, "INSERT") && parser.accept("INTO")? {
            return insert(parser);
        }
    }
}

/// After `USE`: `[DATABASE] db`.
fn use_database(parser: &mut Parser<'_>) -> Result<Statement, Stop> {
    let Some(mut name) = parser.name()? else { return Ok(Statement::Other) };
    if name.eq_ignore_ascii_case("DATABASE")
        && let Some(after) = parser.name()?
    {
        name = after;
    }
    Ok(Statement::Use(name))
}

#[cfg(test)]
mod tests;
