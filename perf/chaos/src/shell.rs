//! Commands of the system: `ip`, `tc`, `mkfs.ext4`, `mount`.
//!
//! Owns: running one to its end and what it said. Must never: run a node.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Runs a command that must succeed; returns its stdout.
pub(crate) fn shell(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", arguments.join(" "), words.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The same where failure is no news: it may be done already.
pub(crate) fn try_shell(program: &str, arguments: &[&str]) {
    drop(shell(program, arguments));
}
