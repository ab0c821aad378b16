//! A host of the simulated network: what a machine is called from outside.
//!
//! Owns how hosts and addresses correspond. Invariant: `Host::of(host.ip())` is that host. The
//! loopback address names no host: it always means the one that uses it.

use std::net::{IpAddr, Ipv4Addr};

/// One place on the network; its processes come and go. `Host(0)` is where `run` begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Host(pub u16);

impl Host {
    /// Its address: 10.0.x.y, the number in the last two bytes.
    #[must_use]
    pub const fn ip(self) -> Ipv4Addr {
        let [high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(10, 0, high, low)
    }

    /// The host that has this address.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => match ip.octets() {
                [10, 0, high, low] => Some(Self(u16::from_be_bytes([high, low]))),
                _ => None,
            },
            IpAddr::V6(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn hosts_and_addresses_correspond() {
        assert_eq!(Host(0x0102).ip(), Ipv4Addr::new(10, 0, 1, 2));
        for host in [Host(0), Host(1), Host(255), Host(256), Host(u16::MAX)] {
            assert_eq!(Host::of(IpAddr::V4(host.ip())), Some(host));
        }
        assert_eq!(Host::of(IpAddr::V4(Ipv4Addr::LOCALHOST)), None);
        assert_eq!(Host::of(IpAddr::V4(Ipv4Addr::new(10, 1, 0, 0))), None);
        assert_eq!(Host::of(IpAddr::V6(Ipv6Addr::LOCALHOST)), None);
    }
}
