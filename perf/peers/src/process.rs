//! A process that is started for a measurement, with all that it starts.
//!
//! Owns: the group of processes, their cores and what they print. Must never: leave one behind,
//! also when the measurement fails or is interrupted.
//! Invariants: the group has the number of its first process; it is over when this is dropped.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::cores::CoreList;
use crate::usage;

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: &'static str,
    log: PathBuf,
}

const POLL_EVERY: Duration = Duration::from_millis(20);
/// A killed process is gone at once, unless the kernel still writes for it.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const LOG_LINES_SHOWN: usize = 12;

impl Process {
    /// Starts `command` on these cores, in a group of its own; what it prints goes into `folder`.
    pub(crate) fn start(
        name: &'static str,
        mut command: Command,
        cores: &CoreList,
        folder: &Path,
    ) -> Result<Self> {
        let (out, log) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.log")));
        let (out, log_file) = (File::create(out)?, File::create(&log)?);
        command.stdin(Stdio::null()).stdout(out).stderr(log_file).process_group(0);
        let child = std::thread::scope(|scope| {
            // A process inherits the cores of the thread that starts it.
            let starter = scope.spawn(|| {
                cores.pin().with_context(|| format!("cannot run on cores {cores}"))?;
                command.spawn().with_context(|| format!("cannot start {command:?}"))
            });
            starter.join().map_err(|_panic| anyhow!("cannot start {name}"))?
        })?;
        Ok(Self { child, name, log })
    }

    /// The group of processes, by number.
    pub(crate) fn group(&self) -> u32 {
        self.child.id()
    }

    /// Tries until `attempt` succeeds. Fails when the process ends or the time is over.
    pub(crate) async fn until<T>(
        &mut self,
        timeout: Duration,
        mut attempt: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            if Instant::now() >= deadline {
                let error = error.context(format!("{} is not ready in {timeout:?}", self.name));
                return Err(self.explain(&error));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Waits until it ends by itself.
    pub(crate) async fn end(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        bail!("{} does not end in {timeout:?}:\n{}", self.name, self.log_tail())
    }

    /// Asks it to end, so that it writes what it holds, and waits for that.
    pub(crate) async fn stop(mut self, timeout: Duration) -> Result<()> {
        self.signal(Signal::TERM);
        self.end(timeout).await.map(drop)
    }

    /// An error, and below it what the process wrote last.
    pub(crate) fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}\n{}", self.log_tail())
    }

    /// The last lines that it wrote.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let out = fs::read(self.log.with_extension("out")).unwrap_or_default();
        last_lines(&format!("{}{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&log)))
    }

    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // It may be gone already.
        group.map(|group| kill_process_group(group, signal).ok());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        drop(self.child.wait());
        // The rest of the group is not ours to wait for, and still writes in the folder.
        let deadline = Instant::now() + KILL_TIMEOUT;
        while usage::group_runs(self.child.id()) && Instant::now() < deadline {
            std::thread::sleep(POLL_EVERY);
        }
    }
}

/// An address on loopback that nobody listens on now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?)
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        Process::start("sh", command, &CoreList::range(0, 1), &std::env::temp_dir()).unwrap()
    }

    #[test]
    fn what_it_starts_ends_with_it() {
        let process = shell("sleep 600 & sleep 600; true");
        let group = process.group();
        assert!(usage::group_runs(group));
        drop(process);
        assert!(!usage::group_runs(group));
    }

    #[test]
    fn the_last_lines_are_shown() {
        let text: String = (0..20).map(|line| format!("{line}\n\n")).collect();
        assert!(last_lines(&text).starts_with("8\n9\n"));
        assert_eq!(last_lines("a\nb"), "a\nb");
        assert_eq!(last_lines(""), "");
    }
}
