//! A whole run: start, load, faults, heal, final reading, verdict.
//!
//! Owns: the order of these, the folder of the run. Must never: lose what a failure left behind.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use barrage_model::ShardId;
use barrage_sim::history::Note;
use barrage_wire::ClusterChange;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::{Args, Output};
use crate::cluster::{self, Cluster};
use crate::fault::Need;
use crate::load::{Load, Plan};
use crate::nemesis::Nemesis;
use crate::recorder::Recorder;
use crate::report::{Cycle, Report};

const TOPIC: &str = "chaos";
/// The load runs so long before the first fault, and after the last.
const CALM: Duration = Duration::from_millis(1_500);
/// Cores that are woken by a restart of their node before a run is given up.
const ASLEEP_MAX: usize = 20;
/// How long a shard may take to move for a final reading.
const MOVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Report> {
    args.check()?;
    let seed = args.seed.unwrap_or_else(seed_of_clock);
    let home = home(args, seed)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut report = Report { seed, nodes: args.nodes, ..Report::default() };
    let began = Instant::now();
    go(args, seed, &home, &stop, &mut report)
        .with_context(|| format!("seed {seed}, kept {}", home.display()))?;
    report.seconds = began.elapsed().as_secs();
    if args.keep.is_some() || !report.is_clean() {
        report.kept = Some(home.display().to_string());
    } else {
        drop(fs::remove_dir_all(&home));
    }
    Ok(report)
}

fn go(
    args: &Args,
    seed: u64,
    home: &Path,
    stop: &AtomicBool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (network, no_links) = cluster::network(args)?;
    let wants_disks = args.faults().iter().any(|fault| fault.need() == Need::Disks);
    let mut with_disks = wants_disks;
    if wants_disks && let Err(error) = try_disk(home) {
        report.skipped.push(format!("disk-full: no file system of its own: {error:#}"));
        with_disks = false;
    }
    let mut faults = args.faults();
    faults.retain(|fault| match fault.need() {
        Need::Nothing => true,
        Need::Links => network.is_some(),
        Need::Disks => with_disks,
        Need::Copies => args.nodes >= 3,
    });
    if let Some(reason) = no_links
        && args.faults().iter().any(|fault| fault.need() == Need::Links)
    {
        report.skipped.push(format!("partition, slow: {reason}"));
    }
    anyhow::ensure!(!faults.is_empty(), "no fault is left: {:?}", report.skipped);
    let cluster = Cluster::start(args, home, network, with_disks)?;
    let servers = cluster.servers();
    let shards = cluster.control.create_topic(&servers, TOPIC, args.partitions)?;
    let recorder = Arc::new(Recorder::new(TOPIC, args.partitions, &home.join("history.jsonl"))?);
    let plan = Plan {
        servers,
        topic: TOPIC.to_owned(),
        partitions: args.partitions,
        producers: args.producers,
        readers: args.readers,
        rate: args.rate,
        payload: args.payload,
    };
    let load = Load::start(plan, &recorder)?;
    std::thread::sleep(CALM);
    let mut nemesis = Nemesis::new(args, cluster, &recorder, seed, faults, shards.clone());
    cycles(args, &mut nemesis, stop, report);
    report.refusals.append(&mut nemesis.refusals);
    let mut cluster = nemesis.cluster;
    if let Err(error) = cluster.heal() {
        report.troubles.push(format!("after the last fault: {error:#}"));
    }
    std::thread::sleep(CALM);
    report.troubles.append(&mut load.finish());
    read_finally(args, &mut cluster, &recorder, report);
    report.verdict = recorder.finish()?;
    end(args, &mut cluster, report)
}

/// The faults, one after the other.
fn cycles(args: &Args, nemesis: &mut Nemesis<'_>, stop: &AtomicBool, report: &mut Report) {
    let bar = bar(args);
    let began = Instant::now();
    let is_late = || args.secs.is_some_and(|secs| began.elapsed().as_secs() >= secs);
    let mut number = 0;
    while number < args.cycles_max() && !is_late() && !stop.load(Ordering::Relaxed) {
        number += 1;
        let fault = nemesis.draw();
        bar.set_message(fault.name());
        match nemesis.cycle(number, fault) {
            Ok(cycle) => {
                tell(args, &bar, &cycle);
                report.cycles.push(cycle);
            }
            Err(error) => {
                let words = format!("cycle {number}, {error:#}");
                bar.suspend(|| eprintln!("{words}"));
                if !wake(nemesis, &words, report) {
                    report.troubles.push(words);
                    break;
                }
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
}

/// Restarts nodes whose cores sleep. False when none does, or too many did.
fn wake(nemesis: &mut Nemesis<'_>, words: &str, report: &mut Report) -> bool {
    let asleep = nemesis.cluster.asleep();
    if asleep.is_empty() || report.asleep.len() >= ASLEEP_MAX {
        return false;
    }
    for (index, who) in asleep {
        report.asleep.push(format!("{who} ({words})"));
        if let Ok(node) = nemesis.cluster.node(index) {
            node.kill();
        }
    }
    nemesis.cluster.heal().is_ok()
}

/// Everything once more, from the beginning, from every node in turn as the leader of all.
fn read_finally(args: &Args, cluster: &mut Cluster, recorder: &Arc<Recorder>, report: &mut Report) {
    if let Err(error) = cluster.await_healthy(args.whole_timeout()) {
        report.troubles.push(format!("before the final reading: {error:#}"));
    }
    recorder.note(Note::Drain);
    let servers = cluster.servers();
    let ids: Vec<_> = cluster.nodes.iter().map(|node| node.id).collect();
    let read = |cluster: &Cluster, who: &str, report: &mut Report| match cluster
        .control
        .drain(recorder, &servers, TOPIC, who)
    {
        Ok(count) => drop(report.readings.insert(who.to_owned(), count)),
        Err(error) => report.troubles.push(format!("{error:#}")),
    };
    read(cluster, "final reading", report);
    for id in ids {
        for shard in (1..=args.shards).map(ShardId) {
            let change = ClusterChange::Transfer { shard, to: id };
            if let Err(error) = cluster.control.change(&servers, change) {
                report.troubles.push(format!("shard {} to node {id}: {error}", shard.0));
            }
            let began = Instant::now();
            while cluster.leader(shard) != Some(id) && began.elapsed() < MOVE_TIMEOUT {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        read(cluster, &format!("final reading from node {id}"), report);
    }
}

/// Stops the nodes, looks at their data and their logs.
fn end(args: &Args, cluster: &mut Cluster, report: &mut Report) -> anyhow::Result<()> {
    let binary = args.node_binary()?;
    for node in &mut cluster.nodes {
        if let Err(error) = node.stop() {
            report.troubles.push(format!("{error:#}"));
            node.kill();
        }
        let verified = Command::new(&binary)
            .arg("verify")
            .arg(node.data())
            .stdin(Stdio::null())
            .output()
            .context("verify")?;
        if !verified.status.success() {
            let words = [verified.stdout, verified.stderr].concat();
            let words = String::from_utf8_lossy(&words).into_owned();
            report.troubles.push(format!("{}: barrage verify: {words}", node.words()));
        }
        let log = node.log();
        for line in log.lines().filter(|line| line.contains("panicked")) {
            report.troubles.push(format!("{}: {line}", node.words()));
        }
    }
    Ok(())
}

fn tell(args: &Args, bar: &ProgressBar, cycle: &Cycle) {
    if args.output == Output::Json && !bar.is_hidden() {
        return;
    }
    let Cycle { number, fault, what, unavailable_ms, silence_ms, recovered_ms, healthy_ms, .. } =
        cycle;
    let name = fault.name();
    let line = format!(
        "{number:4} {name:12} unavailable {unavailable_ms} ms, silence {silence_ms} ms, \
         recovered {recovered_ms} ms, healthy {healthy_ms} ms: {what}"
    );
    bar.suspend(|| eprintln!("{line}"));
}

fn bar(args: &Args) -> ProgressBar {
    let bar = match args.cycles_max() {
        u32::MAX => ProgressBar::new_spinner(),
        cycles => ProgressBar::new(u64::from(cycles)),
    };
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{elapsed} {wide_bar} {pos}/{len} {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

fn try_disk(home: &Path) -> anyhow::Result<()> {
    let folder = home.join("disk-try");
    fs::create_dir_all(&folder)?;
    let tried = crate::disk::Disk::new(&folder).map(drop);
    drop(fs::remove_dir_all(&folder));
    tried
}

/// The run's folder: beside the binary, on a disk that can do direct I/O.
fn home(args: &Args, seed: u64) -> anyhow::Result<PathBuf> {
    let folder = match &args.keep {
        Some(folder) => folder.clone(),
        None => {
            let target = std::env::current_exe()?;
            let target = target.ancestors().nth(2).context("where to put data?")?;
            target.join("chaos").join(format!("{seed}-{}", std::process::id()))
        }
    };
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let is_empty = fs::read_dir(&folder)?.next().is_none();
    anyhow::ensure!(is_empty, "{} is not empty", folder.display());
    Ok(folder.canonicalize()?)
}

fn seed_of_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}
