//! The way to the control plane: what the catalog's leader sees goes there, what is to be proposed
//! comes back. Without one the same decision is taken on the core.
//!
//! Owns: those two mailboxes. Must never: make a core wait for long; a plan that does not come is
//! no plan.

use std::sync::Arc;
use std::time::Duration;

use barrage_cluster::plan::Sightings;
use barrage_cluster::{Catalog, Command};
use barrage_world::mailbox::{MailboxReceiver, MailboxSender, mailbox};

/// Observations and plans under way; an older one is of no use.
const WAITING_MAX: usize = 2;
/// How long a plan may take.
const PLAN_TIMEOUT: Duration = Duration::from_secs(2);

/// What the catalog's leader sees.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Names it.
    pub number: u64,
    /// The catalog as it is applied there.
    pub catalog: Arc<Catalog>,
    /// What was heard of the nodes.
    pub sightings: Sightings,
}

/// What is to be proposed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The observation it answers.
    pub number: u64,
    /// In this order.
    pub commands: Vec<Command>,
}

/// The core's end.
#[derive(Debug)]
pub struct ControlLink {
    observed: MailboxSender<Observation>,
    planned: MailboxReceiver<Plan>,
    number: u64,
}

/// The control plane's end.
#[derive(Debug)]
pub struct ControlPort {
    /// What is seen.
    pub observed: MailboxReceiver<Observation>,
    /// Where plans go.
    pub planned: MailboxSender<Plan>,
}

/// Both ends.
#[must_use]
pub fn control_link() -> (ControlLink, ControlPort) {
    let (observe, observed) = mailbox(WAITING_MAX);
    let (plan, planned) = mailbox(WAITING_MAX);
    let link = ControlLink { observed: observe, planned, number: 0 };
    (link, ControlPort { observed, planned: plan })
}

impl ControlLink {
    /// Shows what is seen and waits for the plan; `None` when there is none in time.
    pub async fn ask(
        &mut self,
        catalog: Arc<Catalog>,
        sightings: Sightings,
    ) -> Option<Vec<Command>> {
        self.number += 1;
        let number = self.number;
        let observation = Observation { number, catalog, sightings };
        self.observed.try_send(vec![observation]).ok()?;
        loop {
            let plans = self.planned.recv().await?;
            let mut newest = plans.into_iter().filter(|plan| plan.number == number);
            if let Some(plan) = newest.next_back() {
                return Some(plan.commands);
            }
        }
    }

    /// As [`ControlLink::ask`], for a core: at most for a while.
    pub(crate) async fn plan(
        &mut self,
        catalog: Arc<Catalog>,
        sightings: Sightings,
    ) -> Option<Vec<Command>> {
        let asked = self.ask(catalog, sightings);
        let answered = barrage_world::timeout(PLAN_TIMEOUT, asked).await;
        answered.unwrap_or_else(|_| {
            tracing::warn!("the control plane does not answer");
            None
        })
    }
}
