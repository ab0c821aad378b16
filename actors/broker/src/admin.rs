//! Administration: a command to the catalog's leader, then waiting until the cluster goes by it.
//!
//! ```text
//!   create: CreateTopic committed -> every node knows it -> each shard's leader opens partitions
//!           -> all agree -> answer
//!   delete: DeleteTopic committed -> each shard's leader closes partitions -> all agree -> answer
//!           and the catalog's leader: ForgetTopic
//! ```
//!
//! Nothing half-done is remembered: the catalog says what should be, each shard's own state says
//! what is, and its leader makes up the difference whenever one of the two changes.
//!
//! Owns: that order; on the catalog's leader the tasks that keep the cluster in shape.
//! Must never: answer before the shards concerned agree.
//! Invariants: a topic's tombstone goes only after every shard has closed its partitions.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use barrage_cluster::message::Outcome;
use barrage_cluster::node::{Birth, LEVEL, Presence};
use barrage_cluster::{Catalog, Command, plan};
use barrage_model::{GroupName, NodeId, ShardId, TopicId, TopicName};
use barrage_world::{Instant, planted, random_u64, sleep, timeout};

use crate::api::AdminError;
use crate::api::queue::GroupSpec;
use crate::beacons::now_ms;
use crate::catalog_shard::CatalogShard;
use crate::cluster::{ClusterChange, ClusterChanged};
use crate::core::Core;
use crate::message::{Admin, AdminReply, Request};
use crate::start::StartError;

/// While a core's mailbox is full it is told again after this.
const TELL_RETRY: Duration = Duration::from_millis(50);
/// Between two looks whether everybody agrees; news comes at once.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often the catalog's leader plans.
const PLAN_INTERVAL: Duration = Duration::from_millis(500);
/// How often a node looks whether the catalog knows where it is.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the node's own commands may take; then they are tried again.
const OWN_DEADLINE: Duration = Duration::from_secs(5);

impl Core {
    /// Carries out a request to the catalog; on the first core only.
    pub(crate) async fn administer(
        self: &Rc<Self>,
        admin: Admin,
        deadline: Instant,
    ) -> Result<AdminReply, AdminError> {
        match admin {
            Admin::Create(spec) => {
                let command = Command::CreateTopic {
                    name: spec.name,
                    partitions: spec.partitions,
                    retention: spec.retention.unwrap_or(self.options.retention),
                    priorities: spec.priorities,
                    order: spec.order,
                };
                self.change_topic(command, deadline).await
            }
            Admin::Alter { name, change } => {
                let (partitions, retention) = (change.partitions, change.retention);
                let command = Command::AlterTopic { name, partitions, retention };
                self.change_topic(command, deadline).await
            }
            Admin::Delete { name } => self.delete_topic(name, deadline).await,
            Admin::CreateGroup { topic, spec: GroupSpec { name, settings, at_end } } => {
                let command = Command::CreateGroup { topic, name, settings, at_end };
                self.change_topic(command, deadline).await
            }
            Admin::AlterGroup { topic, name, settings } => {
                let command = Command::AlterGroup { topic, name, settings };
                self.change_topic(command, deadline).await
            }
            Admin::DeleteGroup { topic, name } => {
                let shard = self.coordinator_named(&name);
                let reply =
                    self.change_topic(Command::DeleteGroup { topic, name }, deadline).await?;
                self.agreed_by_coordinator(shard, deadline).await?;
                Ok(reply)
            }
            Admin::CreateStream { topic, name } => {
                let command = Command::CreateStream { topic, name: name.clone() };
                let reply = self.change_topic(command, deadline).await?;
                self.agreed_by_coordinator(self.coordinator_named(&name), deadline).await?;
                Ok(reply)
            }
            Admin::AllocateProducers { count } => {
                let command = Command::AllocateProducers { count };
                match self.command(&command, deadline).await? {
                    (_, Outcome::Producers { first, count }) => {
                        Ok(AdminReply::Producers { first, count })
                    }
                    (_, other) => Err(strange(other)),
                }
            }
            Admin::Cluster(change) => {
                self.change_cluster(change, deadline).await.map(AdminReply::Cluster)
            }
        }
    }

    async fn change_topic(
        self: &Rc<Self>,
        command: Command,
        deadline: Instant,
    ) -> Result<AdminReply, AdminError> {
        let (revision, outcome) = self.command(&command, deadline).await?;
        let Outcome::Topic(id) = outcome else { return Err(strange(outcome)) };
        let catalog = self.known(revision, deadline).await?;
        // Deleted already by somebody else.
        let topic = catalog.topic(id).cloned().ok_or(AdminError::UnknownTopic)?;
        let creates = matches!(command, Command::CreateTopic { .. });
        // Wrong when planted: the topic is there, its partitions are not yet open.
        if !(creates && planted("broker-create-answers-early")) {
            let shards: Vec<ShardId> = topic.places().map(|(_, shard)| shard).collect();
            self.agreed(&shards, revision, deadline).await?;
        }
        Ok(AdminReply::Topic(topic))
    }

    /// The shard of the stream group of this name.
    fn coordinator_named(&self, name: &GroupName) -> Option<ShardId> {
        self.catalog().streams().named(name).map(|stream| stream.shard)
    }

    /// Waits until the shard of a stream group, if it is one, goes by what is known here.
    async fn agreed_by_coordinator(
        &self,
        shard: Option<ShardId>,
        deadline: Instant,
    ) -> Result<(), AdminError> {
        match shard {
            Some(shard) => self.agreed(&[shard], self.catalog().revision(), deadline).await,
            None => Ok(()),
        }
    }

    async fn delete_topic(
        self: &Rc<Self>,
        name: TopicName,
        deadline: Instant,
    ) -> Result<AdminReply, AdminError> {
        let (revision, _) = self.command(&Command::DeleteTopic { name }, deadline).await?;
        let catalog = self.known(revision, deadline).await?;
        let shards: Vec<ShardId> = (1..=catalog.shards()).map(ShardId).collect();
        self.agreed(&shards, revision, deadline).await?;
        Ok(AdminReply::Done)
    }

    /// Waits until every core of this node, and every node that is there, knows a revision.
    async fn known(&self, revision: u64, deadline: Instant) -> Result<Arc<Catalog>, AdminError> {
        self.wait_until(deadline, |core| {
            let own = core.board.borrow();
            // Wrong when planted: other nodes do not know what clients are told of.
            let alone = planted("broker-create-unknown-elsewhere");
            let own = own.beacon(core.node()).is_some_and(|beacon| beacon.revision >= revision);
            own && (alone || core.board.borrow().is_known(revision, now_ms()))
        })
        .await?;
        Ok(self.catalog())
    }

    /// Waits until the partitions of these shards agree with a revision.
    async fn agreed(
        &self,
        shards: &[ShardId],
        revision: u64,
        deadline: Instant,
    ) -> Result<(), AdminError> {
        self.wait_until(deadline, |core| {
            let (board, now_ms) = (core.board.borrow(), now_ms());
            shards.iter().all(|shard| board.agrees(*shard, revision, now_ms))
        })
        .await
    }

    async fn wait_until(
        &self,
        deadline: Instant,
        is_so: impl Fn(&Self) -> bool,
    ) -> Result<(), AdminError> {
        let mut board = self.board.subscribe();
        while !is_so(self) {
            if self.is_closing.get() {
                return Err(AdminError::ShuttingDown);
            }
            if Instant::now() >= deadline {
                return Err(AdminError::Timeout);
            }
            timeout(LOOK_INTERVAL, board.changed()).await.ok();
        }
        Ok(())
    }

    async fn change_cluster(
        &self,
        change: ClusterChange,
        deadline: Instant,
    ) -> Result<ClusterChanged, AdminError> {
        let command = match change {
            ClusterChange::Join { presence, .. } if planted("broker-birth-forgotten") => {
                // Wrong: a newcomer that asks twice becomes two members.
                Command::Join { birth: Birth(random_u64().into()), presence }
            }
            ClusterChange::Join { birth, presence } => Command::Join { birth, presence },
            ClusterChange::Decommission { node } => Command::Leave { node },
            ClusterChange::Recommission { node } => Command::Stay { node },
            ClusterChange::SetCopies { copies } => Command::SetCopies { wanted: copies },
            ClusterChange::Transfer { shard, to } => {
                Command::Assign { shards: vec![(shard, self.holders_led_by(shard, to)?)] }
            }
            ClusterChange::Balance => {
                let catalog = self.catalog();
                let sightings = self.board.borrow().sightings(&catalog, now_ms());
                Command::Assign { shards: plan::balance(&catalog, &sightings) }
            }
        };
        let shards = match &command {
            Command::Assign { shards } => u32::try_from(shards.len()).unwrap_or(u32::MAX),
            _ => 0,
        };
        let node = match self.command(&command, deadline).await? {
            (_, Outcome::Node(joined)) => joined,
            _ => self.node(),
        };
        Ok(ClusterChanged { node, cluster: self.identity.cluster.clone(), shards })
    }

    /// The holders of a shard with `to` in front: the first one leads.
    fn holders_led_by(&self, shard: ShardId, to: NodeId) -> Result<Vec<NodeId>, AdminError> {
        let catalog = self.catalog();
        let invalid = |reason| AdminError::Invalid { reason };
        let holders = catalog.nodes().assignment().get(&shard);
        let holders = holders.ok_or_else(|| invalid(format!("there is no shard {shard}")))?;
        if !holders.contains(&to) {
            let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
            let names = names.join(", ");
            let reason = format!("node {to} holds no copy of shard {shard}; these do: {names}");
            return Err(invalid(reason));
        }
        let others = holders.iter().filter(|node| **node != to);
        Ok(std::iter::once(to).chain(others.copied()).collect())
    }

    /// Founds the cluster, or goes on with that; then this node belongs to it.
    pub(crate) async fn found(&self) -> Result<(), AdminError> {
        let catalog = self.catalog_shard.get().ok_or(AdminError::NotLeader)?;
        if catalog.catalog().shards() == 0 {
            let shards = match self.options.shards {
                0 => u32::from(self.options.cores),
                asked => asked,
            };
            let cluster = self.identity.cluster.clone();
            catalog.propose(&Command::Found { cluster, shards }).await?;
        }
        catalog.propose(&Command::RegisterNode { node: self.node() }).await.map(drop)
    }

    /// Hands every newer catalog to all cores, for ever.
    pub(crate) async fn keep_publishing(self: Rc<Self>, shard: CatalogShard) {
        let mut applied = shard.group().applied_watch();
        let mut published = None;
        while !shard.group().is_over() {
            drop(applied.borrow_and_update());
            if published != Some(shard.revision()) {
                let view = Arc::new(shard.catalog());
                published = Some(view.revision());
                self.set_catalog(Arc::clone(&view));
                self.news.notify_all();
                // All are told in this turn, so that copies arrive in the order of revisions.
                for core in self.router.others() {
                    let mut told = self.router.request(core, Request::Catalog(Arc::clone(&view)));
                    while told.is_err() && !self.is_closing.get() {
                        sleep(TELL_RETRY).await;
                        told = self.router.request(core, Request::Catalog(Arc::clone(&view)));
                    }
                }
            }
            if applied.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells the catalog where this node is reached, whenever it says otherwise, for ever.
    pub(crate) async fn keep_presence(self: Rc<Self>) {
        let presence = Presence {
            peer: self.options.peer_address.clone(),
            client: self.options.client_address.clone(),
            level: LEVEL,
        };
        while !self.is_closing.get() {
            let catalog = self.catalog();
            let node = self.node();
            match catalog.nodes().get(node) {
                Some(known) if known.presence != presence => {
                    let announce = Command::Announce { node, presence: presence.clone() };
                    let told = self.command(&announce, Instant::now() + OWN_DEADLINE).await;
                    if let Err(error) = told {
                        tracing::warn!(%error, "the cluster does not know this node's address yet");
                    }
                }
                None if catalog.nodes().was_removed(node) => {
                    return self.fail(StartError::Removed { node }.to_string());
                }
                Some(_) | None => {}
            }
            sleep(PRESENCE_INTERVAL).await;
        }
    }

    /// While this node leads the catalog: assigns copies, removes empty nodes, forgets deleted
    /// topics, for ever.
    pub(crate) async fn keep_planning(self: Rc<Self>) {
        let mut control = self.control.take();
        while !self.is_closing.get() {
            sleep(PLAN_INTERVAL).await;
            let Some(shard) = self.catalog_shard.get() else { return };
            let Some(term) = shard.group().leader_term() else { continue };
            let catalog = Arc::new(shard.catalog());
            let (sightings, closed) = {
                let (board, now_ms) = (self.board.borrow(), now_ms());
                let is_closed = |revision: u64| {
                    (1..=catalog.shards()).all(|id| board.agrees(ShardId(id), revision, now_ms))
                };
                let closed = catalog.closing().filter(|(_, revision)| is_closed(*revision));
                let closed: Vec<TopicId> = closed.map(|(topic, _)| topic).collect();
                (board.sightings(&catalog, now_ms), closed)
            };
            let mut commands = match &mut control {
                None => plan::plan(&catalog, &sightings),
                Some(link) => link.plan(Arc::clone(&catalog), sightings).await.unwrap_or_default(),
            };
            if shard.revision() != catalog.revision() {
                // Planned for a catalog that is not the newest one any more.
                commands.clear();
            }
            commands.extend(closed.into_iter().map(|topic| Command::ForgetTopic { topic }));
            for command in commands {
                if shard.group().leader_term() != Some(term) {
                    break;
                }
                tracing::info!(?command, "planned");
                if let Err(error) = shard.propose(&command).await {
                    tracing::warn!(?command, %error, "planned and not carried out yet");
                    break;
                }
            }
        }
    }
}

fn strange(outcome: Outcome) -> AdminError {
    AdminError::Invalid { reason: format!("unexpected answer {outcome:?}") }
}
