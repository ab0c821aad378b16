//! Files, sockets, threads, clocks and executors are named only where `rules.rs` allows it.

use super::Finding;
use super::rules::{BANNED, Ban};
use super::source::Source;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, path) in source.paths() {
        for ban in &BANNED {
            // A test outside of the library prepares and damages real files.
            let exempt = ban.std && source.is_test(line);
            if ban.names(&path) && !exempt && !ban.allows(&source.path) {
                let message = format!("{path} is named outside of {}: {}", ban.home(), ban.reason);
                findings.push(Finding::new(&source.path, line, message));
            }
        }
    }
    findings
}

impl Ban {
    fn names(&self, path: &str) -> bool {
        let below = |name: &str| {
            path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        below(self.path) && !self.except.iter().any(|name| below(name))
    }

    fn allows(&self, file: &str) -> bool {
        self.allowed.iter().any(|folder| file.starts_with(folder))
    }

    fn home(&self) -> &str {
        self.allowed.first().copied().unwrap_or("nowhere")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str) -> usize {
        super::check(&Source::new(path, text)).len()
    }

    #[test]
    fn banned_names_are_found_however_they_are_written() {
        let file = "actors/broker/src/fetch.rs";
        for text in [
            "use std::fs;",
            "use std::{io, fs::File};",
            "let a = std::thread::spawn(f);",
            "use std::time::{Duration, Instant};",
            "let a = std::time::SystemTime::now();",
            "use std::time;\nlet a = time::Instant::now();",
            "use std::time::*;",
            "use glommio::Task;",
            "use std::net::{IpAddr, TcpStream};",
            "use tokio::spawn;",
            "use openraft_rt::Runtime;\nuse actix::Actor;",
        ] {
            assert_eq!(check(file, text), 1, "{text}");
        }
    }

    #[test]
    fn innocent_names_are_not() {
        let file = "actors/broker/src/fetch.rs";
        for text in [
            "use std::time::Duration;",
            "use std::net::{IpAddr, SocketAddr};",
            "use barrage_world::{Instant, fs};\nlet now = Instant::now();",
            "// std::fs is not named here",
            "let text = \"std::fs\";",
            "#[cfg(test)]\nmod tests {\n    use std::fs;\n}",
        ] {
            assert_eq!(check(file, text), 0, "{text}");
        }
    }

    #[test]
    fn a_name_is_allowed_in_its_home() {
        assert_eq!(check("runtime/world/src/a.rs", "use glommio::Task;\nuse std::fs;"), 0);
        assert_eq!(check("net/client/src/a.rs", "use tokio::spawn;\nuse std::time::Instant;"), 0);
        assert_eq!(check("perf/bench/src/a.rs", "use std::thread;"), 0);
        assert_eq!(check("net/client/src/a.rs", "use glommio::Task;"), 1);
        assert_eq!(check("actors/raft/tests/a.rs", "use glommio::Task;"), 1);
    }
}
