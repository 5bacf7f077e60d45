//! What the demo says, on stdout; bars and waits go to stderr.

use std::io::IsTerminal;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use indicatif::{ProgressBar, ProgressStyle};

pub fn step(number: u32, title: &str) {
    println!("\n── {number}. {title}");
}

pub fn say(text: impl AsRef<str>) {
    for line in text.as_ref().lines() {
        println!("   {line}");
    }
}

/// An indented table.
pub fn table(header: &[&str], rows: &[Vec<String>]) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    say(table.to_string());
}

/// A bar of rows on a terminal; nothing elsewhere.
pub fn rows_bar(what: &str, expected_rows: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("   {msg:10} {bar:40} {human_pos} of about {human_len} rows, {per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(expected_rows).with_style(style).with_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
