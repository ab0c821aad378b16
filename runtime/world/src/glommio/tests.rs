//! Tests of the real backend: files in temporary directories, loopback sockets, cores.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;

use super::fs;
use super::net::{Listener, Stream};
use super::node::{self, CoreSet, CoreSetError, NodeOptions, Topology};
use super::preflight::preflight;
use crate::mailbox::mailbox;
use crate::{
    BLOCK_SIZE, Buffer, Elapsed, File, Instant, Slice, random_u64, run_local, sleep, spawn,
    timeout, yield_now,
};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A directory on the disk that holds the build, because `/tmp` may lie in memory.
fn disk_dir() -> tempfile::TempDir {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    std::fs::create_dir_all(&base).unwrap();
    tempfile::tempdir_in(base).unwrap()
}

fn filled(len: usize, byte: u8) -> Slice {
    let mut buffer = Buffer::new(len);
    buffer.fill(byte);
    buffer.freeze()
}

#[test]
fn a_file_holds_what_was_written() {
    for dir in [disk_dir(), tempfile::tempdir().unwrap()] {
        run_local(async {
            let path = dir.path().join("segment");
            let file = File::create(&path, 1 << 20).await.unwrap();
            assert_eq!(file.len().await.unwrap(), 1 << 20);
            let fresh = file.read_at(0, BLOCK_SIZE).await.unwrap();
            assert!(fresh.iter().all(|byte| *byte == 0));
            assert_eq!(file.write_at(&filled(8192, 0xAB), 4096).await.unwrap(), 8192);
            file.sync_data().await.unwrap();
            file.close().await.unwrap();

            let file = File::open(&path).await.unwrap();
            let read = file.read_at(4096, 16384).await.unwrap();
            assert_eq!(read.len(), 16384);
            assert!(read[..8192].iter().all(|byte| *byte == 0xAB));
            assert!(read[8192..].iter().all(|byte| *byte == 0));
            assert_eq!(file.read_at((1 << 20) - 4096, 65536).await.unwrap().len(), 4096);
            assert_eq!(file.read_at(1 << 20, 4096).await.unwrap().len(), 0);
            file.set_len(4096).await.unwrap();
            assert_eq!(file.len().await.unwrap(), 4096);
            assert_eq!(fs::list(dir.path()).await.unwrap(), ["segment"], "no probe is left");
        });
    }
}

#[test]
fn a_durable_write_goes_to_the_open_file_whatever_its_name_is_now() {
    for dir in [disk_dir(), tempfile::tempdir().unwrap()] {
        run_local(async {
            let (path, moved) = (dir.path().join("segment"), dir.path().join("moved"));
            let file = File::create(&path, 16384).await.unwrap();
            fs::rename(&path, &moved).await.unwrap();
            let other = File::create(&path, 16384).await.unwrap();
            let moved = std::fs::canonicalize(moved).unwrap();
            for at in [4096, 8192] {
                let written = file.write_durable_at(&filled(4096, 0xAB), at).await.unwrap();
                assert_eq!(written, 4096);
            }
            let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
                let entry = entry.unwrap();
                let is_ours = std::fs::read_link(entry.path()).is_ok_and(|to| to == moved);
                let number = entry.file_name().into_string().unwrap();
                is_ours.then(|| std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")))
            });
            let flags = descriptors.map(|info| {
                let info = info.unwrap();
                let line = info.lines().find(|line| line.starts_with("flags:")).unwrap();
                i32::from_str_radix(line["flags:".len()..].trim(), 8).unwrap()
            });
            let durable = flags.filter(|flags| flags & libc::O_DSYNC != 0).count();
            assert_eq!(durable, 1);
            let read = file.read_at(0, 16384).await.unwrap();
            assert_eq!((read[0], read[4096], read[12287], read[12288]), (0, 0xAB, 0xAB, 0));
            assert!(other.read_at(0, 16384).await.unwrap().iter().all(|byte| *byte == 0));
            file.close().await.unwrap();
        });
    }
}

#[test]
fn reads_work_on_an_executor_whose_first_file_is_empty() {
    let dir = disk_dir();
    run_local(async {
        let empty = File::create(dir.path().join("empty"), 0).await.unwrap();
        let file = File::create(dir.path().join("full"), 8192).await.unwrap();
        file.write_at(&filled(8192, 1), 0).await.unwrap();
        assert_eq!(file.read_at(0, 8192).await.unwrap().len(), 8192);
        assert_eq!(empty.read_at(0, 4096).await.unwrap().len(), 0);
    });
}

#[test]
fn errors_keep_their_number() {
    let dir = disk_dir();
    run_local(async {
        let path = dir.path().join("file");
        assert_eq!(File::open(&path).await.unwrap_err().raw_os_error(), Some(libc::ENOENT));
        File::create(&path, 4096).await.unwrap().close().await.unwrap();
        let error = File::create(&path, 4096).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        let error = File::create(dir.path().join("none/file"), 4096).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        let error = File::create(dir.path().join("huge"), 1 << 55).await.unwrap_err();
        let number = error.raw_os_error();
        assert!(matches!(number, Some(libc::EFBIG | libc::ENOSPC)), "{error}");
        assert!(!fs::exists(dir.path().join("huge")).await.unwrap());
    });
}

#[test]
fn a_dropped_write_still_happens() {
    let dir = disk_dir();
    run_local(async {
        let file = Rc::new(File::create(dir.path().join("file"), 1 << 20).await.unwrap());
        let slice = filled(1 << 20, 7);
        let outcome = timeout(Duration::ZERO, file.write_at(&slice, 0)).await;
        drop(slice);
        if outcome.is_err() {
            sleep(Duration::from_millis(200)).await;
        }
        let read = file.read_at(0, 1 << 20).await.unwrap();
        assert!(read.iter().all(|byte| *byte == 7));
    });
}

#[test]
fn many_writes_in_flight_all_land() {
    let dir = disk_dir();
    run_local(async {
        let file = Rc::new(File::create(dir.path().join("file"), 64 * 4096).await.unwrap());
        let mut tasks = Vec::new();
        for index in 0..64_u8 {
            let file = Rc::clone(&file);
            tasks.push(spawn(async move {
                file.write_at(&filled(4096, index), u64::from(index) * 4096).await
            }));
        }
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap(), 4096);
        }
        let read = file.read_at(0, 64 * 4096).await.unwrap();
        for (index, block) in read.chunks(4096).enumerate() {
            assert!(block.iter().all(|byte| usize::from(*byte) == index));
        }
    });
}

#[test]
#[should_panic(expected = "only a whole frozen buffer")]
fn a_part_of_a_buffer_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    run_local(async {
        let file = File::create(dir.path().join("file"), 8192).await.unwrap();
        let part = filled(8192, 1).slice(0..4096);
        drop(file.write_at(&part, 0).await);
    });
}

#[test]
fn buffers_are_reused_only_when_no_slice_is_left() {
    let address = |bytes: &[u8]| bytes.as_ptr() as usize;
    let mut buffer = Buffer::new(12288);
    assert!(buffer.iter().all(|byte| *byte == 0));
    assert_eq!(address(&buffer) % BLOCK_SIZE, 0);
    buffer[5] = 42;
    let first = address(&buffer);
    let slice = buffer.freeze();
    let part = slice.slice(4..8).slice(1..2);
    assert_eq!(*part, [42]);
    assert_eq!(part.held_bytes(), 12288);
    assert!(part.shares_memory(&slice));
    drop(slice);
    assert_ne!(address(&Buffer::new(12288)), first, "a part still holds the memory");
    drop(part);
    let again = Buffer::new(12288);
    assert_eq!(address(&again), first);
    assert_ne!(address(&Buffer::new(4096)), first);
    let heap = Slice::from(vec![1, 2, 3]);
    assert_eq!(heap.slice(1..3).to_bytes(), [2, 3].as_slice());
    assert!(Slice::from(Vec::new()).is_empty());
}

#[test]
fn small_files_and_directories() {
    let dir = disk_dir();
    run_local(async {
        let sub = dir.path().join("a/b");
        fs::create_dir_all(&sub).await.unwrap();
        fs::create_dir_all(&sub).await.unwrap();
        let path = sub.join("node.json");
        fs::write_atomic(&path, b"one").await.unwrap();
        fs::write_atomic(&path, b"two").await.unwrap();
        assert_eq!(fs::read(&path).await.unwrap(), b"two");
        fs::rename(&path, sub.join("other")).await.unwrap();
        fs::sync_dir(&sub).await.unwrap();
        assert_eq!(fs::list(&sub).await.unwrap(), ["other"]);
        fs::remove(sub.join("other")).await.unwrap();
        assert!(!fs::exists(&path).await.unwrap());
        assert!(fs::free_space(&sub).await.unwrap() > 0);
        let lock = fs::lock_dir(&sub).await.unwrap();
        let error = fs::lock_dir(&sub).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        fs::lock_dir(&sub).await.unwrap();
        let panicked = fs::blocking::<()>(|| panic!("expected in this test")).await;
        assert!(panicked.is_err(), "a panic in a blocking call must not hang its caller");
        fs::sync_dir(&sub).await.unwrap();
    });
}

#[test]
fn time_and_timeouts() {
    run_local(async {
        let start = Instant::now();
        sleep(Duration::from_millis(20)).await;
        assert!(start.elapsed() >= Duration::from_millis(20));
        let late = timeout(Duration::from_millis(5), std::future::pending::<()>()).await;
        assert_eq!(late, Err(Elapsed));
        assert_eq!(timeout(Duration::from_secs(9), async { 1 }).await, Ok(1));
        let start = Instant::now();
        for _ in 0..1000 {
            sleep(Duration::from_micros(1)).await;
        }
        assert!(start.elapsed() < Duration::from_millis(50), "tiny sleeps are turns");
        assert_eq!(start - Instant::now(), Duration::ZERO);
        assert_ne!(random_u64(), random_u64());
        drop(sleep(Duration::MAX));
    });
}

/// Runs one handler per accepted connection and answers the address.
fn echo_server() -> (SocketAddr, Listener) {
    let handle = Listener::bind_exclusive(LOOPBACK).unwrap();
    (handle.local_addr(), handle.on_core().unwrap())
}

#[test]
fn sockets_carry_bytes_both_ways() {
    run_local(async {
        let (address, listener) = echo_server();
        let server = spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut buffer = BytesMut::with_capacity(1 << 16);
            let mut total = 0;
            loop {
                buffer.clear();
                buffer.reserve(1 << 16);
                let count = stream.read_buf(&mut buffer).await.unwrap();
                assert_eq!(count, buffer.len());
                if count == 0 {
                    stream.shutdown(Shutdown::Both).unwrap();
                    return total;
                }
                total += count;
                stream.write_all(&buffer).await.unwrap();
            }
        });
        let client = Stream::connect(address).await.unwrap();
        client.set_nodelay(true).unwrap();
        client.set_keepalive(Duration::from_secs(60)).unwrap();
        let reader = client.clone();
        let received = spawn(async move {
            let mut received = Vec::new();
            let mut buffer = vec![0; 1000];
            loop {
                match reader.read(&mut buffer).await.unwrap() {
                    0 => return received,
                    count => received.extend_from_slice(&buffer[..count]),
                }
            }
        });
        // Idle connections wait in the kernel and are woken.
        sleep(Duration::from_millis(10)).await;
        let parts: Vec<Vec<u8>> = (0..1000_u32).map(|n| vec![n as u8; 3 * n as usize]).collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        client.write_vectored_all(&slices).await.unwrap();
        client.write_all(&[]).await.unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let sent = parts.concat();
        assert!(received.await.unwrap() == sent, "the echo must be what was sent");
        assert_eq!(server.await, Some(sent.len()));
    });
}

#[test]
fn an_idle_read_sleeps() {
    run_local(async {
        let (address, listener) = echo_server();
        let client = Stream::connect(address).await.unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        assert_eq!(server.peer_addr(), peer);
        for _ in 0..3 {
            let mut byte = [0];
            let idle = timeout(Duration::from_millis(5), server.read(&mut byte)).await;
            assert_eq!(idle.err(), Some(Elapsed), "a dropped read must not disturb the next");
        }
        let idle = spawn(async move {
            let mut byte = [0];
            server.read(&mut byte).await.map(|count| (count, byte))
        });
        let before = cpu_time();
        sleep(Duration::from_millis(300)).await;
        let used = cpu_time() - before;
        assert!(used < Duration::from_millis(100), "waiting used {used:?} of processor time");
        client.write_all(b"x").await.unwrap();
        assert_eq!(idle.await.unwrap().unwrap(), (1, *b"x"));
    });
}

#[expect(unsafe_code, reason = "std has no processor time")]
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that the call fills in.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn an_address_in_use_is_an_error() {
    let first = Listener::bind_exclusive(LOOPBACK).unwrap();
    let error = Listener::bind_exclusive(first.local_addr()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn a_dropped_listener_refuses() {
    run_local(async {
        let handle = Listener::bind_exclusive(LOOPBACK).unwrap();
        let address = handle.local_addr();
        let (first, second) = (handle.on_core().unwrap(), handle.on_core().unwrap());
        drop(first);
        let client = Stream::connect(address).await.unwrap();
        second.accept().await.unwrap();
        drop((client, second));
        assert!(Stream::connect(address).await.is_err());
        assert!(handle.on_core().is_err());
    });
}

#[test]
fn messages_cross_between_cores_in_order() {
    const COUNT: u64 = 10_000;
    let (there, mut arriving) = mailbox::<u64>(100_000);
    let (back, mut returning) = mailbox::<u64>(64);
    let echo = std::thread::spawn(move || {
        run_local(async move {
            let mut next = 0;
            while let Some(messages) = arriving.recv().await {
                for message in messages {
                    assert_eq!(message, next);
                    next += 1;
                    while back.try_send(vec![message]).is_err() {
                        sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            next
        })
    });
    run_local(async move {
        let outbox = there.outbox();
        let sender = spawn(async move {
            for message in 0..COUNT {
                outbox.post(message).unwrap();
                if message % 100 == 0 {
                    yield_now().await;
                }
            }
            assert!(outbox.depth() > 0);
        });
        drop(there);
        let mut received = 0;
        while let Some(messages) = returning.recv().await {
            for message in messages {
                assert_eq!(message, received);
                received += 1;
            }
        }
        assert_eq!(received, COUNT);
        assert_eq!(sender.await, Some(()));
    });
    assert_eq!(echo.join().unwrap(), COUNT);
}

#[test]
fn a_full_mailbox_gives_messages_back() {
    run_local(async {
        let (sender, mut receiver) = mailbox(3);
        assert_eq!(sender.try_send(vec![1, 2]), Ok(()));
        assert_eq!(sender.try_send(vec![3, 4]).unwrap_err().0, [3, 4]);
        let outbox = sender.outbox();
        outbox.post(3).unwrap();
        assert_eq!(outbox.post(4).unwrap_err().0, [4]);
        outbox.flush();
        assert_eq!(sender.depth(), 3);
        assert_eq!(receiver.recv().await.unwrap(), [1, 2, 3]);
        assert_eq!(sender.depth(), 0);
        drop(receiver);
        assert_eq!(outbox.post(5).unwrap_err().0, [5]);
        assert_eq!(sender.try_send(vec![6]).unwrap_err().0, [6]);
    });
}

#[test]
fn core_sets_are_counts_or_lists() {
    let topology =
        Topology { cpus: vec![0, 1, 2, 5], cpu_name: String::new(), memory_total: 1 << 30 };
    let parse = |text: &str| CoreSet::parse_for(text, &topology).map(|set| set.cpus().to_vec());
    assert_eq!(parse("4").unwrap(), [0, 1, 2, 5]);
    assert_eq!(parse("1").unwrap(), [0]);
    assert_eq!(parse("0-2,5").unwrap(), [0, 1, 2, 5]);
    assert_eq!(parse("5-5").unwrap(), [5]);
    assert_eq!(parse("2,1,1").unwrap(), [1, 2]);
    assert!(matches!(parse("5"), Err(CoreSetError::TooMany { asked: 5, available: 4 })));
    assert!(matches!(parse("0-3"), Err(CoreSetError::Unavailable { cpu: 3, .. })));
    for malformed in ["", "0", "x", "2-1", "-", ",", "0-99999999999", "1-x"] {
        let result = parse(malformed);
        assert!(matches!(result, Err(CoreSetError::Malformed { .. })), "{malformed}: {result:?}");
    }
    let real = Topology::detect();
    assert!(!real.cpus.is_empty());
    assert!(real.memory_total > 0);
    assert!(node::memory_resident() > 0);
}

#[test]
fn a_node_runs_its_body_on_every_core() {
    let cores = CoreSet::all();
    let (sender, receiver) = flume::unbounded();
    let node = node::start(&cores, NodeOptions::default(), move |core| {
        let sender = sender.clone();
        async move {
            assert_eq!(node::current_core(), Some(core));
            let (mut waited, before) = (0, Instant::now());
            while waited < 3 {
                sleep(Duration::from_millis(1)).await;
                waited += 1;
            }
            assert!(before.elapsed() >= Duration::from_millis(3));
            sender.send(core.index).unwrap();
        }
    });
    node.unwrap().join().unwrap();
    let mut indexes: Vec<u16> = receiver.drain().collect();
    indexes.sort_unstable();
    let expected: Vec<u16> = (0..cores.count() as u16).collect();
    assert_eq!(indexes, expected);
}

const CHILD: &str = "BARRAGE_TEST_PANIC_CHILD";

/// The child half of the next test: one core panics while this thread waits for all of them.
#[test]
fn panic_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let node = node::start(&CoreSet::all(), NodeOptions::default(), |core| async move {
        if core.index == 0 {
            let inner = spawn(async { panic!("expected in this test") });
            let _: Option<()> = inner.await;
        }
        std::future::pending::<()>().await;
    });
    node.unwrap().join().unwrap();
}

#[test]
fn a_panic_on_a_core_ends_the_process() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "glommio::tests::panic_child", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(101));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("expected in this test"), "{stderr}");
    assert!(stderr.contains("core 0 panicked; the process ends"), "{stderr}");
}

#[test]
fn preflight_finds_this_machine_fit() {
    let dir = disk_dir();
    let checks = preflight(&dir.path().join("data"));
    let failed: Vec<_> = checks.iter().filter(|check| check.is_fatal()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let names: Vec<_> = checks.iter().map(|check| check.name).collect();
    assert!(names.contains(&"io_uring") && names.contains(&"sync latency"), "{names:?}");

    let unwritable = preflight(Path::new("/proc/barrage"));
    let broken = unwritable.iter().find(|check| check.name == "data directory").unwrap();
    assert!(broken.is_fatal() && !broken.fix.is_empty());
}
