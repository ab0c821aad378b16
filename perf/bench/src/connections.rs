//! Idle connections: what they take of a node, and whether work goes on beside them.
//!
//! Owns: opening them and keeping them open. Must never: count one that did not shake hands, or
//! call it measured when one was closed meanwhile.
//! Invariants: memory is a slope, between a third of the connections and all: what the node has
//! anyway is in neither.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::affinity;
use crate::args::Plan;
use crate::child::Folder;
use crate::cluster::Cluster;
use crate::cost::{bytes_each, idle_percent, look};
use crate::descriptors::RESERVE;
use crate::latency;
use crate::meter::{Meter, Reading, Window};
use crate::progress::Progress;
use crate::run::{Measured, TOPIC, ratio};
use crate::session::Session;

/// Memory is looked at when so many parts of all are open, and when all are.
const PART: usize = 3;
/// Threads that open connections, each one after the other.
const OPENERS: usize = 8;
/// Connections from one address, which has 28,232 ports by default.
const PER_SOURCE: usize = 16_384;
/// Until a node has done what follows a connection.
const SETTLE: Duration = Duration::from_secs(1);
/// Longest time that opening all may take.
const LONG: Duration = Duration::from_secs(3_600);

/// Produces a little, alone and beside idle connections; the latter is the reading.
pub(crate) fn run(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let plan = &with_room(plan);
    let progress = Progress::new();
    let cluster = Cluster::start_nodes(plan, folder)?;
    let (pids, address) = (cluster.pids(), cluster.address());
    let routes = Session::connect(address)?.create_topic(TOPIC, plan.partitions)?;
    progress.say("producing, no other connections");
    let before = latency::run_node(plan, &routes)?.read();
    let idle_before = idle_percent(&pids, plan.duration)?;
    progress.say(format!("opening {} connections", plan.connections));
    let part = plan.connections / PART;
    let first = open(plan, address, 0..part)?;
    thread::sleep(SETTLE);
    let few = look(&pids)?;
    let rest = open(plan, address, part..plan.connections)?;
    thread::sleep(SETTLE);
    let all = look(&pids)?;
    progress.say(format!("{} connections idle", plan.connections));
    let idle = idle_percent(&pids, plan.duration)?;
    progress.say(format!("producing beside {} connections", plan.connections));
    let beside = latency::run_node(plan, &routes)?;
    check_open(&first.streams)?;
    check_open(&rest.streams)?;
    let mut measured = Measured::new(&[("produce", &beside)], &cluster.stop()?);
    let added = (plan.connections - part) as u64;
    let (p99, p99_before) = (measured.reading.p99_us as f64, before.p99_us as f64);
    let figures = &mut measured.figures;
    figures.add("connections", ("connections", ""), plan.connections as f64);
    let bytes = bytes_each(few, all, added);
    figures.add("connection_bytes", ("server, memory per connection", "bytes"), bytes);
    let per_s = plan.connections as f64 / (first.took + rest.took).as_secs_f64();
    figures.add("connections_per_s", ("connections opened", "/s"), per_s);
    figures.add("idle_cpu_percent", ("server idle with them, of a core", "%"), idle);
    figures.add("idle_cpu_percent_alone", ("server idle alone, of a core", "%"), idle_before);
    let p99_ratio = ratio(p99, p99_before);
    figures.add("p99_ratio_to_alone", ("p99, ratio to that without them", ""), p99_ratio);
    Ok(measured.with([("produce, no connections", before), ("connect", rest.reading)]))
}

/// A node that takes so many, and closes none because it is idle.
fn with_room(plan: &Plan) -> Plan {
    // A node deals its limit out to its cores; they need not get the same number of connections.
    let room = (plan.connections as u64 + RESERVE) * 2;
    let connections = format!("limits.connections={room}");
    let mut settings = vec![connections, "limits.idle_timeout=1d".to_owned()];
    // What the user sets comes later and stands.
    settings.extend(plan.settings.iter().cloned());
    Plan { settings, ..plan.clone() }
}

/// Connections, with what opening them came to and how long it took.
struct Opened {
    streams: Vec<TcpStream>,
    reading: Reading,
    took: Duration,
}

/// Opens the connections of these numbers, several at a time.
fn open(plan: &Plan, address: SocketAddr, numbers: Range<usize>) -> Result<Opened> {
    let window = Window::after(Duration::ZERO, LONG);
    let mut streams = Vec::with_capacity(numbers.len());
    let mut meter = Meter::new(window);
    let opened: Vec<Result<_>> = thread::scope(|scope| {
        let spawn = |index: usize| {
            let (core, mine) = (plan.client_cores.nth(index), numbers.clone());
            scope.spawn(move || open_each(core, address, mine.skip(index).step_by(OPENERS), window))
        };
        let threads: Vec<_> = (0..OPENERS).map(spawn).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<_>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a connecting thread panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    for opened in opened {
        let (more, counted) = opened?;
        streams.extend(more);
        meter.add(&counted);
    }
    let took = window.start.elapsed();
    meter.close(Instant::now());
    Ok(Opened { streams, reading: meter.read(), took })
}

/// Opens connections one after the other.
fn open_each(
    core: usize,
    address: SocketAddr,
    numbers: impl Iterator<Item = usize>,
    window: Window,
) -> Result<(Vec<TcpStream>, Meter)> {
    affinity::pin(core).with_context(|| format!("cannot run on core {core}"))?;
    let (mut streams, mut meter) = (Vec::new(), Meter::new(window));
    for number in numbers {
        let began = Instant::now();
        let stream = connect_from(source(number)?, address);
        let stream = stream.with_context(|| format!("connection {number} cannot be made"))?;
        let session = Session::over(stream);
        let session = session.with_context(|| format!("connection {number} is not served"))?;
        meter.ended(began, Instant::now(), 1, 0);
        streams.push(session.into_stream());
    }
    Ok((streams, meter))
}

/// The loopback address that a connection comes from: one alone has too few ports.
fn source(number: usize) -> Result<Ipv4Addr> {
    let address = u32::from(Ipv4Addr::LOCALHOST) + u32::try_from(number / PER_SOURCE)?;
    Ok(Ipv4Addr::from(address))
}

fn connect_from(source: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// Fails when a server has closed one, or sent what nobody asked for.
fn check_open(streams: &[TcpStream]) -> Result<()> {
    for (number, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true)?;
        match stream.peek(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).with_context(|| format!("connection {number} broke")),
            Ok(0) => bail!("connection {number} was closed while it was idle"),
            Ok(_) => bail!("connection {number} was sent something while it was idle"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn connections_come_from_as_many_addresses_as_their_ports_need() {
        assert_eq!(source(0).unwrap(), Ipv4Addr::LOCALHOST);
        assert_eq!(source(PER_SOURCE - 1).unwrap(), Ipv4Addr::LOCALHOST);
        assert_eq!(source(PER_SOURCE).unwrap(), Ipv4Addr::new(127, 0, 0, 2));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = connect_from(source(PER_SOURCE).unwrap(), address).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), source(PER_SOURCE).unwrap());
        let streams = [stream];
        assert!(check_open(&streams).is_ok());
        drop(accepted);
        // The end is on its way: wait for it as a reader would.
        streams[0].set_nonblocking(false).unwrap();
        assert_eq!(streams[0].peek(&mut [0]).unwrap(), 0);
        assert!(check_open(&streams).is_err(), "a closed connection was not noticed");
    }
}
