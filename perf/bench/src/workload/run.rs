//! A workload from start to end: topics, clients, and what their logs come to.
//!
//! Owns: the order of things, and the topics, which go with the run. Must never: let one client
//! begin before all are ready; call it measured when one has failed.
//! Invariants: phases begin at whole seconds of what counts, where intervals do.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use barrage_wire::{Request, Response, TopicDelete};

use crate::args::Plan;
use crate::child::Folder;
use crate::client::task::{Order, Topic, Totals, Word};
use crate::clients::Clients;
use crate::cluster::Cluster;
use crate::cost::Cost;
use crate::hlog::Log;
use crate::merge::{self, END_TO_END, Merged, PUBLISH};
use crate::meter::{Reading, Window};
use crate::produce::leader;
use crate::run::Measured;
use crate::sampler::{Sampler, Samples};
use crate::session::Session;
use crate::timeline::{Mark, Timeline};
use crate::workload::{Workload, share};

/// The servers of a run: its own, or others.
struct Servers {
    own: Option<Cluster>,
    /// Looks at the clients of servers that run elsewhere.
    sampler: Option<Sampler>,
    address: SocketAddr,
    topics: Vec<String>,
}

/// From the beginning of what counts to its end.
type Span = (Instant, Instant);

/// When what happened, from the beginning of what counts.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    /// Since 1970.
    start: Duration,
    resume: Option<Duration>,
    caught_up: Option<Duration>,
    end: Duration,
}

/// All clients begin so long after they were told.
const AHEAD: Duration = Duration::from_millis(300);
const READY_MAX: Duration = Duration::from_secs(120);
/// Answers may take so long, and draining.
const LATE_MAX: Duration = Duration::from_secs(100);
/// A backlog that is not built in so many times its time will not be.
const BUILD_TIMES: u32 = 4;
const DRAIN_MAX: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

/// Does the plan's workload.
pub(crate) fn run(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let workload = plan.workload.as_ref().context("a plan without a workload")?;
    let mut servers = Servers::start(plan, folder)?;
    let done = drive(plan, workload, folder, &mut servers);
    if done.is_err() {
        // Servers that have ended are the reason; what clients say follows from that.
        servers.look()?;
    }
    servers.remove_topics();
    let (mut measured, (start, end)) = done?;
    let samples = servers.stop()?;
    measured.cost = Cost::of(&samples, Window { start, end });
    measured.timeline.usage = samples.between(start, end);
    Ok(measured)
}

fn drive(
    plan: &Plan,
    workload: &Workload,
    folder: &Folder,
    servers: &mut Servers,
) -> Result<(Measured, Span)> {
    let topics = servers.make_topics(workload)?;
    let tasks = share::tasks(plan, workload, &topics, folder.path())?;
    let mut clients = Clients::start(&plan.binary, &tasks, folder.path())?;
    clients.await_all(READY_MAX, |word| (word == Word::Ready).then_some(()), || servers.look())?;
    servers.watch(&clients);
    let (times, span) = conduct(workload, &mut clients, servers)?;
    let done = |word| match word {
        Word::Done(totals) => Some(totals),
        _ => None,
    };
    let mut totals = Totals::default();
    let said = clients.await_all(LATE_MAX, done, || servers.look())?;
    said.iter().for_each(|of_one| totals.add(of_one));
    clients.await_end()?;
    check(workload, &totals)?;
    let paths: Vec<PathBuf> = tasks.into_iter().map(|task| task.log).collect();
    if let Some(kept) = &plan.logs {
        keep(&paths, kept)?;
    }
    let (logs, merged) = merge::files(&paths)?;
    Ok((measured(&logs, merged, times, totals)?, span))
}

/// Leads the clients through the run; when what happened, and the time that counts.
fn conduct(
    workload: &Workload,
    clients: &mut Clients,
    servers: &mut Servers,
) -> Result<(Times, Span)> {
    let (now, since_1970) = (Instant::now(), SystemTime::UNIX_EPOCH.elapsed()?);
    let begin = since_1970 + AHEAD;
    let start = begin + workload.warm_up;
    let instant = |at: Duration| now + at.saturating_sub(since_1970);
    clients.tell(Order::Start { at_us: micros(begin) })?;
    let mut times = Times { start, ..Times::default() };
    if workload.backlog_records > 0 {
        let build_s = workload.backlog_records as f64 / workload.rate as f64;
        let most = Duration::from_secs_f64(build_s) * BUILD_TIMES + workload.warm_up + LATE_MAX;
        let built = |word| (word == Word::Built).then_some(());
        clients.await_all(most, built, || servers.look()).context("the backlog is not built")?;
        let resume = next_second(start)?;
        clients.tell(Order::Resume { at_us: micros(start + resume) })?;
        let caught_up = |word| (word == Word::CaughtUp).then_some(());
        clients
            .await_all(DRAIN_MAX, caught_up, || servers.look())
            .context("the backlog is not drained")?;
        (times.resume, times.caught_up) = (Some(resume), Some(next_second(start)?));
    }
    times.end = times.caught_up.unwrap_or_default() + workload.duration;
    clients.tell(Order::Finish { at_us: micros(start + times.end) })?;
    let most = AHEAD + workload.warm_up + workload.duration + LATE_MAX;
    clients.await_all(most, |word| (word == Word::Produced).then_some(()), || servers.look())?;
    clients.tell(Order::Drain)?;
    Ok((times, (instant(start), instant(start + times.end))))
}

/// The first whole second after `start` that clients can still be told of.
fn next_second(start: Duration) -> Result<Duration> {
    let since = (SystemTime::UNIX_EPOCH.elapsed()? + AHEAD).saturating_sub(start);
    Ok(Duration::from_secs(since.as_secs()) + SECOND)
}

fn micros(since_1970: Duration) -> u64 {
    u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
}

/// What was acknowledged came to every subscription once; consumers that were slower than producers
/// may have left some, and say how many.
fn check(workload: &Workload, totals: &Totals) -> Result<()> {
    let Totals { published, consumed, left, .. } = *totals;
    let expected = published * u64::from(workload.subscriptions_read());
    ensure!(
        consumed + left >= expected && (left > 0 || consumed == expected),
        "{published} records were acknowledged, which is {expected} to consume; {consumed} came \
         and {left} were left"
    );
    Ok(())
}

fn keep(paths: &[PathBuf], folder: &Path) -> Result<()> {
    let shown = folder.display();
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {shown}"))?;
    for path in paths {
        let name = path.file_name().context("a log has a name")?;
        std::fs::copy(path, folder.join(name))
            .with_context(|| format!("cannot keep a log in {shown}"))?;
    }
    Ok(())
}

fn measured(logs: &[Log], merged: Merged, times: Times, totals: Totals) -> Result<Measured> {
    let reading = merged.readings.get(PUBLISH).copied().context("nothing was published")?;
    let mut measured = Measured {
        reading,
        timeline: Timeline { tracks: merged.tracks, ..Timeline::default() },
        entries_per_s: Some(totals.batches as f64 / times.end.as_secs_f64()),
        totals: Some(totals),
        ..Measured::default()
    };
    let end_to_end = merged.readings.get(END_TO_END).map(|reading| (END_TO_END, *reading));
    measured.phases.extend(end_to_end.map(|(name, reading)| (name.to_owned(), reading)));
    if let (Some(resume), Some(caught_up)) = (times.resume, times.caught_up) {
        let (resume_s, caught_up_s) = (resume.as_secs_f64(), caught_up.as_secs_f64());
        let mark = |at_s, text: &str| Mark { at_s, text: text.to_owned() };
        let marks = [mark(resume_s, "consumers begin"), mark(caught_up_s, "caught up")];
        measured.timeline.marks.extend(marks);
        let zero_s = times.start.as_secs_f64();
        let of = |tag, from_s: f64, to_s: f64| -> Option<Reading> {
            merge::between(logs, tag, (zero_s + from_s, zero_s + to_s))
        };
        let end_s = times.end.as_secs_f64();
        let phases = [
            ("building: publish", of(PUBLISH, 0.0, resume_s)),
            ("draining: publish", of(PUBLISH, resume_s, caught_up_s)),
            ("draining: end-to-end", of(END_TO_END, resume_s, caught_up_s)),
            ("after: publish", of(PUBLISH, caught_up_s, end_s)),
            ("after: end-to-end", of(END_TO_END, caught_up_s, end_s)),
        ];
        for (name, reading) in phases {
            measured.phases.extend(reading.map(|reading| (name.to_owned(), reading)));
        }
    }
    Ok(measured)
}

impl Servers {
    fn start(plan: &Plan, folder: &Folder) -> Result<Self> {
        let own = match plan.server {
            Some(_) => None,
            None => Some(Cluster::start_nodes(plan, folder)?),
        };
        let address = plan.server.or_else(|| own.as_ref().map(Cluster::address));
        let address = address.context("a run without servers")?;
        Ok(Self { own, sampler: None, address, topics: Vec::new() })
    }

    /// Looks at clients beside the servers.
    fn watch(&mut self, clients: &Clients) {
        match &self.own {
            Some(own) => own.watch(clients.processes()),
            None => self.sampler = Some(Sampler::start(clients.processes())),
        }
    }

    /// Ends its own servers; what was seen until then.
    fn stop(self) -> Result<Samples> {
        match self.own {
            Some(own) => own.stop(),
            None => Ok(self.sampler.map(Sampler::stop).unwrap_or_default()),
        }
    }

    /// Fails when one of the run's own has ended.
    fn look(&mut self) -> Result<()> {
        self.own.as_mut().map_or(Ok(()), Cluster::check_alive)
    }

    fn make_topics(&mut self, workload: &Workload) -> Result<Vec<Topic>> {
        let mut session = Session::connect(self.address)?;
        let mut topics = Vec::new();
        // Other machines load the same servers, and in containers processes have the same numbers.
        let run = micros(SystemTime::UNIX_EPOCH.elapsed()?);
        for number in 0..workload.topics {
            let name = format!("bench-{run:x}-{}-{number}", std::process::id());
            let routes = session.create_topic(&name, workload.partitions)?;
            self.topics.push(name);
            let mut leaders = vec![None; routes.partitions.len()];
            for route in &routes.partitions {
                let place = leaders.get_mut(route.partition.0 as usize);
                *place.context("a partition beyond their count")? = Some(leader(route)?);
            }
            let Some(leaders) = leaders.into_iter().collect() else {
                bail!("topic {number} lacks a partition")
            };
            topics.push(Topic { id: routes.topic.0, leaders });
        }
        Ok(topics)
    }

    /// Servers of others keep nothing of this run; our own go with their data.
    fn remove_topics(&self) {
        if self.own.is_some() || self.topics.is_empty() {
            return;
        }
        let remove = |session: &mut Session, name: &String| {
            let delete = TopicDelete { name: name.clone() };
            session.ask(&Request::TopicDelete(delete), |response| match response {
                Response::TopicDelete => Some(()),
                _ => None,
            })
        };
        let removed = Session::connect(self.address).and_then(|mut session| {
            self.topics.iter().try_for_each(|name| remove(&mut session, name))
        });
        if let Err(error) = removed {
            let first = self.topics.first().map_or("", String::as_str);
            eprintln!("barrage bench: topics from {first} on are left behind: {error:#}");
        }
    }
}
