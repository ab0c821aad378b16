//! Which peers are on this machine.
//!
//! Owns: finding their binaries and versions. Must never: install anything, or stop at the first
//! one that is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::subject::Peer;

/// A peer that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) binary: PathBuf,
    pub(crate) version: String,
}

/// Where Debian puts servers, which is not in everybody's path.
const FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"];
/// RabbitMQ's own start script. The one in the path runs as another user, with that user's data.
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const UNKNOWN: &str = "unknown";

/// Finds a peer, or says what is missing and how to mend it.
pub(crate) fn find(peer: Peer, given: Option<&Path>) -> Result<Installed, String> {
    let package = peer.package();
    let binary = match given {
        Some(path) => path.is_file().then(|| path.to_owned()),
        None if peer == Peer::Rabbitmq => Some(PathBuf::from(RABBITMQ)).filter(|it| it.is_file()),
        None => in_path(package),
    };
    let Some(binary) = binary else {
        return Err(match given {
            Some(path) => format!("{} is no file: name the server's binary", path.display()),
            None => format!("not installed: apt-get update && apt-get install -y {package}"),
        });
    };
    let version = match peer {
        Peer::Rabbitmq => version_in_path(&binary),
        Peer::Nats | Peer::Redis => version_told(&binary),
    };
    Ok(Installed { binary, version: version.unwrap_or_else(|| UNKNOWN.to_owned()) })
}

/// The first file of this name in the path or where servers lie.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn version_told(binary: &Path) -> Option<String> {
    let output = Command::new(binary).arg("--version").output().ok()?;
    version_in(&String::from_utf8_lossy(&output.stdout))
}

/// The version in `nats-server: v2.9.10`, or in `Redis server v=7.0.15 sha=..`.
fn version_in(text: &str) -> Option<String> {
    let is_version =
        |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    let mut words = text.split([' ', '=', '\n']).map(|word| word.trim_start_matches('v'));
    words.find(is_version).map(str::to_owned)
}

/// The version in the folder `rabbitmq_server-3.10.8`, where the start script really lies: asking
/// takes seconds and an Erlang node.
fn version_in_path(binary: &Path) -> Option<String> {
    let path = std::fs::canonicalize(binary).ok()?;
    let mut names = path.components().filter_map(|part| part.as_os_str().to_str());
    names.find_map(|name| name.strip_prefix("rabbitmq_server-")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(version_in(text).as_deref(), want, "{text}");
        };
        check("nats-server: v2.9.10\n", Some("2.9.10"));
        check("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", Some("7.0.15"));
        check("no such thing", None);
    }

    #[test]
    fn what_is_missing_is_told_with_its_cure() {
        let missing = find(Peer::Redis, Some(Path::new("/no/redis"))).unwrap_err();
        assert_eq!(missing, "/no/redis is no file: name the server's binary");
        assert_eq!(in_path("no such program"), None);
        assert!(in_path("sh").is_some());
    }
}
