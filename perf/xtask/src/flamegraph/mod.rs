//! `cargo xtask flamegraph`: records where a scenario's time goes, and keeps the picture with what
//! it taught.
//!
//! ```text
//!   SCENARIO -> build with frame pointers -> perf record -> fold -> target/flamegraphs/NAME.svg
//!   keep NAME --conclusion TEXT                          -> flamegraphs/NAME.svg, a line in README
//! ```
//!
//! Owns: the arguments and the order of things. Must never: keep a picture without a conclusion.

mod perf;
mod picture;
mod run;
mod samples;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};

use run::{Recording, Who};
use table::Row;

pub(crate) const USAGE: &str = "\
usage: cargo xtask flamegraph SCENARIO [--client] [--conclusion TEXT] [-- BENCH FLAGS]
       cargo xtask flamegraph keep NAME --conclusion TEXT

Records `barrage bench SCENARIO` with perf and draws the nodes' processes, or with --client the load
generator's. With a conclusion the picture goes to flamegraphs/ at once; else it waits in the target
folder until `keep` says what it shows.
";

/// Below the root.
const KEPT: &str = "flamegraphs";
const TABLE: &str = "flamegraphs/README.md";
/// Functions that are printed.
const HOTTEST: usize = 15;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Task<'a> {
    Record { scenario: &'a str, who: Who, conclusion: Option<&'a str>, flags: &'a [&'a str] },
    Keep { name: &'a str, conclusion: &'a str },
}

/// Does what the arguments say.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<ExitCode> {
    let Some(task) = parse(arguments) else {
        eprint!("{USAGE}");
        return Ok(ExitCode::from(2));
    };
    let folder = crate::target(root).join("flamegraphs");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    match task {
        Task::Record { scenario, who, conclusion, flags } => {
            conclusion.map_or(Ok(()), table::check_conclusion)?;
            let name = record(root, &folder, Recording { scenario, who, flags })?;
            match conclusion {
                Some(conclusion) => keep(root, &folder, &name, conclusion)?,
                None => {
                    println!("\n{}\nLook at it, then:", svg(&folder, &name).display());
                    println!("  cargo xtask flamegraph keep {name} --conclusion TEXT");
                }
            }
        }
        Task::Keep { name, conclusion } => keep(root, &folder, name, conclusion)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn parse<'a>(arguments: &'a [&'a str]) -> Option<Task<'a>> {
    let end = arguments.iter().position(|argument| *argument == "--");
    let (own, flags) = arguments.split_at(end.unwrap_or(arguments.len()));
    let flags = flags.get(1..).unwrap_or_default();
    let (mut words, mut who, mut conclusion) = (Vec::new(), Who::Nodes, None);
    let mut rest = own.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--client" => who = Who::Client,
            "--conclusion" => conclusion = Some(*rest.next()?),
            flag if flag.starts_with('-') => return None,
            word => words.push(word),
        }
    }
    match (words.as_slice(), conclusion) {
        (["keep", name], Some(conclusion)) if flags.is_empty() && who == Who::Nodes => {
            Some(Task::Keep { name, conclusion })
        }
        (["keep", ..], _) => None,
        ([scenario], conclusion) => Some(Task::Record { scenario, who, conclusion, flags }),
        _ => None,
    }
}

/// Records, draws, and notes what is known of the picture beside it; gives its name.
fn record(root: &Path, folder: &Path, recording: Recording<'_>) -> anyhow::Result<String> {
    let recorded = run::record(root, folder, recording)?;
    let row = Row::of(&recorded);
    let name = row.name();
    let path = svg(folder, &name);
    let lines: Vec<&str> = recorded.folded.lines().collect();
    let drawn = picture::draw(&lines, &row.title(), &row.subtitle())?;
    fs::write(&path, drawn).with_context(|| format!("write {}", path.display()))?;
    fs::write(note(folder, &name), row.print())?;
    println!(
        "{}\n{}\n\nhottest functions, by samples at their own code:",
        row.title(),
        row.figures
    );
    for (share, function) in picture::hottest(&lines, HOTTEST) {
        println!("{share:>6.1} %  {function}");
    }
    Ok(name)
}

/// Moves a picture to those that are kept, and writes its line.
fn keep(root: &Path, folder: &Path, name: &str, conclusion: &str) -> anyhow::Result<()> {
    table::check_conclusion(conclusion)?;
    ensure!(!name.contains('/'), "a name, not a path: {name}");
    let (from, to) = (svg(folder, name), svg(&root.join(KEPT), name));
    if to.exists() {
        bail!("{KEPT}/{name}.svg is there already; remove it with its line, or commit first");
    }
    let noted = fs::read_to_string(note(folder, name)).with_context(|| {
        let waiting = waiting(folder).join(" ");
        format!("no picture {name:?} waits; those that do: {waiting}")
    })?;
    let path = root.join(TABLE);
    let text = fs::read_to_string(&path).with_context(|| format!("read {TABLE}"))?;
    let text = table::with_line(&text, &noted, conclusion)?;
    fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
    fs::write(&path, text).with_context(|| format!("write {TABLE}"))?;
    fs::remove_file(from)?;
    fs::remove_file(note(folder, name))?;
    println!("\n{KEPT}/{name}.svg, with its line in {TABLE}");
    Ok(())
}

fn svg(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.svg"))
}

/// The picture's line without its conclusion.
fn note(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.line"))
}

/// The names of pictures that are not kept yet.
fn waiting(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_suffix(".line").map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_say_what_is_wanted() {
        let record = |who, conclusion, flags: &'static [&'static str]| {
            Some(Task::Record { scenario: "produce", who, conclusion, flags })
        };
        let table: [(&[&str], Option<Task<'_>>); 8] = [
            (&["produce"], record(Who::Nodes, None, &[])),
            (&["--client", "produce"], record(Who::Client, None, &[])),
            (
                &["produce", "--conclusion", "a b", "--", "--duration", "5"],
                record(Who::Nodes, Some("a b"), &["--duration", "5"]),
            ),
            (
                &["keep", "x", "--conclusion", "a b"],
                Some(Task::Keep { name: "x", conclusion: "a b" }),
            ),
            (&["keep", "x"], None),
            (&["produce", "--conclusion"], None),
            (&["produce", "--duration", "5"], None),
            (&[], None),
        ];
        for (arguments, want) in table {
            assert_eq!(parse(arguments), want, "{arguments:?}");
        }
    }
}
