//! `cargo xtask chaos`: builds the nodes and the driver that breaks them, and runs it.
//!
//! Owns how they are built: the profile of a developer unless `--release` is asked for.
//! Must never know what the other arguments mean.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::simulator::code;

/// The argument that is meant for the build.
const RELEASE: &str = "--release";

/// Builds node and driver, and runs the driver with the arguments.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<ExitCode> {
    let is_release = arguments.contains(&RELEASE);
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", "barrage-chaos", "--package", "barrage-server"]);
    if is_release {
        build.arg(RELEASE);
    }
    let built = build.current_dir(root).status().context("cannot run cargo")?;
    if !built.success() {
        return Ok(code(built));
    }
    let folder = if is_release { "release" } else { "debug" };
    let binary = crate::target(root).join(folder).join("barrage-chaos");
    let ended = Command::new(&binary)
        .args(arguments.iter().filter(|argument| **argument != RELEASE))
        .current_dir(root)
        .status()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    Ok(code(ended))
}
