//! What readers are shown, as the history has it; and the final reading.
//!
//! Must never: judge.

use std::time::Duration;

use anyhow::{Context, bail};
use barrage_client::{Client, ClientError, ClientOptions, ConsumerOptions, FetchedBatch};
use barrage_sim::history::{Fingerprint, Name, SeenRecord};

use crate::recorder::Recorder;

/// How long everything may take to be read once.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

/// Records a batch that a reader was given. Returns how many records it held.
pub(crate) fn record(
    recorder: &Recorder,
    who: &Name,
    batch: &FetchedBatch,
) -> Result<u64, ClientError> {
    let mut seen = Vec::new();
    for record in &batch.records()? {
        let record = record?;
        if batch.wants(record.offset) {
            let fingerprint = Some(Fingerprint::of(record.key, record.value));
            seen.push(SeenRecord { offset: record.offset, fingerprint });
        }
    }
    let count = seen.len() as u64;
    recorder.read(who, batch.partition, None, seen);
    Ok(count)
}

/// Reads every partition from its start to its end. Returns how many records there were.
pub(crate) async fn drain(
    recorder: &Recorder,
    servers: &[String],
    topic: &str,
    who: &str,
) -> anyhow::Result<u64> {
    let reading = async {
        let options = ClientOptions { servers: servers.to_vec(), ..ClientOptions::default() };
        let client = Client::connect(options).await?;
        let options = ConsumerOptions { stop_at_end: true, ..ConsumerOptions::default() };
        let mut consumer = client.consumer(topic, options).await?;
        let name = Name::from(who);
        let mut count = 0;
        while let Some(batch) = consumer.next_batch().await? {
            count += record(recorder, &name, &batch)?;
        }
        Ok::<u64, ClientError>(count)
    };
    match tokio::time::timeout(DRAIN_TIMEOUT, reading).await {
        Ok(read) => read.with_context(|| format!("{who} cannot read to the end")),
        Err(_) => bail!("{who} did not reach the end within {DRAIN_TIMEOUT:?}"),
    }
}
