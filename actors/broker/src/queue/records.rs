//! The records of a stored batch, one after the other, as far as it can be opened.
//!
//! Owns: which offsets lie where nobody can look. Must never: pass over one of them in silence.

use barrage_model::Offset;
use barrage_model::batch::{BatchHeader, BatchView, DecompressionLimits, Record};

/// What comes next.
pub(crate) enum Seen<'a> {
    Record(Record<'a>),
    /// So many that cannot be read, or are not where they should be.
    Unknown(u64),
}

/// Tells `visit` of every record of a batch from `from` on and before `end`, until it has had
/// enough; answers whether that was all of them.
pub(crate) fn walk(
    batch: &[u8],
    from: Offset,
    end: Offset,
    mut visit: impl FnMut(Seen<'_>) -> bool,
) -> bool {
    let Ok(header) = BatchHeader::peek(batch) else { return false };
    let end = header.next_offset().min(end);
    // Offsets are dense: what lies before the batch should be there.
    let missing = header.base_offset.min(end).0.saturating_sub(from.0);
    if missing > 0 && !visit(Seen::Unknown(missing)) {
        return false;
    }
    let mut next = Offset(from.0 + missing);
    let opened = BatchView::check(batch).and_then(|view| {
        // Bounded as wherever the broker opens a batch.
        view.records(&DecompressionLimits::default())
    });
    for record in opened.iter().flatten() {
        let Ok(record) = record else { break };
        let at = record.offset;
        if at < next {
            continue;
        }
        if at >= end {
            break;
        }
        if !visit(Seen::Record(record)) {
            return false;
        }
        next = Offset(at.0 + 1);
    }
    // Nobody can say what is in those that are left, if any are.
    let left = end.0.saturating_sub(next.0);
    left == 0 || visit(Seen::Unknown(left))
}
