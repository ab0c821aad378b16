//! How `consume --format` prints a record: text with `%` fields and `\` escapes.
//!
//! ```text
//!  %k key   %v value   %o offset   %p partition   %t timestamp (ms)   %h headers   %% percent
//!  \n newline   \t tab   \r return   \0 zero   \\ backslash   \xHH a byte
//! ```

use std::io::Write;
use std::str::FromStr;

use barrage_model::batch::Record;
use barrage_model::{Offset, PartitionId};

/// A parsed format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Key,
    Value,
    Offset,
    Partition,
    Timestamp,
    Headers,
}

/// Why a text is no format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TemplateError {
    UnknownField(char),
    UnknownEscape(char),
    BadByte,
    CutOff(char),
    TooLong,
}

/// Longer formats are refused: a field of two bytes takes sixteen times as much when it is parsed.
const FORMAT_BYTES_MAX: usize = 1024;

impl std::fmt::Display for TemplateError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownField(field) => {
                write!(formatter, "%{field} is no field; there are %k %v %o %p %t %h %%")
            }
            Self::UnknownEscape(escape) => {
                write!(formatter, "\\{escape} is no escape; there are \\n \\t \\r \\0 \\\\ \\xHH")
            }
            Self::BadByte => formatter.write_str("\\x needs two hexadecimal digits"),
            Self::CutOff(sign) => write!(formatter, "ends in a lone {sign}"),
            Self::TooLong => write!(formatter, "longer than {FORMAT_BYTES_MAX} bytes"),
        }
    }
}

impl std::error::Error for TemplateError {}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        if text.len() > FORMAT_BYTES_MAX {
            return Err(TemplateError::TooLong);
        }
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut chars = text.chars();
        while let Some(character) = chars.next() {
            let field = match character {
                '%' => match chars.next().ok_or(TemplateError::CutOff('%'))? {
                    '%' => None,
                    field => Some(field_of(field)?),
                },
                '\\' => {
                    literal.push(escape_of(&mut chars)?);
                    continue;
                }
                _ => None,
            };
            match field {
                Some(field) => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut literal)));
                    }
                    pieces.push(field);
                }
                None => {
                    literal.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self { pieces })
    }
}

/// What there is to print of a record, wherever it lies.
pub(crate) struct Fields<'a, H> {
    pub(crate) partition: PartitionId,
    pub(crate) offset: Offset,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// Keys and values.
    pub(crate) headers: H,
}

impl Template {
    /// Appends a record that lies in a batch. An absent key or value prints as nothing.
    pub(crate) fn print(&self, partition: PartitionId, record: &Record<'_>, out: &mut Vec<u8>) {
        let Record { offset, timestamp_ms, key, value, headers, .. } = *record;
        let headers = headers.iter().map(|header| (header.key, header.value));
        self.print_fields(&Fields { partition, offset, timestamp_ms, key, value, headers }, out);
    }

    /// Appends a record.
    pub(crate) fn print_fields<'a, H>(&self, record: &Fields<'a, H>, out: &mut Vec<u8>)
    where
        H: Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
    {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Key => out.extend_from_slice(record.key.unwrap_or_default()),
                Piece::Value => out.extend_from_slice(record.value.unwrap_or_default()),
                Piece::Offset => print_number(out, record.offset),
                Piece::Partition => print_number(out, record.partition),
                Piece::Timestamp => print_number(out, record.timestamp_ms),
                Piece::Headers => print_headers(out, record.headers.clone()),
            }
        }
    }
}

fn field_of(field: char) -> Result<Piece, TemplateError> {
    match field {
        'k' => Ok(Piece::Key),
        'v' => Ok(Piece::Value),
        'o' => Ok(Piece::Offset),
        'p' => Ok(Piece::Partition),
        't' => Ok(Piece::Timestamp),
        'h' => Ok(Piece::Headers),
        other => Err(TemplateError::UnknownField(other)),
    }
}

fn escape_of(chars: &mut std::str::Chars<'_>) -> Result<u8, TemplateError> {
    match chars.next().ok_or(TemplateError::CutOff('\\'))? {
        'n' => Ok(b'\n'),
        't' => Ok(b'\t'),
        'r' => Ok(b'\r'),
        '0' => Ok(0),
        '\\' => Ok(b'\\'),
        'x' => {
            let mut digit = || chars.next()?.to_digit(16);
            let (high, low) = digit().zip(digit()).ok_or(TemplateError::BadByte)?;
            u8::try_from(high * 16 + low).map_err(|_| TemplateError::BadByte)
        }
        other => Err(TemplateError::UnknownEscape(other)),
    }
}

fn print_number(out: &mut Vec<u8>, number: impl std::fmt::Display) {
    // Writing to memory cannot fail.
    drop(write!(out, "{number}"));
}

fn print_headers<'a>(
    out: &mut Vec<u8>,
    headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) {
    for (at, (key, value)) in headers.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(key);
        out.push(b'=');
        out.extend_from_slice(value.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use barrage_model::batch::{BatchBuilder, Compression, NewRecord, records};

    use super::*;

    fn check(format: &str, record: &NewRecord<'_>, expected: &[u8]) {
        let mut builder = BatchBuilder::new(Compression::None, record.timestamp_ms);
        builder.push(record).unwrap();
        let bytes = builder.finish().unwrap();
        let opened = records(&bytes, &Default::default()).unwrap();
        let record = opened.iter().next().unwrap().unwrap();
        let mut out = Vec::new();
        format.parse::<Template>().unwrap().print(PartitionId(3), &record, &mut out);
        assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    #[test]
    fn every_field_and_escape_prints() {
        let full = NewRecord {
            key: Some(b"key"),
            value: Some(b"value"),
            headers: &[(b"a", b"1"), (b"b", b"2")],
            timestamp_ms: 42,
        };
        check(r"%v\n", &full, b"value\n");
        check(
            r"%k\t%v %o %p %t %h|%%\\\r\0\x41\xff",
            &full,
            b"key\tvalue 0 3 42 a=1,b=2|%\\\r\0A\xff",
        );
        check("täxt", &full, "täxt".as_bytes());
        check("", &full, b"");
        check("[%k][%v][%h]", &NewRecord::default(), b"[][][]");
    }

    #[test]
    fn a_bad_format_says_why() {
        let table = [
            ("%x", TemplateError::UnknownField('x')),
            (r"\q", TemplateError::UnknownEscape('q')),
            (r"\x4", TemplateError::BadByte),
            (r"\xzz", TemplateError::BadByte),
            ("50%", TemplateError::CutOff('%')),
            ("\\", TemplateError::CutOff('\\')),
            (&"x".repeat(1025), TemplateError::TooLong),
        ];
        for (format, expected) in table {
            assert_eq!(format.parse::<Template>(), Err(expected), "{format:?}");
        }
    }
}
