//! Which node holds and leads which shard: looks at what the catalog's leader sees and answers with
//! the commands that lead to an even placement.
//!
//! Owns: asking `barrage_cluster::plan`. Must never: propose; the catalog's leader does, if it
//! still leads by then.

use actix::{Actor, Context, Handler, Message};
use barrage_broker::{MailboxSender, Observation, Plan};
use barrage_cluster::plan;

/// The actor.
pub(crate) struct Placement {
    planned: MailboxSender<Plan>,
}

impl Placement {
    pub(crate) fn new(planned: MailboxSender<Plan>) -> Self {
        Self { planned }
    }
}

impl Actor for Placement {
    type Context = Context<Self>;
}

/// An observation on its way to the actor.
pub(crate) struct Observed(pub(crate) Observation);

impl Message for Observed {
    type Result = ();
}

impl Handler<Observed> for Placement {
    type Result = ();

    fn handle(&mut self, Observed(observation): Observed, _: &mut Context<Self>) {
        let commands = plan::plan(&observation.catalog, &observation.sightings);
        let plan = Plan { number: observation.number, commands };
        if self.planned.try_send(vec![plan]).is_err() {
            // The core has not taken the one before: it does not lead any more, or is stopping.
            tracing::debug!("a plan found no room");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "tests fail by panicking")]

    use std::collections::BTreeSet;
    use std::sync::Arc;

    use barrage_broker::control_link;
    use barrage_cluster::plan::Sightings;
    use barrage_cluster::{Catalog, Command};
    use barrage_model::NodeId;

    #[test]
    fn an_observation_is_answered_with_a_plan() {
        let mut catalog = Catalog::new();
        catalog.apply(Command::Found { cluster: "c".to_owned(), shards: 4 }, 0);
        catalog.apply(Command::RegisterNode { node: NodeId(1) }, 0);
        let (mut link, port) = control_link();
        crate::start(port).expect("a thread");
        let present = BTreeSet::from([NodeId(1)]);
        let sightings = Sightings { present, ..Sightings::default() };
        let plan = actix::System::new().block_on(link.ask(Arc::new(catalog), sightings));
        // One node holds all that there is: nothing is to be done.
        assert_eq!(plan, Some(Vec::new()));
    }
}
