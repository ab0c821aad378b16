//! What is compared: Barrage, and each peer at a durability.
//!
//! Owns: their names, what each durability means, and which version can do what.
//! Must never: start or ask anything.

use clap::ValueEnum;
use serde::Serialize;

/// A broker beside Barrage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Peer {
    /// JetStream, one stream on disk.
    Nats,
    /// One stream.
    Redis,
    /// One queue.
    Rabbitmq,
}

/// When a peer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    /// The strictest it offers.
    Strict,
    /// What it does unless told otherwise, with a log on disk.
    Default,
}

/// One line of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Barrage,
    Peer(Peer, Durability),
}

/// The first NATS that can sync before it answers.
const NATS_STRICT_FROM: (u32, u32) = (2, 10);

impl Peer {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Redis => "redis",
            Self::Rabbitmq => "rabbitmq",
        }
    }

    /// The Debian package it comes in.
    pub(crate) const fn package(self) -> &'static str {
        match self {
            Self::Nats => "nats-server",
            Self::Redis => "redis-server",
            Self::Rabbitmq => "rabbitmq-server",
        }
    }

    /// What an answer means.
    pub(crate) const fn promise(self, durability: Durability) -> &'static str {
        match (self, durability) {
            (Self::Nats, Durability::Strict) => "fsync before ack (sync_interval: always)",
            (Self::Nats, Durability::Default) => "written; fsync at its default interval",
            (Self::Redis, Durability::Strict) => "fsync before ack (appendfsync always)",
            (Self::Redis, Durability::Default) => "written; fsync every second (everysec)",
            (Self::Rabbitmq, Durability::Strict) => "quorum queue of one: fsync before ack",
            (Self::Rabbitmq, Durability::Default) => "classic durable queue: fsync now and then",
        }
    }

    /// Whether a version can be as strict as this; if not, why, and what mends it.
    pub(crate) fn offers(self, durability: Durability, version: &str) -> Result<(), String> {
        if self != Self::Nats || durability == Durability::Default {
            return Ok(());
        }
        match major_minor(version) {
            Some(found) if found < NATS_STRICT_FROM => Err(format!(
                "nats-server {version} knows no sync_interval, 2.10 and newer do: install that of \
                 Debian 13 or newer, or name another one with --nats-server FILE"
            )),
            // What cannot be read is tried.
            _ => Ok(()),
        }
    }
}

impl Durability {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Default => "default",
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Barrage => formatter.write_str("barrage"),
            Self::Peer(peer, durability) => {
                write!(formatter, "{}, {}", peer.name(), durability.name())
            }
        }
    }
}

/// The first two numbers of `2.9.10`.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_nats_is_not_measured_as_strict() {
        let check = |peer: Peer, durability, version: &str, offered: bool| {
            assert_eq!(peer.offers(durability, version).is_ok(), offered, "{peer:?} {version}");
        };
        check(Peer::Nats, Durability::Strict, "2.9.10", false);
        check(Peer::Nats, Durability::Strict, "2.10.27", true);
        check(Peer::Nats, Durability::Strict, "3.0.1", true);
        check(Peer::Nats, Durability::Strict, "unknown", true);
        check(Peer::Nats, Durability::Default, "2.9.10", true);
        check(Peer::Redis, Durability::Strict, "1.0", true);
    }
}
