//! A bare connection that speaks the protocol by hand, rightly or wrongly.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use barrage_model::PartitionKey;
use barrage_model::batch::{BatchBuilder, Compression, NewRecord};
use barrage_wire::{
    Correlation, ErrorCode, Frame, FrameDecoder, Hello, MetadataRequest, Request, Response,
};
use bytes::BytesMut;

use crate::node::Node;

/// A bare connection.
pub(crate) struct Peer {
    stream: TcpStream,
    decoder: FrameDecoder,
}

impl Peer {
    pub(crate) fn connect(node: &Node) -> Self {
        let stream = TcpStream::connect(node.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { stream, decoder: FrameDecoder::new(16 << 20) }
    }

    pub(crate) fn greeted(node: &Node) -> Self {
        let mut peer = Self::connect(node);
        peer.request(1, &Request::Hello(Hello::new("test")));
        let frame = peer.reply().unwrap();
        let reply = Response::decode(&frame.header, &frame.body).unwrap();
        assert!(matches!(reply, Response::Hello(_)), "{reply:?}");
        peer
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // The other side may have closed already; what it said is read next.
        drop(self.stream.write_all(bytes));
    }

    pub(crate) fn request(&mut self, correlation: u32, request: &Request<'_>) {
        let mut bytes = BytesMut::new();
        request.encode(Correlation(correlation), &mut bytes);
        self.send(&bytes);
    }

    /// The next reply; `None` when the connection was closed.
    pub(crate) fn reply(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no reply and no close: {error}"),
            }
        }
    }

    pub(crate) fn error(&mut self) -> ErrorCode {
        let frame = self.reply().expect("closed without an error");
        ErrorCode::from_number(frame.header.detail).expect("a reply without an error")
    }

    /// The one partition of a topic.
    pub(crate) fn key(&mut self, topic: &str) -> PartitionKey {
        self.request(2, &Request::Metadata(MetadataRequest { topics: vec![topic.to_owned()] }));
        let frame = self.reply().unwrap();
        let Ok(Response::Metadata(metadata)) = Response::decode(&frame.header, &frame.body) else {
            panic!("no metadata");
        };
        let routes = &metadata.topics[0];
        PartitionKey { topic: routes.topic, partition: routes.partitions[0].partition }
    }
}

/// A batch of one record.
pub(crate) fn batch(value: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None, 0);
    let record = NewRecord { key: None, value: Some(value), headers: &[], timestamp_ms: 0 };
    builder.push(&record).unwrap();
    builder.finish().unwrap()
}
