//! `cargo xtask sim` and `cargo xtask bugbank`: builds the simulator and runs it.
//!
//! Owns how it is built: `--cfg sim`, a target folder of its own (the flag would rebuild the
//! other one from the ground up), the profile that tests of the simulated world share. Must never
//! know what the arguments mean.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::Context;

/// Where everything with `--cfg sim` is built, below the root.
const TARGET: &str = "target/sim";
/// The profile, which stands in the root's `Cargo.toml`.
const PROFILE: &str = "sim";

/// Builds the simulator and runs `sub_command` with the arguments.
pub(crate) fn run(root: &Path, sub_command: &str, arguments: &[&str]) -> anyhow::Result<ExitCode> {
    let target = root.join(TARGET);
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--profile", PROFILE, "--package", "barrage-sim"])
        .current_dir(root)
        .env("RUSTFLAGS", "--cfg sim")
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .context("cannot run cargo")?;
    if !built.success() {
        return Ok(code(built));
    }
    let binary = target.join(PROFILE).join("barrage-sim");
    let ended = Command::new(&binary)
        .arg(sub_command)
        .args(arguments)
        .current_dir(root)
        .env("BARRAGE_COMMIT", commit(root))
        .status()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    Ok(code(ended))
}

/// The commit that was built, and whether files differ from it: a seed means nothing without.
fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(root).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    let is_clean = changed.is_some_and(|changed| changed.is_empty());
    if is_clean { hash } else { hash + "+changes" }
}

/// A run that a signal ended has no code; it failed.
pub(crate) fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
