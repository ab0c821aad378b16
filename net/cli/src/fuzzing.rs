//! The parsers of the command line, for the fuzz targets; no part of the interface.

use barrage_model::PartitionId;
use barrage_model::batch::Record;

use crate::lines::{Line, Lines};
use crate::position::Position;
use crate::template::Template;

/// Whether the text is a position.
#[must_use]
pub fn is_position(text: &str) -> bool {
    text.parse().map(Position::resolve).is_ok()
}

/// Whether the text is a format; prints the record with it.
pub fn print(format: &str, record: &Record<'_>, out: &mut Vec<u8>) -> bool {
    let template = format.parse::<Template>();
    template.map(|template| template.print(PartitionId(3), record, out)).is_ok()
}

/// Hands every line that comes out of `input`, read in pieces of `step` bytes, to `each`; none for
/// a line above the limit.
pub fn lines(
    input: &[u8],
    step: usize,
    line_bytes_max: usize,
    mut each: impl FnMut(Option<&[u8]>),
) {
    let mut lines = Lines::new(line_bytes_max);
    let mut give = |line: Line<'_>| match line {
        Line::Bytes(bytes) => each(Some(bytes)),
        Line::TooLong => each(None),
    };
    for piece in input.chunks(step.max(1)) {
        lines.push(piece.to_vec());
        while let Some(line) = lines.next() {
            give(line);
        }
    }
    if let Some(line) = lines.last() {
        give(line);
    }
}
