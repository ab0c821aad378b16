//! perf: records the stacks of a command and all it starts, and tells those of some processes.
//!
//! Owns: perf's flags. Must never: leave it to perf to say in its own words why it may not record.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};

const PROGRAM: &str = "perf";
/// No whole number of milliseconds between two samples: what happens every so many is seen.
pub(super) const SAMPLES_PER_S: u32 = 997;
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";

/// Stacks on disk.
pub(super) struct Data(PathBuf);

impl Data {
    /// Looks whether perf may record at all, and where to.
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        let data = Self(folder.join("perf.data"));
        let mut trial = data.command();
        trial.args(["--", "true"]);
        let output = match trial.output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("{PROGRAM} is not installed: `apt-get install linux-perf`");
            }
            output => output.with_context(|| format!("cannot run {PROGRAM}"))?,
        };
        if !output.status.success() {
            let level = fs::read_to_string(PARANOID).unwrap_or_default();
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{PROGRAM} may not record here: {}\nkernel.perf_event_paranoid is {}; as root: \
                 `sysctl kernel.perf_event_paranoid=1`",
                said.trim(),
                level.trim()
            );
        }
        // Else perf keeps it beside what comes.
        fs::remove_file(&data.0)?;
        Ok(data)
    }

    /// Starts a command and records it, with whatever it starts; its output goes to a file.
    pub(super) fn record(&self, command: &[&str], output: fs::File) -> anyhow::Result<Child> {
        let mut recorder = self.command();
        recorder.arg("--").args(command).stdin(Stdio::null()).stdout(output);
        recorder.spawn().with_context(|| format!("cannot run {PROGRAM}"))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["record", "--quiet", "--call-graph", "fp", "--freq"]);
        command.arg(SAMPLES_PER_S.to_string()).arg("--output").arg(&self.0);
        command
    }

    /// The stacks of these processes, as text.
    pub(super) fn script(&self, processes: &BTreeSet<u32>) -> anyhow::Result<String> {
        let list: Vec<String> = processes.iter().map(u32::to_string).collect();
        let mut command = Command::new(PROGRAM);
        // Without `--no-inline` it asks a program of its own for each address, for hours.
        command.args([
            "script",
            "--no-inline",
            "--force",
            "--fields",
            "comm,pid,tid,time,event,ip,sym,dso",
        ]);
        command.arg("--pid").arg(list.join(",")).arg("--input").arg(&self.0);
        let output = command.output().with_context(|| format!("cannot run {PROGRAM}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{PROGRAM} script failed: {}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        // Some hundred MiB that nobody asked for.
        drop(fs::remove_file(&self.0));
    }
}
