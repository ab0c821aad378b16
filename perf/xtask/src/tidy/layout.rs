//! The root keeps its names, and no file is called after nothing.

use super::Finding;

/// What is read and checked, below the root.
pub(super) const CHECKED: [&str; 14] = [
    ".cargo",
    ".ci",
    "Cargo.toml",
    "README.md",
    "actors",
    "deploy",
    "docs",
    "examples",
    "flamegraphs",
    "net",
    "perf",
    "runtime",
    "sdk",
    "storage",
];

/// The seven names of the house, what stands beside them, and what builds and runs leave behind.
const ROOT: [&str; 16] = [
    "Cargo.toml",
    "runtime",
    "actors",
    "storage",
    "net",
    "perf",
    "flamegraphs",
    "README.md",
    "Cargo.lock",
    "LICENSE",
    "docs",
    "deploy",
    "sdk",
    "examples",
    "target",
    "barrage-data",
];

/// Names that say nothing about what a file owns.
const NAMELESS: [&str; 8] =
    ["utils", "util", "common", "helpers", "helper", "misc", "manager", "types"];

pub(super) fn check_root(names: &[String]) -> Vec<Finding> {
    names
        .iter()
        .filter(|name| !name.starts_with('.') && !ROOT.contains(&name.as_str()))
        .map(|name| Finding::new(name, 0, "does not belong to the root; find it a room"))
        .collect()
}

pub(super) fn check_name(path: &str) -> Option<Finding> {
    let nameless = path.split('/').any(|part| {
        let stem = part.split('.').next().unwrap_or_default();
        NAMELESS.contains(&stem)
    });
    nameless.then(|| Finding::new(path, 0, "name the file after what it owns"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_in_the_root_are_found() {
        let names = ["Cargo.toml", ".ci", "net", "scripts"].map(str::to_owned);
        let found: Vec<String> = check_root(&names).into_iter().map(|f| f.path).collect();
        assert_eq!(found, ["scripts"]);
    }

    #[test]
    fn nameless_files_are_found() {
        assert!(check_name("net/wire/src/utils.rs").is_some());
        assert!(check_name("net/wire/src/common/frame.rs").is_some());
        assert!(check_name("net/wire/src/frame.rs").is_none());
    }
}
