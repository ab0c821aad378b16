//! A history as a file: JSON, one line per event.
//!
//! ```text
//!   {"history":2}
//!   {"at":1000,"what":{"invoke":{"call":0,"client":"p1","operation":{"send":{...}}}}}
//!   {"at":2000,"what":{"ok":{"call":0,"answer":{"sent":{"partition":0,"base":0}}}}}
//! ```
//!
//! Owns: the first line with its version, the bounds of a line, and what is wrong with a file.
//! Must never: skip a line that it does not understand. A file without its last line's end was
//! cut: it is refused, since what is missing may have been the line that matters.

use std::io::{self, BufRead, Read as _, Write};

use serde::{Deserialize, Serialize};

use super::event::Event;

/// A word that older readers do not know makes a new one. Since 2 there are members of stream
/// groups, since 3 that of delayed records, since 5 deliveries that do not count, since 6 producers
/// that hold a partition; older files are read.
const VERSION: u32 = 7;
/// No line may be longer: a batch of a million records takes about 30 MiB.
const LINE_BYTES_MAX: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    history: u32,
}

/// What is wrong with a history file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("line {line}: {error}")]
    Io {
        /// The line, from 1.
        line: u64,
        /// The error.
        error: io::Error,
    },
    /// The first line is not that of a history, or of a version that is not known.
    #[error("not a history of a version up to {VERSION}")]
    Head,
    /// The line is no event.
    #[error("line {line}: {error}")]
    Event {
        /// The line, from 1.
        line: u64,
        /// The error.
        error: serde_json::Error,
    },
    /// The line is too long.
    #[error("line {line}: longer than {LINE_BYTES_MAX} bytes")]
    TooLong {
        /// The line, from 1.
        line: u64,
    },
    /// The file ends within the line.
    #[error("line {line}: the file was cut here")]
    Cut {
        /// The line, from 1.
        line: u64,
    },
}

/// Writes events.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// When writing fails.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self { out };
        writer.line(&Head { history: VERSION })?;
        Ok(writer)
    }

    /// Writes the next event.
    ///
    /// # Errors
    /// When writing fails.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        self.line(event)
    }

    /// Flushes, and gives back what was written to.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        // A line goes out whole: somebody may end the process in between.
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.out.write_all(&line)
    }
}

/// Reads events.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
    is_over: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line.
    ///
    /// # Errors
    /// When it is not that of a history.
    pub fn new(input: R) -> Result<Self, ReadError> {
        let mut reader = Self { input, line: Vec::new(), number: 0, is_over: false };
        let head = match reader.next_line()? {
            true => serde_json::from_slice::<Head>(&reader.line).ok(),
            false => None,
        };
        match head {
            Some(Head { history: 1..=VERSION }) => Ok(reader),
            _ => Err(ReadError::Head),
        }
    }

    /// False when there is none.
    fn next_line(&mut self) -> Result<bool, ReadError> {
        self.line.clear();
        self.number += 1;
        let line = self.number;
        let mut bounded = (&mut self.input).take(LINE_BYTES_MAX);
        let read = bounded.read_until(b'\n', &mut self.line);
        let size = read.map_err(|error| ReadError::Io { line, error })?;
        match self.line.last() {
            None => Ok(false),
            Some(b'\n') => Ok(true),
            Some(_) if size as u64 == LINE_BYTES_MAX => Err(ReadError::TooLong { line }),
            Some(_) => Err(ReadError::Cut { line }),
        }
    }

    fn next_event(&mut self) -> Result<Option<Event>, ReadError> {
        if !self.next_line()? {
            return Ok(None);
        }
        let line = self.number;
        let event = serde_json::from_slice(&self.line);
        event.map(Some).map_err(|error| ReadError::Event { line, error })
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Event, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.next_event().transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::script::history;
    use crate::history::{History, Options, check_lines};

    /// Every word of the vocabulary, as it stands in files that people keep.
    const GOLDEN: &str = include_str!("golden.jsonl");

    fn everything() -> History {
        history(
            "p send ~3 #7.1.2147483647 a@k b -> 5; p send t/- a1 -> 1@9; p send + c -> fail; \
             p send d -> ?; c read 5 -> 5:a 6:b 7:! | 0 8; c read * ->; seek c; trim 5; \
             c join g -> 3; c commit g*3 7 -> ok; c commit g 8 -> fail; c stored g -> 7; \
             d stored h -> none; a reset g 5 -> ok; keyed q; dead q t dlq; \
             c take q 30 -> 5:a*1 b*2; c ack q a*1 -> ok; c nack q b*2 10 -> ok; \
             c extend q b*2 5 -> fail; voters 1 2 3; n1 starts; n1 votes 4 2; n1 votes 5 -; \
             n1 leads 5; n1 commits 9 t5 a5; n1 applies 9 99; drain; n2 holds 9 a5; reads g t 2; \
             m beat g ^i -> 3: 0 /; m beat g*3 ^i 0 -> 4: / 0; calm g; stirred g; \
             m beat g*4 ^i -> none; m leave g -> ok; ahead 2; p send !5 x -> ok; \
             p delay x 9 -> ok; p delay x - -> fail; c release q b*2 -> ok; \
             p claim o/0 hold 7 60 -> ok; p claim o/0 take 8 60 -> fail; \
             p claim o/0 release 7 60 -> ?; p claim o/0 keep 7 60 -> fail; kept q t",
        )
    }

    #[test]
    fn golden_lines() {
        let mut lines = Vec::new();
        everything().write(&mut lines).unwrap();
        let text = String::from_utf8(lines).unwrap();
        for (number, (got, want)) in text.lines().zip(GOLDEN.lines()).enumerate() {
            assert_eq!(got, want, "line {}", number + 1);
        }
        assert_eq!(text, GOLDEN);
        assert_eq!(History::read(GOLDEN.as_bytes()).unwrap(), everything());
    }

    #[test]
    fn a_file_is_judged_as_the_history_in_memory() {
        let verdict = check_lines(GOLDEN.as_bytes(), &Options::default()).unwrap();
        assert_eq!(verdict, everything().check(&Options::default()));
    }

    #[test]
    fn wrong_files_are_refused_with_their_line() {
        let event = r#"{"at":1,"what":{"note":"drain"}}"#;
        let table = [
            (String::new(), "not a history of a version up to 7"),
            ("{}\n".to_owned(), "not a history of a version up to 7"),
            ("{\"history\":8}\n".to_owned(), "not a history of a version up to 7"),
            (format!("{event}\n"), "not a history of a version up to 7"),
            ("{\"history\":1}".to_owned(), "line 1: the file was cut here"),
            (format!("{{\"history\":1}}\n{event}\n{event}"), "line 3: the file was cut here"),
            (format!("{{\"history\":1}}\n{event}\n\n"), "line 3: EOF while parsing"),
            (
                format!("{{\"history\":1}}\n{}\n", event.replace("drain", "rain")),
                "line 2: unknown variant `rain`",
            ),
            (
                format!("{{\"history\":1}}\n{}\n", event.replace("\"at\"", "\"by\":1,\"at\"")),
                "line 2: unknown field `by`",
            ),
            (
                "{\"history\":1}\n{\"at\":-1,\"what\":{\"note\":\"drain\"}}\n".to_owned(),
                "line 2: invalid value",
            ),
        ];
        for (text, want) in table {
            let error = History::read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(want), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_line_without_end_is_not_read_into_memory() {
        let endless = io::repeat(b' ').take(LINE_BYTES_MAX + 2);
        let error = History::read(io::BufReader::new(endless)).unwrap_err();
        assert_eq!(error.to_string(), format!("line 1: longer than {LINE_BYTES_MAX} bytes"));
    }

    #[test]
    fn damaged_files_are_errors_or_histories_but_never_a_panic() {
        for (at, byte) in (0..GOLDEN.len()).flat_map(|at| [b'9', b'"', b'-'].map(|byte| (at, byte)))
        {
            let mut damaged = GOLDEN.as_bytes().to_vec();
            damaged[at] = byte;
            if let Ok(history) = History::read(damaged.as_slice()) {
                let verdict = history.check(&Options::default());
                assert_eq!(verdict.counters.events, history.events().len() as u64);
            }
        }
    }
}
