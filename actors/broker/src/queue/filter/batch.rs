//! The records of stored batches, as a filter sees them.
//!
//! Owns: which headers are tags and routing key, and what becomes of records that nobody can read.
//! Must never: pass over a record that cannot be read: whoever leases it finds out.
//! Invariants: batches are looked at in their order, and every record of them once.

use barrage_model::Offset;
use barrage_model::batch::Headers;
use barrage_model::headers::{ROUTING_KEY, TAG};
use barrage_world::planted;

use super::{Facts, StoredFilter};
use crate::queue::records::{Seen, walk};
use crate::queue::selection::Selection;

/// Records between two looks at the clock.
const RECORDS_PER_TURN: u64 = 16;

/// Looks at the records of a batch that lie behind those of `found` and before `end`, until it is
/// full or `is_late`; answers whether that was all of them. What cannot be opened or makes no sense
/// counts as wanted.
pub(crate) fn look(
    batch: &[u8],
    filter: &StoredFilter,
    found: &mut Selection,
    end: Offset,
    is_late: impl Fn() -> bool,
) -> bool {
    let mut turn = 0;
    walk(batch, found.end(), end, |seen| match seen {
        Seen::Record(record) => {
            turn += 1;
            if found.is_full() || (turn % RECORDS_PER_TURN == 0 && is_late()) {
                return false;
            }
            // Wrong when planted: of what is wanted one in sixteen is settled and never had.
            let is_lost = planted("broker-wanted-record-passed") && record.offset.0 % 16 == 7;
            match filter.matches(&Headed { headers: record.headers }) && !is_lost {
                true => found.want(1),
                false => found.pass(1),
            }
            true
        }
        Seen::Unknown(count) => {
            let end = Offset(found.end().0 + count);
            found.want(count);
            found.end() == end
        }
    })
}

/// A record as a filter sees it.
struct Headed<'a> {
    headers: Headers<'a>,
}

impl Facts for Headed<'_> {
    /// What is no text is no tag.
    fn tags(&self) -> impl Iterator<Item = &str> {
        let tags = self.headers.iter().filter(|header| header.key == TAG.as_bytes());
        tags.filter_map(|header| std::str::from_utf8(header.value?).ok())
    }

    fn routing_key(&self) -> Option<&str> {
        std::str::from_utf8(self.header(ROUTING_KEY)?).ok()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        let named = self.headers.iter().filter(|header| header.key == name.as_bytes());
        named.last()?.value
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use std::cell::Cell;

    use barrage_model::batch::{BatchBuilder, Compression, HEADER_SIZE, NewRecord, stamp};

    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    /// A batch at offset 10 with a record for each of these lists of headers.
    fn batch(compression: Compression, records: &[Pairs<'_>]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(compression, 1000);
        for headers in records {
            let headers: Vec<_> =
                headers.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect();
            let record = NewRecord { headers: &headers, timestamp_ms: 1000, ..Default::default() };
            builder.push(&record).unwrap();
        }
        let mut bytes = builder.finish().unwrap();
        stamp(&mut bytes, Offset(10), 1);
        bytes
    }

    fn filter(line: &str) -> StoredFilter {
        StoredFilter::new(line.to_owned())
    }

    fn wanted(found: &Selection) -> Vec<u64> {
        found.wanted().flat_map(|range| range.start.0..range.end.0).collect()
    }

    fn looked(bytes: &[u8], line: &str, from: u64, end: u64) -> Selection {
        let mut found = Selection::empty(Offset(from));
        look(bytes, &filter(line), &mut found, Offset(end), || false);
        found
    }

    #[test]
    fn headers_are_tags_routing_key_and_themselves() {
        let records: [Pairs<'_>; 6] = [
            &[("tag", "new"), ("price", "5")],
            &[("tag", "old"), ("tag", "sold"), ("price", "50")],
            &[("routing-key", "a.b"), ("routing-key", "stock.apple.new")],
            &[("price", "7"), ("price", "70")],
            &[("Tag", "new"), ("tags", "new")],
            &[],
        ];
        for compression in Compression::ALL {
            let bytes = batch(compression, &records);
            for (line, want) in [
                ("tags:new || sold", &[10, 11][..]),
                ("keys:stock.*.new", &[12]),
                ("keys:#", &[10, 11, 12, 13, 14, 15]),
                ("headers:price > 10", &[11, 13]),
                ("headers:tag IS NULL", &[12, 13, 14, 15]),
                ("headers:tag = 'sold'", &[11]),
            ] {
                let found = looked(&bytes, line, 10, 99);
                assert_eq!((wanted(&found), found.end()), (want.to_vec(), Offset(16)), "{line}");
            }
        }
    }

    #[test]
    fn only_what_was_asked_for_is_looked_at() {
        let tagged: Pairs<'_> = &[("tag", "a")];
        let bytes = batch(Compression::None, &[tagged; 8]);
        for (from, end, want) in [
            (12, 15, vec![12, 13, 14]),
            (10, 10, vec![]),
            (18, 20, vec![]),
            // What should lie before it.
            (8, 11, vec![8, 9, 10]),
        ] {
            let found = looked(&bytes, "tags:a", from, end);
            assert_eq!(wanted(&found), want, "[{from}, {end})");
        }
        let late = Cell::new(0);
        let many = batch(Compression::Lz4, &vec![tagged; 1_000]);
        let mut found = Selection::empty(Offset(10));
        let is_late = || late.replace(late.get() + 1) >= 3;
        look(&many, &filter("tags:b"), &mut found, Offset(2_000), is_late);
        assert_eq!(found.count(), 4 * RECORDS_PER_TURN - 1, "it goes on from there");
        look(&many, &filter("tags:b"), &mut found, Offset(2_000), || false);
        assert_eq!((found.count(), found.wanted_count()), (1_000, 0));
    }

    /// A gzip that is none, records that are none, one that breaks off: nobody can say that they
    /// are not wanted.
    #[test]
    fn what_cannot_be_read_is_wanted() {
        let tagged: Pairs<'_> = &[("tag", "a")];
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut bytes = batch(compression, &[tagged; 5]);
            bytes[HEADER_SIZE..].fill(0xff);
            let crc = crc32c::crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
            let found = looked(&bytes, "tags:b", 11, 99);
            assert_eq!(wanted(&found), [11, 12, 13, 14], "{compression}");
        }
        let mut bytes = batch(Compression::None, &[tagged; 5]);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(wanted(&looked(&bytes, "tags:b", 10, 99)), [10, 11, 12, 13, 14], "its CRC");
        // The third record says that it is longer than all of them.
        let mut bytes = batch(Compression::None, &[tagged; 5]);
        let size = (bytes.len() - HEADER_SIZE) / 5;
        bytes[HEADER_SIZE + 2 * size] = 0x7e;
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(wanted(&looked(&bytes, "tags:b", 10, 99)), [12, 13, 14]);
        assert_eq!(looked(&[1, 2, 3], "tags:b", 10, 99), Selection::empty(Offset(10)));
    }
}
