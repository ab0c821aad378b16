//! What the driver asks of the cluster as an operator would: descriptions and changes.
//!
//! Owns: a runtime for these calls, each over a connection of its own: the server may be another
//! one by now. Must never: wait longer than the time of a call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use barrage_client::{Client, ClientError, ClientOptions};
use barrage_model::{Retention, ShardId};
use barrage_wire::{ClusterChange, ClusterChanged, ClusterDescription};
use tokio::runtime::Runtime;

use crate::reading;
use crate::recorder::Recorder;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A description is told from memory.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// A change has to be written down by a majority.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// See the module.
#[derive(Debug)]
pub(crate) struct Control {
    runtime: Runtime,
}

impl Control {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime })
    }

    /// The cluster as the node at `server` sees it; none when it does not answer.
    pub(crate) fn describe(&self, server: &str) -> Option<ClusterDescription> {
        let asked = async {
            let client = Client::connect(options(&[server.to_owned()], LOOK_TIMEOUT)).await?;
            client.describe_cluster().await
        };
        let within = async { tokio::time::timeout(LOOK_TIMEOUT, asked).await };
        self.runtime.block_on(within).ok()?.ok()
    }

    /// Changes the cluster through whoever answers.
    pub(crate) fn change(
        &self,
        servers: &[String],
        change: ClusterChange,
    ) -> Result<ClusterChanged, ClientError> {
        self.runtime.block_on(async {
            let client = Client::connect(options(servers, CHANGE_TIMEOUT)).await?;
            client.change_cluster(change).await
        })
    }

    /// Makes a topic that keeps everything; returns the shard of each partition.
    pub(crate) fn create_topic(
        &self,
        servers: &[String],
        topic: &str,
        partitions: u32,
    ) -> anyhow::Result<BTreeMap<u32, ShardId>> {
        let asked = async {
            let client = Client::connect(options(servers, CHANGE_TIMEOUT)).await?;
            let keep = Some(Retention::UNLIMITED);
            client.create_topic(topic, partitions, keep).await?;
            client.metadata(&[topic]).await
        };
        let reply = self.runtime.block_on(asked).context("make the topic")?;
        let routes = reply.topics.iter().flat_map(|routes| &routes.partitions);
        Ok(routes.map(|route| (route.partition.0, route.shard)).collect())
    }

    /// Reads everything once.
    pub(crate) fn drain(
        &self,
        recorder: &Arc<Recorder>,
        servers: &[String],
        topic: &str,
        who: &str,
    ) -> anyhow::Result<u64> {
        self.runtime.block_on(reading::drain(recorder, servers, topic, who))
    }
}

fn options(servers: &[String], request_timeout: Duration) -> ClientOptions {
    ClientOptions {
        servers: servers.to_vec(),
        client_name: "chaos control".to_owned(),
        connect_timeout: CONNECT_TIMEOUT,
        request_timeout,
    }
}
