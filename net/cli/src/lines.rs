//! Lines out of chunks of bytes, without copying lines that lie within one chunk.
//!
//! Invariants: every line comes out once, without its newline, byte for byte; a last line without
//! a newline counts; memory stays within one chunk and one line of at most `line_bytes_max`.

use std::io::{self, Read};
use std::thread;

use tokio::sync::mpsc;

/// What one read may give.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks read ahead of the producer.
const CHUNKS_MAX: usize = 4;

/// Reads `source` on a thread of its own: stdin blocks, and it may block for ever.
pub(crate) fn read_ahead(
    mut source: impl Read + Send + 'static,
) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    thread::spawn(move || {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let result = match source.read(&mut chunk) {
                Ok(0) => return,
                Ok(size) => {
                    chunk.truncate(size);
                    Ok(chunk)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = result.is_err();
            if sender.blocking_send(result).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// What is next in the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A line, without its newline.
    Bytes(&'a [u8]),
    /// A line above the limit was passed over.
    TooLong,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Where to look on for its end.
    scanned: usize,
    skipping: bool,
    line_bytes_max: usize,
}

impl Lines {
    pub(crate) const fn new(line_bytes_max: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, scanned: 0, skipping: false, line_bytes_max }
    }

    /// Adds input. Call when `next` said `None`.
    pub(crate) fn push(&mut self, chunk: Vec<u8>) {
        assert!(self.start <= self.scanned, "what is scanned lies behind the line's begin");
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        if self.buffer.len() > self.line_bytes_max {
            self.skipping = true;
        }
        if self.skipping {
            self.buffer.clear();
            self.scanned = 0;
        }
        if self.buffer.is_empty() {
            self.buffer = chunk;
        } else {
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// The next whole line.
    pub(crate) fn next(&mut self) -> Option<Line<'_>> {
        let rest = self.buffer.get(self.scanned..)?;
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            self.scanned = self.buffer.len();
            return None;
        };
        let end = self.scanned + length;
        let begin = self.start;
        self.start = end + 1;
        self.scanned = end + 1;
        self.line(begin, end)
    }

    /// The last line, when the input did not end in a newline. Call at its end.
    pub(crate) fn last(&mut self) -> Option<Line<'_>> {
        let (begin, end) = (self.start, self.buffer.len());
        self.start = end;
        self.scanned = end;
        if begin == end && !self.skipping {
            return None;
        }
        self.line(begin, end)
    }

    fn line(&mut self, begin: usize, end: usize) -> Option<Line<'_>> {
        let too_long = end - begin > self.line_bytes_max;
        if std::mem::take(&mut self.skipping) || too_long {
            return Some(Line::TooLong);
        }
        self.buffer.get(begin..end).map(Line::Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], step: usize) -> Vec<String> {
        let mut lines = Lines::new(8);
        let mut out = Vec::new();
        let text = |line: Line<'_>| match line {
            Line::Bytes(bytes) => bytes.escape_ascii().to_string(),
            Line::TooLong => "TOO LONG".to_owned(),
        };
        for chunk in input.chunks(step) {
            lines.push(chunk.to_vec());
            while let Some(line) = lines.next() {
                out.push(text(line));
            }
        }
        out.extend(lines.last().map(text));
        out
    }

    #[test]
    fn lines_come_out_however_the_input_is_cut() {
        let table: &[(&[u8], &[&str])] = &[
            (b"", &[]),
            (b"a\n", &["a"]),
            (b"a\nb", &["a", "b"]),
            (b"\n\nx\n\n", &["", "", "x", ""]),
            (b"a\r\n\xff\0\n", &["a\\r", "\\xff\\x00"]),
            (b"12345678\n123456789\n1\n", &["12345678", "TOO LONG", "1"]),
            (b"1\n12345678901234567890123456789", &["1", "TOO LONG"]),
            (b"12345678901234567890\n\n2\n", &["TOO LONG", "", "2"]),
        ];
        for (input, expected) in table {
            for step in 1..=input.len().max(1) {
                assert_eq!(all(input, step), *expected, "{} by {step}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn reading_ahead_gives_all_bytes_in_order() {
        let input: Vec<u8> = (0..=255).cycle().take(3 * CHUNK_BYTES + 17).collect();
        let mut chunks = read_ahead(io::Cursor::new(input.clone()));
        let mut out = Vec::new();
        while let Some(chunk) = chunks.blocking_recv() {
            out.extend(chunk.unwrap());
        }
        assert!(out == input);
    }
}
