//! `unsafe` stands only in the modules listed in `rules.rs`, and all of those need it.

use super::Finding;
use super::rules::UNSAFE_ALLOWED;
use super::source::Source;

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    check_against(sources, &UNSAFE_ALLOWED)
}

fn check_against(sources: &[Source], allowed: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut stale: Vec<&str> = allowed.iter().map(|(path, _reason)| *path).collect();
    for source in sources {
        let lines = lines(source);
        if !lines.is_empty() {
            stale.retain(|path| *path != source.path);
        }
        if !allowed.iter().any(|(path, _reason)| *path == source.path) {
            let message = "unsafe outside of the modules listed in rules.rs";
            let finding = |line: &usize| Finding::new(&source.path, *line, message);
            findings.extend(lines.iter().map(finding));
        }
    }
    let message = "has no unsafe; remove it from the list in rules.rs";
    findings.extend(stale.iter().map(|path| Finding::new(path, 0, message)));
    findings
}

/// The lines on which the keyword stands, alone and in code.
fn lines(source: &Source) -> Vec<usize> {
    let mut lines = Vec::new();
    for (at, word) in source.code.match_indices("unsafe") {
        let before = source.code.get(..at).and_then(|before| before.chars().next_back());
        let after = source.code.get(at + word.len()..).and_then(|after| after.chars().next());
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        if !is_part(before) && !is_part(after) {
            lines.push(source.line_of(at));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: [(&str, &str); 1] = [("a/listed.rs", "a sample")];

    fn check(path: &str, text: &str) -> Vec<String> {
        let findings = check_against(&[Source::new(path, text)], &ALLOWED);
        findings.into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn unsafe_is_found_outside_of_the_list() {
        let code = "fn a() { unsafe { b() } }";
        assert!(check("a/listed.rs", code).is_empty());
        assert_eq!(check("a/other.rs", code).len(), 2, "the breach and the stale entry");
        let words = "// unsafe\n#![deny(unsafe_code)]";
        assert_eq!(
            check("a/other.rs", words),
            ["has no unsafe; remove it from the list in rules.rs"]
        );
    }
}
