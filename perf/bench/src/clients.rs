//! The clients of a run, seen from who starts them: processes that begin, finish and are done
//! together.
//!
//! Owns: starting them, their orders and words, their end. Must never: leave one behind, or go on
//! when one has failed; its last lines are the error.
//! Invariants: every client has said a word before any is waited for to say the next.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::child;
use crate::client::task::{Order, Task, Word};

/// Running clients.
#[derive(Debug)]
pub(crate) struct Clients {
    list: Vec<Client>,
    /// What they say, by number; nothing when one has ended.
    said: Receiver<(usize, Option<Word>)>,
}

#[derive(Debug)]
struct Client {
    process: Child,
    name: String,
    orders: ChildStdin,
    log: PathBuf,
}

/// How often it is looked whether the servers still run.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// One that has said its last word ends at once.
const END_MAX: Duration = Duration::from_secs(10);

impl Clients {
    /// Starts one for each task; they connect, and wait.
    pub(crate) fn start(binary: &Path, tasks: &[Task], folder: &Path) -> Result<Self> {
        let (sender, said) = mpsc::channel();
        let mut list = Vec::new();
        for (number, task) in tasks.iter().enumerate() {
            list.push(Client::start(binary, task, folder, (number, sender.clone()))?);
        }
        Ok(Self { list, said })
    }

    /// Their names and processes.
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        self.list.iter().map(|client| (client.name.clone(), client.process.id())).collect()
    }

    /// Tells all of them.
    pub(crate) fn tell(&mut self, order: Order) -> Result<()> {
        let mut line = serde_json::to_string(&order)?;
        line.push('\n');
        for client in &mut self.list {
            // One that is gone says so where it is waited for.
            let told = client.orders.write_all(line.as_bytes());
            drop(told.and_then(|()| client.orders.flush()));
        }
        Ok(())
    }

    /// Waits until each has said a word that `takes` takes, for at most so long. `look` is asked
    /// now and then whether there is still a reason to wait.
    pub(crate) fn await_all<T>(
        &mut self,
        most: Duration,
        takes: impl Fn(Word) -> Option<T>,
        mut look: impl FnMut() -> Result<()>,
    ) -> Result<Vec<T>> {
        let deadline = Instant::now() + most;
        let mut taken = BTreeMap::new();
        while taken.len() < self.list.len() {
            match self.said.recv_timeout(LOOK_EVERY) {
                Ok((number, Some(word))) => match takes(word) {
                    Some(word) => drop(taken.insert(number, word)),
                    None => bail!("{} said {word:?} out of turn", self.name(number)),
                },
                // One that ends after its last word is done before the others.
                Ok((number, None)) if taken.contains_key(&number) => {}
                Ok((number, None)) => return self.failed(number),
                Err(RecvTimeoutError::Timeout) => look()?,
                Err(RecvTimeoutError::Disconnected) => bail!("every client has ended"),
            }
            if Instant::now() >= deadline {
                bail!("the clients do not come to it within {most:?}");
            }
        }
        Ok(taken.into_values().collect())
    }

    /// Waits until all have ended.
    pub(crate) fn await_end(mut self) -> Result<()> {
        let deadline = Instant::now() + END_MAX;
        for client in &mut self.list {
            loop {
                match client.process.try_wait()? {
                    Some(status) if status.success() => break,
                    Some(status) => bail!("{} ended with {status}:{}", client.name, client.tail()),
                    None if Instant::now() >= deadline => {
                        bail!("{} does not end within {END_MAX:?}", client.name)
                    }
                    None => thread::sleep(child::POLL_EVERY),
                }
            }
        }
        Ok(())
    }

    fn name(&self, number: usize) -> &str {
        self.list.get(number).map_or("a client", |client| &client.name)
    }

    fn failed<T>(&mut self, number: usize) -> Result<T> {
        let client = self.list.get_mut(number).context("no such client")?;
        let status = client.process.wait()?;
        bail!("{} failed ({status}):{}", client.name, client.tail())
    }
}

impl Client {
    fn start(
        binary: &Path,
        task: &Task,
        folder: &Path,
        (number, said): (usize, Sender<(usize, Option<Word>)>),
    ) -> Result<Self> {
        let name = task.about.client.clone();
        let file = folder.join(format!("{name}.task"));
        std::fs::write(&file, serde_json::to_string(task)?)?;
        let log = folder.join(format!("{name}.log"));
        let mut command = Command::new(binary);
        command.args(["bench", "client", "--task"]).arg(file);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let streams = process.stdin.take().zip(process.stdout.take());
        let (orders, words) = streams.context("a process without its streams")?;
        thread::spawn(move || {
            for line in BufReader::new(words).lines() {
                match line.ok().and_then(|line| serde_json::from_str(&line).ok()) {
                    // Nobody listens any more: the run has failed.
                    Some(word) if said.send((number, Some(word))).is_err() => return,
                    Some(_) => {}
                    None => break,
                }
            }
            said.send((number, None)).ok();
        });
        Ok(Self { process, name, orders, log })
    }

    /// The last lines of what it wrote, on lines of their own.
    fn tail(&self) -> String {
        format!("\n{}", child::tail(&self.log))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It has ended already, or holds nothing that is worth a gentle end.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
