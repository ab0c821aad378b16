//! A server process that a measurement starts, and the folder they all write in.
//!
//! Owns: starting, waiting until ready, ending, removing the data. Must never: leave a process or
//! data behind, also when the measurement fails.
//! Invariants: a [`Child`] is dropped before its [`Folder`].

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// A folder that is removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

/// A running server.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    name: String,
    log: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
}

const READY_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
pub(crate) const POLL_EVERY: Duration = Duration::from_millis(10);
const LOG_LINES_SHOWN: usize = 12;
/// What a node writes under while it is measured: nothing but warnings.
const LOG_VARIABLE: (&str, &str) = ("BARRAGE_LOG", "warn");

impl Folder {
    /// Makes a folder of its own below `parent`.
    pub(crate) fn make(parent: &Path) -> Result<Self> {
        let path = parent.join(format!(".barrage-bench-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(fs::canonicalize(&path)?))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("barrage bench: {} is left behind: {error}", self.0.display());
        }
    }
}

impl Child {
    /// Starts a server and waits until it serves. `command` is all but where to say so.
    pub(crate) fn start(name: &str, mut command: Command, folder: &Folder) -> Result<Self> {
        let ready = folder.path().join(format!("{name}.ready"));
        let log = folder.path().join(format!("{name}.log"));
        drop(fs::remove_file(&ready));
        let log_file = File::create(&log)?;
        command.arg("--ready-file").arg(&ready).env(LOG_VARIABLE.0, LOG_VARIABLE.1);
        command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
        let process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        // From here on dropping the child ends the process, whatever fails.
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut child = Self { process, name: name.to_owned(), log, address };
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if let Some(address) = fs::read_to_string(&ready).ok().and_then(|t| address_in(&t)) {
                child.address = address;
                return Ok(child);
            }
            child.check_alive()?;
            if Instant::now() >= deadline {
                let log = child.log_tail();
                bail!("the {name} server does not serve after {READY_TIMEOUT:?}:\n{log}");
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Fails when it has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            Some(status) => bail!("the {} server ended: {status}\n{}", self.name, self.log_tail()),
            None => Ok(()),
        }
    }

    /// The last lines it wrote, under its name; nothing if it wrote none.
    pub(crate) fn log_tail(&self) -> String {
        let lines = tail(&self.log);
        if lines.is_empty() { lines } else { format!("{}: {lines}", self.name) }
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) -> Result<()> {
        terminate(self.process.id())
    }

    /// Waits until it has ended; an exit other than 0 is an error.
    pub(crate) fn await_end(mut self) -> Result<()> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("the {} server ended with {status}:\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(POLL_EVERY);
        }
        bail!("the {} server does not end within {STOP_TIMEOUT:?}", self.name)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It has ended already, or holds nothing that is worth a gentle end.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn terminate(pid: u32) -> Result<()> {
    let pid = sysinfo::Pid::from_u32(pid);
    let mut system = sysinfo::System::new().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let _ = system.refresh_processes(sysinfo::ProcessesToUpdate::Some(&[pid]), true);
    match system.process(pid).and_then(|process| process.kill_with(sysinfo::Signal::Term)) {
        Some(true) => Ok(()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)).context("cannot send SIGTERM"),
    }
}

/// The first address in a ready file: JSON, in which any text may be an address.
fn address_in(text: &str) -> Option<SocketAddr> {
    fn find(value: &Value) -> Option<SocketAddr> {
        match value {
            Value::String(text) => text.parse().ok(),
            Value::Array(items) => items.iter().find_map(find),
            Value::Object(fields) => {
                let listen = ["listen", "address", "addresses"];
                let named = listen.into_iter().find_map(|name| fields.get(name).and_then(find));
                named.or_else(|| fields.values().find_map(find))
            }
            _ => None,
        }
    }
    find(&serde_json::from_str(text).ok()?)
}

/// The last lines of a log.
pub(crate) fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
    lines.get(from..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_address_is_preferred() {
        let check = |text: &str, address: Option<&str>| {
            assert_eq!(address_in(text).map(|found| found.to_string()).as_deref(), address);
        };
        check(r#"{"cores":["127.0.0.1:2"],"listen":"127.0.0.1:1"}"#, Some("127.0.0.1:1"));
        check(r#"{"pid":3,"cores":[{"a":"127.0.0.1:2"}]}"#, Some("127.0.0.1:2"));
        check(r#"{"listen":["127.0.0.1:5"]}"#, Some("127.0.0.1:5"));
        check(r#"{"listen":"#, None);
    }

    #[test]
    fn a_folder_goes_with_its_owner() {
        let folder = Folder::make(&std::env::temp_dir()).unwrap();
        let path = folder.path().to_path_buf();
        assert!(path.is_dir());
        drop(folder);
        assert!(!path.exists());
    }
}
