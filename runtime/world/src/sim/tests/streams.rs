//! Tests of streams and listeners: exact bytes through every fault, and every way to end.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};

use bytes::BytesMut;

use super::*;
use crate::net::{Listener, ListenerHandle, Stream};
use crate::sim::{Host, LinkOptions, Network};

const ONE: Host = Host(1);
const TWO: Host = Host(2);
const PORT: u16 = 9092;
const SECOND: Duration = Duration::from_secs(1);

fn machine(host: Host) -> Machine {
    Machine::at(host, &Disk::default())
}

fn address(host: Host) -> SocketAddr {
    SocketAddr::from((host.ip(), PORT))
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

fn listen() -> Listener {
    Listener::bind_exclusive(any(PORT)).unwrap().on_core().unwrap()
}

/// Runs `future` on the machine and answers what it answers.
async fn on<T: 'static>(machine: &Machine, future: impl Future<Output = T> + 'static) -> T {
    machine.spawn(future).await.unwrap()
}

/// Two machines and both ends of a connection from ONE to TWO.
struct Pair {
    network: Network,
    one: Machine,
    two: Machine,
    client: Stream,
    server: Stream,
}

impl Pair {
    async fn new() -> Self {
        let (one, two) = (machine(ONE), machine(TWO));
        let listener = on(&two, async { listen() }).await;
        let client = on(&one, Stream::connect(address(TWO))).await.unwrap();
        let accepted = on(&two, async move { listener.accept().await.unwrap() }).await;
        assert_eq!(accepted.1, accepted.0.peer_addr());
        assert_eq!(accepted.1.ip(), ONE.ip());
        Self { network: Network::current(), one, two, client, server: accepted.0 }
    }

    fn cut_both(&self) {
        self.network.partition(&[&[ONE], &[TWO]]);
    }
}

/// Bytes that tell where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|at| at.wrapping_mul(0x9e37_79b9).to_le_bytes()).take(len).collect()
}

/// All bytes until the end, and how many reads it took.
async fn read_all(stream: &Stream) -> io::Result<(Vec<u8>, usize)> {
    let (mut all, mut reads) = (BytesMut::new(), 0);
    loop {
        all.reserve(64 << 10);
        reads += 1;
        if stream.read_buf(&mut all).await? == 0 {
            return Ok((all.to_vec(), reads));
        }
    }
}

async fn read_some(stream: &Stream) -> io::Result<usize> {
    stream.read(&mut [0; 4096]).await
}

async fn kind_of<T>(result: impl Future<Output = io::Result<T>>) -> ErrorKind {
    match result.await {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.kind(),
    }
}

/// Writes until it fails.
async fn write_until_error(stream: &Stream) -> ErrorKind {
    loop {
        if let Err(error) = stream.write_all(b"hello").await {
            return error.kind();
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Sends `len` bytes there and back over such links; answers what came, and how long it took.
fn echo(seed: u64, len: usize, options: LinkOptions) -> (Vec<u8>, Duration, Network) {
    run(seed, async move {
        let pair = Pair::new().await;
        pair.network.set_all(options);
        let server = pair.server.clone();
        drop(pair.two.spawn(async move {
            let mut buffer = [0; 10_000];
            loop {
                let count = server.read(&mut buffer).await.unwrap();
                if count == 0 {
                    break;
                }
                server.write_all(&buffer[..count]).await.unwrap();
            }
            server.shutdown(Shutdown::Write).unwrap();
        }));
        let client = pair.client.clone();
        drop(pair.one.spawn(async move {
            let bytes = pattern(len);
            let (head, tail) = bytes.split_at(len / 3);
            let slices = [io::IoSlice::new(head), io::IoSlice::new(&[]), io::IoSlice::new(tail)];
            client.write_vectored_all(&slices).await.unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        }));
        let start = Instant::now();
        let (all, _) = read_all(&pair.client).await.unwrap();
        (all, start.elapsed(), pair.network)
    })
}

/// The bytes come through exactly, the faults fire, and the same seed brings the same.
fn check(options: &LinkOptions, expected: &[&str]) {
    const LEN: usize = 300_000;
    let (sent, mut fired) = (pattern(LEN), BTreeSet::new());
    for seed in 0..10 {
        let (received, took, network) = echo(seed, LEN, options.clone());
        assert!(received == sent, "seed {seed}: {} bytes", received.len());
        let trace = trace_hash();
        let again = echo(seed, LEN, options.clone());
        assert_eq!((took, trace), (again.1, trace_hash()), "seed {seed}");
        assert_eq!(network.counters(), again.2.counters());
        let faults = network.counters().faults().into_iter();
        fired.extend(faults.filter(|(_, count)| *count > 0).map(|(name, _)| name));
    }
    assert_eq!(fired.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn bytes_come_through_every_fault() {
    let good = LinkOptions::default;
    check(&good(), &[]);
    check(&LinkOptions { loss_ppm: 50_000, ..good() }, &["network-loss"]);
    check(&LinkOptions { duplicate_ppm: 100_000, ..good() }, &["network-duplicate"]);
    check(&LinkOptions { reorder_ppm: 100_000, ..good() }, &["network-reorder"]);
    // A checksum finds it: to a stream it is a loss.
    let corrupt = LinkOptions { corrupt_ppm: 50_000, ..good() };
    check(&corrupt, &["network-corrupt", "network-loss"]);
    let all = LinkOptions {
        loss_ppm: 20_000,
        duplicate_ppm: 50_000,
        reorder_ppm: 50_000,
        corrupt_ppm: 20_000,
        ..good()
    };
    let names = ["network-corrupt", "network-duplicate", "network-loss", "network-reorder"];
    check(&all, &names);
}

#[test]
fn a_loss_is_a_delay() {
    let options = LinkOptions { loss_ppm: 100_000, ..LinkOptions::default() };
    let good = echo(3, 100_000, LinkOptions::default()).1;
    let lossy = echo(3, 100_000, options).1;
    assert!(good < Duration::from_millis(200), "{good:?}");
    assert!(lossy > Duration::from_millis(200), "{lossy:?}");
}

/// Whoever says something every 100 ms must not wait for what was lost until it says nothing
/// (`streams` 203113: heartbeats of 15 seconds were not heard).
#[test]
fn what_was_lost_is_sent_again_while_more_is_sent() {
    run(1, async {
        let pair = Pair::new().await;
        pair.cut_both();
        pair.client.write_all(b"1").await.unwrap();
        sleep(SECOND / 50).await;
        pair.network.heal_all();
        let server = pair.server.clone();
        let came = Rc::new(Cell::new(0));
        let count = Rc::clone(&came);
        drop(pair.two.spawn(async move {
            let mut buffer = BytesMut::with_capacity(64);
            while server.read_buf(&mut buffer).await.unwrap() > 0 {
                count.set(buffer.len());
            }
        }));
        for _ in 0..20 {
            pair.client.write_all(b"2").await.unwrap();
            sleep(SECOND / 10).await;
        }
        assert!(came.get() >= 20, "{}", came.get());
    });
}

#[test]
fn a_slow_link_takes_its_time() {
    let options = LinkOptions { bytes_per_second: Some(20_000), ..LinkOptions::default() };
    let (received, took, network) = echo(1, 100_000, options);
    assert!(received == pattern(100_000));
    assert!(took > SECOND * 5, "{took:?}");
    assert!(took < SECOND * 40, "{took:?}, {:?}", network.counters());
}

#[test]
fn an_altered_byte_passes_a_link_that_is_bad_enough() {
    let mut altered_count = 0;
    for seed in 0..10 {
        let options =
            LinkOptions { corrupt_ppm: 100_000, corrupt_streams: true, ..LinkOptions::default() };
        let (received, ..) = echo(seed, 100_000, options);
        assert_eq!(received.len(), 100_000);
        altered_count += u32::from(received != pattern(100_000));
    }
    assert!(altered_count > 5);
}

#[test]
fn reads_are_short_and_writes_wait_for_readers() {
    let (mut reads_all, mut longest) = (BTreeSet::new(), 0);
    for seed in 0..20 {
        run(seed, async {
            let pair = Pair::new().await;
            let written = Rc::new(Cell::new(0));
            let (client, count) = (pair.client.clone(), Rc::clone(&written));
            drop(pair.one.spawn(async move {
                for piece in pattern(1 << 20).chunks(1 << 10) {
                    client.write_all(piece).await.unwrap();
                    count.set(count.get() + piece.len());
                }
                client.shutdown(Shutdown::Write).unwrap();
            }));
            sleep(SECOND * 60).await;
            longest = longest.max(written.get());
            assert!(written.get() <= 256 << 10, "{}", written.get());
            let (all, reads) = read_all(&pair.server).await.unwrap();
            assert!(all == pattern(1 << 20));
            reads_all.insert(reads);
        });
    }
    assert!(longest > 128 << 10);
    assert!(reads_all.len() > 10);
}

#[test]
fn a_paused_machine_holds_its_writers_up() {
    run(1, async {
        let pair = Pair::new().await;
        let server = pair.server.clone();
        let reads = pair.two.spawn(async move { read_all(&server).await.unwrap().0.len() });
        sleep(SECOND).await;
        pair.two.pause();
        let client = pair.client.clone();
        let mut writes = pair.one.spawn(async move {
            client.write_all(&pattern(1 << 20)).await.unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        // Its system still answers, so that nothing is taken for dead.
        assert!(timeout(SECOND * 100, &mut writes).await.is_err());
        pair.two.resume();
        assert_eq!(writes.await, Some(()));
        assert_eq!(reads.await, Some(1 << 20));
    });
}

#[test]
fn nobody_listens() {
    run(1, async {
        let network = Network::current();
        let (one, two) = (machine(ONE), machine(TWO));
        let latency = Duration::from_millis(30)..=Duration::from_millis(30);
        network.set_all(LinkOptions { latency, ..LinkOptions::default() });
        let start = Instant::now();
        let connect = |to| on(&one, Stream::connect(to));
        assert_eq!(kind_of(connect(address(TWO))).await, ErrorKind::ConnectionRefused);
        assert!(start.elapsed() >= Duration::from_millis(60));
        assert!(start.elapsed() < Duration::from_millis(70));
        assert_eq!(network.counters().refused, 1);
        // A process that ended leaves its system to answer; without power nobody does.
        two.kill();
        assert_eq!(kind_of(connect(address(TWO))).await, ErrorKind::ConnectionRefused);
        two.power_off();
        let start = Instant::now();
        assert_eq!(kind_of(connect(address(TWO))).await, ErrorKind::TimedOut);
        assert!(start.elapsed() >= SECOND * 15);
        assert_eq!(kind_of(connect(address(Host(9)))).await, ErrorKind::TimedOut);
        let elsewhere = SocketAddr::from(([192, 168, 0, 1], PORT));
        assert_eq!(kind_of(connect(elsewhere)).await, ErrorKind::NetworkUnreachable);
    });
}

#[test]
fn a_cut_link_connects_nobody_until_it_is_healed() {
    for (from, to) in [(ONE, TWO), (TWO, ONE)] {
        run(1, async move {
            let network = Network::current();
            let (one, two) = (machine(ONE), machine(TWO));
            let listener = on(&two, async { listen() }).await;
            network.cut(from, to);
            let start = Instant::now();
            let failed = kind_of(on(&one, Stream::connect(address(TWO)))).await;
            assert_eq!(failed, ErrorKind::TimedOut);
            assert!(start.elapsed() >= SECOND * 15);
            assert!(start.elapsed() < SECOND * 16);
            let mut connects = one.spawn(Stream::connect(address(TWO)));
            assert!(timeout(SECOND * 5, &mut connects).await.is_err());
            network.heal(from, to);
            assert!(timeout(SECOND * 6, connects).await.unwrap().unwrap().is_ok());
            assert!(timeout(SECOND, listener.accept()).await.is_ok());
            assert!(timeout(SECOND, listener.accept()).await.is_err(), "only one was made");
        });
    }
}

#[test]
fn a_cut_delays_until_it_is_healed() {
    run(1, async {
        let pair = Pair::new().await;
        pair.cut_both();
        pair.client.write_all(b"hello").await.unwrap();
        let mut read = Box::pin(read_some(&pair.server));
        assert!(timeout(SECOND * 9, &mut read).await.is_err());
        pair.network.heal_all();
        assert_eq!(timeout(SECOND * 6, read).await.unwrap().unwrap(), 5);
        assert_eq!(pair.network.counters().resets, 0);
    });
}

#[test]
fn a_cut_that_lasts_ends_the_connection() {
    for (from, to) in [(ONE, TWO), (TWO, ONE)] {
        run(1, async move {
            let pair = Pair::new().await;
            pair.network.cut(from, to);
            let start = Instant::now();
            // With the way back cut the bytes arrive, but ONE does not hear of it.
            assert_eq!(write_until_error(&pair.client).await, ErrorKind::TimedOut);
            assert!(start.elapsed() >= SECOND * 15);
            assert!(start.elapsed() < SECOND * 17);
            assert_eq!(kind_of(pair.client.write_all(b"x")).await, ErrorKind::BrokenPipe);
            if from == TWO {
                assert!(read_some(&pair.server).await.unwrap() > 0);
            }
            // TWO does not know, until it has something to say.
            assert!(timeout(SECOND * 60, pair.server.readable()).await.is_err() || from == TWO);
            pair.network.heal_all();
            drop(pair.client);
            assert_eq!(write_until_error(&pair.server).await, ErrorKind::ConnectionReset);
            assert_eq!(pair.network.counters().resets, 2);
        });
    }
}

#[test]
fn one_direction_ends_before_the_other() {
    run(1, async {
        let pair = Pair::new().await;
        pair.client.write_all(b"question").await.unwrap();
        pair.client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(kind_of(pair.client.write_all(b"x")).await, ErrorKind::BrokenPipe);
        assert_eq!(read_all(&pair.server).await.unwrap().0, b"question");
        assert_eq!(read_some(&pair.server).await.unwrap(), 0);
        let answer = pattern(500_000);
        let (server, bytes) = (pair.server.clone(), answer.clone());
        drop(pair.two.spawn(async move {
            sleep(SECOND * 100).await;
            server.write_all(&bytes).await.unwrap();
        }));
        drop(pair.server);
        assert!(read_all(&pair.client).await.unwrap().0 == answer);
        assert_eq!(pair.network.counters().resets, 0);
    });
}

#[test]
fn a_reader_that_wants_no_more_sees_the_end() {
    run(1, async {
        let pair = Pair::new().await;
        let client = pair.client.clone();
        let waits = pair.one.spawn(async move { read_some(&client).await.unwrap() });
        sleep(SECOND).await;
        pair.client.shutdown(Shutdown::Read).unwrap();
        assert_eq!(waits.await, Some(0));
        pair.client.write_all(b"still open").await.unwrap();
        assert_eq!(read_some(&pair.server).await.unwrap(), 10);
    });
}

#[test]
fn a_dropped_stream_sends_what_was_written() {
    for seed in 0..10 {
        run(seed, async {
            let pair = Pair::new().await;
            pair.client.write_all(&pattern(2_000)).await.unwrap();
            drop(pair.client);
            assert!(read_all(&pair.server).await.unwrap().0 == pattern(2_000));
            // Nobody is there to read an answer.
            assert!(pair.server.write_all(b"answer").await.is_ok());
            sleep(SECOND).await;
            assert!(pair.server.write_all(b"answer").await.is_err());
        });
    }
}

#[test]
fn a_stream_dropped_with_unread_bytes_is_reset() {
    run(1, async {
        let pair = Pair::new().await;
        pair.client.write_all(b"unread").await.unwrap();
        pair.server.readable().await.unwrap();
        drop(pair.server);
        assert_eq!(kind_of(pair.client.readable()).await, ErrorKind::ConnectionReset);
        assert_eq!(kind_of(read_some(&pair.client)).await, ErrorKind::ConnectionReset);
        let shutdown = pair.client.shutdown(Shutdown::Both);
        assert_eq!(shutdown.unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(pair.network.counters().resets, 1);
    });
}

#[test]
fn bytes_that_came_before_a_reset_are_read() {
    run(1, async {
        let pair = Pair::new().await;
        pair.server.write_all(b"last words").await.unwrap();
        sleep(SECOND).await;
        pair.client.write_all(b"unread").await.unwrap();
        sleep(SECOND).await;
        drop(pair.server);
        sleep(SECOND).await;
        let mut words = Vec::new();
        while words.len() < 10 {
            let mut buffer = [0; 10];
            let count = pair.client.read(&mut buffer).await.unwrap();
            words.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(words, b"last words");
        assert_eq!(kind_of(read_some(&pair.client)).await, ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_killed_process_ends_its_connections() {
    let mut ends = BTreeSet::new();
    for seed in 0..20 {
        let end = run(seed, async {
            let pair = Pair::new().await;
            let server = pair.server;
            drop(pair.two.spawn(async move {
                let _server = server;
                std::future::pending::<()>().await;
            }));
            sleep(SECOND).await;
            pair.two.kill();
            let end = match timeout(SECOND, read_some(&pair.client)).await.unwrap() {
                Ok(count) => {
                    assert_eq!(count, 0);
                    ErrorKind::UnexpectedEof
                }
                Err(error) => error.kind(),
            };
            let written = write_until_error(&pair.client).await;
            assert!(matches!(written, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
            assert!(pair.network.counters().resets > 0);
            end.to_string()
        });
        ends.insert(end);
    }
    // The system closes the connection, or resets it.
    let both = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
    assert_eq!(ends, both.map(|kind| kind.to_string()).into());
}

#[test]
fn a_host_without_power_is_silent_until_it_boots() {
    for boots in [false, true] {
        run(1, async move {
            let pair = Pair::new().await;
            pair.two.power_off();
            drop(pair.server);
            let mut read = Box::pin(read_some(&pair.client));
            assert!(timeout(SECOND * 60, &mut read).await.is_err());
            let _after = boots.then(|| machine(TWO));
            assert!(timeout(SECOND * 60, &mut read).await.is_err());
            let start = Instant::now();
            pair.client.write_all(b"hello").await.unwrap();
            let (kind, wait) = match boots {
                true => (ErrorKind::ConnectionReset, Duration::ZERO),
                false => (ErrorKind::TimedOut, SECOND * 15),
            };
            assert_eq!(kind_of(read).await, kind);
            assert!(start.elapsed() >= wait);
            assert!(start.elapsed() <= wait + SECOND);
        });
    }
}

#[test]
fn a_disk_that_takes_the_power_silences_its_host() {
    run(1, async {
        let (disk, one) = (Disk::default(), machine(ONE));
        let two = Machine::at(TWO, &disk);
        disk.crash_at(2);
        drop(two.spawn(async {
            let listener = listen();
            let (stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"soon gone").await.unwrap();
            sleep(SECOND).await;
            drop(fs::create_dir_all("/a").await);
            drop(fs::create_dir_all("/b").await);
        }));
        let client = on(&one, Stream::connect(address(TWO))).await.unwrap();
        assert!(read_some(&client).await.unwrap() > 0);
        sleep(SECOND * 2).await;
        assert!(two.is_killed());
        while let Ok(read) = timeout(SECOND * 60, read_some(&client)).await {
            assert!(read.unwrap() > 0);
        }
        let _after = Machine::at(TWO, &Disk::boot(disk.crash(&mut Rng::new(1))));
        assert_eq!(write_until_error(&client).await, ErrorKind::ConnectionReset);
    });
}

#[test]
fn keepalive_finds_a_silent_peer() {
    run(1, async {
        let pair = Pair::new().await;
        pair.client.set_keepalive(SECOND * 60).unwrap();
        pair.client.set_nodelay(true).unwrap();
        // A peer that lives answers.
        assert!(timeout(SECOND * 3_600, read_some(&pair.client)).await.is_err());
        pair.two.power_off();
        let start = Instant::now();
        assert_eq!(kind_of(read_some(&pair.client)).await, ErrorKind::TimedOut);
        assert!(start.elapsed() >= SECOND * (9 * 75), "{:?}", start.elapsed());
        assert!(start.elapsed() <= SECOND * (60 + 9 * 75 + 1), "{:?}", start.elapsed());
    });
}

#[test]
#[should_panic(expected = "deadlock: 200000 timers in a row woke no task")]
fn a_deadlock_is_found_though_probes_go_on() {
    run(1, async {
        let pair = Pair::new().await;
        pair.client.set_keepalive(SECOND).unwrap();
        read_some(&pair.client).await.unwrap();
    });
}

#[test]
fn a_dropped_read_has_read_nothing() {
    run(1, async {
        let pair = Pair::new().await;
        let client = pair.client.clone();
        drop(pair.one.spawn(async move {
            for piece in pattern(10_000).chunks(100) {
                client.write_all(piece).await.unwrap();
                sleep(Duration::from_micros(700)).await;
            }
            client.shutdown(Shutdown::Write).unwrap();
        }));
        let (mut all, mut dropped_count) = (Vec::new(), 0);
        loop {
            let mut buffer = [0; 64];
            let read = timeout(Duration::from_micros(100), pair.server.read(&mut buffer));
            match read.await.map(Result::unwrap) {
                Err(_) => dropped_count += 1,
                Ok(0) => break,
                Ok(count) => all.extend_from_slice(&buffer[..count]),
            }
        }
        assert!(dropped_count > 50, "{dropped_count}");
        assert!(all == pattern(10_000));
    });
}

/// Connects from the current machine; answers which of the listeners got the connection.
async fn connect_and_find(listeners: &[&Listener]) -> (usize, Stream) {
    let connected = Stream::connect(listeners[0].local_addr()).await.unwrap();
    for (index, listener) in listeners.iter().enumerate() {
        if let Ok(accepted) = timeout(Duration::from_millis(10), listener.accept()).await {
            accepted.unwrap();
            return (index, connected);
        }
    }
    panic!("nobody got the connection");
}

async fn connect(from: &Machine, to: SocketAddr) -> io::Result<Stream> {
    on(from, Stream::connect(to)).await
}

fn bind(port: u16) -> io::Result<ListenerHandle> {
    Listener::bind_exclusive(any(port))
}

#[test]
fn cores_share_a_listener_in_turn() {
    run(1, async {
        let handle = bind(0).unwrap();
        assert_ne!(handle.local_addr().port(), 0);
        let early = Stream::connect(handle.local_addr()).await.unwrap();
        sleep(SECOND).await;
        let (one, two, three) =
            (handle.on_core().unwrap(), handle.on_core().unwrap(), handle.on_core().unwrap());
        assert!(timeout(SECOND, one.accept()).await.is_ok(), "it waited for the first core");
        let mut counts = [0; 3];
        for _ in 0..9 {
            counts[connect_and_find(&[&one, &two, &three]).await.0] += 1;
        }
        assert_eq!(counts, [3, 3, 3]);
        drop(two);
        let mut counts = [0; 2];
        for _ in 0..9 {
            counts[connect_and_find(&[&one, &three]).await.0] += 1;
        }
        assert!(counts[0] >= 3 && counts[1] >= 3, "{counts:?}");
        assert_eq!(
            bind(handle.local_addr().port()).map(|_| ()).unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
        // What nobody accepted is reset when the last listener goes, and the port is free.
        let waiting = Stream::connect(handle.local_addr()).await.unwrap();
        drop((one, three));
        assert_eq!(kind_of(waiting.readable()).await, ErrorKind::ConnectionReset);
        assert_eq!(handle.on_core().map(|_| ()).unwrap_err().kind(), ErrorKind::NotConnected);
        let refused = kind_of(Stream::connect(handle.local_addr())).await;
        assert_eq!(refused, ErrorKind::ConnectionRefused);
        assert!(bind(handle.local_addr().port()).is_ok());
        drop(early);
    });
}

#[test]
fn an_address_says_who_is_heard() {
    run(1, async {
        let (one, two) = (machine(ONE), machine(TWO));
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let listen_at = |address| on(&two, async move { Listener::bind_exclusive(address) });
        for (bound, by_loopback, by_address) in
            [(loopback, true, false), (any(PORT), true, true), (address(TWO), false, true)]
        {
            let handle = listen_at(bound).await.unwrap();
            assert_eq!(handle.local_addr(), bound);
            assert_eq!(connect(&two, loopback).await.is_ok(), by_loopback);
            assert_eq!(connect(&two, address(TWO)).await.is_ok(), by_address);
            assert_eq!(connect(&one, address(TWO)).await.is_ok(), by_address);
            assert!(connect(&one, loopback).await.is_err());
        }
        let elsewhere = listen_at(address(ONE)).await.map(|_| ());
        assert_eq!(elsewhere.unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    });
}

#[test]
fn a_port_is_free_when_its_process_was_killed() {
    run(1, async {
        let (disk, one) = (Disk::default(), machine(ONE));
        for _ in 0..3 {
            let two = Machine::at(TWO, &disk);
            drop(two.spawn(async {
                let listener = listen();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    stream.write_all(b"hello").await.unwrap();
                }
            }));
            sleep(SECOND).await;
            let client = on(&one, Stream::connect(address(TWO))).await.unwrap();
            assert_eq!(read_all(&client).await.unwrap().0, b"hello");
            two.kill();
        }
    });
}

/// Writes the pattern in pieces of any size, with pauses, until it is all written or fails.
async fn write_in_pieces(stream: Stream, seed: u64) {
    let mut random = Rng::new(seed);
    let bytes = pattern(random.below(300_000) as usize);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (piece, after) =
            rest.split_at(random.between(1, 40_000).min(rest.len() as u64) as usize);
        if stream.write_all(piece).await.is_err() {
            return;
        }
        rest = after;
        if random.one_in(4) {
            sleep(Duration::from_millis(random.below(3_000))).await;
        }
    }
    if random.one_in(2) {
        drop(stream.shutdown(Shutdown::Write));
    }
}

/// Reads to the end, or until it fails, or until it has enough; what came is what was written.
async fn read_prefix(stream: Stream, seed: u64) -> (usize, Option<ErrorKind>) {
    let mut random = Rng::new(seed);
    let enough = if random.one_in(4) { random.below(100_000) as usize } else { usize::MAX };
    let (expected, mut count) = (pattern(300_000), 0);
    loop {
        if count > enough {
            return (count, Some(ErrorKind::Other));
        }
        let mut buffer = vec![0; random.between(1, 20_000) as usize];
        let Ok(read) = timeout(SECOND * 300, stream.read(&mut buffer)).await else {
            return (count, Some(ErrorKind::WouldBlock));
        };
        match read {
            Ok(0) => return (count, None),
            Ok(read) => {
                assert!(buffer[..read] == expected[count..count + read], "at {count}");
                count += read;
            }
            Err(error) => return (count, Some(error.kind())),
        }
        if random.one_in(8) {
            sleep(Duration::from_millis(random.below(3_000))).await;
        }
    }
}

/// Cuts, heals, pauses and slows for a while; then all is well, or a machine is gone.
async fn disturb(pair: (Network, Machine, Machine), seed: u64) {
    let ((network, one, two), mut random) = (pair, Rng::new(seed));
    for _ in 0..random.below(30) {
        sleep(Duration::from_millis(random.below(8_000))).await;
        let (from, to) = if random.one_in(2) { (ONE, TWO) } else { (TWO, ONE) };
        match random.below(8) {
            0 | 1 => network.cut(from, to),
            2 => network.heal_all(),
            3 => two.pause(),
            4 => two.resume(),
            5 => network.set_link(
                from,
                to,
                LinkOptions {
                    loss_ppm: 100_000,
                    duplicate_ppm: 100_000,
                    reorder_ppm: 200_000,
                    ..LinkOptions::default()
                },
            ),
            6 => network.set_link(
                from,
                to,
                LinkOptions {
                    bytes_per_second: Some(random.between(2_000, 200_000)),
                    ..LinkOptions::default()
                },
            ),
            _ => network.set_all(LinkOptions::default()),
        }
    }
    match random.below(6) {
        0 => one.kill(),
        1 => two.kill(),
        2 => two.power_off(),
        _ => {}
    }
    two.resume();
    network.set_all(LinkOptions::default());
}

/// What both sides have read, and how they ended.
fn live_through_anything(seed: u64) -> [Option<(usize, Option<ErrorKind>)>; 2] {
    run(seed, async move {
        let Pair { network, one, two, client, server } = Pair::new().await;
        let mut random = Rng::new(seed);
        let mut numbers = || random.next_u64();
        for (machine, stream) in [(&one, &client), (&two, &server)] {
            stream.set_keepalive(SECOND * 10).unwrap();
            drop(machine.spawn(write_in_pieces(stream.clone(), numbers())));
        }
        let ends =
            [one.spawn(read_prefix(client, numbers())), two.spawn(read_prefix(server, numbers()))];
        drop(spawn(disturb((network, one, two), numbers())));
        let [first, second] = ends;
        [first.await, second.await]
    })
}

#[test]
fn what_is_read_was_written_whatever_happens() {
    let mut ends = std::collections::BTreeMap::new();
    for seed in 0..SEEDS_OF_ANYTHING {
        for end in live_through_anything(seed) {
            let how = end.map_or_else(|| "killed".into(), |end| format!("{:?}", end.1));
            *ends.entry(how).or_insert(0_u32) += 1;
        }
    }
    for how in ["killed", "None", "Some(TimedOut)", "Some(ConnectionReset)"] {
        assert!(ends.get(how).is_some_and(|count| *count > 3), "{how}: {ends:?}");
    }
}

const SEEDS_OF_ANYTHING: u64 = 100;

#[test]
fn a_stream_of_an_earlier_run_is_not_connected() {
    let pair = run(1, Pair::new());
    run(2, async move {
        let written = kind_of(pair.client.write_all(b"x")).await;
        assert_eq!(written, ErrorKind::NotConnected);
        drop(pair);
    });
}
