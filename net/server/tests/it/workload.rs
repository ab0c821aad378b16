//! `barrage bench run` and `merge`: workloads against a node that runs, and against their own.
//!
//! Counted, not timed: every check holds however slow the machine is.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::node::{Home, Node, barrage, command, words};

const WORKLOAD: &str = "name: a short one\ntopics: 2\npartitionsPerTopic: 4\n\
                        keyDistributor: KEY_ROUND_ROBIN\nmessageSize: 64\n\
                        subscriptionsPerTopic: 2\nproducersPerTopic: 2\n\
                        consumerPerSubscription: 2\nproducerRate: 4000\n\
                        testDurationMinutes: 60\n";

fn write_workload(home: &Home) -> String {
    let path = home.path("short.yaml");
    fs::write(&path, WORKLOAD).unwrap();
    path.to_str().unwrap().to_owned()
}

fn report(args: &[&str]) -> Value {
    let output = barrage(args);
    assert!(output.status.success(), "{}", words(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn topics(node: &Node) -> usize {
    let list = report(&["topic", "list", "-o", "json", "--server", &node.address()]);
    let count = |value: &Value| value.as_array().map(Vec::len);
    count(&list).or_else(|| count(&list["topics"])).unwrap()
}

#[test]
fn two_clients_count_what_they_did_and_their_logs_say_the_same() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let (file, logs, page) = (write_workload(&home), home.path("logs"), home.path("run.html"));
    let (logs_flag, page_flag) = (logs.to_str().unwrap(), page.to_str().unwrap());
    let data = home.path("bench");
    fs::create_dir(&data).unwrap();
    let address = node.address();
    // Flags go before the file: an hour would be long.
    let flags = ["--duration", "2", "--warmup", "0", "--clients", "2", "--server", &address];
    let mut args = vec!["bench", "run", &file, "-o", "json", "--data", data.to_str().unwrap()];
    args.extend(flags);
    args.extend(["--logs", logs_flag, "--report", page_flag]);
    let run = report(&args);
    let total = |name: &str| run["totals"][name].as_u64().unwrap();
    assert!(total("published") > 0, "{run}");
    assert_eq!(total("consumed"), 2 * total("published"), "each subscription has every record");
    assert_eq!(total("left"), 0);
    for key in ["bare_records_per_s", "ratio_to_bare"] {
        assert!(run[key].is_null(), "what others' machines allow is not known: {run}");
    }
    let workload = &run["settings"]["workload"];
    assert_eq!((&workload["name"], &workload["clients"]), (&"a short one".into(), &2.into()));
    assert_eq!(workload["keys"], "KEY_ROUND_ROBIN");
    assert_eq!(run["settings"]["record_size"], 64);
    assert!(fs::read_to_string(&page).unwrap().contains("Latency: end-to-end"));

    // What both logs come to is what the run said.
    let paths: Vec<String> = ["client-0.hlog", "client-1.hlog"]
        .map(|name| logs.join(name).to_str().unwrap().to_owned())
        .into();
    let merged = report(&["bench", "merge", &paths[0], &paths[1], "-o", "json"]);
    for (phase, reading) in [("publish", &run), ("end-to-end", &run["phases"]["end-to-end"])] {
        for key in ["records_per_s", "p50_us", "p99_us", "max_us"] {
            assert_eq!(merged["phases"][phase][key], reading[key], "{phase} {key}");
        }
    }
    assert!(merged["records"]["publish"].as_u64().unwrap() <= total("published"));
    assert_eq!(merged["logs"].as_array().unwrap().len(), 2);
    assert_eq!(merged["logs"][1]["about"]["client"], "client-1");

    // Nothing is left behind: neither topics nor files.
    assert_eq!(topics(&node), 0);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
}

#[test]
fn a_backlog_is_built_and_drained_by_servers_of_the_run() {
    let home = Home::new();
    let data = home.path("bench");
    fs::create_dir(&data).unwrap();
    let mut args = vec!["bench", "run", "-o", "json", "--data", data.to_str().unwrap()];
    args.extend(["--rate", "5000", "--backlog", "8000", "--partitions", "2", "--producers", "2"]);
    args.extend(["--duration", "1", "--warmup", "0", "--bare-duration", "0.3", "--clients", "2"]);
    args.extend(["--consumers", "2", "--set", "storage.segment_size=16MiB"]);
    let run = report(&args);
    let totals = &run["totals"];
    assert!(totals["published"].as_u64().unwrap() >= 8_000, "{totals}");
    assert_eq!((&totals["consumed"], &totals["left"]), (&totals["published"], &0.into()));
    let marks: Vec<&str> = run["series"]["marks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mark| mark["text"].as_str().unwrap())
        .collect();
    assert_eq!(marks, ["consumers begin", "caught up"]);
    // Nobody consumes while it builds, which takes 1.6 s at that rate: the first ones wait for it.
    let longest_us = run["phases"]["end-to-end"]["max_us"].as_u64().unwrap();
    assert!(longest_us > 1_000_000, "{longest_us}");
    assert!(run["ratio_to_bare"].as_f64().unwrap() > 0.0);
    let names: Vec<&str> = run["series"]["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|process| process["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["node-0", "client-0", "client-1"]);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "its data is gone");
}

#[test]
fn a_client_that_fails_fails_the_run_with_its_words() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let (file, data) = (write_workload(&home), home.path("bench"));
    fs::create_dir(&data).unwrap();
    let address = node.address();
    let mut run = command(&["bench", "run", &file, "--clients", "2", "--server", &address]);
    run.arg("--data").arg(&data);
    run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut run = run.spawn().unwrap();
    // It is under way once its clients have their tasks.
    while !has_task(&data) && run.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_millis(20));
    }
    drop(node);
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    let said = words(&output);
    assert!(said.contains("client-") && said.contains("failed"), "{said}");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "its files are gone");
}

/// Whether the second client was started.
fn has_task(data: &Path) -> bool {
    let runs = fs::read_dir(data).unwrap().flatten();
    runs.into_iter().any(|run| run.path().join("client-1.task").exists())
}

#[test]
fn what_is_not_done_is_refused_with_a_reason() {
    let home = Home::new();
    let check = |text: &str, flags: &[&str], part: &str| {
        let path = home.path("bad.yaml");
        fs::write(&path, text).unwrap();
        let output = barrage(&[&["bench", "run", path.to_str().unwrap()], flags].concat());
        assert_eq!(output.status.code(), Some(2), "{}", words(&output));
        assert!(words(&output).contains(part), "{}", words(&output));
    };
    check("topic: 1\n", &[], "line 1: unknown key topic; the nearest that is known is topics");
    check("producerStartRate: 1\n", &[], "producerStartRate is not done here");
    check("topics: 1\n", &["--nodes", "3", "--server", "127.0.0.1:1"], "--server loads those");
    check("topics: 1\n", &["--report", "no/such/folder/x.html"], "existing folder");
    for args in [
        ["bench", "produce", "--topics", "2"],
        ["bench", "produce", "file.yaml", "--build"],
        ["bench", "latency", "--clients", "2"],
        ["bench", "merge", "--rate", "2"],
    ] {
        let output = barrage(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", words(&output));
    }
}
