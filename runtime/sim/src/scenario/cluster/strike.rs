//! An order, and the end of whoever carries it out in that very moment.
//!
//! Owns: orders that are given once, over one connection, and what their answers may say: a name
//! that was never used is not taken, one that was made and not deleted is not unknown. Must never:
//! repeat an order whose outcome is open.

use std::rc::Rc;
use std::time::Duration;

use barrage_model::{Retention, ShardId, TopicOrder};
use barrage_wire::{ErrorCode, Request, Response, TopicCreate, TopicDelete};
use barrage_world as world;
use barrage_world::sim::Network;

use super::nemesis::Nemesis;
use super::process::{host, shared_address};
use crate::workload::{Connection, milliseconds, pick};

/// How long an order may take.
const ANSWERED_WITHIN: Duration = milliseconds(15_000);
/// An order takes a few round trips and flushes.
const FLUSH_MS_MAX: u64 = 12;
const TRIPS: u32 = 6;
/// How long whoever was struck is cut off or stands still.
const STRUCK_MS_MIN: u64 = 800;
const STRUCK_MS_MAX: u64 = 2_500;

/// What happens to the leader of the catalog.
#[derive(Clone, Copy)]
enum Blow {
    Kill,
    PowerLoss,
    Pause,
    CutOff,
}

impl Nemesis {
    /// Strikes whoever leads the catalog, in the middle of an order.
    pub(super) fn strike(self: &Rc<Self>) -> bool {
        let Some(newest) = self.register.newest() else { return false };
        let catalog = newest.shards.iter().find(|row| row.shard == ShardId(0));
        let leader = catalog.and_then(|row| row.leader);
        let Some(place) = leader.and_then(|leader| self.register.place_of(leader)) else {
            return false;
        };
        let serving: Vec<usize> =
            self.nodes.iter().filter(|node| node.is_serving()).map(|node| node.place).collect();
        let others: Vec<usize> = serving.iter().copied().filter(|it| *it != place).collect();
        if others.is_empty() || !serving.contains(&place) {
            return false;
        }
        // The answer of one that ends is never heard.
        let blows = [Blow::Kill, Blow::Kill, Blow::PowerLoss, Blow::Pause, Blow::CutOff];
        let blow = *pick(&mut self.random(), &blows);
        let lives = !matches!(blow, Blow::Kill | Blow::PowerLoss);
        let itself = lives && self.random().one_in(3);
        let door = if itself { place } else { *pick(&mut self.random(), &others) };
        let number = self.strikes.get();
        self.strikes.set(number + 1);
        drop(world::spawn(Rc::clone(self).order_and_strike(number, door, place, blow)));
        true
    }

    async fn order_and_strike(self: Rc<Self>, number: u64, door: usize, place: usize, blow: Blow) {
        let name = format!("struck-{number}");
        let deletes = self.random().one_in(3);
        if deletes && self.order_over(door, create(&name)).await != Some(None) {
            return;
        }
        let order = if deletes { delete(&name) } else { create(&name) };
        let nemesis = Rc::clone(&self);
        let answered = world::spawn(async move { nemesis.order_over(door, order).await });
        let trip = *self.plan.link.latency.end() * TRIPS;
        let span_us = FLUSH_MS_MAX * 1_000 + trip.as_micros() as u64;
        // Connecting takes two round trips before that.
        let wait = Duration::from_micros(self.random().below(span_us)) + trip / TRIPS * 3;
        world::sleep(wait).await;
        self.deal(place, blow);
        let wrong = match deletes {
            true => ErrorCode::UnknownTopic,
            false => ErrorCode::TopicExists,
        };
        if answered.await.flatten() == Some(Some(wrong)) {
            let order = if deletes { "deleted" } else { "made" };
            self.context.witness.object(format!(
                "{name} was ordered to be {order} once, and the answer is {wrong}"
            ));
        }
    }

    /// Gives an order once. Nothing when there was no answer; else the error there was.
    async fn order_over(
        self: &Rc<Self>,
        door: usize,
        order: Request<'static>,
    ) -> Option<Option<ErrorCode>> {
        let (machine, operator) = self.operator();
        let witness = Rc::clone(&operator.context.witness);
        let asked = machine.spawn(async move {
            let connection = Connection::open(shared_address(door), "striker", &witness).await;
            let connection = connection.ok()?;
            let called = connection.call(&order, ANSWERED_WITHIN);
            let frame = world::timeout(ANSWERED_WITHIN, called).await;
            connection.close();
            let frame = frame.ok()?.ok()?;
            match Response::decode(&frame.header, &frame.body).ok()? {
                Response::Error { error, .. } => Some(Some(error.code)),
                _ => Some(None),
            }
        });
        asked.await.flatten()
    }

    fn deal(self: &Rc<Self>, place: usize, blow: Blow) {
        let Some(node) = self.node(place).filter(|_| !self.is_healed.get()) else { return };
        let lasts_ms = self.random().between(STRUCK_MS_MIN, STRUCK_MS_MAX);
        match blow {
            Blow::Kill => node.kill(),
            Blow::PowerLoss => node.power_off(&mut self.random()),
            Blow::Pause => {
                let Some(machine) = node.machine() else { return };
                machine.pause();
                self.later(lasts_ms, move |_| machine.resume());
            }
            Blow::CutOff => {
                let others = self.nodes.iter().map(|node| host(node.place));
                let others: Vec<_> = others.filter(|other| *other != host(place)).collect();
                Network::current().partition(&[&[host(place)], &others]);
                self.later(lasts_ms, move |_| {
                    for other in others {
                        Network::current().heal(host(place), other);
                        Network::current().heal(other, host(place));
                    }
                });
            }
        }
    }
}

fn create(name: &str) -> Request<'static> {
    let retention = Some(Retention::UNLIMITED);
    Request::TopicCreate(TopicCreate {
        name: name.to_owned(),
        partitions: 1,
        retention,
        priorities: 1,
        order: TopicOrder::Partition,
    })
}

fn delete(name: &str) -> Request<'static> {
    Request::TopicDelete(TopicDelete { name: name.to_owned() })
}
