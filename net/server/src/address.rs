//! The addresses of a node: for clients one shared by all cores and one per core, for other nodes
//! the same. Bound here, before anything else, so that a node that cannot be reached does not
//! start.

use std::io;
use std::net::{IpAddr, SocketAddr};

use barrage_world::net::{Listener, ListenerHandle};

use crate::config::{Config, CorePorts};
use crate::exit::Failure;

/// Bound addresses.
pub(crate) struct Addresses {
    /// Accepted by every core.
    pub(crate) shared: ListenerHandle,
    /// Each core's own, by core; empty when they are off.
    pub(crate) cores: Vec<ListenerHandle>,
    /// Where other nodes reach this one first; every core accepts it.
    pub(crate) peers: ListenerHandle,
    /// Where they reach each core, by core.
    pub(crate) peer_cores: Vec<ListenerHandle>,
    /// The host that clients and nodes are told.
    host: String,
}

impl Addresses {
    /// Binds what `config` says for `core_count` cores.
    pub(crate) fn bind(config: &Config, core_count: usize) -> Result<Self, Failure> {
        let address = config.listen_address().map_err(Failure::usage)?;
        if !address.ip().is_loopback() && !config.insecure {
            let reason = format!(
                "listening on {address} lets everybody in: nobody has to log in yet. \
                 Use a loopback address, or --insecure if the network is yours alone"
            );
            return Err(Failure::usage(reason));
        }
        let peer_address = config.peer_address().map_err(Failure::usage)?;
        if !peer_address.ip().is_loopback() && !config.insecure {
            let reason = format!(
                "listening on {peer_address} lets everybody join: nodes do not prove who they are \
                 yet. Use a loopback address, or --insecure if the network is yours alone"
            );
            return Err(Failure::usage(reason));
        }
        let shared = bind(address, "--listen")?;
        let peers = bind(peer_address, "--peer-listen")?;
        let free = SocketAddr::new(peer_address.ip(), 0);
        let peer_cores: Result<_, _> =
            (0..core_count).map(|_| bind(free, "--peer-listen")).collect();
        let ports: Vec<Option<u16>> = match config.core_ports {
            CorePorts::Off => Vec::new(),
            CorePorts::Free => vec![Some(0); core_count],
            CorePorts::From(first) => {
                (0..core_count).map(|core| first.checked_add(u16::try_from(core).ok()?)).collect()
            }
        };
        let mut cores = Vec::with_capacity(ports.len());
        for port in ports {
            let port = port.ok_or_else(|| Failure::usage("core_ports: ports end at 65535"))?;
            cores.push(bind(SocketAddr::new(address.ip(), port), "--core-ports")?);
        }
        let host = match config.node_advertise.is_empty() {
            true => host_of(shared.local_addr().ip()),
            false => config.node_advertise.clone(),
        };
        Ok(Self { shared, cores, peers, peer_cores: peer_cores?, host })
    }

    /// What clients are told for each core: its own address, or the shared one.
    pub(crate) fn advertised(&self, core_count: usize) -> Vec<String> {
        let shared = self.shared.local_addr();
        let own = |core: usize| self.cores.get(core).map_or(shared, ListenerHandle::local_addr);
        (0..core_count).map(|core| format!("{}:{}", self.host, own(core).port())).collect()
    }

    /// What other nodes are told for this one.
    pub(crate) fn peer(&self) -> String {
        format!("{}:{}", self.host, self.peers.local_addr().port())
    }

    /// The ports that other nodes reach each core at.
    pub(crate) fn peer_ports(&self) -> Vec<u16> {
        self.peer_cores.iter().map(|handle| handle.local_addr().port()).collect()
    }

    /// What clients are told for the node.
    pub(crate) fn listen(&self) -> String {
        format!("{}:{}", self.host, self.shared.local_addr().port())
    }
}

fn bind(address: SocketAddr, flag: &str) -> Result<ListenerHandle, Failure> {
    Listener::bind_exclusive(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            Failure::conflict(format!("{address} is in use; choose another with {flag}"))
        }
        _ => Failure::new(format!("cannot listen on {address}: {error}")),
    })
}

/// A host as it stands in an address: IPv6 in brackets.
fn host_of(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
