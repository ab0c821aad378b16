//! `barrage doctor`: everything a node needs from the machine, each with its cause and fix.

use std::io::{self, Write};
use std::path::PathBuf;

use barrage_world::preflight::{Check, preflight};
use clap::Args;

use crate::config::{Config, Flag, Sources};
use crate::exit::{Exit, Failure};

/// Flags of `doctor`.
#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// The data directory a node would use; it is made [default: ./barrage-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How to print
    #[arg(short, long, default_value = "table")]
    output: Output,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Prints every check; fails when a node could not start.
pub(crate) fn run(args: &DoctorArgs) -> Result<Exit, Failure> {
    let data = args.data.iter().map(|dir| Flag {
        name: "--data",
        key: "data_dir".to_owned(),
        value: dir.display().to_string(),
    });
    let environment = std::env::vars().collect();
    let sources = Sources { file: None, environment, flags: data.collect() };
    let config = Config::load(&sources).map_err(Failure::usage)?;
    let checks = preflight(&config.data_dir);
    let text = match args.output {
        Output::Table => table(&checks),
        Output::Json => json(&checks).map_err(Failure::new)?,
    };
    io::stdout().write_all(text.as_bytes()).map_err(Failure::new)?;
    let is_fatal = checks.iter().any(Check::is_fatal);
    Ok(if is_fatal { Exit::Failure } else { Exit::Ok })
}

fn table(checks: &[Check]) -> String {
    let mut lines = String::new();
    for check in checks {
        lines += &line(check);
        lines.push('\n');
    }
    lines
}

/// One check as a line, its fix below.
pub(crate) fn line(check: &Check) -> String {
    let mark = match (check.ok, check.required) {
        (true, _) => "ok  ",
        (false, true) => "FAIL",
        (false, false) => "warn",
    };
    let fix = match check.fix.is_empty() {
        true => String::new(),
        false => format!("\n     fix: {}", check.fix),
    };
    format!("{mark} {}: {}{fix}", check.name, check.detail)
}

fn json(checks: &[Check]) -> Result<String, serde_json::Error> {
    let rows: Vec<_> = checks
        .iter()
        .map(|check| {
            serde_json::json!({
                "name": check.name,
                "ok": check.ok,
                "required": check.required,
                "detail": check.detail,
                "fix": check.fix,
            })
        })
        .collect();
    serde_json::to_string_pretty(&rows).map(|text| text + "\n")
}
