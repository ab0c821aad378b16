//! Every file opens with `//!`: what it owns, what it must never do, its invariants.

use super::Finding;
use super::source::Source;

/// Short enough for a placeholder, too short for a header.
const WORDS_MIN: usize = 5;

pub(super) fn check(source: &Source) -> Option<Finding> {
    let header: Vec<&str> = source
        .text
        .lines()
        .skip_while(|line| line.trim().is_empty())
        .map_while(|line| line.strip_prefix("//!"))
        .collect();
    let words = header.iter().flat_map(|line| line.split_whitespace()).count();
    (words < WORDS_MIN).then(|| {
        let message = "does not open with a //! header that says what the file owns";
        Finding::new(&source.path, 1, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_asked_for() {
        let check = |text| check(&Source::new("a.rs", text)).is_some();
        assert!(check("fn a() {}"));
        assert!(check("//! Placeholder.\nfn a() {}"));
        assert!(check("fn a() {}\n//! Too late to be a header at all."));
        assert!(!check("//! Ids: one type per meaning, never mixed.\nfn a() {}"));
        assert!(!check("\n//! Ids: one type\n//! per meaning.\n"));
    }
}
