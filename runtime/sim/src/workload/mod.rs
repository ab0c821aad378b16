//! Clients of the simulated broker: producers, consumers, operators; and the witness of what they
//! are told.
//!
//! Owns: speaking the native protocol as clients do, and noting every call in a history. It knows
//! addresses to turn to, and nothing of the processes behind them.
//!
//! Must never: ask the code under test past its protocol.

mod admin;
mod batch;
mod client;
mod company;
mod connection;
mod consumer;
mod delays;
mod disturbance;
mod draw;
mod lane;
mod member;
mod producer;
mod rival;
mod witness;
mod worker;

pub(crate) use self::admin::{create, inspect, keep_passing};
pub(crate) use self::batch::{Factory, Size};
pub(crate) use self::client::{Client, Context, Topic, TopicPlan};
pub(crate) use self::company::{Company, CompanyPlan, come_to_rest, keep_resetting};
pub(crate) use self::connection::Connection;
pub(crate) use self::consumer::{Consumer, ConsumerPlan, read_all};
pub(crate) use self::delays::{Waiting, clear_delays, keep_changing};
pub(crate) use self::disturbance::Disturbance;
pub(crate) use self::draw::{between, milliseconds, pick};
pub(crate) use self::member::{Member, MemberPlan};
pub(crate) use self::producer::{Producer, ProducerPlan};
pub(crate) use self::rival::{Contest, Rival, RivalPlan};
pub(crate) use self::witness::{Counts, StreamCounts, Witness};
pub(crate) use self::worker::{Group, GroupPlan, Worker, WorkerPlan, create_group};
