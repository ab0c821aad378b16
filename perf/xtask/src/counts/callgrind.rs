//! Runs a program under valgrind's callgrind and reads how many instructions it took.
//!
//! Owns: what makes a count the same on every machine: valgrind's own processor, an empty
//! environment, one choice among the C library's copy loops.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

const PROGRAM: &str = "valgrind";
/// The C library has a copy loop for each generation of processors, one of which counts every byte
/// as an instruction. This is the one that all have.
const TUNABLES: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.cpu.hwcaps=-ERMS,-FSRM,-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX_Fast_Unaligned_Load",
);

/// The tool, and where its files go.
pub(super) struct Callgrind {
    folder: PathBuf,
    version: String,
}

impl Callgrind {
    /// Looks whether it is there.
    pub(super) fn find(folder: PathBuf) -> anyhow::Result<Self> {
        let output = match Command::new(PROGRAM).arg("--version").output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("{PROGRAM} is not installed: `apt-get install {PROGRAM}`");
            }
            output => output.with_context(|| format!("cannot run {PROGRAM}"))?,
        };
        let version = String::from_utf8(output.stdout)?;
        let version = version.trim().trim_start_matches("valgrind-").to_owned();
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self { folder, version })
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// The instructions of `binary NAME OPERATIONS`, from its first to its last.
    pub(super) fn instructions(
        &self,
        binary: &Path,
        name: &str,
        operations: u64,
    ) -> anyhow::Result<u64> {
        let path = self.folder.join(format!("{name}.out"));
        let mut file = std::ffi::OsString::from("--callgrind-out-file=");
        file.push(&path);
        let output = Command::new(PROGRAM)
            .args(["--quiet", "--tool=callgrind"])
            .arg(file)
            .arg(binary)
            .args([name, &operations.to_string()])
            .env_clear()
            .env(TUNABLES.0, TUNABLES.1)
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .output()
            .with_context(|| format!("cannot run {PROGRAM}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name} failed: {}\n{}", output.status, said.trim());
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        total(&text).with_context(|| format!("{} tells no total", path.display()))
    }
}

/// The total of a callgrind file.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals: "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_total_is_found() {
        let text = "events: Ir\nsummary: 1\n\nfn=(1)\n0 12\n\ntotals: 13594876\n";
        assert_eq!(super::total(text), Some(13_594_876));
        assert_eq!(super::total("events: Ir\n"), None);
    }
}
