//! `barrage bench` with nodes of this binary: every scenario measures, and tells what it promises.
//!
//! Short, and of few records: what the figures are is not looked at, only that they are there.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::node::{Home, command, words};

/// Runs a scenario, whose report must hold these keys with figures above 0.
fn check(flags: &str, keys: &[&str]) -> Value {
    let home = Home::new();
    let data = home.data();
    fs::create_dir_all(&data).unwrap();
    let mut bench = command(&["bench"]);
    bench.args(flags.split_whitespace()).arg("--data").arg(&data);
    bench.args(["--duration", "0.3", "--bare-duration", "0.3", "--warmup", "0.1", "-o", "json"]);
    bench.args(["--set", "memory=128MiB", "--set", "storage.segment_size=16MiB"]);
    let output = bench.output().unwrap();
    assert!(output.status.success(), "{flags}: {}", words(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let always = ["records_per_s", "bare_records_per_s", "ratio_to_bare", "server_resident_mib"];
    for key in always.iter().chain(keys) {
        let figure = report[key].as_f64();
        assert!(figure.is_some_and(|figure| figure > 0.0), "{flags}: no {key} in {report}");
    }
    // Nothing is left behind.
    fs::remove_dir(&data).unwrap();
    report
}

#[test]
fn both_ways_are_measured_at_once() {
    let report = check("pipe --partitions 3 --producers 2", &["produce_ratio_to_bare", "p50_us"]);
    assert!(report["phases"]["produce"]["records_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn reading_stands_beside_loopback_and_disk() {
    let report = check("consume-tail --fill 8MiB", &["server_cpu_s_per_gib"]);
    assert_eq!(report["yardstick"], "loopback");
    let report = check("consume-cold --fill 24MiB --partitions 30 --batch-records 1000", &[]);
    for phase in ["loopback", "disk", "fill"] {
        assert!(report["phases"][phase]["records_per_s"].as_f64().unwrap() > 0.0, "{phase}");
    }
    let lower = report["yardstick"].as_str().unwrap();
    assert_eq!(report["phases"][lower]["records_per_s"], report["bare_records_per_s"]);
}

#[test]
fn a_workload_stands_beside_bare() {
    let flags = "run --rate 20000 --topics 2 --partitions 2 --producers 2 --keys KEY_ROUND_ROBIN";
    let keys = ["p50_ratio_to_bare", "server_cores_busy", "bare_server_cpu_s_per_gib"];
    let report = check(flags, &keys);
    assert_eq!(report["yardstick"], "bare");
    // Both are offered the same.
    for key in ["records_per_s", "bare_records_per_s"] {
        assert!(report[key].as_f64().unwrap() < 30_000.0, "{report}");
    }
    assert!(report["phases"]["end-to-end"]["p50_us"].as_u64().unwrap() > 0);
}

#[test]
fn one_record_at_a_time_stands_beside_bare() {
    let report = check(
        "produce --batch-records 1 --in-flight 1",
        &["p50_ratio_to_bare", "p99_ratio_to_bare", "server_cores_busy", "server_cpu_s_per_gib"],
    );
    assert_eq!(report["yardstick"], "bare");
    assert_eq!(report["settings"]["in_flight"], 1);
}

#[test]
fn many_single_records_under_way_are_measured() {
    check("produce --batch-records 1 --in-flight 1024 --producers 8", &["entries_per_s"]);
}

#[test]
fn a_rate_is_searched() {
    // No latency is too high here: only what is not kept up ends the search.
    let flags = "latency --rate 500 --p99-below 10m --record-size 512KiB";
    let report = check(flags, &["p99_below_us"]);
    assert!(report["settings"]["rate"].as_u64().unwrap() > 0, "{report}");
    let probes = report["phases"].as_object().unwrap().keys();
    assert!(probes.filter(|name| name.starts_with("probe ")).count() > 1, "{report}");
}

#[test]
fn idle_connections_are_counted() {
    let report = check("connections --connections 30 --rate 500", &["connections_per_s"]);
    assert_eq!(report["connections"], 30.0);
    assert!(report["connection_bytes"].as_f64().is_some(), "{report}");
    assert!(report["phases"]["produce, no connections"]["p99_us"].as_u64().unwrap() > 0);
}

#[test]
fn more_connections_than_descriptors_are_refused_at_once() {
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 1000 && exec \"$0\" bench connections --connections 5000"]);
    let output = limited.arg(command(&[]).get_program()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("1000 files open, 744 connections"), "{said}");
}

#[test]
fn partitions_are_made_and_written_to() {
    let keys = ["partitions_per_s", "p50_ratio_to_bare"];
    let report = check("partitions --partitions 25", &keys);
    assert_eq!(report["partitions"], 25.0);
    assert!(report["idle_cpu_percent"].as_f64().is_some(), "{report}");
    assert!(report["phases"]["create"]["records_per_s"].as_f64().unwrap() > 0.0);
}
