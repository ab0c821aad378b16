//! `cargo xtask`: the project's own tools, in Rust instead of scripts.
//!
//! Owns: the names of the tools.
//! Must never do: change the product; a tool looks and reports.
//! Invariants: exit code 0 all is well, 1 something was found, 2 wrong usage.

#![expect(clippy::print_stdout, reason = "a command line tool prints its report")]

mod chaos;
mod counts;
mod flamegraph;
mod simulator;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TOOL

  tidy      checks the rules of the house that no compiler knows (also run by `cargo test`)
  sim       simulates the broker from seeds: sweeps many, or replays one (`--seed N`)
  bugbank   shows that the simulator finds every planted bug
  chaos     breaks a real cluster under load and judges what its clients saw
  counts    counts the instructions of hot pieces and compares them with perf/counts/counts.txt;
            --update records them there (needs valgrind)
  flamegraph
            draws where the time of a bench scenario goes; keeps the picture with its conclusion
            (needs perf)

`cargo xtask sim --help`, `bugbank --help`, `chaos --help` and `flamegraph` tell their arguments.
";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["tidy"] => report(&tidy::run(&root())?),
        ["sim", "list"] => simulator::run(&root(), "list", &[]),
        ["sim", arguments @ ..] => simulator::run(&root(), "run", arguments),
        ["bugbank", arguments @ ..] => simulator::run(&root(), "bugbank", arguments),
        ["chaos", arguments @ ..] => chaos::run(&root(), arguments),
        ["counts"] => counts::run(&root(), false),
        ["counts", "--update"] => counts::run(&root(), true),
        ["flamegraph", arguments @ ..] => flamegraph::run(&root(), arguments),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprint!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}

/// The workspace's root, which holds the room that holds this package.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).to_path_buf()
}

/// Where cargo builds.
fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |path| root.join(path))
}

fn report(findings: &[tidy::Finding]) -> anyhow::Result<ExitCode> {
    for finding in findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: the house is in order");
        return Ok(ExitCode::SUCCESS);
    }
    println!("tidy: {} found", findings.len());
    Ok(ExitCode::FAILURE)
}
