//! What nodes say to each other before a body is looked into: frames, cut as the network pleases,
//! and the contact.
//!
//! The first byte of the input chooses how many bytes arrive at a time. Checked: the same frames
//! come out whatever the pieces; what was read is written as the same bytes.

use barrage_model::{NodeId, ShardId};
use barrage_peer::{ClusterId, Contact, Frame, Header, Identity, Inbox, Kind, Refusal};

use crate::meter::aside;
use crate::repair;
use crate::target::{LARGE_BYTES, Seed, Target, Verdict, no_extra};

pub(super) const TARGET: Target =
    Target { name: "peer", input_bytes_max: 8 * 1024, run, memory_extra: no_extra, seeds, large };

/// Bodies above are refused. What a header announces is reserved, so this counts as memory that
/// any input may hold; see `target::MEMORY_BASE_BYTES`.
const BODY_BYTES_MAX: u32 = 16 * 1024;

fn run(input: &[u8]) -> Verdict {
    let Some((&step, bytes)) = input.split_first() else { return Verdict::Refused };
    let step = usize::from(step).max(1);
    feed(bytes, step);
    let right = aside(|| {
        let mut right = bytes.to_vec();
        repair::frames(&mut right);
        right
    });
    Verdict::from(feed(&right, step))
}

/// Whether there is a frame in it, or it is a contact.
fn feed(bytes: &[u8], step: usize) -> bool {
    let mut whole = aside(|| {
        let mut frames = Vec::new();
        cut(bytes, bytes.len().max(1), |frame| frames.push(frame));
        frames.into_iter()
    });
    let (mut count, mut at) = (0, 0);
    cut(bytes, step, |frame| {
        assert_eq!(Some(&frame), whole.next().as_ref(), "pieces matter");
        let rest = bytes.get(at..).unwrap_or_default();
        assert!(rest.starts_with(&frame.header.encode()), "a header changes when it is sent again");
        at += frame.header.frame_size();
        assert_eq!(frame.body.len(), frame.header.body_size as usize);
        contact(&frame.body);
        count += 1;
    });
    assert!(whole.next().is_none(), "pieces matter");
    contact(bytes) || count > 0
}

fn contact(bytes: &[u8]) -> bool {
    let Ok(contact) = Contact::decode(bytes) else { return false };
    let again = aside(|| contact.encode());
    assert!(again == bytes, "a contact changes when it is told again");
    assert!(contact.port(contact.core_of(ShardId(u32::MAX))).is_some(), "a core without a port");
    true
}

fn cut(stream: &[u8], step: usize, mut each: impl FnMut(Frame)) {
    let mut inbox = Inbox::new(BODY_BYTES_MAX);
    let mut rest = stream;
    loop {
        loop {
            match inbox.next_frame() {
                Ok(Some(frame)) => each(frame),
                Ok(None) => break,
                // The connection is closed here.
                Err(_) => return,
            }
        }
        if rest.is_empty() {
            return;
        }
        let Ok(buffer) = inbox.buffer() else { return };
        let room = buffer.capacity() - buffer.len();
        let (part, behind) = rest.split_at(step.min(room).min(rest.len()));
        buffer.extend_from_slice(part);
        inbox.received(part.len(), room);
        rest = behind;
    }
}

const SENDER: Identity = Identity { cluster: ClusterId(0xfeed), node: NodeId(1) };

fn frame(kind: Kind, number: u64, body: &[u8]) -> Vec<u8> {
    let header = Header {
        shard: ShardId(5),
        body_size: body.len() as u32,
        within_ms: 2_000,
        ..Header::new(kind, SENDER, NodeId(2), number)
    };
    [&header.encode()[..], body].concat()
}

fn told(cores: usize) -> Vec<u8> {
    let ports = (0..cores).map(|core| 9301 + core as u16).collect();
    Contact::new(ports).map_or_else(|_| Vec::new(), |contact| contact.encode().to_vec())
}

fn seeds() -> Vec<Seed> {
    let conversation = [
        frame(Kind::Contact, 0, &[]),
        frame(Kind::ContactAnswer, 0, &told(4)),
        frame(Kind::Request, 1, b"a request"),
        frame(Kind::Request, 2, &[7; 300]),
        frame(Kind::Answer, 2, b"an answer"),
        frame(Kind::Refused(Refusal::UnknownShard), 1, &[]),
    ];
    let with = |step: u8, bytes: &[u8]| [&[step], bytes].concat();
    let cases = [
        ("conversation", with(255, &conversation.concat())),
        ("conversation-in-sevens", with(7, &conversation.concat())),
        ("byte-by-byte", with(1, &conversation[3])),
        ("contact", with(1, &told(1))),
        ("contact-of-many", with(255, &told(100))),
    ];
    cases.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}

/// Frames without a body, frames with one, the largest contact.
fn large() -> Vec<Seed> {
    let many = |count: usize, body: &[u8]| {
        (0..count as u64).flat_map(|number| frame(Kind::Answer, number, body)).collect::<Vec<u8>>()
    };
    let with = |bytes: Vec<u8>| [&[255], &bytes[..]].concat();
    let cases = [
        ("bare", with(many(LARGE_BYTES / Header::SIZE, &[]))),
        ("with-bodies", with(many(LARGE_BYTES / BODY_BYTES_MAX as usize, &[1; 16 * 1024]))),
        ("contact", with(told(Contact::CORES_MAX))),
    ];
    cases.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}
