//! The configuration of a node: a plain struct with units, filled from defaults, file, environment
//! and flags, in this order; later ones win.
//!
//! Every setting is one `Key`: the same name and the same text in the file
//! (`storage.segment_size = "16MiB"`), in the environment (`BARRAGE_STORAGE_SEGMENT_SIZE=16MiB`)
//! and as a flag (`--set storage.segment_size=16MiB`). An unknown key is an error that names the
//! nearest known one. Must never: read anything later than at start.

mod environment;
mod expression;
mod file;
mod hint;
mod key;

pub use key::help;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use barrage_model::{ByteSize, Retention};
use barrage_world::node::CoreSet;

/// How a core's own address is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorePorts {
    /// Free ports, told by metadata.
    Free,
    /// This port for the first core, the next for the next.
    From(u16),
    /// None: all connections come over the shared address.
    Off,
}

/// How much memory the node may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// A quarter of what the machine has.
    Quarter,
    /// So many bytes.
    Bytes(u64),
}

/// Limits of the native gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of the node.
    pub connections: u32,
    /// Largest frame, in bytes.
    pub frame_size: u32,
    /// Requests of one connection without a reply.
    pub in_flight_requests: u32,
    /// Bytes of requests of one connection without a reply.
    pub in_flight_size: u32,
    /// A connection must have said Hello after this long.
    pub handshake_timeout: Duration,
    /// A connection that sends nothing and waits for nothing this long is closed.
    pub idle_timeout: Duration,
    /// A connection that does not take its replies for this long is closed.
    pub write_timeout: Duration,
    /// How long a request may take that names no timeout.
    pub request_timeout: Duration,
    /// How long requests under way may take when the node stops.
    pub drain_timeout: Duration,
}

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The shared address.
    pub listen: String,
    /// Where other nodes reach this one first; when empty, 100 ports above `listen`.
    pub peer_listen: String,
    /// Client addresses of members of the cluster to join; none founds one.
    pub join: Vec<String>,
    /// Data shards of a cluster that is founded; 0 takes one per core.
    pub shards: u32,
    /// Whether an address beyond loopback is allowed although nobody has to log in.
    pub insecure: bool,
    /// How long an idle core looks for work before it sleeps.
    pub idle_spin: Duration,
    /// Each core's own address.
    pub core_ports: CorePorts,
    /// The processors to run on.
    pub cores: Option<CoreSet>,
    /// Memory for caches, buffers and requests.
    pub memory: Memory,
    /// Where the data is.
    pub data_dir: PathBuf,
    /// The host that clients are told; the host of `listen` when empty.
    pub node_advertise: String,
    /// Size of a log segment, in bytes.
    pub segment_size: u64,
    /// Segments prepared ahead, per shard.
    pub pool_segments: usize,
    /// Retention of topics that name none.
    pub retention: Retention,
    /// Limits of connections and requests.
    pub limits: Limits,
}

/// Every default, here and nowhere else.
impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7400".to_owned(),
            peer_listen: String::new(),
            join: Vec::new(),
            shards: 0,
            insecure: false,
            idle_spin: Duration::ZERO,
            core_ports: CorePorts::Free,
            cores: None,
            memory: Memory::Quarter,
            data_dir: PathBuf::from("./barrage-data"),
            node_advertise: String::new(),
            segment_size: ByteSize::mib(256).0,
            pool_segments: 2,
            retention: Retention::DEFAULT,
            limits: Limits {
                connections: 20_000,
                frame_size: MIB * 16,
                in_flight_requests: 1024,
                in_flight_size: MIB * 32,
                handshake_timeout: Duration::from_secs(5),
                idle_timeout: Duration::from_secs(600),
                write_timeout: Duration::from_secs(30),
                request_timeout: Duration::from_secs(30),
                drain_timeout: Duration::from_secs(10),
            },
        }
    }
}

/// How far above the clients' port the nodes' one lies.
const PEER_PORT_ABOVE: u16 = 100;
const MIB: u32 = 1024 * 1024;

/// A longer value is refused unread: paths end here too.
const VALUE_BYTES_MAX: usize = 4096;

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if one is named.
    pub file: Option<PathBuf>,
    /// The environment: names and values.
    pub environment: Vec<(String, String)>,
    /// `--set` flags, then the flags that have a name of their own.
    pub flags: Vec<Flag>,
}

/// A setting on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag, for messages.
    pub name: &'static str,
    /// The key it sets.
    pub key: String,
    /// The value's text.
    pub value: String,
}

/// Why there is no configuration, naming the place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{place}: {reason}")]
pub struct ConfigError {
    place: String,
    reason: String,
}

impl ConfigError {
    fn new(place: impl ToString, reason: impl ToString) -> Self {
        Self { place: place.to_string(), reason: reason.to_string() }
    }
}

impl Config {
    /// The defaults, changed by every source.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let Sources { file, environment, flags } = sources;
        let Some(path) = file else { return Self::from_texts(None, environment, flags) };
        let name = path.display().to_string();
        let text = file::read(path).map_err(|error| ConfigError::new(&name, error))?;
        Self::from_texts(Some((&name, &text)), environment, flags)
    }

    /// As [`Self::load`]; the file is its name and its text.
    pub fn from_texts(
        file: Option<(&str, &str)>,
        environment: &[(String, String)],
        flags: &[Flag],
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some((name, text)) = file {
            file::apply(&mut config, name, text)?;
        }
        environment::apply(&mut config, environment)?;
        for Flag { name, key, value } in flags {
            config.set(key, value).map_err(|reason| ConfigError::new(name, reason))?;
        }
        config.check()?;
        Ok(config)
    }

    /// Sets one key from its text.
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let key = key::find(name)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(format!("{name}: at most {VALUE_BYTES_MAX} bytes expected"));
        }
        (key.set)(self, value).map_err(|reason| format!("{name}={value}: {reason}"))
    }

    /// What no key can check alone.
    fn check(&self) -> Result<(), ConfigError> {
        let frame = u64::from(self.limits.frame_size);
        let batch = barrage_model::limits::BATCH_BYTES_MAX as u64;
        if self.segment_size < batch * 2 {
            let reason = format!("at least two of the largest batches ({})", ByteSize(batch * 2));
            return Err(ConfigError::new("storage.segment_size", reason));
        }
        if frame < 64 * 1024 {
            return Err(ConfigError::new("limits.frame_size", "at least 64KiB"));
        }
        Ok(())
    }

    /// The shared address.
    pub fn listen_address(&self) -> Result<SocketAddr, ConfigError> {
        resolve("listen", &self.listen)
    }

    /// Where other nodes reach this one first.
    pub fn peer_address(&self) -> Result<SocketAddr, ConfigError> {
        if !self.peer_listen.is_empty() {
            return resolve("peer_listen", &self.peer_listen);
        }
        let mut address = self.listen_address()?;
        // Where clients get a free port, nodes do.
        if address.port() != 0 {
            let above = address.port().checked_add(PEER_PORT_ABOVE);
            let reason = "no port is left 100 above `listen`; name one";
            address.set_port(above.ok_or_else(|| ConfigError::new("peer_listen", reason))?);
        }
        Ok(address)
    }
}

/// `HOST:PORT` as an address; names are looked up.
fn resolve(key: &str, text: &str) -> Result<SocketAddr, ConfigError> {
    use std::net::ToSocketAddrs;
    let resolved = text
        .to_socket_addrs()
        .map_err(|error| ConfigError::new(key, format!("{text} is not HOST:PORT: {error}")))?
        .next();
    resolved.ok_or_else(|| ConfigError::new(key, format!("{text} has no address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(
        file: &str,
        environment: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> Result<Config, String> {
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let flag = |(key, value): &(&str, &str)| Flag {
            name: "--set",
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        let flags: Vec<Flag> = flags.iter().map(flag).collect();
        Config::from_texts(Some(("barrage.toml", file)), &environment, &flags)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn later_sources_win() {
        let file =
            "listen = \"127.0.0.1:1\"\n[storage]\nsegment_size = \"32MiB\"\npool_segments = 1\n";
        let config = load(file, &[], &[]).unwrap();
        assert_eq!(config.segment_size, 32 << 20);
        assert_eq!(config.pool_segments, 1);
        let inline = "storage = { segment_size = '32MiB' }\n\"storage\".pool_segments = 7";
        let config = load(inline, &[], &[]).unwrap();
        assert_eq!((config.segment_size, config.pool_segments), (32 << 20, 7));
        let environment =
            [("BARRAGE_STORAGE_SEGMENT_SIZE", "64MiB"), ("BARRAGE_LISTEN", "127.0.0.1:2")];
        let config = load(file, &environment, &[]).unwrap();
        assert_eq!((config.segment_size, config.listen.as_str()), (64 << 20, "127.0.0.1:2"));
        let config = load(file, &environment, &[("storage.segment_size", "128MiB")]).unwrap();
        assert_eq!(config.segment_size, 128 << 20);
    }

    #[test]
    fn mistakes_name_their_place() {
        let check = |file: &str, expected: &str| {
            let error = load(file, &[], &[]).unwrap_err();
            assert!(error.contains(expected), "`{error}` does not contain `{expected}`");
        };
        check("a = 1\n\n[storage]\nsegment_sise = 1\n", "barrage.toml:1: unknown key `a`");
        check(
            "\n[storage]\nsegment_sise = 1\n",
            "barrage.toml:3: unknown key `storage.segment_sise`",
        );
        check("\n[storage]\nsegment_sise = 1\n", "did you mean `storage.segment_size`");
        check("[storage]\nsegment_size = \"many\"\n", "barrage.toml:2: storage.segment_size=many");
        check("[storage]\nsegment_size = [1]\n", "barrage.toml:2: storage.segment_size");
        check("\nlisten =\n", "barrage.toml:2");
        check("\ninsecure = true\ninsecure = true\n", "barrage.toml:3: insecure is set twice");
        check("[limits]\nconnections = 1\n[limits]\nconnections = 1\n", "barrage.toml:4");
        check("[[storage]]\npool_segments = 1\n", "barrage.toml:1: storage: text");
        check("[a]\nb = \"x\n", "barrage.toml:2");
        check(&format!("\n\nx = {}", "[".repeat(100)), "barrage.toml:3: too large for a setting");
        check(&format!("listen = '{}'", "x".repeat(5000)), "listen: at most 4096 bytes");
        check("[storage]\nsegment_size = \"1MiB\"\n", "storage.segment_size");
        let comment = "#".repeat(64 << 10);
        assert!(load(&comment, &[], &[]).is_ok());
        check(&format!("{comment}#"), "barrage.toml: longer than 64KiB");
        let unknown = load("", &[], &[("storage.segment", "1")]).unwrap_err();
        assert!(unknown.contains("unknown key `storage.segment`"), "{unknown}");
    }
}
