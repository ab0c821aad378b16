//! Figures of a run that are neither a rate nor a latency: each a key for programs, and a line for
//! people.
//!
//! Owns: how they are printed. Must never: know what they mean.
//! Invariants: a key is given once.

use serde::{Serialize, Serializer};

/// What a scenario tells beside its reading, in the order it was added.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

#[derive(Clone, Copy, Debug)]
struct Figure {
    key: &'static str,
    label: &'static str,
    unit: &'static str,
    value: f64,
}

impl Figures {
    /// Adds one.
    pub(crate) fn add(
        &mut self,
        key: &'static str,
        (label, unit): (&'static str, &'static str),
        value: f64,
    ) {
        assert!(self.0.iter().all(|figure| figure.key != key), "{key} is told twice");
        self.0.push(Figure { key, label, unit, value });
    }

    /// For people: each a name and what it is.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        self.0.iter().map(|figure| {
            let number = match figure.value.abs() {
                large if large >= 1_000.0 => thousands(figure.value),
                value if value >= 100.0 => format!("{value:.0}"),
                _ => format!("{:.3}", figure.value),
            };
            let text = format!("{number} {}", figure.unit);
            (figure.label, text.trim_end().to_owned())
        })
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|figure| (figure.key, figure.value)))
    }
}

/// `1234567.8` as `1,234,568`.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let check = |number: f64, text: &str| assert_eq!(thousands(number), text);
        check(0.4, "0");
        check(999.0, "999");
        check(1000.0, "1,000");
        check(12_345_678.9, "12,345,679");
    }

    #[test]
    fn figures_are_told_to_people_and_programs() {
        let mut figures = Figures::default();
        figures.add("connection_bytes", ("resident per connection", "bytes"), 5_123.4);
        figures.add("share", ("share", ""), 0.25);
        let lines: Vec<_> = figures.lines().collect();
        let expected = [("resident per connection", "5,123 bytes"), ("share", "0.250")];
        assert_eq!(lines, expected.map(|(name, text)| (name, text.to_owned())));
        let json = serde_json::to_string(&figures).unwrap();
        assert_eq!(json, r#"{"connection_bytes":5123.4,"share":0.25}"#);
    }
}
