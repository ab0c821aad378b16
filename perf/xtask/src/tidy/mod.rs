//! Tidy: the rules of the house that no compiler knows, checked over the whole tree.
//!
//! Owns: the list of checks and the walk over the files.
//! Must never do: change a file, or judge by anything but the text.
//! Invariants: every check has its own test on sample text; an exception stands in `rules.rs`
//! with its reason, and one that is no longer needed is itself a finding.

mod banned;
mod docs;
mod edges;
mod layout;
mod length;
mod marks;
mod matches;
mod rules;
mod source;
mod unsafety;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use source::Source;

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// The file, relative to the root.
    pub(crate) path: String,
    /// 1-based; 0 when the whole file is meant.
    pub(crate) line: usize,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Runs every check over the tree at `root`.
pub(crate) fn run(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let files = read_tree(root)?;
    let mut sources: Vec<Source> = files
        .iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| Source::new(path, text))
        .collect();
    source::mark_test_files(&mut sources);

    let mut findings = Vec::new();
    for source in &sources {
        findings.extend(docs::check(source));
        findings.extend(banned::check(source));
        findings.extend(matches::check(source));
    }
    findings.extend(unsafety::check(&sources));
    findings.extend(length::check(&sources));
    for (path, text) in &files {
        findings.extend(marks::check(path, text));
        findings.extend(layout::check_name(path));
        if path.ends_with("/Cargo.toml") {
            findings.extend(edges::check(path, text));
        }
    }
    findings.extend(layout::check_root(&names(root)?));
    findings.sort();
    Ok(findings)
}

/// The text of every file that is checked, by path relative to the root, in order of path.
fn read_tree(root: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for room in layout::CHECKED {
        let path = root.join(room);
        if path.is_dir() {
            read_folder(root, &path, &mut files)?;
        } else if path.is_file() {
            read_file(root, &path, &mut files)?;
        }
    }
    files.sort();
    Ok(files)
}

fn read_folder(
    root: &Path,
    folder: &Path,
    files: &mut Vec<(String, String)>,
) -> anyhow::Result<()> {
    for name in names(folder)? {
        let path = folder.join(&name);
        if path.is_dir() && name != "target" {
            read_folder(root, &path, files)?;
        } else if path.is_file() {
            read_file(root, &path, files)?;
        }
    }
    Ok(())
}

fn read_file(root: &Path, path: &Path, files: &mut Vec<(String, String)>) -> anyhow::Result<()> {
    let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
    let is_text = [".rs", ".toml", ".md", ".sh"].iter().any(|end| name.ends_with(end));
    if is_text || name == ".ci/run" {
        let text = fs::read_to_string(path).with_context(|| format!("read {name}"))?;
        files.push((name, text));
    }
    Ok(())
}

fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_house_is_in_order() -> anyhow::Result<()> {
        let findings = super::run(&crate::root())?;
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
        Ok(())
    }
}
