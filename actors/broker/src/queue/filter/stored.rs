//! A group's filter as it is kept: the line that it is written as, and what that says.
//!
//! Owns: what becomes of a line that cannot be read. Must never: let such a line hide a record.
//! Invariants: equal lines are equal filters.

use super::{Facts, Filter, FilterError};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredFilter {
    line: String,
    /// None if this build cannot read the line: nobody stores one that its own build cannot read.
    filter: Option<Filter>,
}

impl StoredFilter {
    /// A line of the catalog, of a command or of a checkpoint. One that cannot be read lets every
    /// record through: what is delivered and not wanted is acked, what is lost is lost.
    pub(crate) fn new(line: String) -> Self {
        let filter = line.parse().ok();
        Self { line, filter }
    }

    /// As it is stored.
    pub(crate) fn line(&self) -> &str {
        &self.line
    }

    /// Whether the group wants this record.
    pub(crate) fn matches(&self, record: &impl Facts) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.matches(record))
    }
}

/// The line to be stored for what a group's owner wrote; none where it lets everything through.
pub(crate) fn to_be_stored(line: &str) -> Result<Option<String>, FilterError> {
    Ok(match line.parse()? {
        Filter::Everything => None,
        filter => Some(filter.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::Record;
    use super::*;

    #[test]
    fn a_line_is_kept_as_it_is_read() {
        for (line, want) in [
            ("*", Ok(None)),
            ("tags:b||a", Ok(Some("tags:a || b"))),
            ("keys:stock.# || a", Ok(Some("keys:a || stock.#"))),
            ("headers:price>10", Ok(Some("headers:price > 10"))),
            ("tags:", Err("tags: there are none")),
            ("price > 10", Err("a filter is * or begins with tags:, keys: or headers:")),
            (
                "headers:price >",
                Err("expression: expected a value or a header, found the end at byte 7"),
            ),
        ] {
            let stored = to_be_stored(line).map_err(|error| error.to_string());
            let want = want.map(|line| line.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(stored, want, "{line}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_hides_nothing() {
        let stored = StoredFilter::new("tomorrow:a".to_owned());
        assert!(stored.matches(&Record::default()));
        assert_eq!(stored.line(), "tomorrow:a");
        assert!(!StoredFilter::new("tags:a".to_owned()).matches(&Record::default()));
    }
}
