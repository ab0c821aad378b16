//! The page of a report: what its head names.
//!
//! Owns: the choice and the words. Must never: name a figure that the report does not have.

use crate::affinity::CoreList;
use crate::meter::Reading;
use crate::page::{Page, number};
use crate::report::{Report, Settings};

/// A report as a page of its own.
pub(crate) fn html(report: &Report) -> String {
    let settings = &report.settings;
    let cores = |lists: &[String]| -> Vec<CoreList> {
        lists.iter().filter_map(|list| list.parse().ok()).collect()
    };
    let servers = cores(&settings.node_cores);
    let clients = cores(std::slice::from_ref(&settings.client_cores));
    let role = |core: usize| {
        let within = |lists: &[CoreList]| lists.iter().any(|list| list.names(core));
        match (within(&servers), within(&clients)) {
            (true, true) => "both",
            (true, false) => "server",
            (false, true) => "client",
            (false, false) => "",
        }
    };
    let bare = report.phases.get(report.yardstick).copied();
    let mut figures = vec![(report.scenario.clone(), report.reading)];
    figures.extend(report.phases.iter().map(|(name, reading)| (name.clone(), *reading)));
    let page = Page {
        title: report.scenario.clone(),
        about: format!("{}; {}", settings.records(), settings.load()),
        facts: facts(report, bare),
        reading: report.reading,
        bare: bare.map(|bare| (report.yardstick, bare)),
        ratio: bare.map(|_| report.ratio_to_bare),
        figures,
        timeline: &report.series,
        role: &role,
    };
    page.html()
}

fn facts(report: &Report, bare: Option<Reading>) -> Vec<(&'static str, String)> {
    let machine = &report.machine;
    let Settings { nodes, acks, node_cores, client_cores, .. } = &report.settings;
    let copies = if *nodes == 1 { "one node" } else { "three nodes" };
    let cores = format!("servers {}; load {client_cores}", node_cores.join(" | "));
    let bare = bare.map_or_else(String::new, |bare| {
        let micros = |us: u64| number::micros(us as f64);
        let (rate, mib) = (number::count(bare.records_per_s), number::mib_per_s(bare.mib_per_s));
        let (p50, p99) = (micros(bare.p50_us), micros(bare.p99_us));
        let ratio = report.ratio_to_bare;
        let name = report.yardstick;
        format!(
            "{name}: {rate} records/s, {mib}, p50 {p50}, p99 {p99}; the ratio to it is {ratio:.3}"
        )
    });
    let memory = number::mib(machine.memory_mib as f64);
    let mut facts = vec![
        ("began", report.began.clone()),
        ("command", report.command.clone()),
        ("commit", report.commit.clone()),
        ("machine", format!("{}, {} cores, {memory}", machine.cpu, machine.cores)),
        ("kernel", format!("Linux {}", machine.kernel)),
        ("filesystem", machine.filesystem.clone()),
        ("durability", report.durability.to_owned()),
        ("replicas", format!("{copies}, acks={acks}")),
        ("cores", cores),
        ("records", report.settings.records()),
        ("load", report.settings.load()),
        ("beside, same run", bare),
    ];
    facts.extend(report.figures.lines());
    facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}
