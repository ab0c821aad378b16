//! The addresses of a node: one shared by all cores, one per core. Bound here, before anything
//! else, so that a node that cannot be reached does not start.

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
    /// The host that clients are told.
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
        let shared = bind(address)?;
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
            cores.push(bind(SocketAddr::new(address.ip(), port))?);
        }
        let host = match config.node_advertise.is_empty() {
            true => host_of(shared.local_addr().ip()),
            false => config.node_advertise.clone(),
        };
        Ok(Self { shared, cores, host })
    }

    /// What clients are told for each core: its own address, or the shared one.
    pub(crate) fn advertised(&self, core_count: usize) -> Vec<String> {
        let shared = self.shared.local_addr();
        let own = |core: usize| self.cores.get(core).map_or(shared, ListenerHandle::local_addr);
        (0..core_count).map(|core| format!("{}:{}", self.host, own(core).port())).collect()
    }

    /// What clients are told for the node.
    pub(crate) fn listen(&self) -> String {
        format!("{}:{}", self.host, self.shared.local_addr().port())
    }
}

fn bind(address: SocketAddr) -> Result<ListenerHandle, Failure> {
    Listener::bind_exclusive(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            Failure::conflict(format!("{address} is in use; choose another with --listen"))
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
