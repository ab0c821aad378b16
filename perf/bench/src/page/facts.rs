//! The page of a report: what its head names.
//!
//! Owns: the choice and the words. Must never: name a figure that the report does not have.

use crate::affinity::CoreList;
use crate::merge::END_TO_END;
use crate::meter::Reading;
use crate::page::{Page, number};
use crate::report::{NO_YARDSTICK, Report, Settings, counted};

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
    let bare = report.yardstick.and_then(|name| Some((name, *report.phases.get(name)?)));
    let mut figures = vec![(report.first().to_owned(), report.reading)];
    figures.extend(report.phases.iter().map(|(name, reading)| (name.clone(), *reading)));
    let page = Page {
        title: report.scenario.clone(),
        about: settings
            .workload()
            .unwrap_or_else(|| format!("{}; {}", settings.records(), settings.load())),
        facts: facts(report, bare),
        reading: report.reading,
        end_to_end: report.phases.get(END_TO_END).copied(),
        bare,
        ratio: bare.and(report.ratio_to_bare),
        figures,
        timeline: &report.series,
        role: &role,
    };
    page.html()
}

/// What the figures stand beside; nothing of the yardstick itself.
fn beside(report: &Report, bare: Option<(&str, Reading)>) -> String {
    let (Some((name, bare)), Some(ratio)) = (bare, report.ratio_to_bare) else {
        let none = if report.yardstick.is_none() { NO_YARDSTICK } else { "" };
        return none.to_owned();
    };
    let micros = |us: u64| number::micros(us as f64);
    let (rate, mib) = (number::count(bare.records_per_s), number::mib_per_s(bare.mib_per_s));
    let (p50, p99) = (micros(bare.p50_us), micros(bare.p99_us));
    format!("{name}: {rate} records/s, {mib}, p50 {p50}, p99 {p99}; the ratio to it is {ratio:.3}")
}

fn facts(report: &Report, bare: Option<(&str, Reading)>) -> Vec<(&'static str, String)> {
    let machine = &report.machine;
    let Settings { nodes, acks, node_cores, client_cores, .. } = &report.settings;
    let elsewhere = report.settings.workload.as_ref().and_then(|load| load.server.as_ref());
    let copies = match (nodes, elsewhere) {
        (_, Some(server)) => format!("of the cluster at {server}"),
        (1, None) => "one node".to_owned(),
        _ => "three nodes".to_owned(),
    };
    let cores = match node_cores.is_empty() {
        true => format!("load {client_cores}"),
        false => format!("servers {}; load {client_cores}", node_cores.join(" | ")),
    };
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
        ("workload", report.settings.workload().unwrap_or_default()),
        ("records", report.settings.records()),
        ("load", report.settings.load()),
        ("counted", report.totals.as_ref().map(counted).unwrap_or_default()),
        ("beside, same run", beside(report, bare)),
    ];
    facts.extend(report.figures.lines());
    facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}
