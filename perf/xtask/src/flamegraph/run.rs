//! A scenario under perf: the binary with frame pointers, its processes, what it reported.
//!
//! Owns: which processes are drawn. Nodes are those that run `barrage start`; of several that wrote
//! into one folder, one after the other, the last, which is the one that was measured after a
//! restart. The bare server is never drawn. Every thread of a process is.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use inferno::collapse::Collapse as _;
use inferno::collapse::perf::Folder;
use serde_json::Value;

use super::perf::Data;
use super::{picture, samples};

/// Whose time is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Nodes,
    Client,
}

/// What is to be recorded.
#[derive(Clone, Copy)]
pub(super) struct Recording<'a> {
    pub(super) scenario: &'a str,
    pub(super) who: Who,
    pub(super) flags: &'a [&'a str],
}

/// What was.
pub(super) struct Recorded {
    pub(super) who: Who,
    /// The user's command.
    pub(super) command: String,
    /// The report in JSON.
    pub(super) report: Value,
    /// Stacks with their counts, one a line.
    pub(super) folded: String,
}

/// Stacks can be followed in all of its code.
const FLAGS: &str = "-C force-frame-pointers=yes";
/// Below the target folder: other flags would build everything anew in it.
const TARGET: &str = "profiling";
/// A node lives for seconds.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Builds, runs and folds.
#[expect(clippy::disallowed_methods, reason = "this thread has nothing to do but to look")]
pub(super) fn record(
    root: &Path,
    folder: &Path,
    recording: Recording<'_>,
) -> anyhow::Result<Recorded> {
    let Recording { scenario, who, flags } = recording;
    let data = Data::new(folder)?;
    let binary = build(root)?;
    let report = folder.join("report.json");
    let program = binary.to_str().context("the target folder's path is no text")?;
    let mut command = vec![program, "bench", scenario, "-o", "json"];
    command.extend(flags);
    let mut running = data.record(&command, File::create(&report)?)?;
    let mut seen = Seen::default();
    let status = loop {
        if let Some(status) = running.try_wait()? {
            break status;
        }
        seen.look(&binary);
        thread::sleep(LOOK_EVERY);
    };
    ensure!(status.success(), "`barrage bench {scenario}` failed: {status}");
    let text = fs::read_to_string(&report)?;
    fs::remove_file(&report)?;
    let report = serde_json::from_str(&text).context("the report is no JSON")?;
    let (nodes, drawn) = (seen.processes(Who::Nodes), seen.processes(who));
    ensure!(!nodes.is_empty() && !drawn.is_empty(), "{scenario} starts no node");
    // perf finds nothing of a process that is named twice.
    let both: BTreeSet<u32> = nodes.iter().chain(&drawn).copied().collect();
    let stacks = samples::counted(&data.script(&both)?, &nodes, &drawn);
    let mut folded = Vec::new();
    Folder::default().collapse(stacks.as_bytes(), &mut folded)?;
    let folded = picture::by_kind(&String::from_utf8(folded)?);
    ensure!(!folded.is_empty(), "nothing was sampled of {drawn:?}: make the run longer");
    let mut command = format!("barrage bench {scenario}");
    flags.iter().for_each(|flag| command.extend([" ", flag]));
    Ok(Recorded { who, command, report, folded })
}

fn build(root: &Path) -> anyhow::Result<PathBuf> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let target = crate::target(root).join(TARGET);
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--package", "barrage-server"])
        .current_dir(root)
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the server cannot be built");
    let binary = target.join("release").join("barrage");
    fs::canonicalize(&binary).with_context(|| format!("find {}", binary.display()))
}

/// Processes of the binary by what they do.
#[derive(Default)]
struct Seen {
    /// By the folder they write in; the last one of each.
    nodes: BTreeMap<String, u32>,
    client: Option<u32>,
}

impl Seen {
    fn look(&mut self, binary: &Path) {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        for entry in entries {
            let Ok(process) = entry.file_name().to_string_lossy().parse() else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            let words: Vec<&str> = line.split('\0').collect();
            if let Some((program, arguments)) = words.split_first()
                && Path::new(program) == binary
            {
                self.note(process, arguments);
            }
        }
    }

    fn note(&mut self, process: u32, arguments: &[&str]) {
        match arguments {
            ["start", rest @ ..] => {
                let data = rest.iter().skip_while(|word| **word != "--data").nth(1);
                self.nodes.insert(data.copied().unwrap_or_default().to_owned(), process);
            }
            ["bench", "bare-server", ..] => {}
            ["bench", ..] => self.client = Some(process),
            _ => {}
        }
    }

    fn processes(&self, who: Who) -> Vec<u32> {
        match who {
            Who::Nodes => self.nodes.values().copied().collect(),
            Who::Client => self.client.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_client_are_told_apart() {
        let mut seen = Seen::default();
        seen.note(1, &["bench", "consume-cold"]);
        seen.note(2, &["bench", "bare-server", "--data", "d/bare-0"]);
        seen.note(3, &["start", "--listen", "a", "--data", "d/node-0"]);
        seen.note(4, &["start", "--data", "d/node-1", "--listen", "a"]);
        seen.note(5, &["cluster", "status"]);
        assert_eq!(seen.processes(Who::Nodes), [3, 4]);
        assert_eq!(seen.processes(Who::Client), [1]);
        // It was restarted.
        seen.note(6, &["start", "--listen", "a", "--data", "d/node-0"]);
        assert_eq!(seen.processes(Who::Nodes), [6, 4]);
    }
}
