//! Which rows a part has, by its name: written anew and simpler than the product's, which it checks.

use moorhouse_catalog::{DdlStatement, PartPath};

/// `all_MIN_MAX_LEVEL`: the blocks of a part, and how often they were merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    pub first: u64,
    pub last: u64,
    pub level: u64,
}

impl Rows {
    /// Of a part that a simulated writer made.
    pub fn of(path: &PartPath) -> Self {
        let mut numbers = path.as_str().split('_').skip(1).map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self { first: next(), last: next(), level: next() }
    }

    pub fn span(&self, other: &Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// `other` is not looked at beside this.
    pub fn cover(&self, other: &Self) -> bool {
        self != other && self.span(other) && self.level > other.level
    }

    /// Those that no other covers.
    pub fn active<'a>(paths: impl Iterator<Item = &'a PartPath>) -> Vec<Self> {
        let all: Vec<Self> = paths.map(Self::of).collect();
        all.iter().filter(|rows| !all.iter().any(|other| other.cover(rows))).copied().collect()
    }
}

/// What a statement is about: database, and table if it is about one.
pub fn names(statement: &DdlStatement) -> (String, Option<String>) {
    match statement {
        DdlStatement::CreateDatabase { database, .. } | DdlStatement::DropDatabase { database, .. } => {
            (database.to_string(), None)
        }
        DdlStatement::CreateTable { database, name, .. } | DdlStatement::DropTable { database, name, .. } => {
            (database.to_string(), Some(name.to_string()))
        }
    }
}
