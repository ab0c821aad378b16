//! First contact: asks an address who is there and how its cores are reached.
//!
//! Must never: believe the answer of another node, or of another cluster.

use std::net::SocketAddr;

use barrage_model::NodeId;
use barrage_world::net::Stream;

use crate::contact::Contact;
use crate::frame::{FrameError, Header, Kind};
use crate::identity::Identity;
use crate::inbox::Inbox;

/// Why there was no contact.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("it hung up")]
    Ended,
    #[error("node {} of cluster {} is there", .0.node, .0.cluster)]
    Elsewhere(Identity),
    #[error("it said {0:?}")]
    Strange(Kind),
    #[error("{0}")]
    Contact(#[from] crate::contact::ContactError),
}

/// A contact fits; so does a refusal.
const BODY_BYTES_MAX: u32 = Contact::SIZE_MAX as u32;

/// Asks the node at `address`, which shall be `node` of the asker's cluster.
pub(crate) async fn ask(
    address: SocketAddr,
    me: Identity,
    node: NodeId,
) -> Result<Contact, AskError> {
    let stream = Stream::connect(address).await?;
    // The question fits one segment.
    drop(stream.set_nodelay(true));
    stream.write_all(&Header::new(Kind::Contact, me, node, 0).encode()).await?;
    let mut inbox = Inbox::new(BODY_BYTES_MAX);
    let frame = loop {
        if let Some(frame) = inbox.next_frame()? {
            break frame;
        }
        if stream.read_buf(inbox.buffer()?).await? == 0 {
            return Err(AskError::Ended);
        }
    };
    let found = Identity { cluster: frame.header.cluster, node: frame.header.from };
    if found != (Identity { node, ..me }) {
        return Err(AskError::Elsewhere(found));
    }
    match frame.header.kind {
        Kind::ContactAnswer => Ok(Contact::decode(&frame.body)?),
        other => Err(AskError::Strange(other)),
    }
}
