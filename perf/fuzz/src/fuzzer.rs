//! Runs cargo-fuzz on one target, and reads what it says.
//!
//! Owns: flags and environment. The binaries are built by the stable compiler, which takes the
//! fuzzer's flags when told to; without sanitizers, since the parsers are safe Rust and the
//! figures should be theirs. What needs the simulated disk is built with `--cfg sim`, beside the
//! others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use barrage_fuzz::corpus;
use barrage_fuzz::meter::Figures;

use crate::report::Row;

/// Inputs are not longer, unless a target's corpus has longer ones.
const INPUT_BYTES_MAX: usize = 16 * 1024;
/// The fuzzer's own limits; the harness's are far below.
const TIMEOUT_SECONDS: u32 = 5;
const RSS_MIB_MAX: u32 = 4096;

/// Fuzzes a target; what it finds goes into its corpus.
pub(crate) fn run(target: &str, seconds: u32) -> anyhow::Result<Row> {
    let place = scratch(target)?;
    let figures = place.join("figures");
    fs::remove_file(&figures).or_else(ignore_missing)?;
    let log = place.join("log");
    let mut command = cargo_fuzz("run", target);
    command.arg(corpus::corpus(target)).arg("--");
    command.args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={INPUT_BYTES_MAX}"),
        format!("-timeout={TIMEOUT_SECONDS}"),
        format!("-rss_limit_mb={RSS_MIB_MAX}"),
        format!("-artifact_prefix={}/", place.display()),
        "-print_final_stats=1".to_owned(),
        "-verbosity=1".to_owned(),
    ]);
    command.env(corpus::FIGURES_FILE, &figures);
    let status = command
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .status()
        .context("cargo fuzz: see the README")?;
    let said = fs::read_to_string(&log)?;
    let mut row = Row::new(target);
    for line in fs::read_to_string(&figures).unwrap_or_default().lines() {
        let number = |name: &str| number_after(line, name).unwrap_or(0);
        let time = Duration::from_micros(number("time_us "));
        let peak_bytes = usize::try_from(number("peak_bytes ")).unwrap_or(usize::MAX);
        let allowed = usize::try_from(number("allowed_bytes ")).unwrap_or(usize::MAX);
        row.add(Figures { time, peak_bytes }, allowed);
    }
    let executed = said.lines().find_map(|line| number_after(line, "number_of_executed_units: "));
    row.inputs = executed.unwrap_or(0);
    row.broken = u64::from(!status.success());
    ensure!(status.success() || row.inputs > 0, "cargo fuzz failed; see {}", log.display());
    Ok(row)
}

/// Replaces a corpus by the smallest inputs that reach the same; seeds stay as they are.
pub(crate) fn shrink(target: &str) -> anyhow::Result<()> {
    let place = scratch(target)?.join("shrunk");
    fs::remove_dir_all(&place).or_else(ignore_missing)?;
    fs::create_dir_all(&place)?;
    let folder = corpus::corpus(target);
    let seeds = scratch(target)?.join("seeds");
    fs::remove_dir_all(&seeds).or_else(ignore_missing)?;
    fs::create_dir_all(&seeds)?;
    for (name, input) in corpus::read(&folder)? {
        if name.starts_with(corpus::SEED_PREFIX) {
            fs::write(seeds.join(name), input)?;
        }
    }
    // What the seeds reach needs no other input: they are merged first and taken out again.
    let mut command = cargo_fuzz("run", target);
    command.arg(&place).arg(&seeds).arg(&folder).args(["--", "-merge=1"]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    ensure!(status.success(), "cargo fuzz could not merge {target}");
    for (name, _) in corpus::read(&folder)? {
        if !name.starts_with(corpus::SEED_PREFIX) {
            fs::remove_file(folder.join(name))?;
        }
    }
    let kept: Vec<Vec<u8>> = corpus::read(&seeds)?.into_iter().map(|(_, input)| input).collect();
    for (name, input) in corpus::read(&place)? {
        if !kept.contains(&input) {
            fs::write(folder.join(name), input)?;
        }
    }
    Ok(())
}

fn cargo_fuzz(verb: &str, target: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args(["fuzz", verb, "--fuzz-dir"]).arg(corpus::home().join("fuzz"));
    command.args(["--sanitizer", "none", "--release", target]);
    command.env("RUSTC_BOOTSTRAP", "1");
    let home = corpus::home().join("../../target");
    if barrage_fuzz::NAMES_SIMULATED.contains(&target) {
        command.env("RUSTFLAGS", "--cfg sim").env("CARGO_TARGET_DIR", home.join("fuzz-sim"));
    } else {
        command.env("CARGO_TARGET_DIR", home.join("fuzz"));
    }
    command
}

/// A folder for what is not kept: logs, figures, inputs that broke a promise.
fn scratch(target: &str) -> anyhow::Result<PathBuf> {
    let place = corpus::home().join("../../target/fuzz-runs").join(target);
    fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
    Ok(Path::new(&place).canonicalize()?)
}

fn number_after(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(name)?;
    rest.split_whitespace().next()?.parse().ok()
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}
