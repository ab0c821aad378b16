//! The byte stream of a connection: frames, cut as the network pleases, and what is in them.
//!
//! The first byte of the input chooses how many bytes arrive at a time, the second the limit in
//! force. Checked: the same frames come out whatever the pieces; a frame's parts fit together.

use barrage_wire::{Correlation, Frame, FrameDecoder, FrameHeader, Request, Response};
use bytes::BytesMut;

use crate::meter::aside;
use crate::target::{LARGE_BYTES, Seed, Target, Verdict, no_extra};

pub(super) const TARGET: Target =
    Target { name: "frames", input_bytes_max: 8 * 1024, run, memory_extra: no_extra, seeds, large };

/// The limits a server has before and after the handshake.
const LENGTHS_MAX: [u32; 2] = [8 * 1024, 16 * 1024 * 1024];

fn run(input: &[u8]) -> Verdict {
    let Some((&[step, limit], stream)) = input.split_first_chunk() else { return Verdict::Refused };
    let length_max = LENGTHS_MAX.get(usize::from(limit % 2)).copied().unwrap_or(0);
    let mut whole = aside(|| {
        let mut frames = Vec::new();
        cut(stream, stream.len().max(1), length_max, |frame| frames.push(frame));
        frames.into_iter()
    });
    let mut count = 0;
    cut(stream, usize::from(step).max(1), length_max, |frame| {
        assert_eq!(frame.body.len(), frame.header.body_size());
        assert_eq!(Some(&frame), whole.next().as_ref(), "pieces matter");
        // Either may refuse; neither may do more.
        drop(Request::decode(&frame.header, &frame.body));
        drop(Response::decode(&frame.header, &frame.body));
        count += 1;
    });
    assert!(whole.next().is_none(), "pieces matter");
    Verdict::from(count > 0)
}

fn cut(stream: &[u8], step: usize, length_max: u32, mut each: impl FnMut(Frame)) {
    let mut decoder = FrameDecoder::new(length_max);
    for piece in stream.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => each(frame),
                Ok(None) => break,
                // The connection is closed here.
                Err(_) => return,
            }
        }
        let missing = decoder.missing();
        assert!(missing.is_ok_and(|missing| missing > 0), "a whole frame was left behind");
    }
}

fn seeds() -> Vec<Seed> {
    let mut stream = BytesMut::new();
    for (index, (_, request)) in (0..).zip(super::requests::seeds()) {
        stream.extend_from_slice(&request);
        FrameHeader::new(2, 1, Correlation(index), 0).encode(&mut stream);
    }
    let mut answers = BytesMut::new();
    for (_, response) in super::responses::seeds() {
        answers.extend_from_slice(&response);
    }
    let with = |step: u8, limit: u8, stream: &[u8]| [&[step, limit], stream].concat();
    let cases = [
        ("requests-whole", with(255, 1, &stream)),
        ("requests-byte-by-byte", with(1, 0, &stream)),
        ("answers-in-sevens", with(7, 1, &answers)),
    ];
    cases.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}

/// Frames without a body.
fn large() -> Vec<Seed> {
    let mut stream = BytesMut::from(&[255, 1][..]);
    for index in 0..(LARGE_BYTES / FrameHeader::SIZE) as u32 {
        FrameHeader::new(2, 1, Correlation(index), 0).encode(&mut stream);
    }
    vec![("pings".to_owned(), stream.to_vec())]
}
