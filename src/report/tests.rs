#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::advice::{NOT_SAID, advice};
use super::model::Answer;
use super::words::moment;
use super::*;
use crate::audit::{Reason, from_rfc3339};
use crate::limits;

const DAY: u64 = 86_400;
/// 2026-08-01T12:00:00Z.
const START: u64 = 1_785_585_600;

/// A record `seconds` after the start, with these fields changed.
fn record(seconds: u64, changes: Value) -> Value {
    let mut record = json!({
        "time": moment(START + seconds), "schemaVersion": 1, "kind": "CreateContainer", "mode": "audit",
        "decision": "allowed", "effective": "forwarded", "image": "sha256:00", "reference": "r.example/app:1",
        "namespace": "web", "policies": [{"name": "ours", "outcome": "allowed"}], "message": "",
        "policySetHash": "sha256:01", "latencyMs": 3, "count": 1,
    });
    for (key, value) in changes.as_object().unwrap() {
        record[key] = value.clone();
    }
    record
}

fn denied(seconds: u64, changes: Value) -> Value {
    let mut record = record(
        seconds,
        json!({"decision": "denied", "reason": "SignatureMissing", "message": "not signed",
            "policies": [{"name": "ours", "outcome": "denied"}]}),
    );
    for (key, value) in changes.as_object().unwrap() {
        record[key] = value.clone();
    }
    record
}

/// Ten days in which every image was allowed.
fn ready() -> Vec<Value> {
    let mut records = vec![record(0, json!({"kind": "RunPodSandbox", "reference": "r.example/pause:1"}))];
    records.extend((0..10).map(|day| record(day * DAY, json!({}))));
    records.push(record(9 * DAY, json!({"kind": "PullImage"})));
    records
}

fn and(mut records: Vec<Value>, more: impl IntoIterator<Item = Value>) -> Vec<Value> {
    records.extend(more);
    records
}

fn within(window: Window, records: &[Value]) -> Report {
    let mut gatherer = Gatherer::new(window);
    gatherer.log("node-a");
    gatherer.file();
    for record in records {
        gatherer.line(record.to_string().as_bytes());
    }
    gatherer.report(UNIX_EPOCH + Duration::from_secs(START + 20 * DAY))
}

fn report(records: &[Value]) -> Report {
    within(Window::default(), records)
}

fn answer(records: &[Value]) -> (Answer, Vec<String>) {
    let report = report(records);
    (report.verdict.answer, report.verdict.because)
}

#[test]
fn the_doctor_s_canary_is_left_out_and_a_pod_that_is_called_like_it_is_not() {
    let like = json!({"namespace": "crivet-doctor", "pod": "canary", "podUid": "8d0a"});
    let canary = json!({"namespace": "crivet-doctor", "pod": "canary", "podUid": "crivet-doctor"});
    assert_eq!(answer(&and(ready(), [denied(9 * DAY, canary)])), answer(&ready()));
    assert_ne!(answer(&and(ready(), [denied(9 * DAY, like)])), answer(&ready()));
}

#[test]
fn what_runs_and_is_no_longer_allowed_speaks_against_it_and_what_is_only_stored_does_not() {
    let runs = denied(9 * DAY, json!({"kind": "Revetted", "container": "main"}));
    let stored = denied(9 * DAY, json!({"kind": "Revetted"}));
    assert_eq!(answer(&and(ready(), [stored])), answer(&ready()));
    assert_eq!(answer(&and(ready(), [runs])).0, Answer::No);
}

#[test]
fn a_week_in_which_everything_was_allowed_is_ready() {
    let (answer, because) = answer(&ready());
    assert_eq!(answer, Answer::Yes, "{because:?}");
    assert_eq!(because, ["every image was allowed in the end: 12 decisions in 9 days"]);
}

#[test]
fn a_denial_is_not_ready() {
    let (answer, because) = answer(&and(ready(), [denied(9 * DAY + 1, json!({"count": 1200}))]));
    assert_eq!(answer, Answer::No);
    assert_eq!(because, ["1 image in 1 namespace would be denied, 1,200 times"]);
}

#[test]
fn an_undecided_image_is_not_ready() {
    let undecided = denied(9 * DAY + 1, json!({"decision": "undecided", "reason": "RegistryLogin"}));
    let (answer, because) = answer(&and(ready(), [undecided]));
    assert_eq!(answer, Answer::No);
    assert_eq!(because, ["1 image in 1 namespace would be refused because nothing could be decided, 1 time"]);
}

#[test]
fn a_pause_image_that_is_denied_is_said_first() {
    let pause = json!({"kind": "RunPodSandbox", "reference": "r.example/pause:1"});
    let (_, because) = answer(&and(ready(), [denied(9 * DAY, pause)]));
    assert_eq!(because[0], "the pause image would be refused: pods would not start");
}

#[test]
fn what_is_short_of_a_week_is_not_enough() {
    let short: Vec<_> = ready().into_iter().take(4).collect();
    let (answer, because) = answer(&short);
    assert_eq!(answer, Answer::NotEnoughSeen);
    assert_eq!(because, ["decisions were seen over 2 days only, not 7 days"]);
}

#[test]
fn nothing_at_all_is_not_enough() {
    let (answer, because) = answer(&[]);
    assert_eq!((answer, because), (Answer::NotEnoughSeen, vec!["no decision was seen".to_owned()]));
}

#[test]
fn a_week_without_a_pod_or_a_container_is_not_enough() {
    for (kind, said) in
        [("RunPodSandbox", "no pod was started"), ("CreateContainer", "no container was created")]
    {
        let mut records = ready();
        for record in records.iter_mut().filter(|record| record["kind"] == kind) {
            record["kind"] = json!("PullImage");
        }
        let (answer, because) = answer(&records);
        assert_eq!((answer, because.len()), (Answer::NotEnoughSeen, 1), "{because:?}");
        assert!(because[0].starts_with(said), "{because:?}");
    }
}

#[test]
fn new_policies_must_have_seen_a_day() {
    let new = |seconds| record(9 * DAY + seconds, json!({"policySetHash": "sha256:02"}));
    let (before, because) = answer(&and(ready(), [new(1), new(7300)]));
    assert_eq!(before, Answer::NotEnoughSeen);
    assert_eq!(because, ["the newest policies have decided for 2 hours only, not 24 hours"]);
    assert_eq!(answer(&and(ready(), [new(1), new(DAY + 1)])).0, Answer::Yes);
}

#[test]
fn lost_and_unreadable_records_are_not_enough() {
    for (broken, said) in [
        (
            record(9 * DAY, json!({"lostBefore": 7})),
            "node-a: 7 records that could not be written when it was made",
        ),
        (json!({"schemaVersion": 2, "anything": true}), "node-a: 1 record that has another schema version"),
        (record(9 * DAY, json!({"decision": "maybe"})), "node-a: 1 record that cannot be read"),
        (record(9 * DAY, json!({"time": "yesterday"})), "node-a: 1 record that cannot be read"),
        (json!("no record"), "node-a: 1 record that cannot be read"),
    ] {
        let (answer, because) = answer(&and(ready(), [broken]));
        assert_eq!((answer, because), (Answer::NotEnoughSeen, vec![said.to_owned()]));
    }
}

#[test]
fn an_image_passed_over_in_the_background_is_not_enough() {
    let passed = json!({"decision": "undecided", "reason": "BackgroundBudget", "reference": "r.example/b:1"});
    let (answer, because) = answer(&and(ready(), [denied(9 * DAY, passed)]));
    assert_eq!(answer, Answer::NotEnoughSeen);
    assert_eq!(because, ["1 image was not looked at: the background budget was used up"]);
}

#[test]
fn a_torn_line_is_counted_and_the_others_are_read() {
    let mut gatherer = Gatherer::new(Window::default());
    gatherer.log("node-a");
    let whole = denied(0, json!({})).to_string();
    gatherer.line(&whole.as_bytes()[..whole.len() / 2]);
    gatherer.line(b"");
    gatherer.line(&[0xff, 0xfe]);
    gatherer.line(whole.as_bytes());
    gatherer.too_long();
    let report = gatherer.report(UNIX_EPOCH);
    assert_eq!((report.logs[0].lines, report.logs[0].unreadable, report.totals.denied), (4, 3, 1));
}

#[test]
fn a_denial_that_was_mended_is_settled() {
    let mended = [denied(DAY + 1, json!({})), denied(DAY + 2, json!({"kind": "PullImage"}))];
    let report = report(&and(ready(), mended));
    assert_eq!((report.verdict.answer, report.findings.len()), (Answer::Yes, 1));
    assert!(report.findings[0].settled);
    assert_eq!(report.verdict.caveats, ["1 finding was settled meanwhile: the image was allowed later"]);
}

#[test]
fn only_the_same_image_namespace_and_call_later_settle_it() {
    for other in [
        json!({"reference": "r.example/other:1"}),
        json!({"namespace": "other"}),
        json!({"kind": "RestorePod"}),
        json!({"time": moment(START + 9 * DAY)}),
    ] {
        let report = report(&and(ready(), [denied(DAY, other.clone())]));
        assert!(!report.findings[0].settled, "{other}");
    }
}

#[test]
fn equal_denials_are_one_finding_and_each_difference_makes_another() {
    let same = [
        denied(10, json!({"count": 5, "firstSeen": moment(START + 1), "lastSeen": moment(START + 9)})),
        denied(
            70,
            json!({"kind": "PullImage", "effective": "refused", "message": "newest", "digest": "sha256:02"}),
        ),
        denied(30, json!({"message": "older"})),
    ];
    let one = report(&same);
    let finding = &one.findings[0];
    assert_eq!((one.findings.len(), finding.count, finding.refused, finding.logs), (1, 7, 1, 1));
    assert_eq!((&*finding.message, &*finding.digest, &*finding.policies), ("newest", "sha256:02", "ours"));
    assert_eq!((&*finding.first_seen, &*finding.last_seen), (&*moment(START + 1), &*moment(START + 70)));
    assert_eq!((finding.kinds["CreateContainer"], finding.kinds["PullImage"]), (6, 1));
    // As the file order is: a rotated one comes after the newer.
    let turned: Vec<_> = same.iter().rev().cloned().collect();
    assert_eq!(json!(report(&turned)), json!(one));
    for different in [
        json!({"reference": "r.example/other:1"}),
        json!({"namespace": "other"}),
        json!({"policies": [{"name": "other", "outcome": "denied"}]}),
        json!({"reason": "SignatureByOtherKey"}),
        json!({"decision": "undecided"}),
    ] {
        assert_eq!(
            report(&and(same.to_vec(), [denied(0, different.clone())])).findings.len(),
            2,
            "{different}"
        );
    }
}

#[test]
fn policies_that_allow_are_not_among_those_of_the_finding() {
    let policies = json!([{"name": "b", "outcome": "denied"}, {"name": "a", "outcome": "undecided"},
        {"name": "fine", "outcome": "allowed"}]);
    let report = report(&[denied(0, json!({"policies": policies}))]);
    assert_eq!(report.findings[0].policies, "a, b");
    let by = |name: &str| report.policies.iter().find(|policy| policy.name == name).unwrap().counts;
    assert_eq!((by("fine").allowed, by("a").undecided, by("b").denied), (1, 1, 1));
}

#[test]
fn the_window_and_the_namespace_leave_out_what_is_not_asked_for() {
    let records = [
        denied(0, json!({})),
        denied(100, json!({"namespace": "other"})),
        denied(200, json!({"count": 3, "firstSeen": moment(START + 150), "lastSeen": moment(START + 199)})),
    ];
    let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(START + seconds));
    for (since, until, namespace, denied) in [
        (None, None, None, 5),
        (at(1), None, None, 4),
        (at(199), None, None, 3),
        (at(200), None, None, 0),
        (None, at(149), None, 2),
        (None, at(150), None, 5),
        (at(1), at(149), None, 1),
        (None, None, Some("other".to_owned()), 1),
        (None, None, Some(String::new()), 0),
    ] {
        let report = within(Window { since, until, namespace }, &records);
        assert_eq!(report.totals.denied, denied, "{:?}", report.asked);
        assert_eq!(report.logs[0].lines, 3);
    }
}

#[test]
fn several_logs_are_one_fleet() {
    let mut gatherer = Gatherer::new(Window::default());
    for (log, mode) in [("node-a", "enforce"), ("node-b", "enforce"), ("node-c", "audit")] {
        gatherer.log(log);
        for record in and(ready(), [denied(9 * DAY + 1, json!({"mode": mode}))]) {
            gatherer.line(record.to_string().as_bytes());
        }
    }
    gatherer.log("node-d");
    gatherer.error("node-d: cannot be read".to_owned());
    let report = gatherer.report(UNIX_EPOCH);
    assert_eq!((report.findings.len(), report.findings[0].logs, report.totals.denied), (1, 3, 3));
    // Not while one of them only audits.
    assert!(!report.verdict.enforcing);
    assert_eq!(
        report.verdict.caveats,
        ["node-d covers 0 seconds only, not 7 days", "node-d: cannot be read"]
    );
}

#[test]
fn enforcement_that_is_on_is_said_so() {
    let refused = denied(9 * DAY + 1, json!({"mode": "enforce", "effective": "refused"}));
    let report = report(&and(ready(), [refused]));
    assert_eq!(report.verdict.headline, "Enforcement is on, and images are refused");
    assert_eq!(report.verdict.because, ["1 image in 1 namespace is denied, 1 time"]);
}

#[test]
fn more_findings_than_are_told_apart_are_counted_and_named() {
    let mut gatherer = Gatherer::new(Window::default());
    gatherer.log("node-a");
    let line = denied(0, json!({"reference": "r.example/NUMBER:1", "count": 2})).to_string();
    for number in 0..limits::REPORT_FINDINGS + 3 {
        gatherer.line(line.replace("NUMBER", &number.to_string()).as_bytes());
    }
    let report = gatherer.report(UNIX_EPOCH);
    assert_eq!(report.findings.len(), limits::REPORT_FINDINGS);
    assert_eq!(report.totals.denied, 2 * (limits::REPORT_FINDINGS as u64 + 3));
    let other = report.other.as_ref().unwrap();
    assert_eq!((other.counts.denied, other.limit), (6, "limits::REPORT_FINDINGS"));
    assert!(report.images.last().unwrap().name.contains("limits::REPORT_NAMES"));
    for shown in [text::render(&report), html::render(&report)] {
        assert!(shown.contains("6 decisions") && shown.contains("limits::REPORT_FINDINGS"));
        assert!(shown.len() < 300_000, "{}", shown.len());
    }
}

#[test]
fn the_timeline_keeps_all_decisions_however_long_it_is() {
    for days in [0, 1, 10, 400, 20_000] {
        let step = (days * DAY / 5000).max(1);
        let mut gatherer = Gatherer::new(Window::default());
        gatherer.log("node-a");
        for n in 0..5000 {
            gatherer.line(record(n * step, json!({})).to_string().as_bytes());
        }
        let timeline = gatherer.report(UNIX_EPOCH).timeline;
        assert!(timeline.bars.len() <= 60, "{days} days: {} bars", timeline.bars.len());
        assert_eq!(timeline.bars.iter().map(|bar| bar.counts.allowed).sum::<u64>(), 5000, "{days} days");
        let starts: Vec<_> = timeline.bars.iter().map(|bar| from_rfc3339(&bar.start).unwrap()).collect();
        assert!(starts.windows(2).all(|two| two[1] - Duration::from_secs(timeline.bar_seconds) == two[0]));
    }
}

#[test]
fn counts_at_their_end_do_not_turn_over() {
    let most = denied(0, json!({"count": u64::MAX, "lostBefore": u64::MAX}));
    let report = report(&[most.clone(), most, record(0, json!({"count": u64::MAX}))]);
    assert_eq!((report.totals.denied, report.totals.decisions()), (u64::MAX, u64::MAX));
    assert!(html::render(&report).contains("18,446,744,073,709,551,615"));
}

#[test]
fn text_from_a_log_is_no_markup_and_no_control_sequence() {
    let nasty = "r.example/<script>alert('1')</script>\u{1b}[2J\u{202e}\"&amp;\n:1";
    let records = [denied(
        0,
        json!({"reference": nasty, "namespace": nasty, "message": nasty, "digest": nasty,
            "policies": [{"name": nasty, "outcome": "denied"}], "policySetHash": nasty}),
    )];
    let mut gatherer = Gatherer::new(Window { namespace: Some(nasty.to_owned()), ..Window::default() });
    gatherer.log(nasty);
    gatherer.error(nasty.to_owned());
    gatherer.line(records[0].to_string().as_bytes());
    let report = gatherer.report(UNIX_EPOCH);
    assert_eq!(report.totals.denied, 1);
    let (page, text) = (html::render(&report), text::render(&report));
    for shown in [&page, &text] {
        assert!(shown.chars().all(|c| matches!(c, ' '..='~' | '\n')), "more than printable ASCII");
    }
    assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)") && page.contains("&quot;&amp;amp;"));
}

#[test]
fn every_reason_has_its_row_in_the_docs() {
    let doc = include_str!("../../docs/report.md");
    for reason in Reason::ALL.iter().copied().map(Some).chain([None]) {
        let advice = advice(reason);
        let name = reason.map_or(NOT_SAID, Reason::as_str);
        let row = format!("| `{name}` | {} | {} |", advice.title, advice.what_to_do);
        assert!(doc.lines().any(|line| line == row), "not in docs/report.md: {row}");
    }
    let rows = doc.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `-")).count();
    assert_eq!(rows, Reason::ALL.len() + 1, "a row too many");
}

#[test]
fn a_reason_of_a_later_crivet_is_told_by_its_message() {
    let report = report(&[denied(0, json!({"reason": "SomethingNew", "newField": {"a": 1}}))]);
    assert_eq!((report.findings[0].reason, &*report.findings[0].message), (NOT_SAID, "not signed"));
}
