//! The audit log on real files: what it writes, and what it survives.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crivet::audit::{AuditLog, Decision, Effective, Kind, Mode, PolicyDecision, Reason, Record, rfc3339};
use serde_json::Value;

const SCHEMA: &str = include_str!("../../docs/audit-record.schema.json");

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_785_585_600 + seconds)
}

fn record() -> Record {
    Record {
        kind: Kind::PullImage,
        mode: Mode::Enforce,
        decision: Decision::Denied,
        effective: Effective::Refused,
        image: "registry.example/app:v1".to_owned(),
        reference: None,
        digest: None,
        image_id: None,
        namespace: None,
        pod: None,
        pod_uid: None,
        container: None,
        policies: vec![PolicyDecision { name: "prod".to_owned(), outcome: Decision::Denied }],
        reason: Some(Reason::SignatureMissing),
        message: "not signed".to_owned(),
        policy_set_hash: "sha256:00".to_owned(),
        traceparent: None,
        latency_ms: 12,
    }
}

fn named(image: &str) -> Record {
    Record { image: image.to_owned(), ..record() }
}

fn full_record() -> Record {
    let some = |text: &str| Some(text.to_owned());
    Record {
        reference: some("registry.example/app:v1"),
        digest: some("sha256:00"),
        image_id: some("sha256:01"),
        namespace: some("default"),
        pod: some("web-0"),
        pod_uid: some("3f0e"),
        container: some("app"),
        traceparent: some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ..record()
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn line at the end");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// As much of JSON Schema as the record's schema uses.
pub fn check(schema: &Value, value: &Value, at: &str) {
    let kind = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(n) if n.is_u64() => "integer",
        Value::Bool(_) => "boolean",
        other => panic!("{at}: {other}"),
    };
    assert_eq!(schema["type"], kind, "{at}");
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{at}: {value}");
    }
    if let Some(max) = schema["maxLength"].as_u64() {
        assert!(value.as_str().unwrap().chars().count() as u64 <= max, "{at}");
    }
    if let Some(max) = schema["maxItems"].as_u64() {
        assert!(value.as_array().unwrap().len() as u64 <= max, "{at}");
    }
    if let Some(min) = schema["minimum"].as_u64() {
        assert!(value.as_u64().unwrap() >= min, "{at}");
    }
    for item in value.as_array().into_iter().flatten() {
        check(&schema["items"], item, &format!("{at}[]"));
    }
    if let Some(object) = value.as_object() {
        assert_eq!(schema["additionalProperties"], false, "{at}");
        for name in schema["required"].as_array().unwrap() {
            assert!(object.contains_key(name.as_str().unwrap()), "{at}: no {name}");
        }
        for (name, value) in object {
            let property =
                schema["properties"].get(name).unwrap_or_else(|| panic!("{at}: {name} not in schema"));
            check(property, value, &format!("{at}.{name}"));
        }
    }
}

#[test]
fn records_fit_the_schema_and_the_schema_knows_no_more() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditLog::open(&path, 1 << 20, 1);
    log.log(full_record(), at(0));
    log.log(full_record(), at(1));
    log.log(full_record(), at(2));
    log.log(record(), at(3));
    // One that cannot be written, so that the next says so.
    fs::rename(&path, dir.path().join("kept")).unwrap();
    fs::create_dir(&path).unwrap();
    log.tick(at(4));
    log.log(named("lost"), at(5));
    fs::remove_dir(&path).unwrap();
    fs::rename(dir.path().join("kept"), &path).unwrap();
    log.tick(at(60));
    let all = lines(&path);
    assert_eq!(all.len(), 3);
    for line in &all {
        check(&schema, line, "record");
    }
    let merged = all[2].as_object().unwrap();
    let properties = schema["properties"].as_object().unwrap();
    assert!(
        properties.keys().all(|name| merged.contains_key(name)),
        "the schema names a field never written"
    );
    for (name, all) in [
        ("kind", Kind::ALL.iter().map(|v| v.as_str()).collect::<Vec<_>>()),
        ("mode", Mode::ALL.iter().map(|v| v.as_str()).collect()),
        ("decision", Decision::ALL.iter().map(|v| v.as_str()).collect()),
        ("effective", Effective::ALL.iter().map(|v| v.as_str()).collect()),
        ("reason", Reason::ALL.iter().map(|v| v.as_str()).collect()),
    ] {
        assert_eq!(properties[name]["enum"], Value::from(all), "{name}");
    }
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & 0o027, 0, "{mode:o}");
}

#[test]
fn equal_records_are_written_once_a_minute_with_a_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditLog::open(&path, 1 << 20, 1);
    for second in 0..50 {
        log.log(Record { latency_ms: second, traceparent: Some(second.to_string()), ..record() }, at(second));
    }
    log.log(named("other"), at(50));
    log.tick(at(59));
    assert_eq!(lines(&path).len(), 2, "one of each, and no count before the minute is over");
    log.tick(at(60));
    log.tick(at(61));
    let all = lines(&path);
    assert_eq!(all.len(), 3);
    assert_eq!((&all[0]["count"], all[0].get("firstSeen")), (&Value::from(1), None));
    let merged = &all[2];
    assert_eq!((&merged["count"], &merged["latencyMs"]), (&Value::from(49), &Value::from(49)));
    assert_eq!(merged["time"], Value::from(rfc3339(at(60))));
    assert_eq!(merged["firstSeen"], Value::from(rfc3339(at(1))));
    assert_eq!(merged["lastSeen"], Value::from(rfc3339(at(49))));
    // Still at most once a minute, without a tick too, and forgotten when it stops.
    log.log(record(), at(100));
    assert_eq!(lines(&path).len(), 3);
    log.log(record(), at(121));
    assert_eq!(lines(&path)[3]["count"], 2);
    log.tick(at(300));
    log.log(record(), at(301));
    assert_eq!(lines(&path)[4]["count"], 1);
}

#[test]
fn a_clock_that_goes_back_holds_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditLog::open(&path, 1 << 20, 1);
    log.log(record(), at(1000));
    log.log(record(), at(1001));
    log.tick(at(0));
    assert_eq!(lines(&path).len(), 2);
}

#[test]
fn a_single_decision_that_was_held_back_keeps_its_moment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditLog::open(&path, 1 << 20, 1);
    log.log(record(), at(0));
    log.log(record(), at(1));
    log.tick(at(60));
    let held = &lines(&path)[1];
    assert_eq!((&held["count"], &held["time"]), (&Value::from(1), &Value::from(rfc3339(at(60)))));
    assert_eq!((&held["firstSeen"], &held["lastSeen"]), (&rfc3339(at(1)).into(), &rfc3339(at(1)).into()));
}

#[test]
fn counts_add_up_when_more_records_differ_than_are_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditLog::open(&path, 64 << 20, 1);
    for n in 0..crivet::limits::AUDIT_KEYS + 100 {
        log.log(named(&n.to_string()), at(0));
        log.log(named(&n.to_string()), at(1));
        log.log(named(&n.to_string()), at(2));
    }
    log.flush(at(3));
    let all = lines(&path);
    let sum: u64 = all.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(sum as usize, 3 * (crivet::limits::AUDIT_KEYS + 100));
    assert_eq!(all.len(), 2 * crivet::limits::AUDIT_KEYS + 3 * 100);
}

#[test]
fn text_from_outside_is_cut_and_stays_on_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditLog::open(&path, 1 << 20, 1);
    let nasty = "a\n\"b\\\u{1b}[2J\u{85}\u{202e}\u{7f}\u{1f600}";
    let policies = vec![PolicyDecision { name: "é".repeat(4096), outcome: Decision::Denied }; 100];
    log.log(Record { image: nasty.to_owned(), message: "x".repeat(1 << 20), policies, ..record() }, at(0));
    let raw = fs::read(&path).unwrap();
    assert!(raw.iter().all(|b| matches!(b, b' '..=b'~' | b'\n')), "more than printable ASCII");
    let all = lines(&path);
    assert_eq!((all.len(), &all[0]["image"]), (1, &Value::from(nasty)));
    check(&serde_json::from_str(SCHEMA).unwrap(), &all[0], "record");
    let message = all[0]["message"].as_str().unwrap();
    assert!(message.starts_with("xxx") && message.contains("bytes)"), "{message}");
}

#[test]
fn the_log_and_its_backups_keep_to_their_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditLog::open(&path, 2000, 2);
    for n in 0..100 {
        log.log(named(&format!("image-{n:03}")), at(0));
    }
    assert_eq!(log.lost(), 0);
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]);
    let images: Vec<_> = ["audit.jsonl.2", "audit.jsonl.1", "audit.jsonl"]
        .iter()
        .flat_map(|name| {
            let path = dir.path().join(name);
            assert!(fs::metadata(&path).unwrap().len() <= 2000);
            lines(&path)
        })
        .map(|line| line["image"].as_str().unwrap().to_owned())
        .collect();
    let expected: Vec<_> = (100 - images.len()..100).map(|n| format!("image-{n:03}")).collect();
    assert_eq!(images, expected, "the newest, in order, none missing");
}

#[test]
fn part_of_a_line_left_by_a_crash_is_closed_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    fs::write(&path, "{\"time\":").unwrap();
    let log = AuditLog::open(&path, 1 << 20, 1);
    log.log(record(), at(0));
    log.log(named("b"), at(0));
    let text = fs::read_to_string(&path).unwrap();
    let all: Vec<_> = text.lines().collect();
    assert_eq!((all.len(), all[0]), (3, "{\"time\":"));
    assert!(serde_json::from_str::<Value>(all[1]).is_ok() && text.ends_with('\n'));
}

#[test]
fn a_file_moved_away_or_removed_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditLog::open(&path, 1 << 20, 1);
    log.log(named("a"), at(0));
    fs::rename(&path, dir.path().join("moved")).unwrap();
    log.tick(at(1));
    log.log(named("b"), at(1));
    assert_eq!(lines(&path)[0]["image"], "b");
    assert_eq!(lines(&dir.path().join("moved")).len(), 1);
}

#[test]
fn a_count_that_cannot_be_written_is_lost_as_a_whole() {
    let log = AuditLog::open("/proc/absent", 1 << 20, 0);
    for n in 0..3 {
        log.log(named(&n.to_string()), at(0));
    }
    log.log(named("0"), at(1));
    log.log(named("0"), at(2));
    assert_eq!(log.lost(), 3, "the last two are only counted so far");
    log.flush(at(3));
    assert_eq!(log.lost(), 5);
}

#[test]
fn a_path_that_cannot_be_written_recovers_when_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent/audit.jsonl");
    let log = AuditLog::open(&path, 1 << 20, 1);
    log.log(named("a"), at(0));
    assert_eq!(log.lost(), 1);
    fs::create_dir(dir.path().join("absent")).unwrap();
    log.log(named("b"), at(1));
    log.log(named("c"), at(1));
    assert_eq!((log.lost(), lines(&path).len()), (1, 2));
    assert_eq!((&lines(&path)[0]["lostBefore"], lines(&path)[1].get("lostBefore")), (&Value::from(1), None));
}

#[test]
fn what_is_no_regular_file_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let (target, link, fifo) = (dir.path().join("target"), dir.path().join("link"), dir.path().join("fifo"));
    fs::write(&target, "").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [link.as_path(), fifo.as_path(), Path::new("/dev/full"), Path::new("/dev/null"), dir.path()] {
        let log = AuditLog::open(path, 1 << 20, 1);
        log.log(record(), at(0));
        assert_eq!(log.lost(), 1, "{}", path.display());
    }
    assert_eq!(fs::metadata(&target).unwrap().len(), 0);
    assert!(Path::new("/dev/null").exists());
}

/// Set for the run inside a mount namespace: a folder that holds 16 KiB.
const SMALL_DISK: &str = "CRIVET_TEST_SMALL_DISK";

#[test]
fn a_full_disk_leaves_no_torn_line_and_the_log_goes_on_when_there_is_room() {
    let Some(dir) = std::env::var_os(SMALL_DISK) else {
        let dir = tempfile::tempdir().unwrap();
        let script = "mount -t tmpfs -o size=16k none \"$1\" && exec \"$2\" --exact \
             audit::a_full_disk_leaves_no_torn_line_and_the_log_goes_on_when_there_is_room --nocapture";
        let run = Command::new("unshare")
            .args(["--mount", "sh", "-c", &format!("{script} || exit 99"), "sh"])
            .arg(dir.path())
            .arg(std::env::current_exe().unwrap())
            .env(SMALL_DISK, dir.path())
            .output();
        match run {
            Ok(run) if run.status.success() => {
                assert!(String::from_utf8_lossy(&run.stdout).contains("1 passed"), "it did not run");
            }
            Ok(run) if run.status.code() == Some(101) => panic!("{}", String::from_utf8_lossy(&run.stderr)),
            other => println!("skipped: no mount namespace with a small tmpfs here: {other:?}"),
        }
        return;
    };
    let path = Path::new(&dir).join("audit.jsonl");
    let filler = Path::new(&dir).join("filler");
    fs::write(&filler, [0; 8192]).unwrap();
    let log = AuditLog::open(&path, 1 << 20, 1);
    let mut written = 0;
    while log.lost() == 0 {
        log.log(named(&format!("{written}")), at(0));
        written += 1;
        assert!(written < 1000, "the disk never filled");
    }
    assert_eq!(lines(&path).len(), written - 1, "whole lines only, while full");
    fs::remove_file(&filler).unwrap();
    log.log(named("after"), at(1));
    let all = lines(&path);
    assert_eq!((all.len(), &all[written - 1]["image"]), (written, &Value::from("after")));
    assert_eq!(log.lost(), 1);
    // Cut by somebody else, as logrotate's copytruncate does, and full again.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    fs::write(&filler, [0; 8192]).unwrap();
    let mut cut = 0;
    while log.lost() == 1 {
        log.log(named(&format!("cut {cut}")), at(2));
        cut += 1;
        assert!(cut < 1000, "the disk never filled");
    }
    assert_eq!(lines(&path).len(), cut - 1, "whole lines only, from the file's beginning");
}

#[test]
fn each_line_is_an_entry_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let at_socket = dir.path().join("journal");
    let journal = UnixDatagram::bind(&at_socket).unwrap();
    let log = AuditLog::open(dir.path().join("audit.jsonl"), 1 << 20, 1).and_journal(&at_socket);
    log.log(full_record(), at(0));
    log.log(full_record(), at(1));
    log.log(full_record(), at(2));
    log.flush(at(3));
    let mut buffer = [0; 1 << 16];
    let mut entry = || {
        let length = journal.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let first = entry();
    for line in [
        "PRIORITY=4",
        "SYSLOG_IDENTIFIER=crivet",
        "MESSAGE=denied (refused, enforce mode): PullImage of registry.example/app:v1 for default/web-0: not signed",
        "CRIVET_DECISION=denied",
        "CRIVET_EFFECTIVE=refused",
        "CRIVET_REASON=SignatureMissing",
        "CRIVET_IMAGE=registry.example/app:v1",
        "CRIVET_POLICY=prod",
        "CRIVET_NAMESPACE=default",
        "CRIVET_POD=web-0",
        "CRIVET_COUNT=1",
    ] {
        assert!(first.lines().any(|l| l == line), "no {line} in\n{first}");
    }
    assert!(entry().lines().any(|line| line == "CRIVET_COUNT=2"));
    assert_eq!((log.lost(), log.lost_to_journal()), (0, 0));
}

#[test]
fn a_newline_in_a_name_makes_no_field_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let at_socket = dir.path().join("journal");
    let journal = UnixDatagram::bind(&at_socket).unwrap();
    let log = AuditLog::open(dir.path().join("audit.jsonl"), 1 << 20, 1).and_journal(&at_socket);
    let policies = vec![PolicyDecision { name: "\u{10ffff}".repeat(4096), outcome: Decision::Denied }; 100];
    log.log(Record { policies, ..named("a\nCRIVET_DECISION=allowed\u{1b}[2J") }, at(0));
    let mut buffer = vec![0; 1 << 20];
    let length = journal.recv(&mut buffer).unwrap();
    let entry = String::from_utf8(buffer[..length].to_vec()).unwrap();
    assert!(length < 100_000, "{length}");
    assert!(!entry.lines().any(|line| line == "CRIVET_DECISION=allowed"), "{entry}");
    assert!(entry.bytes().all(|b| matches!(b, b' '..=b'~' | b'\n')));
}

#[test]
fn a_journal_that_is_away_or_full_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let (path, socket) = (dir.path().join("audit.jsonl"), dir.path().join("journal"));
    let log = AuditLog::open(&path, 64 << 20, 1).and_journal(&socket);
    log.log(named("away"), at(0));
    assert_eq!((log.lost(), log.lost_to_journal(), lines(&path).len()), (0, 1, 1));
    // Nobody reads: its queue is soon full.
    let journal = UnixDatagram::bind(&socket).unwrap();
    for n in 0..2000 {
        log.log(named(&n.to_string()), at(1));
    }
    assert!(log.lost_to_journal() > 1);
    assert_eq!((log.lost(), lines(&path).len()), (0, 2001));
    drop(journal);
}
