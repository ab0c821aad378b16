//! No left-over marks, and no path of somebody's machine, in any text file.

use super::Finding;

/// Marks of unfinished work; an issue is the place for it. Split so that this file passes.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Folders that exist on one machine only.
const MACHINE: [&str; 4] =
    [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];

pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words = || line.split(|c: char| !c.is_ascii_alphanumeric());
        if let Some(mark) = words().find(|word| UNFINISHED.contains(word)) {
            let message = format!("{mark} is not merged; finish it or open an issue");
            findings.push(Finding::new(path, index + 1, message));
        }
        if let Some(folder) = MACHINE.iter().find(|folder| names_folder(line, folder)) {
            let message = format!("{folder} is a path of one machine");
            findings.push(Finding::new(path, index + 1, message));
        }
    }
    findings
}

/// Whether `folder` stands in `line` as the beginning of a path, not inside of one.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '~'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_machine_paths_are_found() {
        let table = [
            (concat!("// TO", "DO: later").to_owned(), 1),
            (concat!("# FIX", "ME").to_owned(), 1),
            (format!("see {}me/x", MACHINE[1]), 1),
            (format!("\"{}x\"", MACHINE[0]), 1),
            ("a method and its todos".to_owned(), 0),
            ("https://example.org/how/to/work".to_owned(), 0),
            (format!("net{}x", MACHINE[2]), 0),
            (format!("a\nb\n{}x", MACHINE[2]), 1),
        ];
        for (text, want) in table {
            assert_eq!(check("a.rs", &text).len(), want, "{text}");
        }
    }
}
