//! The whole comparison: who is there, then every scenario in rounds.
//!
//! Owns: who is measured when, and what becomes of one that fails.
//! Must never: measure two at once; let one that is missing or fails keep back the others.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use crate::alternate;
use crate::args::Plan;
use crate::barrage::{self, About};
use crate::cores::CoreList;
use crate::installed::{self, Installed};
use crate::load::Reading;
use crate::measure;
use crate::report::{Absence, Report, Results};
use crate::scenario::Scenario;
use crate::subject::{Peer, Subject};

/// Who takes part.
#[derive(Debug)]
struct Field {
    subjects: Vec<Subject>,
    installed: BTreeMap<Peer, Installed>,
    missing: Vec<Absence>,
}

/// Runs all of it. Fails when Barrage cannot be measured; what becomes of the peers is told.
pub(crate) async fn run(plan: &Plan, all: &CoreList) -> Result<Report> {
    let found = plan.peers.iter().map(|(peer, given)| {
        let found = installed::find(*peer, given.as_deref());
        (*peer, found)
    });
    let mut field = enter(plan, found.collect());
    field.missing.iter().for_each(|absence| eprintln!("{absence}"));
    ensure!(
        plan.barrage.is_file(),
        "{} is no file: cargo build --release, or name it with --barrage",
        plan.barrage.display()
    );
    let mut about = None;
    let mut results = BTreeMap::new();
    if !field.installed.is_empty() {
        for scenario in &plan.scenarios {
            let readings = run_scenario(plan, *scenario, all, &mut field, &mut about).await?;
            results.insert(*scenario, readings);
        }
    }
    let versions = field.installed.into_iter().map(|(peer, it)| (peer, it.version)).collect();
    Report::new(plan, about, versions, &results, field.missing)
}

/// Who can be measured, and who cannot and why.
fn enter(plan: &Plan, found: Vec<(Peer, Result<Installed, String>)>) -> Field {
    let (mut subjects, mut missing) = (vec![Subject::Barrage], Vec::new());
    let mut installed = BTreeMap::new();
    for (peer, found) in found {
        let it = match found {
            Ok(it) => it,
            Err(cause) => {
                missing.push(Absence { subject: peer.name().to_owned(), cause, failed: false });
                continue;
            }
        };
        for durability in &plan.durabilities {
            let subject = Subject::Peer(peer, *durability);
            match peer.offers(*durability, &it.version) {
                Ok(()) => subjects.push(subject),
                Err(cause) => {
                    missing.push(Absence { subject: subject.to_string(), cause, failed: false });
                }
            }
        }
        if subjects.iter().any(|subject| matches!(subject, Subject::Peer(it, _) if *it == peer)) {
            installed.insert(peer, it);
        }
    }
    Field { subjects, installed, missing }
}

async fn run_scenario(
    plan: &Plan,
    scenario: Scenario,
    all: &CoreList,
    field: &mut Field,
    about: &mut Option<About>,
) -> Result<Results> {
    let mut results = Results::new();
    let mut failed = Vec::new();
    for (index, order) in alternate::rounds(&field.subjects, plan.rounds).into_iter().enumerate() {
        for subject in order {
            if failed.contains(&subject) {
                continue;
            }
            let what = format!("{}, round {}, {subject}", scenario.name(), index + 1);
            let reading = match subject {
                Subject::Barrage => {
                    let told = barrage::measure(plan, scenario, all).await;
                    let told = told.with_context(|| what.clone())?;
                    *about = Some(told.about);
                    Ok(told.reading)
                }
                Subject::Peer(peer, durability) => {
                    let it = field.installed.get(&peer).context("it is installed")?;
                    measure::measure(plan, scenario, (peer, durability), it).await
                }
            };
            match reading {
                Ok(reading) => note(&mut results, &what, subject, reading),
                Err(error) => {
                    failed.push(subject);
                    // What it did before is no median of all rounds.
                    results.remove(&subject);
                    field.missing.push(absence(&what, &error));
                }
            }
        }
    }
    Ok(results)
}

/// One that failed is not measured in later rounds.
fn absence(what: &str, error: &anyhow::Error) -> Absence {
    let text = format!("{error:#}");
    // What its log says stands on the lines after the cause.
    let (cause, log) = text.split_once('\n').unwrap_or((&text, ""));
    let absence = Absence { subject: what.to_owned(), cause: cause.to_owned(), failed: true };
    eprintln!("{absence}\n{log}");
    absence
}

fn note(results: &mut Results, what: &str, subject: Subject, reading: Reading) {
    eprintln!("{what}: {:.0} records/s", reading.records_per_s);
    results.entry(subject).or_default().push(reading);
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Args;
    use crate::subject::Durability;

    #[test]
    fn who_is_missing_keeps_nobody_back() {
        let plan = Plan::new(&Args::parse_from(["barrage-peers"]), 2).unwrap();
        let version = "2.9.10".to_owned();
        let nats = Installed { binary: "/nats".into(), version };
        let missing = "not installed: apt-get install".to_owned();
        let field = enter(&plan, vec![(Peer::Redis, Err(missing)), (Peer::Nats, Ok(nats))]);
        let want = [Subject::Barrage, Subject::Peer(Peer::Nats, Durability::Default)];
        assert_eq!(field.subjects, want);
        assert_eq!(field.installed.keys().collect::<Vec<_>>(), [&Peer::Nats]);
        let named: Vec<&str> = field.missing.iter().map(|it| it.subject.as_str()).collect();
        assert_eq!(named, ["redis", "nats, strict"]);
    }

    #[test]
    fn a_peer_that_offers_nothing_asked_for_is_not_there() {
        let args = Args::parse_from(["barrage-peers", "--durability", "strict"]);
        let plan = Plan::new(&args, 2).unwrap();
        let nats = Installed { binary: "/nats".into(), version: "2.9.10".to_owned() };
        let field = enter(&plan, vec![(Peer::Nats, Ok(nats))]);
        assert_eq!((field.subjects, field.installed.len()), (vec![Subject::Barrage], 0));
    }
}
