//! A node under test, and the commands that talk to it.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_barrage");
/// How long a node may take to start, on a machine that is busy with other tests.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a node may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a log line may take.
const LOG_TIMEOUT: Duration = Duration::from_secs(5);

/// The binary with `args`, and none of the caller's settings.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BARRAGE_")) {
        command.env_remove(name);
    }
    command.args(args);
    command
}

/// Runs the binary to its end.
pub(crate) fn barrage(args: &[&str]) -> Output {
    command(args).stdin(Stdio::null()).output().unwrap()
}

/// What a command said, for messages.
pub(crate) fn words(output: &Output) -> String {
    let code = output.status.code();
    format!("exit {code:?}: {}", String::from_utf8_lossy(&output.stderr))
}

/// A folder for one node.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        // Beside the binary: a disk that can do direct I/O, which a temporary folder may not be.
        let beside = Path::new(BINARY).parent().unwrap();
        Self { folder: tempfile::Builder::new().prefix("it-").tempdir_in(beside).unwrap() }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A running node.
pub(crate) struct Node {
    child: Child,
    ready: Value,
    log: PathBuf,
}

impl Node {
    /// Starts a node in `home` and waits until it serves.
    pub(crate) fn start(home: &Home, flags: &[&str]) -> Self {
        let mut node = Self::spawn(home, flags);
        let ready_file = home.path("ready.json");
        let began = Instant::now();
        while !ready_file.exists() {
            let ended = node.child.try_wait().unwrap();
            let said = node.log();
            assert!(ended.is_none(), "the node ended with {ended:?}:\n{said}");
            assert!(began.elapsed() < START_TIMEOUT, "the node does not start:\n{said}");
            thread::sleep(Duration::from_millis(10));
        }
        node.ready = serde_json::from_slice(&fs::read(&ready_file).unwrap()).unwrap();
        node
    }

    /// Starts a node in `home`, which may not come to serve.
    pub(crate) fn spawn(home: &Home, flags: &[&str]) -> Self {
        let (ready_file, log) = (home.path("ready.json"), home.path("log"));
        drop(fs::remove_file(&ready_file));
        let log_file = fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut start = command(&["start", "--listen", "127.0.0.1:0", "--memory", "128MiB"]);
        start.args(["--set", "storage.segment_size=16MiB"]);
        start.arg("--data").arg(home.data()).arg("--ready-file").arg(&ready_file);
        start.args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file);
        // From here on dropping it ends the process, also when it does not start.
        Self { child: start.spawn().unwrap(), ready: Value::Null, log }
    }

    pub(crate) fn ready(&self) -> &Value {
        &self.ready
    }

    /// The shared address.
    pub(crate) fn address(&self) -> String {
        self.ready["listen"].as_str().unwrap().to_owned()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has logged `words`: a line comes a little after what it is about.
    pub(crate) fn await_log(&self, words: &str) {
        let began = Instant::now();
        while !self.log().contains(words) {
            let waited = began.elapsed();
            assert!(waited < LOG_TIMEOUT, "nothing of `{words}` in:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A client command.
    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.args(["--server", &self.address()]);
        command
    }

    /// Runs a client command that must succeed; returns its stdout.
    pub(crate) fn run(&self, args: &[&str]) -> Vec<u8> {
        let output = self.client(args).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}\n{}", words(&output), self.log());
        output.stdout
    }

    /// Runs a client command that must succeed, with `input` on its stdin.
    pub(crate) fn feed(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut client = self.client(args);
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut client = client.spawn().unwrap();
        let mut stdin = client.stdin.take().unwrap();
        let input = input.to_vec();
        // From a thread: the client may fill its stdout before it has read all.
        let writer = thread::spawn(move || stdin.write_all(&input));
        let output = client.wait_with_output().unwrap();
        drop(writer.join());
        assert!(output.status.success(), "{args:?}: {}\n{}", words(&output), self.log());
        output.stdout
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop and returns its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.await_end()
    }

    /// Waits until it has ended by itself and returns its exit code.
    pub(crate) fn await_end(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < STOP_TIMEOUT, "the node does not stop:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Bytes of memory it has in use.
    pub(crate) fn memory(&self) -> u64 {
        let mut status = String::new();
        let path = format!("/proc/{}/status", self.child.id());
        fs::File::open(path).unwrap().read_to_string(&mut status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `first..=last`, one number per line.
pub(crate) fn numbers(first: u32, last: u32) -> String {
    (first..=last).map(|number| format!("{number}\n")).collect()
}
