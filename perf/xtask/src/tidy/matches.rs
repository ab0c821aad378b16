//! No bare `matches!`: a statement that computes an answer and drops it is a test that cannot fail.

use super::Finding;
use super::source::Source;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let code = &source.code;
    let mut findings = Vec::new();
    for (at, word) in code.match_indices(concat!("matches", "!(")) {
        let before = code.get(..at).unwrap_or_default().trim_end();
        let begins_statement = before.is_empty() || before.ends_with([';', '{', '}']);
        let after = after_parenthesis(code.get(at + word.len()..).unwrap_or_default());
        if begins_statement && after.trim_start().starts_with(';') {
            let message = "the answer of matches! is dropped; assert it";
            findings.push(Finding::new(&source.path, source.line_of(at), message));
        }
    }
    findings
}

/// What follows the parenthesis that was opened just before `rest`.
fn after_parenthesis(rest: &str) -> &str {
    let mut depth = 1_usize;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return rest.get(at + 1..).unwrap_or_default();
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dropped_answer_is_found() {
        let table = [
            ("fn a() { matches!(x, Some(_)); }", 1),
            ("let y = 1; matches!(x, A(1)) ;", 1),
            ("assert!(matches!(x, Some(_)));", 0),
            ("fn a() -> bool { matches!(x, Some(_)) }", 0),
            ("let a = matches!(x, Some(_));", 0),
            ("// matches!(x, y);", 0),
        ];
        for (text, want) in table {
            assert_eq!(check(&Source::new("a.rs", text)).len(), want, "{text}");
        }
    }
}
