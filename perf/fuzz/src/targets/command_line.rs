//! Values as people write them on the command line, and lines of input.
//!
//! The text is read as a position, a format, a size, a duration, a retention, a topic name, a
//! compression. Checked: what is printed reads as the same value; lines come out whole and in
//! order, whatever the pieces they arrive in.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use barrage_cli::fuzzing;
use barrage_model::batch::{Compression, DecompressionLimits, records};
use barrage_model::units::{format_duration_ms, parse_duration_ms};
use barrage_model::{ByteSize, Retention, TopicName};

use crate::meter::aside;
use crate::target::{LARGE_BYTES, Seed, Target, Verdict, no_extra};

pub(super) const TARGET: Target = Target {
    name: "command_line",
    input_bytes_max: 8 * 1024,
    run,
    memory_extra: no_extra,
    seeds,
    large,
};

/// Longer lines are passed over; short, so that inputs have some.
const LINE_BYTES_MAX: usize = 64;

fn run(input: &[u8]) -> Verdict {
    lines(input);
    let Ok(text) = std::str::from_utf8(input) else { return Verdict::Refused };
    let mut taken = fuzzing::is_position(text);
    taken |= prints_back::<ByteSize>(text);
    taken |= prints_back::<Retention>(text);
    taken |= prints_back::<TopicName>(text);
    taken |= prints_back::<Compression>(text);
    if let Ok(duration_ms) = parse_duration_ms(text) {
        assert_eq!(parse_duration_ms(&format_duration_ms(duration_ms)), Ok(duration_ms));
        taken = true;
    }
    taken |= print(text);
    Verdict::from(taken)
}

fn prints_back<T>(text: &str) -> bool
where
    T: FromStr<Err: Display> + Display + Debug + PartialEq,
{
    match text.parse::<T>() {
        Ok(value) => {
            let again = value.to_string().parse().ok();
            assert_eq!(again, Some(value), "{text:?} is printed as another value");
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty(), "a refusal says why");
            false
        }
    }
}

/// Prints a record with the text as its format.
fn print(text: &str) -> bool {
    let batch = aside(super::batch::plain);
    let opened = records(&batch, &DecompressionLimits::default());
    let Some(Ok(record)) = opened.iter().flat_map(|opened| opened.iter()).next() else {
        return false;
    };
    let mut out = aside(|| Vec::with_capacity(64 * text.len() + 64));
    fuzzing::print(text, &record, &mut out)
}

fn lines(input: &[u8]) {
    let step = usize::from(input.first().copied().unwrap_or(1));
    let mut whole = input.split(|byte| *byte == b'\n');
    let is_fit = |line: &&[u8]| line.len() <= LINE_BYTES_MAX;
    let mut last_is_empty = true;
    fuzzing::lines(input, step, LINE_BYTES_MAX, |line| {
        let expected = whole.next();
        last_is_empty = expected.is_none_or(<[u8]>::is_empty);
        assert_eq!(line, expected.filter(is_fit), "another line");
    });
    let rest: Vec<&[u8]> = aside(|| whole.collect());
    assert!(rest.is_empty() || rest == [b""], "lines were left out: {rest:?}");
}

fn seeds() -> Vec<Seed> {
    let texts = [
        "start",
        "17",
        "@2026-11-21T08:00:00Z",
        "@1970-01-01T01:00:01.25+01:00",
        "@2026-11-21",
        "@-10m",
        "@1795248000000",
        "16MiB",
        "1.5 GiB",
        "4096",
        "90s",
        "2w",
        "3d,10GiB",
        "unlimited",
        "orders.eu-1_a",
        "zstd",
        r"%k\t%v %o %p %t %h|%%\\\r\0\x41\xff\n",
        "a\nline\nand one that is longer than any may be: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n\nz",
    ];
    let seed = |(number, text): (usize, &&str)| (format!("text-{number}"), text.as_bytes().into());
    texts.iter().enumerate().map(seed).collect()
}

/// A number behind spaces.
fn large() -> Vec<Seed> {
    vec![("spaces".to_owned(), [&b" ".repeat(LARGE_BYTES)[..], b"17"].concat())]
}
