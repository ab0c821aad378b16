//! "Did you mean": the known name that differs least from a mistyped one.

/// Names that need more changes than this are no help.
const CHANGES_MAX: usize = 4;

/// A longer name is near to none.
const NAME_BYTES_MAX: usize = 64;

/// The name nearest to `typed`, if one is near enough.
pub(crate) fn nearest<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if typed.len() > NAME_BYTES_MAX {
        return None;
    }
    names
        .map(|name| (changes(typed, name), name))
        // A name without its section, or a section alone, is as good as one change.
        .map(|(count, name)| match name.contains(typed) || name.ends_with(typed) {
            true => (count.min(1), name),
            false => (count, name),
        })
        .filter(|(count, _)| *count <= CHANGES_MAX)
        .min()
        .map(|(_, name)| name)
}

/// How many letters have to be put in, taken out or replaced.
fn changes(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut left = index + 1;
        let mut next = vec![left];
        for ((other, above), diagonal) in to.iter().zip(row.iter().skip(1)).zip(&row) {
            let replaced = diagonal + usize::from(*other != letter);
            left = replaced.min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found() {
        let names = ["storage.segment_size", "storage.retention", "listen"];
        let check = |typed: &str, expected: Option<&str>| {
            assert_eq!(nearest(typed, names.into_iter()), expected, "{typed}");
        };
        check("storage.segment_sise", Some("storage.segment_size"));
        check("segment_size", Some("storage.segment_size"));
        check("lisen", Some("listen"));
        check("something.else.entirely", None);
    }

    #[test]
    fn changes_are_counted() {
        for (from, to, count) in
            [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(changes(from, to), count, "{from} {to}");
        }
    }
}
