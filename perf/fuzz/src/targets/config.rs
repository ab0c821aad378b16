//! A node's configuration: file, environment, flags, divided by zero bytes in the input.
//!
//! The file is TOML; the other two are lines of `NAME=VALUE`. Checked: what is taken keeps the
//! limits that the parts of a node rely on.

use barrage_model::limits::{BATCH_BYTES_MAX, FRAME_BYTES_MAX};
use barrage_server::config::{Config, Flag};

use crate::meter::aside;
use crate::target::{Seed, Target, Verdict, no_extra};

pub(super) const TARGET: Target =
    Target { name: "config", input_bytes_max: 8 * 1024, run, memory_extra: no_extra, seeds, large };

fn run(input: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(input) else { return Verdict::Refused };
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let (environment, flags) = aside(|| {
        let environment: Vec<_> = pairs(parts.next().unwrap_or_default()).collect();
        let flag = |(key, value)| Flag { name: "--set", key, value };
        let flags: Vec<_> = pairs(parts.next().unwrap_or_default()).map(flag).collect();
        (environment, flags)
    });
    let config = match Config::from_texts(Some(("barrage.toml", file)), &environment, &flags) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.to_string().is_empty(), "a refusal says why");
            return Verdict::Refused;
        }
    };
    assert!(config.limits.frame_size as usize <= FRAME_BYTES_MAX);
    assert!(config.segment_size as usize >= 2 * BATCH_BYTES_MAX);
    assert!(config.segment_size.is_multiple_of(4096), "segments are whole blocks");
    assert!(config.limits.connections > 0 && config.limits.in_flight_requests > 0);
    assert!(config.retention.time_ms != Some(0));
    Verdict::Taken
}

fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn seeds() -> Vec<Seed> {
    let all = "listen = \"127.0.0.1:1\"\ninsecure = false\ncore_ports = 7401\ncores = \"all\"\n\
               memory = \"1GiB\"\ndata_dir = './d'\n[node]\nadvertise = \"host\"\n\
               [storage]\npool_segments = 1\nretention = \"3d,10GiB\"\nsegment_size = \"32MiB\"\n\
               [limits]\nconnections = 9\ndrain_timeout = \"1s\"\nframe_size = \"1MiB\"\n\
               handshake_timeout = \"1.5s\"\nidle_timeout = \"10m\"\nin_flight_requests = 7\n\
               in_flight_size = 65536\nrequest_timeout = \"500ms\"\nwrite_timeout = \"1h\"\n";
    let dotted = "storage.segment_size = 67_108_864 # a number\nlimits = { connections = 1_000 }\n";
    let environment = "BARRAGE_LISTEN=[::1]:0\nBARRAGE_STORAGE_RETENTION=unlimited\nBARRAGE_X=1";
    let flags = "storage.segment_size=64MiB\ncore_ports=off\nmemory=64MiB";
    let cases = [
        ("all", all.to_owned()),
        ("dotted", dotted.to_owned()),
        ("environment", format!("\0{environment}")),
        ("flags", format!("\0\0{flags}")),
        ("everything", format!("{all}\0{environment}\0{flags}")),
        ("nothing", String::new()),
    ];
    cases.map(|(name, text)| (name.to_owned(), text.into_bytes())).into()
}

/// Nothing but comments, as long as a file may be.
fn large() -> Vec<Seed> {
    vec![("comments".to_owned(), b"# a line\n".repeat(7 * 1024))]
}
