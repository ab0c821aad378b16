//! Numbers for people: short, with a unit that fits their size.
//!
//! Must never: show digits that were not measured; three are enough to compare by.

/// `12,300,000` as `12.3 M`.
pub(crate) fn count(number: f64) -> String {
    scaled(number, &[(1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, "")])
}

/// MiB per second, `2,048` as `2 GiB/s`.
pub(crate) fn mib_per_s(number: f64) -> String {
    scaled(number, &[(1024.0, " GiB/s"), (1.0, " MiB/s")])
}

/// MiB, `2,048` as `2 GiB`.
pub(crate) fn mib(number: f64) -> String {
    scaled(number, &[(1024.0, " GiB"), (1.0, " MiB")])
}

/// Microseconds, `1,500` as `1.5 ms`.
pub(crate) fn micros(number: f64) -> String {
    scaled(number, &[(1e6, " s"), (1e3, " ms"), (1.0, " us")])
}

/// Seconds from the start, as an axis shows them.
pub(crate) fn seconds(number: f64) -> String {
    format!("{} s", digits(number))
}

/// A plain number.
pub(crate) fn plain(number: f64) -> String {
    digits(number)
}

/// A part of 1, `0.256` as `26 %`.
pub(crate) fn per_cent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// In the largest unit of which there is one.
fn scaled(number: f64, units: &[(f64, &str)]) -> String {
    let size = number.abs();
    // Rounded to three digits, 999.9 k are 1 M.
    let fits = |(unit, _): &&(f64, &str)| size >= unit * 0.9995;
    let unit = units.iter().find(fits).or_else(|| units.last());
    unit.map_or_else(String::new, |(unit, name)| format!("{}{name}", digits(number / unit)))
}

/// Three digits, without noughts behind the point.
fn digits(number: f64) -> String {
    let decimals = match number.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{number:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::axis::Print;

    #[test]
    fn numbers_are_short_and_keep_three_digits() {
        let table: [(Print, f64, &str); 14] = [
            (count, 0.0, "0"),
            (count, 999.0, "999"),
            (count, 12_345_678.0, "12.3 M"),
            (count, 999_900.0, "1 M"),
            (count, 1_250.0, "1.25 k"),
            (micros, 950.0, "950 us"),
            (micros, 1_500.0, "1.5 ms"),
            (micros, 2_000_000.0, "2 s"),
            (mib_per_s, 1_656.0, "1.62 GiB/s"),
            (mib_per_s, 0.25, "0.25 MiB/s"),
            (mib, 12.0, "12 MiB"),
            (seconds, 100.0, "100 s"),
            (per_cent, 0.256, "26 %"),
            (plain, 0.5, "0.5"),
        ];
        for (print, number, expected) in table {
            assert_eq!(print(number), expected, "{number}");
        }
    }
}
