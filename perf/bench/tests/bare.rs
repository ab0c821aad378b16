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
fn three_nodes_report_what_they_are() {
    let data = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("three");
    std::fs::create_dir_all(&data).unwrap();
    let mut command = bench();
    command.args(["bare", "--nodes", "3", "--duration", "0.3", "--record-size", "1KiB"]);
    command.args(["--batch-records", "1", "--in-flight", "64", "-o", "json", "--data"]);
    let output = command.arg(&data).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["entries_per_s"].as_f64().unwrap() > 0.0, "{report}");
    assert_eq!(report["entries_per_s"], report["records_per_s"], "a batch of one record");
    assert_eq!(report["ratio_to_bare"], 1.0);
    assert_eq!(report["durability"], "fdatasync before ack, 2 of 3 copies");
    let settings = &report["settings"];
    assert_eq!((&settings["nodes"], &settings["acks"]), (&3.into(), &"quorum".into()));
    assert_eq!(settings["node_cores"].as_array().unwrap().len(), 3);
    assert_eq!(settings["in_flight"], 64);
    // Fails when something was left behind.
    std::fs::remove_dir(&data).unwrap();
}

#[test]
fn bad_flags_are_usage_errors() {
    let flags = [
        ["--record-size", "0"],
        ["--producers", "0"],
        ["--fetch-bytes", "1GiB"],
        ["--nodes", "2"],
        ["--nodes", "0"],
        ["--forward", "127.0.0.1:1"],
    ];
    for flags in flags {
        let output = bench().arg("bare").args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(!output.stderr.is_empty());
    }
}
