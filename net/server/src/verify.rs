//! `barrage verify DIR`: reads every byte of a stopped node's log and says what is damaged.
//! Exit code 0 when clean, 1 when damaged.

use std::io::{self, Write};
use std::path::PathBuf;

use barrage_commitlog::VerifyReport;
use barrage_world::{fs, run_local};
use clap::Args;
use serde_json::json;

use crate::doctor::Output;
use crate::exit::{Exit, Failure};

/// Flags of `verify`.
#[derive(Args)]
pub(crate) struct VerifyArgs {
    /// The data directory of a stopped node
    dir: PathBuf,
    /// How to print
    #[arg(short, long, default_value = "table")]
    output: Output,
}

/// Verifies and prints.
pub(crate) fn run(args: &VerifyArgs) -> Result<Exit, Failure> {
    let report = run_local(verify(args))?;
    let text = match args.output {
        Output::Table => table(&report),
        Output::Json => to_json(&report).map_err(Failure::new)?,
    };
    io::stdout().write_all(text.as_bytes()).map_err(Failure::new)?;
    Ok(if report.damage.is_empty() { Exit::Ok } else { Exit::Failure })
}

async fn verify(args: &VerifyArgs) -> Result<VerifyReport, Failure> {
    // A running node writes while we read: what we would call damage is a write under way.
    let _lock = match fs::lock_dir(&args.dir).await {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let reason = format!("{} is in use: stop its node first", args.dir.display());
            return Err(Failure::conflict(reason));
        }
        Err(error) => return Err(Failure::new(format!("{}: {error}", args.dir.display()))),
    };
    fs::prepare_directory(&args.dir).await.map_err(Failure::new)?;
    barrage_commitlog::verify(&args.dir).await.map_err(Failure::new)
}

fn table(report: &VerifyReport) -> String {
    let mut lines = String::new();
    for segment in &report.segments {
        let state = if segment.sealed { "sealed" } else { "active" };
        lines += &format!(
            "segment {} shard {} {state} bytes [{}, {})\n",
            segment.path.display(),
            segment.shard,
            segment.data_start,
            segment.data_end,
        );
    }
    for partition in &report.partitions {
        lines += &format!(
            "topic {} partition {} offsets [{}, {})\n",
            partition.key.topic,
            partition.key.partition,
            partition.first_offset,
            partition.next_offset,
        );
    }
    for damage in &report.damage {
        lines += &format!(
            "DAMAGE {} at byte {}: {}\n",
            damage.path.display(),
            damage.position,
            damage.reason,
        );
    }
    match report.damage.len() {
        0 => lines += "clean\n",
        count => lines += &format!("{count} damaged\n"),
    }
    lines
}

fn to_json(report: &VerifyReport) -> Result<String, serde_json::Error> {
    let segments = report.segments.iter().map(|segment| {
        json!({
            "path": segment.path,
            "shard": segment.shard.0,
            "sealed": segment.sealed,
            "data_start": segment.data_start,
            "data_end": segment.data_end,
        })
    });
    let partitions = report.partitions.iter().map(|partition| {
        json!({
            "topic": partition.key.topic.0,
            "partition": partition.key.partition.0,
            "first_offset": partition.first_offset.0,
            "next_offset": partition.next_offset.0,
        })
    });
    let damage = report.damage.iter().map(|damage| {
        json!({
            "path": damage.path,
            "position": damage.position,
            "reason": damage.reason.to_string(),
        })
    });
    let report = json!({
        "segments": Vec::from_iter(segments),
        "partitions": Vec::from_iter(partitions),
        "damage": Vec::from_iter(damage),
    });
    serde_json::to_string_pretty(&report).map(|text| text + "\n")
}
