//! The yardstick of three nodes, from outside: what its copies hold, and when it answers.
//!
//! Counted, not timed: every check holds however slow the machine is.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const BLOCK_SIZE: usize = 4096;
const HEAD_SIZE: usize = 8;
/// Batches from here on are written alone, without their heads.
const LARGE_MIN: usize = 32 << 10;
const GROUP_BIT: u32 = 1 << 31;
/// Begins every batch of these tests: no head has such a length.
const MARK: [u8; 4] = [0xFF; 4];
/// How far a copy may lag.
const LAG_BYTES_MAX: u64 = 32 << 20;

/// A bare server; its data goes with it.
struct Server {
    process: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Server {
    /// Starts one on the core of this number, going round the machine's.
    fn start(name: &str, core: usize, others: &[SocketAddr]) -> Self {
        let core = core % thread::available_parallelism().unwrap();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("copies-{name}"));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).unwrap();
        let ready = folder.join("ready");
        let test = std::env::current_exe().unwrap();
        let binary = test.ancestors().nth(2).unwrap().join("examples/bench");
        let mut command = Command::new(binary);
        command.args(["bench", "bare-server", "--data"]).arg(&folder);
        command.arg("--server-cores").arg(core.to_string());
        command.arg("--ready-file").arg(&ready);
        for other in others {
            command.arg("--forward").arg(other.to_string());
        }
        let process = command.spawn().unwrap();
        let address = "0.0.0.0:0".parse().unwrap();
        let mut server = Self { process, folder, address };
        server.address = until("it serves", || {
            let text = fs::read_to_string(&ready).ok()?;
            let ready: serde_json::Value = serde_json::from_str(&text).ok()?;
            ready["listen"].as_str()?.parse().ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// Looks again until there is something to see.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The bytes of batch `number`: of a size that only the number decides, small and large by turns.
fn batch(number: u32) -> Vec<u8> {
    let size = match number % 8 {
        0 => 1 << 20,
        4 => 40_000,
        5 => LARGE_MIN,
        rest => 100 + 1_200 * rest as usize,
    };
    let mut bytes = vec![number as u8 | 1; size];
    bytes[..4].copy_from_slice(&MARK);
    bytes[4..8].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The number of the batch that begins here, if it is whole and as it was sent.
fn number_of(bytes: &[u8]) -> Option<u32> {
    let number = u32_at(bytes, 4);
    let sent = batch(number);
    (bytes.get(..sent.len()) == Some(&sent)).then_some(number)
}

/// Sends batches `[0, count)` without waiting, and hands every answer to `check` in turn.
fn produce(address: SocketAddr, count: u32, mut check: impl FnMut(u32)) {
    let mut input = TcpStream::connect(address).unwrap();
    input.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut output = input.try_clone().unwrap();
    let writer = thread::spawn(move || {
        for number in 0..count {
            let batch = batch(number);
            let length = u32::try_from(batch.len()).unwrap();
            output.write_all(&length.to_le_bytes()).unwrap();
            output.write_all(&number.to_le_bytes()).unwrap();
            output.write_all(&batch).unwrap();
        }
    });
    for expected in 0..count {
        let mut answer = [0; 4];
        input.read_exact(&mut answer).unwrap();
        let number = u32::from_le_bytes(answer);
        assert_eq!(number, expected, "answers keep the order");
        check(number);
    }
    writer.join().unwrap();
}

/// The batches a folder holds, in the order they lie there.
fn held(folder: &Path) -> Vec<u32> {
    let file = File::open(folder.join("core-0/bare-0.segment")).unwrap();
    let mut bytes = Vec::new();
    file.take(96 << 20).read_to_end(&mut bytes).unwrap();
    let mut numbers = Vec::new();
    let mut at = 0;
    while at + HEAD_SIZE < bytes.len() {
        let length = u32_at(&bytes, at) as usize;
        let aligned = at.is_multiple_of(BLOCK_SIZE);
        if bytes[at..at + 4] == MARK {
            assert!(aligned, "a batch of its own begins a block");
            let Some(number) = number_of(&bytes[at..]) else { break };
            numbers.push(number);
            at += (batch(number).len() + HEAD_SIZE).next_multiple_of(BLOCK_SIZE);
        } else if length > 0 {
            let Some(number) = number_of(&bytes[at + HEAD_SIZE..]) else { break };
            assert_eq!(u32_at(&bytes, at + 4), number, "the correlation stays with its batch");
            numbers.push(number);
            at += HEAD_SIZE + length;
        } else if aligned {
            break;
        } else {
            at = at.next_multiple_of(BLOCK_SIZE);
        }
    }
    numbers
}

#[test]
fn three_folders_hold_the_same_bytes() {
    const BATCHES: u32 = 400;
    let others = [Server::start("same-1", 1, &[]), Server::start("same-2", 2, &[])];
    let first = Server::start("same-0", 0, &[others[0].address, others[1].address]);
    produce(first.address, BATCHES, |_| {});
    // An answer stands for two copies: the third may come later, and no two need be the same.
    let everything: Vec<u32> = (0..BATCHES).collect();
    let folders = [&first.folder, &others[0].folder, &others[1].folder];
    for folder in folders {
        until("every copy is whole", || (held(folder) == everything).then_some(()));
    }
    let bytes = folders.map(|folder| {
        let names = fs::read_dir(folder.join("core-0")).unwrap().flatten();
        let mut paths: Vec<PathBuf> = names.map(|entry| entry.path()).collect();
        paths.sort();
        assert!(paths.len() > 1);
        paths.iter().map(|path| hash(path)).collect::<Vec<_>>()
    });
    assert_eq!(bytes[0], bytes[1]);
    assert_eq!(bytes[0], bytes[2]);
}

/// What a file comes to: its CRC.
fn hash(path: &Path) -> u32 {
    let mut file = File::open(path).unwrap();
    let mut part = vec![0; 4 << 20];
    let mut crc = 0;
    loop {
        match file.read(&mut part).unwrap() {
            0 => return crc,
            count => crc = crc32c::crc32c_append(crc, &part[..count]),
        }
    }
}

/// What two nodes that the test plays have seen and said.
#[derive(Default)]
struct Seen {
    /// Batches that at least one of them has said to hold.
    said: BTreeSet<u32>,
    received_bytes: [u64; 2],
    said_bytes: [u64; 2],
    /// How far the second was behind the first, at most.
    lag_bytes: u64,
}

/// An entry as forwarded: its number, its bytes, the batches in it.
struct Entry {
    number: [u8; 4],
    bytes: u64,
    batches: Vec<u32>,
}

fn receive(stream: &mut TcpStream) -> Option<Entry> {
    let mut head = [0; HEAD_SIZE];
    stream.read_exact(&mut head).ok()?;
    let length = u32_at(&head, 0);
    let mut bytes = vec![0; (length & !GROUP_BIT) as usize];
    stream.read_exact(&mut bytes).ok()?;
    let mut batches = Vec::new();
    if length & GROUP_BIT == 0 {
        batches.push(number_of(&bytes).unwrap());
    } else {
        let mut at = 0;
        while at < bytes.len() {
            batches.push(number_of(&bytes[at + HEAD_SIZE..]).unwrap());
            at += HEAD_SIZE + u32_at(&bytes, at) as usize;
        }
    }
    Some(Entry { number: head[4..].try_into().unwrap(), bytes: bytes.len() as u64, batches })
}

impl Seen {
    fn handle_received(&mut self, copy: usize, bytes: u64) {
        self.received_bytes[copy] += bytes;
        let [first, second] = self.received_bytes;
        self.lag_bytes = self.lag_bytes.max(first.max(second) - self.said_bytes[1]);
    }
}

/// Plays a node that says it holds what it received when `ready` finds it is time; the first time
/// after a pause.
fn play(
    copy: usize,
    seen: &Arc<Mutex<Seen>>,
    pause: Duration,
    ready: impl Fn(&[Entry], &Seen) -> bool + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::clone(seen);
    let mut pause = pause;
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut kept = Vec::new();
        let mut next = 0;
        while let Some(entry) = receive(&mut stream) {
            for number in &entry.batches {
                assert_eq!(*number, next, "entries keep the order");
                next += 1;
            }
            let is_time = {
                let mut seen = seen.lock().unwrap();
                seen.handle_received(copy, entry.bytes);
                kept.push(entry);
                ready(&kept, &seen)
            };
            if !is_time {
                continue;
            }
            // Time for the other to be sent too much, if nothing keeps it from that.
            thread::sleep(std::mem::take(&mut pause));
            {
                // Noted before it is said: an answer can only come after.
                let mut seen = seen.lock().unwrap();
                for entry in &kept {
                    seen.said.extend(&entry.batches);
                    seen.said_bytes[copy] += entry.bytes;
                }
            }
            for entry in kept.drain(..).rev() {
                stream.write_all(&entry.number).unwrap();
            }
        }
    });
    address
}

#[test]
fn nothing_is_answered_before_two_have_it() {
    const BATCHES: u32 = 400;
    let holds_last =
        |kept: &[Entry]| kept.iter().any(|entry| entry.batches.contains(&(BATCHES - 1)));
    let seen = Arc::new(Mutex::new(Seen::default()));
    // The first holds back a few and tells of them in the wrong order; the second says nothing
    // until everything waits for it.
    let first = play(0, &seen, Duration::ZERO, move |kept, _| kept.len() >= 5 || holds_last(kept));
    let second = play(1, &seen, Duration::from_millis(100), move |_, seen| {
        seen.received_bytes[1] >= LAG_BYTES_MAX
    });
    let server = Server::start("two", 0, &[first, second]);
    produce(server.address, BATCHES, |number| {
        let seen = seen.lock().unwrap();
        assert!(seen.said.contains(&number), "batch {number} was answered with one copy");
    });
    let seen = seen.lock().unwrap();
    assert!(seen.received_bytes[0] > LAG_BYTES_MAX, "there was enough to lag");
    assert!(seen.lag_bytes >= LAG_BYTES_MAX, "the quorum went on without the second");
    assert!(seen.lag_bytes <= LAG_BYTES_MAX + (1 << 20), "{} bytes behind", seen.lag_bytes);
}
