//! The Rust SDK: produce to and consume from Barrage over its native protocol, on tokio.
//!
//! Owns: connections, batching, retries, reading positions, leases. What decides (`producer::core`,
//! `producer::lane`, `producer::partitioner`, `consumer::cursor`) does no I/O and reads no clock;
//! what does I/O decides nothing.
//!
//! Guarantees
//! - A record whose [`Delivery`] says yes is on disk on a majority. It is there once, however
//!   often its batch had to be sent, and in the order of `send` within its partition.
//! - [`DeliveryError::Failed`] means surely not written, [`DeliveryError::Unknown`] is said when
//!   nobody can know, [`DeliveryError::Stored`] when it was written with less than was asked.
//! - All of this holds while leaders move and nodes come and go: any node that answers tells where
//!   to go on.
//! - A consumer gives each record once, in order within its partition, checked against the CRC
//!   that the producer made.
//! - A queue group leases each record to one consumer at a time, until it is acked: [`queue`].
//! - A stream group gives each partition to one member at a time, and stores how far it was read:
//!   [`stream`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use barrage_client::{Client, ClientOptions, ConsumerOptions, ProducerOptions, Record};
//!
//! let client = Client::connect(ClientOptions::server("127.0.0.1:7400")).await?;
//! client.create_topic("orders", 4, None).await?;
//!
//! let producer = client.producer("orders", ProducerOptions::default()).await?;
//! let record = Record { key: Some(b"alice"), value: Some(b"1 book"), ..Record::default() };
//! let receipt = producer.send(record).await?.wait().await?;
//! println!("partition {} offset {}", receipt.partition, receipt.offset);
//! producer.close().await;
//!
//! let options = ConsumerOptions { stop_at_end: true, ..ConsumerOptions::default() };
//! let mut consumer = client.consumer("orders", options).await?;
//! while let Some(batch) = consumer.next_batch().await? {
//!     for record in &batch.records()? {
//!         let record = record?;
//!         if batch.wants(record.offset) {
//!             println!("{:?}", record.value);
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests"))]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "outside of the broker: real clocks, and maps whose order nobody sees"
)]

mod client;
mod connection;
mod consumer;
mod delay;
mod error;
mod group;
mod leader;
mod options;
mod pause;
mod pool;
mod producer;
pub mod queue;
mod route;
pub mod stream;

pub use client::Client;
pub use consumer::{Consumer, FetchedBatch};
pub use delay::{Change, ChangeError, Delay, DelayedId, DelayedRecords, Waiting};
pub use error::{ClientError, ErrorKind, Stage};
pub use options::{
    ClientOptions, ConsumerOptions, From, ProducerOptions, QueueOptions, Rival, SERVER_DEFAULT,
    StreamOptions, TopicOptions,
};
pub use producer::{Delivery, DeliveryError, OnReport, Outcome, Producer, Receipt, Record, Report};
