//! `crivet report` on real files.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use crivet::audit::{AuditLog, Decision, Effective, Kind, Mode, PolicyDecision, Reason, Record};
use serde_json::{Value, json};

use crate::audit::check;
use crate::support::daemon::CRIVET;

const SCHEMA: &str = include_str!("../../docs/report.schema.json");

fn record(image: &str) -> Record {
    Record {
        kind: Kind::PullImage,
        mode: Mode::Audit,
        decision: Decision::Denied,
        effective: Effective::Forwarded,
        image: image.to_owned(),
        reference: Some(image.to_owned()),
        digest: Some("sha256:00".to_owned()),
        image_id: None,
        namespace: Some("web".to_owned()),
        pod: None,
        pod_uid: None,
        container: None,
        policies: vec![PolicyDecision { name: "ours".to_owned(), outcome: Decision::Denied }],
        reason: Some(Reason::SignatureMissing),
        message: "not signed".to_owned(),
        policy_set_hash: "sha256:01".to_owned(),
        traceparent: None,
        latency_ms: 3,
    }
}

fn allowed(image: &str) -> Record {
    Record { decision: Decision::Allowed, reason: None, message: String::new(), ..record(image) }
}

/// A moment of today: so that `--since 1h` finds it.
fn at(seconds: u64) -> SystemTime {
    SystemTime::now() - Duration::from_secs(600) + Duration::from_secs(seconds)
}

fn crivet(arguments: &[&str]) -> Output {
    Command::new(CRIVET).arg("report").args(arguments).env_remove("RUST_LOG").output().unwrap()
}

fn json_of(arguments: &[&str]) -> Value {
    let output = crivet(&[arguments, &["-o", "json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = serde_json::from_slice(&output.stdout).unwrap();
    check(&serde_json::from_str(SCHEMA).unwrap(), &report, "report");
    report
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_schema_has_every_call() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let of_findings = &schema["properties"]["findings"]["items"]["properties"];
    for kinds in [&schema["properties"]["kinds"]["properties"], &of_findings["kinds"]["properties"]] {
        for kind in Kind::ALL {
            assert!(kinds.get(kind.as_str()).is_some(), "{}", kind.as_str());
        }
        assert_eq!(kinds.as_object().unwrap().len(), Kind::ALL.len());
    }
}

#[test]
fn a_log_and_its_rotated_files_are_all_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditLog::open(&path, 4000, 20);
    for n in 0..50 {
        log.log(record(&format!("r.example/app-{n}:1")), at(n));
        log.log(record(&format!("r.example/app-{n}:1")), at(n + 1));
    }
    log.log(allowed("r.example/app-0:1"), at(100));
    log.flush(at(101));
    let files = fs::read_dir(dir.path()).unwrap().count() as u64;
    assert!(files > 5, "{files}");
    // A second name of a file, and a file given by itself, add nothing.
    fs::hard_link(&path, dir.path().join("linked")).unwrap();
    let first = dir.path().join("audit.jsonl.1");
    let linked = dir.path().join("linked");
    let report = json_of(&["--log", shown(&path), "--log", shown(&first), "--log", shown(&linked)]);
    assert_eq!((&report["totals"]["denied"], &report["totals"]["allowed"]), (&json!(100), &json!(1)));
    assert_eq!(report["logs"][0]["files"], json!(files));
    assert_eq!((&report["logs"][1]["files"], &report["logs"][2]["files"]), (&json!(0), &json!(0)));
    let findings = report["findings"].as_array().unwrap();
    assert_eq!((findings.len(), &findings[49]["settled"]), (50, &json!(true)));
    assert_eq!(report["verdict"]["answer"], "no");
}

#[test]
fn a_line_being_written_is_left_out_and_a_torn_one_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    AuditLog::open(&path, 1 << 20, 1).log(record("r.example/app:1"), at(0));
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{}\n{whole}{}", &whole[..40], &whole[..40])).unwrap();
    let report = json_of(&["--log", shown(&path)]);
    let log = &report["logs"][0];
    assert_eq!((&log["lines"], &log["unreadable"], &log["denied"]), (&json!(2), &json!(1), &json!(1)));
}

#[test]
fn a_line_without_end_costs_no_memory_and_the_next_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    AuditLog::open(&path, 1 << 20, 1).log(record("r.example/app:1"), at(0));
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{}\n{whole}", "x".repeat(4 << 20))).unwrap();
    let report = json_of(&["--log", shown(&path)]);
    assert_eq!((&report["logs"][0]["unreadable"], &report["totals"]["denied"]), (&json!(1), &json!(1)));
}

#[test]
fn the_configuration_says_where_the_log_is() {
    let dir = tempfile::tempdir().unwrap();
    let (path, config) = (dir.path().join("a.jsonl"), dir.path().join("config.yaml"));
    AuditLog::open(&path, 1 << 20, 1).log(record("r.example/app:1"), at(0));
    let text = "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nlisten: unix:///run/a.sock\n\
         runtimeEndpoint: unix:///run/b.sock\nmode: audit\nunmatched: allow\n";
    fs::write(
        &config,
        format!("{text}stateDir: {0}/s\nauditLog: {{path: {0}/a.jsonl}}\n", shown(dir.path())),
    )
    .unwrap();
    let ended = crivet(&["--config", shown(&config), "--since", "1h"]);
    let out = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(ended.status.code(), Some(0));
    for line in [
        "Ready to enforce: no",
        "  - 1 image in 1 namespace would be denied, 1 time",
        "  The image is not signed (SignatureMissing): 1 finding, 1 time",
        "    r.example/app:1",
    ] {
        assert!(out.lines().any(|l| l == line), "no {line:?} in\n{out}");
    }
    fs::write(&config, text.replace("mode: audit", "mode: loud")).unwrap();
    let ended = crivet(&["--config", shown(&config)]);
    assert_eq!(ended.status.code(), Some(78), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn a_log_that_cannot_be_read_is_said_and_not_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent.jsonl");
    let report = json_of(&["--log", shown(&absent)]);
    assert_eq!(report["verdict"]["answer"], "notEnoughSeen");
    let because = report["verdict"]["because"][0].as_str().unwrap();
    assert!(because.contains("cannot be read: No such file or directory"), "{report}");
    // What is no file holds nobody up.
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [fifo.as_path(), Path::new("/dev/zero"), dir.path()] {
        let report = json_of(&["--log", shown(path)]);
        assert!(report["logs"][0]["errors"][0].as_str().unwrap().contains("cannot be read"), "{report}");
    }
}

#[test]
fn the_page_is_one_file_that_loads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("audit.jsonl"), dir.path().join("report.html"));
    AuditLog::open(&path, 1 << 20, 1).log(record("r.example/<script>alert(1)</script>:1"), at(0));
    let ended = crivet(&["--log", shown(&path), "-o", "html", "--file", shown(&file)]);
    assert!(ended.status.success() && ended.stdout.is_empty());
    let page = fs::read_to_string(&file).unwrap();
    assert!(page.contains("<h1 id=\"verdict\">Ready to enforce: no</h1>"));
    assert!(page.contains("default-src 'none'") && !page.contains("<script") && !page.contains("src=\""));
    assert!(!page.contains("://"), "something is loaded from elsewhere");
    let ended = crivet(&["--log", shown(&path), "--file", "/proc/absent"]);
    assert_eq!(ended.status.code(), Some(73));
}
