//! The line of a picture in the table of those that are kept.
//!
//! Owns: the columns. Must never: take a line whose conclusion is none.

use anyhow::{bail, ensure};
use jiff::Timestamp;
use serde_json::Value;

use super::perf::SAMPLES_PER_S;
use super::run::{Recorded, Who};

/// A sentence has so many words.
const CONCLUSION_WORDS_MIN: usize = 5;
/// What somebody writes who has not looked yet.
const NO_CONCLUSIONS: [&str; 3] = ["not yet concluded", "not concluded", "to be concluded"];

/// What is known of a picture beside its conclusion.
pub(super) struct Row {
    date: String,
    scenario: String,
    who: Who,
    commit: String,
    machine: String,
    command: String,
    pub(super) figures: String,
}

impl Row {
    pub(super) fn of(recorded: &Recorded) -> Self {
        let Recorded { who, command, report, .. } = recorded;
        let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
        let number = |name: &str| report.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        let field = |name: &str| report.get(name).map_or_else(|| "unknown".to_owned(), text);
        Self {
            date: Timestamp::now().strftime("%Y-%m-%d").to_string(),
            scenario: field("scenario"),
            who: *who,
            commit: field("commit"),
            machine: machine(report),
            command: command.clone(),
            figures: format!(
                "{:.0} records/s, {:.2} of bare",
                number("records_per_s"),
                number("ratio_to_bare")
            ),
        }
    }

    /// Of the picture, without its ending.
    pub(super) fn name(&self) -> String {
        let Self { date, scenario, commit, .. } = self;
        let who = match self.who {
            Who::Nodes => "",
            Who::Client => "-client",
        };
        format!("{date}-{scenario}{who}-{commit}")
    }

    pub(super) fn title(&self) -> String {
        let who = match self.who {
            Who::Nodes => "nodes",
            Who::Client => "client",
        };
        format!("{}: the {who}, commit {}, {}", self.command, self.commit, self.date)
    }

    pub(super) fn subtitle(&self) -> String {
        format!("{}; {}; {SAMPLES_PER_S} samples/s of each thread", self.machine, self.figures)
    }

    /// The line, but for its conclusion.
    pub(super) fn print(&self) -> String {
        let Self { date, machine, command, figures, .. } = self;
        let name = self.name();
        format!("| {date} | [{name}]({name}.svg) | {machine} | `{command}`: {figures} |")
    }
}

fn machine(report: &Value) -> String {
    let Some(machine) = report.get("machine") else { return "unknown".to_owned() };
    let field = |name: &str| machine.get(name).map_or_else(String::new, Value::to_string);
    let [cpu, cores, kernel] = ["cpu", "cores", "kernel"].map(field);
    format!("{cpu}, {cores} cores, Linux {kernel}").replace('"', "")
}

/// An error unless it says something.
pub(super) fn check_conclusion(conclusion: &str) -> anyhow::Result<()> {
    let lower = conclusion.to_lowercase();
    if let Some(none) = NO_CONCLUSIONS.iter().find(|none| lower.contains(**none)) {
        bail!("{none:?} is no conclusion: say what the picture shows, or leave it where it is");
    }
    let words = conclusion.split_whitespace().count();
    ensure!(
        words >= CONCLUSION_WORDS_MIN,
        "a conclusion is a sentence: what does the picture show, and what follows?"
    );
    Ok(())
}

/// The page with one more line at its end, where the table is.
pub(super) fn with_line(page: &str, noted: &str, conclusion: &str) -> anyhow::Result<String> {
    let page = page.trim_end();
    let is_table = page.lines().next_back().is_some_and(|line| line.starts_with('|'));
    ensure!(is_table, "the page does not end with its table");
    let conclusion: Vec<&str> = conclusion.split_whitespace().collect();
    let conclusion = conclusion.join(" ").replace('|', "\\|");
    Ok(format!("{page}\n{} {conclusion} |\n", noted.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let report = serde_json::json!({
            "scenario": "produce", "commit": "abc+changes", "records_per_s": 17_400_000.4,
            "ratio_to_bare": 0.666, "machine": {"cpu": "X 1", "cores": 2, "kernel": "6.1"},
        });
        let command = "barrage bench produce --duration 5".to_owned();
        Row::of(&Recorded { who: Who::Nodes, command, report, folded: String::new() })
    }

    #[test]
    fn a_line_tells_everything() {
        let (row, line) = (row(), row().print());
        assert!(row.name().ends_with("-produce-abc+changes"), "{}", row.name());
        let words = [
            &format!("[{0}]({0}.svg)", row.name()),
            "| X 1, 2 cores, Linux 6.1 |",
            "`barrage bench produce --duration 5`: 17400000 records/s, 0.67 of bare |",
        ];
        for word in words {
            assert!(line.contains(word), "{word} in {line}");
        }
    }

    #[test]
    fn what_says_nothing_is_no_conclusion() {
        for text in ["", "Not yet concluded, sorry about that.", "slow", "it is slow here"] {
            assert!(check_conclusion(text).is_err(), "{text}");
        }
        assert!(check_conclusion("A third of the time is the copy.").is_ok());
    }

    #[test]
    fn a_line_is_added_to_the_table() -> anyhow::Result<()> {
        let page = with_line("# a\n\n| b |\n|---|\n\n", "| 1 |", "c |\n d")?;
        assert_eq!(page, "# a\n\n| b |\n|---|\n| 1 | c \\| d |\n");
        assert!(with_line("# a\n", "| 1 |", "c").is_err());
        Ok(())
    }
}
