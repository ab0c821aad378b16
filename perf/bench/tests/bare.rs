//! The yardstick end to end, as a process: it measures, reports every promised key, and leaves
//! nothing behind.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::PathBuf;
use std::process::Command;

/// The example that stands for the binary here; built with the tests.
fn bench() -> Command {
    let test = std::env::current_exe().unwrap();
    let folder: PathBuf = test.ancestors().nth(2).unwrap().join("examples");
    let mut command = Command::new(folder.join("bench"));
    command.arg("bench");
    command
}

#[test]
fn bare_reports_and_cleans_up() {
    let data = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    for shape in [["--batch-bytes", "1MiB"], ["--batch-records", "10"]] {
        let mut command = bench();
        command.args(["bare", "--duration", "0.3", "--producers", "2", "-o", "json", "--data"]);
        let output = command.arg(&data).args(shape).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for key in ["records_per_s", "mib_per_s", "p50_us", "p99_us", "p999_us"] {
            assert!(report[key].as_f64().unwrap() > 0.0, "{key} in {report}");
        }
        assert_eq!(report["scenario"], "bare");
        assert_eq!(report["bare_records_per_s"], report["records_per_s"]);
        assert_eq!(report["ratio_to_bare"], 1.0);
        for key in ["durability", "commit"] {
            assert!(!report[key].as_str().unwrap().is_empty(), "{key}");
        }
        assert!(report["machine"]["cores"].as_u64().unwrap() > 0);
    }
    let left = std::fs::read_dir(&data).unwrap().flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().contains("barrage-bench"));
    assert_eq!(left.count(), 0);
}

#[test]
fn bad_flags_are_usage_errors() {
    for flags in [["--record-size", "0"], ["--producers", "0"], ["--fetch-bytes", "1GiB"]] {
        let output = bench().arg("bare").args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(!output.stderr.is_empty());
    }
}
