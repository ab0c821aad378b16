//! Listings on stdout: a table for people or JSON for programs, the same facts in both.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

/// The flag that every listing has.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct OutputArgs {
    /// How to print
    #[arg(short, long, env = "BARRAGE_OUTPUT", value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// See [`OutputArgs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Columns for people
    Table,
    /// One JSON document
    Json,
}

/// Prints a JSON document and a newline.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(print(&text)?)
}

/// Prints rows under their heads; columns of numbers are flush right.
pub(crate) fn print_table(heads: &[&str], rows: Vec<Vec<String>>) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(heads.iter().copied());
    let numeric: Vec<_> = (0..heads.len())
        .map(|at| {
            !rows.is_empty()
                && rows.iter().all(|row| row.get(at).is_some_and(|cell| is_number(cell)))
        })
        .collect();
    table.add_rows(rows);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numeric.get(at) == Some(&true) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Ok(print(format!("{}\n", table.trim_fmt()).as_bytes())?)
}

/// A time for people, in UTC.
pub(crate) fn when(milliseconds: i64) -> String {
    jiff::Timestamp::from_millisecond(milliseconds)
        .map_or_else(|_| "?".to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Writes to stdout, all of it or an error.
pub(crate) fn print(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn is_number(cell: &str) -> bool {
    cell.starts_with(|first: char| first.is_ascii_digit() || first == '-')
}
