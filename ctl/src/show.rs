//! One listing, two looks: a table for people, JSON for programs.

use std::io::Write;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Table};
use serde_json::{Map, Value};

use crate::args::Output;
use crate::error::CtlError;

/// Rows of equal length under named columns.
pub struct Listing {
    columns: &'static [&'static str],
    rows: Vec<Vec<Value>>,
}

impl Listing {
    pub fn new(columns: &'static [&'static str]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub fn push<const N: usize>(&mut self, row: [Value; N]) {
        debug_assert_eq!(N, self.columns.len(), "a row has one value a column");
        self.rows.push(row.into());
    }

    /// An array of objects, one a row.
    pub fn to_json(&self) -> Value {
        let object = |row: &Vec<Value>| {
            let fields = self.columns.iter().zip(row).map(|(name, value)| ((*name).to_owned(), value.clone()));
            Value::Object(fields.collect::<Map<_, _>>())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }

    pub fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(self.columns.iter().map(|name| name.replace('_', " ")));
        for row in &self.rows {
            table.add_row(row.iter().map(cell));
        }
        table.to_string()
    }

    pub fn print(&self, output: Output) -> Result<(), CtlError> {
        match output {
            Output::Table => print_text(&self.to_table()),
            Output::Json => print_json(&self.to_json()),
        }
    }
}

/// Prints a JSON document.
pub fn print_json(value: &Value) -> Result<(), CtlError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CtlError::failed(error.to_string()))?;
    print_text(&text)
}

/// Prints lines; a reader that has gone away is no error.
pub fn print_text(text: &str) -> Result<(), CtlError> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CtlError::failed(error.to_string())),
        _ => Ok(()),
    }
}

fn cell(value: &Value) -> Cell {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(yes) => (if *yes { "yes" } else { "no" }).to_owned(),
        other => other.to_string(),
    };
    Cell::new(text).set_alignment(if value.is_number() { CellAlignment::Right } else { CellAlignment::Left })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_listing_has_two_looks() {
        let mut listing = Listing::new(&["node", "up", "shards_held"]);
        listing.push([json!("etl-0"), json!(true), json!(4)]);
        assert_eq!(listing.to_json(), json!([{"node": "etl-0", "up": true, "shards_held": 4}]));
        let table = listing.to_table();
        assert!(table.contains("shards held") && table.contains("yes"), "{table}");
    }
}
