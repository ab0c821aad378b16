//! Functions of at most 70 lines, files of at most 600 without tests, lines of at most 100.
//!
//! A ratchet: what is longer stands in `rules.rs` with its reason and its length; it may shrink,
//! and then its entry must shrink too, until it goes.

use super::Finding;
use super::rules::{LONGER, Longer};
use super::source::{Source, block_end};

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;
const LINE_WIDTH_MAX: usize = 100;

/// How far an entry may stand above what it allows before it must be lowered.
const SLACK_LINES: usize = 10;

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    check_against(sources, &LONGER)
}

fn check_against(sources: &[Source], longer: &[Longer]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut used = vec![false; longer.len()];
    for source in sources {
        let mut judge = |name: &str, line: usize, lines: usize, limit: usize| {
            let entry = longer.iter().position(|e| e.path == source.path && e.name == name);
            let allowed = entry.and_then(|index| longer.get(index)).map_or(limit, |e| e.lines);
            if lines > limit
                && let Some(used) = entry.and_then(|index| used.get_mut(index))
            {
                *used = allowed <= lines + SLACK_LINES;
            }
            if lines > allowed {
                let message = format!("{name} has {lines} lines, at most {allowed} are allowed");
                findings.push(Finding::new(&source.path, line, message));
            }
        };
        judge("the file", 0, source.line_count_without_tests(), FILE_LINES_MAX);
        for (name, first, lines) in functions(source) {
            judge(&name, first, lines, FUNCTION_LINES_MAX);
        }
        findings.extend(wide_lines(source));
    }
    for (entry, _) in longer.iter().zip(&used).filter(|(_, used)| !**used) {
        let message = format!("lower or remove the entry of {} in rules.rs", entry.name);
        findings.push(Finding::new(entry.path, 0, message));
    }
    findings
}

fn wide_lines(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let width = line.chars().count();
        // An address cannot be broken.
        if width > LINE_WIDTH_MAX && !line.contains("://") {
            let message = format!("{width} characters, at most {LINE_WIDTH_MAX} are allowed");
            findings.push(Finding::new(&source.path, index + 1, message));
        }
    }
    findings
}

/// Name, first line and count of lines of every function that is no test.
fn functions(source: &Source) -> Vec<(String, usize, usize)> {
    let code = &source.code;
    let mut found = Vec::new();
    for (at, word) in code.match_indices("fn ") {
        let before = code.get(..at).and_then(|before| before.chars().next_back());
        let rest = code.get(at + word.len()..).unwrap_or_default();
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let first = source.line_of(at);
        let is_part = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        if name.is_empty() || is_part || source.is_test(first) {
            continue;
        }
        if let Some(open) = body(code, at) {
            let last = block_end(code, open).map_or(first, |end| source.line_of(end));
            found.push((name, first, last - first + 1));
        }
    }
    found
}

/// Where the body of the function at `at` opens; none when it is only declared.
fn body(code: &str, at: usize) -> Option<usize> {
    // A `;` inside of brackets belongs to an array type.
    let mut depth = 0_i32;
    for (position, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(position),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, longer: &[Longer]) -> Vec<String> {
        let sources = [Source::new("a.rs", text)];
        let findings = check_against(&sources, longer);
        findings.into_iter().map(|finding| finding.message).collect()
    }

    fn function(lines: usize) -> String {
        format!("fn long(a: [u8; 4]) {{\n{}}}\n", "    a();\n".repeat(lines - 2))
    }

    fn entry(lines: usize) -> [Longer; 1] {
        [Longer { path: "a.rs", name: "long", lines, reason: "a sample" }]
    }

    #[test]
    fn a_long_function_is_found() {
        assert!(check(&function(70), &[]).is_empty());
        assert_eq!(check(&function(71), &[]), ["long has 71 lines, at most 70 are allowed"]);
        let test = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(80));
        assert!(check(&test, &[]).is_empty());
        assert!(check("trait A {\n    fn declared(&self);\n}\n", &[]).is_empty());
    }

    #[test]
    fn a_listed_function_may_be_longer_but_not_grow() {
        assert!(check(&function(80), &entry(80)).is_empty());
        assert_eq!(check(&function(81), &entry(80)).len(), 1);
    }

    #[test]
    fn an_entry_that_is_not_needed_is_found() {
        let want = ["lower or remove the entry of long in rules.rs"];
        assert_eq!(check(&function(70), &entry(80)), want);
        assert_eq!(check(&function(75), &entry(90)), want);
        assert_eq!(check("", &entry(80)), want);
    }

    #[test]
    fn a_long_file_is_found_without_its_tests() {
        let body = "const A: u8 = 1;\n".repeat(600);
        assert!(check(&format!("{body}#[cfg(test)]\nmod tests {{\n\n\n}}\n"), &[]).is_empty());
        assert_eq!(check(&format!("{body}const B: u8 = 1;\n"), &[]).len(), 1);
    }

    #[test]
    fn a_wide_line_is_found() {
        assert_eq!(check(&"x".repeat(101), &[]).len(), 1);
        assert!(check(&"é".repeat(100), &[]).is_empty());
        assert!(check(&format!("// https://{}", "x".repeat(100)), &[]).is_empty());
    }
}
