//! What this version does not do, and what to do instead.

use crate::classify::parser::Stop;
use crate::exception::{Code, Exception};

const REMAKE: &str = "Make a new table with CREATE TABLE, fill it with INSERT … SELECT, and DROP the old one.";
const USERS: &str = "Users are named by the controller's --user when the warehouse is made.";
const AGENTS: &str = "Moorhouse's agents look after the engines themselves.";
const NO_VIEWS: &str = "Keep the query in the client, or store its result with INSERT … SELECT.";

pub fn not_implemented(what: &str, remedy: &str) -> Stop {
    Stop::Refused(Exception::new(
        Code::NotImplemented,
        format!("{what} is not supported in this version of Moorhouse. {remedy}"),
    ))
}

/// A refusal of a whole kind of statement, by its name.
pub fn statement(what: &str) -> Stop {
    let first = what.split(' ').next().unwrap_or(what);
    not_implemented(what, remedy(first).unwrap_or(REMAKE))
}

/// A refusal, if statements that begin with this word (upper case) change what only the controller may change.
pub fn by_first_word(word: &str) -> Option<Stop> {
    remedy(word).map(|remedy| not_implemented(word, remedy))
}

fn remedy(first_word: &str) -> Option<&'static str> {
    Some(match first_word {
        "ALTER" | "RENAME" | "EXCHANGE" | "REPLACE" | "TRUNCATE" | "DELETE" | "UPDATE" | "MOVE" => REMAKE,
        "KILL" => "There are no mutations to kill in this version.",
        "OPTIMIZE" => "Merges run by themselves; SELECT … FINAL reads as if they were done.",
        "ATTACH" | "DETACH" | "UNDROP" => "Tables are attached and detached by the shards' moves alone.",
        "GRANT" | "REVOKE" => USERS,
        "SYSTEM" => AGENTS,
        "BACKUP" | "RESTORE" => "The data is in the object store: use the store's own versions and copies.",
        "BEGIN" | "COMMIT" | "ROLLBACK" => "Each INSERT is atomic for each of its blocks and shards.",
        "WATCH" => NO_VIEWS,
        _ => return None,
    })
}

/// A refusal of `CREATE …` or `DROP …` by the words after it.
pub fn definition(verb: &str, object: &str) -> Stop {
    let remedy = match object {
        "VIEW" | "MATERIALIZED" | "LIVE" | "WINDOW" => NO_VIEWS,
        "DICTIONARY" => "Use a table and a JOIN.",
        "USER" | "ROLE" | "QUOTA" | "ROW" | "POLICY" | "SETTINGS" | "PROFILE" | "MASKING" => USERS,
        "FUNCTION" => "Write the expression out in the query, with WITH … AS.",
        _ => "This version knows CREATE and DROP of DATABASE and TABLE.",
    };
    let object = if object == "MATERIALIZED" { "MATERIALIZED VIEW" } else { object };
    not_implemented(&format!("{verb} {object}"), remedy)
}
