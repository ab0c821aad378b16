//! The table of settings: name, what it is, how its text becomes a value. `barrage start --help`
//! and the README list it.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use barrage_model::units::parse_duration;
use barrage_model::{ByteSize, Retention};
use barrage_world::node::CoreSet;

use super::{Config, CorePorts, Memory, hint};

/// One setting.
pub(crate) struct Key {
    /// Its name, with dots.
    pub(crate) name: &'static str,
    /// What it does, with its default.
    pub(crate) about: &'static str,
    /// Sets it from text.
    pub(crate) set: fn(&mut Config, &str) -> Result<(), String>,
}

/// Every setting, by name.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "core_ports",
        about: "each core's own port: `free` (default), the first of a row, or `off`",
        set: |config, text| set(&mut config.core_ports, core_ports(text)),
    },
    Key {
        name: "cores",
        about: "how many cores, or which (`0-2,5`); default all",
        set: |config, text| set(&mut config.cores, cores(text)),
    },
    Key {
        name: "data_dir",
        about: "where the data is; default ./barrage-data",
        set: |config, text| set(&mut config.data_dir, path(text)),
    },
    Key {
        name: "idle_spin_us",
        about: "microseconds that an idle core looks for work before it sleeps; default 0",
        set: |config, text| set(&mut config.idle_spin, idle_spin(text)),
    },
    Key {
        name: "insecure",
        about: "allow addresses beyond loopback although nobody has to log in; default false",
        set: |config, text| set(&mut config.insecure, parsed(text)),
    },
    Key {
        name: "join",
        about: "client addresses of members, HOST:PORT[,...]: an empty node joins; default none",
        set: |config, text| set(&mut config.join, servers(text)),
    },
    Key {
        name: "limits.connections",
        about: "connections of the node; default 20000",
        set: |config, text| set(&mut config.limits.connections, at_least(text, 1)),
    },
    Key {
        name: "limits.drain_timeout",
        about: "how long requests under way may take when the node stops; default 10s",
        set: |config, text| set(&mut config.limits.drain_timeout, duration(text)),
    },
    Key {
        name: "limits.frame_size",
        about: "largest frame, at most 16MiB; default 16MiB",
        set: |config, text| set(&mut config.limits.frame_size, frame_size(text)),
    },
    Key {
        name: "limits.handshake_timeout",
        about: "a connection must have said Hello after this long; default 5s",
        set: |config, text| set(&mut config.limits.handshake_timeout, duration(text)),
    },
    Key {
        name: "limits.idle_timeout",
        about: "a connection that sends and awaits nothing this long is closed; default 10m",
        set: |config, text| set(&mut config.limits.idle_timeout, duration(text)),
    },
    Key {
        name: "limits.in_flight_requests",
        about: "requests of one connection without a reply; default 1024",
        set: |config, text| set(&mut config.limits.in_flight_requests, at_least(text, 1)),
    },
    Key {
        name: "limits.in_flight_size",
        about: "bytes of requests of one connection without a reply; default 32MiB",
        set: |config, text| set(&mut config.limits.in_flight_size, size_u32(text)),
    },
    Key {
        name: "limits.request_timeout",
        about: "how long a request may take that names no timeout; default 30s",
        set: |config, text| set(&mut config.limits.request_timeout, duration(text)),
    },
    Key {
        name: "limits.write_timeout",
        about: "a connection that takes no replies for this long is closed; default 30s",
        set: |config, text| set(&mut config.limits.write_timeout, duration(text)),
    },
    Key {
        name: "listen",
        about: "the shared address, HOST:PORT; port 0 takes a free one; default 127.0.0.1:7400",
        set: |config, text| set(&mut config.listen, Ok(text.to_owned())),
    },
    Key {
        name: "memory",
        about: "memory for caches, buffers and requests; default a quarter of the machine's",
        set: |config, text| set(&mut config.memory, memory(text)),
    },
    Key {
        name: "node.advertise",
        about: "the host that clients and nodes are told; default that of `listen`",
        set: |config, text| set(&mut config.node_advertise, Ok(text.to_owned())),
    },
    Key {
        name: "peer_listen",
        about: "where other nodes reach this one; default the port of `listen` + 100",
        set: |config, text| set(&mut config.peer_listen, Ok(text.to_owned())),
    },
    Key {
        name: "shards",
        about: "data shards of a cluster founded here; default one per core",
        set: |config, text| set(&mut config.shards, at_least(text, 1)),
    },
    Key {
        name: "storage.pool_segments",
        about: "segments prepared ahead, per shard; default 2",
        set: |config, text| set(&mut config.pool_segments, parsed(text)),
    },
    Key {
        name: "storage.retention",
        about: "retention of topics that name none: 3d, 10GiB, unlimited; default 3d",
        set: |config, text| set(&mut config.retention, retention(text)),
    },
    Key {
        name: "storage.segment_size",
        about: "size of a log segment; default 256MiB",
        set: |config, text| set(&mut config.segment_size, segment_size(text)),
    },
];

/// The key of this name, or an error that names the nearest one.
pub(crate) fn find(name: &str) -> Result<&'static Key, String> {
    KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
        let nearest = hint::nearest(name, KEYS.iter().map(|key| key.name));
        let hint = nearest.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        format!("unknown key `{name}`{hint}")
    })
}

/// The table for `--help`.
pub fn help() -> String {
    let mut lines = "Settings (--set KEY=VALUE, BARRAGE_KEY=VALUE, or in the file):\n".to_owned();
    for key in KEYS {
        lines += &format!("  {:<26}{}\n", key.name, key.about);
    }
    lines
}

fn set<T>(field: &mut T, value: Result<T, String>) -> Result<(), String> {
    *field = value?;
    Ok(())
}

fn parsed<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn at_least(text: &str, least: u32) -> Result<u32, String> {
    let value: u32 = parsed(text)?;
    if value < least {
        return Err(format!("at least {least}"));
    }
    Ok(value)
}

fn core_ports(text: &str) -> Result<CorePorts, String> {
    match text {
        "free" => Ok(CorePorts::Free),
        "off" => Ok(CorePorts::Off),
        _ => match text.parse() {
            Ok(0) | Err(_) => Err("a port, `free` or `off` expected".to_owned()),
            Ok(first) => Ok(CorePorts::From(first)),
        },
    }
}

fn cores(text: &str) -> Result<Option<CoreSet>, String> {
    if text == "all" {
        return Ok(None);
    }
    CoreSet::parse(text).map(Some).map_err(|error| error.to_string())
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("a directory expected".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn servers(text: &str) -> Result<Vec<String>, String> {
    let servers: Vec<String> = text.split(',').map(|server| server.trim().to_owned()).collect();
    if servers.iter().any(|server| !server.contains(':')) {
        return Err("HOST:PORT[,HOST:PORT...] expected".to_owned());
    }
    Ok(servers)
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() {
        return Err("more than zero expected".to_owned());
    }
    Ok(duration)
}

/// A core that looks for work all the time is not idle.
const IDLE_SPIN_MAX: Duration = Duration::from_millis(10);

fn idle_spin(text: &str) -> Result<Duration, String> {
    let spin = Duration::from_micros(parsed(text)?);
    if spin > IDLE_SPIN_MAX {
        return Err(format!("at most {}", IDLE_SPIN_MAX.as_micros()));
    }
    Ok(spin)
}

/// The least memory a node can work with, in bytes.
const MEMORY_MIN: ByteSize = ByteSize::mib(64);

fn memory(text: &str) -> Result<Memory, String> {
    let size: ByteSize = parsed(text)?;
    if size < MEMORY_MIN {
        return Err(format!("at least {MEMORY_MIN}"));
    }
    Ok(Memory::Bytes(size.0))
}

fn size_u32(text: &str) -> Result<u32, String> {
    let size: ByteSize = parsed(text)?;
    u32::try_from(size.0).map_err(|_| "less than 4GiB expected".to_owned())
}

fn frame_size(text: &str) -> Result<u32, String> {
    let size = size_u32(text)?;
    let max = barrage_model::limits::FRAME_BYTES_MAX as u64;
    if u64::from(size) > max {
        return Err(format!("at most {}", ByteSize(max)));
    }
    Ok(size)
}

fn retention(text: &str) -> Result<Retention, String> {
    parsed(text)
}

fn segment_size(text: &str) -> Result<u64, String> {
    let size: ByteSize = parsed(text)?;
    if !size.0.is_multiple_of(barrage_model::BLOCK_SIZE as u64) {
        return Err("a multiple of 4KiB expected".to_owned());
    }
    Ok(size.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_and_documented() {
        for pair in KEYS.windows(2) {
            assert!(pair[0].name < pair[1].name, "{} is out of order", pair[1].name);
        }
        for key in KEYS {
            assert!(key.about.contains("default"), "{} tells no default", key.name);
        }
    }

    #[test]
    fn values_are_checked() {
        let check = |name: &str, text: &str, is_ok: bool| {
            let result = (find(name).unwrap().set)(&mut Config::default(), text);
            assert_eq!(result.is_ok(), is_ok, "{name}={text}: {result:?}");
        };
        check("core_ports", "7401", true);
        check("core_ports", "off", true);
        check("core_ports", "0", false);
        check("core_ports", "70000", false);
        check("idle_spin_us", "100", true);
        check("idle_spin_us", "10000", true);
        check("idle_spin_us", "10001", false);
        check("idle_spin_us", "100us", false);
        check("insecure", "true", true);
        check("insecure", "yes", false);
        check("limits.connections", "0", false);
        check("limits.idle_timeout", "10m", true);
        check("limits.idle_timeout", "0s", false);
        check("limits.frame_size", "16MiB", true);
        check("limits.frame_size", "17MiB", false);
        check("memory", "1GiB", true);
        check("memory", "1KiB", false);
        check("storage.retention", "3d", true);
        check("storage.retention", "soon", false);
        check("storage.segment_size", "16MiB", true);
        check("storage.segment_size", "16777215", false);
        check("join", "a:1,b:2", true);
        check("join", "a", false);
        check("shards", "0", false);
        check("cores", "all", true);
        check("cores", "", false);
    }
}
