//! `cargo xtask counts`: the instructions of each hot piece, beside those it is known to take.
//!
//! Owns: the order of things and the report. Must never: take a new count for right by itself; the
//! reference changes when somebody asks for it.
//! Invariants: a piece is counted as the difference between a run of twice as many operations and
//! one of as many, so that what comes before and after cancels out.

mod callgrind;
mod reference;

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};

use callgrind::Callgrind;
use reference::{Reference, Row, Verdict};

/// Below the root.
const REFERENCE: &str = "perf/counts/counts.txt";
/// Built together with the server, as which they then have all dependencies with all features in
/// common: what is counted is what is shipped, and a build of the server is used again.
const PACKAGES: [&str; 2] = ["barrage-server", "barrage-counts"];
const BINARY: &str = "barrage-counts";

/// Counts everything, and compares; with `is_update` the counts become the reference.
pub(crate) fn run(root: &Path, is_update: bool) -> anyhow::Result<ExitCode> {
    let callgrind = Callgrind::find(crate::target(root).join("counts"))?;
    build(root)?;
    let binary = crate::target(root).join("release").join(BINARY);
    let pieces = pieces(&binary)?;
    let width = pieces.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut now = Reference { made_with: made_with(&callgrind), counts: Vec::new() };
    for (name, operations) in &pieces {
        let few = callgrind.instructions(&binary, name, *operations)?;
        let many = callgrind.instructions(&binary, name, 2 * operations)?;
        let more = many.checked_sub(few).filter(|more| *more > 0);
        let more = more.with_context(|| format!("{name}: more operations are no more work"))?;
        now.counts.push((name.clone(), more / operations));
    }
    let path = root.join(REFERENCE);
    let known = Reference::read(&path)?;
    let rows = reference::compare(&known, &now);
    println!("{:width$}  {:>10}  {:>10}  change", "piece", "reference", "now");
    rows.iter().for_each(|row| println!("{}", line(row, width)));
    if is_update {
        now.write(&path)?;
        println!("\n{REFERENCE} is written; the commit says why the counts changed");
        return Ok(ExitCode::SUCCESS);
    }
    for (what, then, here) in known.differences(&now) {
        println!("\nThe reference was made with {what} {then}; here it is {here}.");
    }
    Ok(judge(&known, &now, &rows))
}

fn line(row: &Row, width: usize) -> String {
    let number = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let change =
        row.change_percent().map_or_else(String::new, |percent| format!("{percent:+.1} %"));
    let verdict = match row.verdict() {
        Verdict::Same => "",
        Verdict::Worse => "  TOO MANY",
        Verdict::Better => "  fewer",
        Verdict::Unknown => "  no reference",
        Verdict::Gone => "  no such piece",
    };
    let (name, known, now) = (&row.name, number(row.known), number(row.now));
    format!("{name:width$}  {known:>10}  {now:>10}  {change:>8}{verdict}")
}

/// Says what is to be done; a failure if anything is.
fn judge(known: &Reference, now: &Reference, rows: &[Row]) -> ExitCode {
    let of = |verdict: Verdict| rows.iter().any(|row| row.verdict() == verdict);
    if !known.is_of_machine(now) {
        println!("\nNot judged: instructions of another kind of processor are no reference.");
        return ExitCode::SUCCESS;
    }
    let accept =
        "`cargo xtask counts --update` records the counts; the commit says why they changed.";
    if of(Verdict::Worse) {
        let most = reference::TOLERANCE_PERCENT;
        println!("\ncounts: more than {most} % above the reference.");
        println!("Where the instructions go: `callgrind_annotate target/counts/PIECE.out`.");
        println!("If it is worth its price: {accept}");
        return ExitCode::FAILURE;
    }
    if of(Verdict::Unknown) || of(Verdict::Gone) {
        println!("\ncounts: pieces and reference differ. {accept}");
        return ExitCode::FAILURE;
    }
    if of(Verdict::Better) {
        println!("\ncounts: some are lower. So that it stays: {accept}");
    } else {
        println!("\ncounts: as the reference");
    }
    ExitCode::SUCCESS
}

fn build(root: &Path) -> anyhow::Result<()> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--release"]).current_dir(root);
    command.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    // Flags of one machine would give counts of one machine.
    let status = command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").status();
    ensure!(status.context("cannot run cargo")?.success(), "the pieces cannot be built");
    Ok(())
}

/// Name and count of operations of each piece, as the binary lists them.
fn pieces(binary: &Path) -> anyhow::Result<Vec<(String, u64)>> {
    let mut pieces = Vec::new();
    for line in said(Command::new(binary))?.lines() {
        let Some((name, operations)) = line.split_once(' ') else { bail!("no piece: {line:?}") };
        pieces.push((name.to_owned(), operations.parse()?));
    }
    ensure!(!pieces.is_empty(), "{} lists no piece", binary.display());
    Ok(pieces)
}

/// What counts depend on, beside the code.
fn made_with(callgrind: &Callgrind) -> Vec<(String, String)> {
    let ask = |program: &str, argument: &str| {
        let mut command = Command::new(program);
        command.arg(argument);
        said(command).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
    };
    let rustc = ask("rustc", "--version");
    let rustc = rustc.strip_prefix("rustc ").unwrap_or(&rustc).to_owned();
    let all = [
        (reference::PROCESSOR, env::consts::ARCH.to_owned()),
        ("rustc", rustc),
        ("libc", ask("getconf", "GNU_LIBC_VERSION")),
        ("valgrind", callgrind.version().to_owned()),
    ];
    all.map(|(what, version)| (what.to_owned(), version)).into()
}

/// The standard output of a command that must succeed.
fn said(mut command: Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
