//! What a figure was measured on, and when: machine, commit, command.
//!
//! Owns: reading them. Must never: guess; what cannot be read says `unknown`.

use std::fmt;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The machine, as printed beside every figure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Processor model.
    pub cpu: String,
    /// Logical cores.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// File system that holds the data.
    pub filesystem: String,
}

const UNKNOWN: &str = "unknown";
const MIB: u64 = 1 << 20;

impl Machine {
    /// Reads the machine; `data` is the folder the servers write in.
    pub(crate) fn read(data: &Path) -> Self {
        let cpu_info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let memory_bytes = sysinfo::System::new().map_or(0, |mut system| {
            system.refresh_memory();
            system.total_memory()
        });
        Self {
            cpu: cpu_model(&cpu_info).unwrap_or(UNKNOWN).to_owned(),
            cores: cores(),
            memory_mib: memory_bytes / MIB,
            kernel: if kernel.is_empty() { UNKNOWN.into() } else { kernel.trim().to_owned() },
            filesystem: filesystem(data).unwrap_or_else(|| UNKNOWN.to_owned()),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, memory_mib, kernel, filesystem } = self;
        write!(formatter, "{cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}, {filesystem}")
    }
}

/// Logical cores this process may use; at least 1.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn cpu_model(cpu_info: &str) -> Option<&str> {
    let line = cpu_info.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, model)| model.trim())
}

/// Device and type of the mount that holds `path`: the longest mount point that is its prefix.
fn filesystem(path: &Path) -> Option<String> {
    let path = std::fs::canonicalize(path).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mut best: Option<(usize, String)> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (device, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
        let longer = best.as_ref().is_none_or(|(length, _)| point.len() >= *length);
        if longer && path.starts_with(point) {
            best = Some((point.len(), format!("{kind} on {device}")));
        }
    }
    best.map(|(_, name)| name)
}

/// The commit the binary was built from: set by the build as `BARRAGE_COMMIT`, else asked of git
/// in the current folder, marked when the tree has changes.
pub(crate) fn commit() -> String {
    if let Some(commit) = option_env!("BARRAGE_COMMIT") {
        return commit.to_owned();
    }
    let Some(revision) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return UNKNOWN.to_owned();
    };
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]);
    let mark = if dirty.is_some_and(|changes| !changes.is_empty()) { "+changes" } else { "" };
    format!("{revision}{mark}")
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The command line of this process, as one would type it.
pub(crate) fn command() -> String {
    let mut words = std::env::args();
    let binary = words.next().unwrap_or_default();
    let name = Path::new(&binary).file_name().unwrap_or_default().to_string_lossy().into_owned();
    std::iter::once(name).chain(words.map(|word| quoted(&word))).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+%@".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The time now.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_known() {
        let machine = Machine::read(Path::new("."));
        assert!(machine.cores > 0);
        assert_ne!(machine.filesystem, UNKNOWN);
        assert_eq!(cpu_model("a\nmodel name\t: X 1\n"), Some("X 1"));
        assert_eq!(cpu_model("nothing"), None);
    }

    #[test]
    fn a_command_line_can_be_typed_again() {
        let check = |word: &str, typed: &str| assert_eq!(quoted(word), typed);
        check("--set", "--set");
        check("a.b=1", "a.b=1");
        check("", "''");
        check("two words", "'two words'");
        check("it's", r"'it'\''s'");
    }
}
