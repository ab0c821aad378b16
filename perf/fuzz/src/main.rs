//! The tool around the targets: writes seeds, replays corpora, runs cargo-fuzz, shrinks corpora.
//!
//! Owns: the flags that cargo-fuzz is given, so that a run is the same for everybody.

mod fuzzer;
mod report;

use std::fs;

use anyhow::{Context as _, bail};
use barrage_fuzz::{TARGETS, corpus};
use clap::{Parser, Subcommand};

/// Fuzz targets of Barrage.
#[derive(Parser)]
#[command(name = "barrage-fuzz")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the seeds that the formats' writers make into the corpora
    Seeds,
    /// Feed all kept inputs and show the worst figures of every target
    Replay,
    /// Fuzz targets one after the other, all without names (needs cargo-fuzz)
    Run {
        /// How long for each target
        #[arg(long, default_value_t = 600)]
        seconds: u32,
        /// Which
        targets: Vec<String>,
    },
    /// Keep of every corpus the smallest inputs that reach all it reaches (needs cargo-fuzz)
    Shrink {
        /// Which
        targets: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Seeds => write_seeds(),
        Command::Replay => replay(),
        Command::Run { seconds, targets } => {
            for target in chosen(&targets)? {
                report::line(&fuzzer::run(target, seconds)?);
            }
            Ok(())
        }
        Command::Shrink { targets } => chosen(&targets)?.into_iter().try_for_each(fuzzer::shrink),
    }
}

/// The targets of these names, or all.
fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static str>> {
    let all = || barrage_fuzz::NAMES.into_iter().chain(barrage_fuzz::NAMES_SIMULATED);
    if let Some(name) = names.iter().find(|name| all().all(|known| known != name.as_str())) {
        bail!("no target {name}; there are {}", all().collect::<Vec<_>>().join(", "));
    }
    Ok(all().filter(|known| names.is_empty() || names.iter().any(|name| name == known)).collect())
}

fn write_seeds() -> anyhow::Result<()> {
    for target in TARGETS {
        let folder = corpus::corpus(target.name);
        fs::create_dir_all(&folder)?;
        for (name, _) in corpus::read(&folder)? {
            if name.starts_with(corpus::SEED_PREFIX) {
                fs::remove_file(folder.join(name))?;
            }
        }
        for (name, input) in (target.seeds)() {
            let path = folder.join(format!("{}{name}", corpus::SEED_PREFIX));
            fs::write(&path, input).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

fn replay() -> anyhow::Result<()> {
    for target in TARGETS {
        let mut worst = report::Row::new(target.name);
        for folder in [corpus::corpus(target.name), corpus::regressions(target.name)] {
            for (_, input) in corpus::read(&folder)? {
                let (_, figures) = target.judge(&input);
                worst.add(figures, target.memory_max(&input));
            }
        }
        report::line(&worst);
    }
    Ok(())
}
