//! Dependencies point down: each package names only those that `rules.rs` lets it.

use super::Finding;
use super::rules::{EDGES, Edge, OWNED};

/// Which table of a manifest a line stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Other,
    Dependencies,
    DevDependencies,
}

pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let package = package_name(text).unwrap_or_default();
    let Some(edge) = EDGES.iter().find(|edge| edge.package == package) else {
        let message = format!("package {package:?} has no line in the edges of rules.rs");
        return vec![Finding::new(path, 0, message)];
    };
    let mut findings = Vec::new();
    for (line, section, name) in dependencies(text) {
        if let Some(message) = breach(edge, section, name) {
            findings.push(Finding::new(path, line, message));
        }
    }
    findings
}

fn breach(edge: &Edge, section: Section, name: &str) -> Option<String> {
    let package = edge.package;
    let is_dev = section == Section::DevDependencies;
    if let Some(target) = name.strip_prefix("barrage-") {
        let allowed = edge.uses.contains(&target) || (is_dev && edge.tests_use.contains(&target));
        let source = package;
        return (!allowed).then(|| format!("{source} must not depend on {target}"));
    }
    let (_, owners) = OWNED.iter().find(|(owned, _)| *owned == name)?;
    (!is_dev && !owners.contains(&package))
        .then(|| format!("{package} must not depend on {name}; that is left to {owners:?}"))
}

/// The package's name without the project's.
fn package_name(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("name = \"barrage-"))?;
    line.strip_prefix("name = \"barrage-")?.strip_suffix('"')
}

/// Every dependency with its 1-based line and table.
fn dependencies(text: &str) -> Vec<(usize, Section, &str)> {
    let mut section = Section::Other;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(header) = line.trim().strip_prefix('[') {
            section = match header.trim_end_matches(']') {
                name if name.ends_with("dev-dependencies") => Section::DevDependencies,
                name if name.ends_with("dependencies") => Section::Dependencies,
                _ => Section::Other,
            };
        } else if section != Section::Other {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if !name.is_empty() && !name.starts_with('#') {
                found.push((index + 1, section, name));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    fn check(text: &str) -> Vec<String> {
        super::check("Cargo.toml", text).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn an_edge_that_points_up_is_found() {
        let text =
            "[package]\nname = \"barrage-model\"\n[dependencies]\nbarrage-wire.workspace = true\n";
        assert_eq!(check(text), ["model must not depend on wire"]);
    }

    #[test]
    fn an_edge_that_points_down_is_not() {
        let text =
            "[package]\nname = \"barrage-wire\"\n[dependencies]\n# why\nbarrage-model = { }\n";
        assert!(check(text).is_empty());
    }

    #[test]
    fn an_executor_is_named_by_its_owner_alone() {
        let text =
            "[package]\nname = \"barrage-broker\"\n[dependencies]\nglommio.workspace = true\n";
        assert_eq!(check(text).len(), 1);
        let text = text.replace("broker", "world").replace("[dep", "[target.'cfg(not(sim))'.dep");
        assert!(check(&text).is_empty());
    }

    #[test]
    fn a_package_without_a_line_is_found() {
        assert_eq!(check("[package]\nname = \"barrage-novel\"\n").len(), 1);
    }
}
