//! The sub-commands: run and bugbank simulate, check reads a recorded history.
//!
//! Owns their arguments. Must never decide anything about a run. Without `--cfg sim` there is no
//! simulator in the binary, and it says which command to use; histories can be checked by both.

use std::fs::File;
use std::io::BufReader;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use barrage_sim::history;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Simulates the broker from seeds, and judges what it did.
#[derive(Parser)]
#[command(name = "barrage-sim")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Replays one seed with its log, or sweeps many.
    Run(RunArguments),
    /// Runs each planted bug until a seed shows it.
    Bugbank(BankArguments),
    /// Names the scenarios and the planted bugs.
    List,
    /// Judges a recorded history, one event a line, by the rules of the history checker.
    Check {
        /// The recording.
        file: PathBuf,
    },
}

#[derive(Args)]
#[cfg_attr(not(sim), allow(dead_code, reason = "read by the build with the simulator"))]
struct RunArguments {
    /// Replay this seed, with its log on stderr (`RUST_LOG` says how much).
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Sweep this many seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed of the sweep.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// One scenario instead of all, in turn.
    #[arg(long)]
    scenario: Option<String>,
    /// Threads; one per core unless told.
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// How many of the seeds run twice and must take the same way.
    #[arg(long, default_value_t = 20)]
    twice: u64,
    /// Switches a planted bug on.
    #[arg(long)]
    planted: Option<String>,
    /// How to print the report.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Args)]
#[cfg_attr(not(sim), allow(dead_code, reason = "read by the build with the simulator"))]
struct BankArguments {
    /// One bug instead of all.
    name: Option<String>,
    /// Give up after so many seeds.
    #[arg(long, default_value_t = 500)]
    max_seeds: u64,
    /// Threads; one per core unless told.
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// How to print the table.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What to print, and whether all is well.
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) clean: bool,
}

pub(crate) fn run() -> anyhow::Result<Report> {
    match Cli::parse().command {
        Command::Run(arguments) => simulator::run(arguments),
        Command::Bugbank(arguments) => simulator::bugbank(arguments),
        Command::List => simulator::list(),
        Command::Check { file } => check(&file),
    }
}

fn check(path: &Path) -> anyhow::Result<Report> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let verdict = history::check_lines(BufReader::new(file), &history::Options::default())
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Report { text: format!("{verdict}\n"), clean: verdict.is_clean() })
}

#[cfg(sim)]
mod simulator {
    use barrage_sim::runner::{self, Format, Request, Verdict};
    use barrage_sim::{bank, scenario};

    use super::{BankArguments, Output, Report, RunArguments};

    pub(super) fn run(arguments: RunArguments) -> anyhow::Result<Report> {
        let request = Request {
            scenario: arguments.scenario,
            seed: arguments.seed,
            from: arguments.from,
            seeds: arguments.seeds,
            twice: arguments.twice,
            jobs: arguments.jobs,
            planted: arguments.planted,
            format: arguments.output.into(),
        };
        runner::run(&request).map(Report::from)
    }

    pub(super) fn bugbank(arguments: BankArguments) -> anyhow::Result<Report> {
        let BankArguments { name, max_seeds, jobs, output } = arguments;
        runner::hunt(name.as_deref(), max_seeds, jobs, output.into()).map(Report::from)
    }

    pub(super) fn list() -> anyhow::Result<Report> {
        let mut text = String::from("scenarios\n");
        for scenario in scenario::ALL {
            text += &format!("  {}: {}\n", scenario.name, scenario.about);
        }
        text += "planted bugs\n";
        for bug in bank::BUGS {
            text += &format!("  {} ({}): {}\n", bug.name, bug.scenarios.join(", "), bug.story);
        }
        Ok(Report { text, clean: true })
    }

    impl From<Output> for Format {
        fn from(output: Output) -> Self {
            match output {
                Output::Text => Self::Text,
                Output::Json => Self::Json,
            }
        }
    }

    impl From<Verdict> for Report {
        fn from(Verdict { report, clean }: Verdict) -> Self {
            Self { text: report, clean }
        }
    }
}

#[cfg(not(sim))]
mod simulator {
    use super::{BankArguments, Report, RunArguments};

    pub(super) fn run(_arguments: RunArguments) -> anyhow::Result<Report> {
        absent()
    }

    pub(super) fn bugbank(_arguments: BankArguments) -> anyhow::Result<Report> {
        absent()
    }

    pub(super) fn list() -> anyhow::Result<Report> {
        absent()
    }

    fn absent() -> anyhow::Result<Report> {
        anyhow::bail!("this build has no simulator: use `cargo xtask sim` or `cargo xtask bugbank`")
    }
}
