//! The alert rules and the dashboard, by promtool and on what a running crivet exposes.

use crate::support::node::{Node, Setup};
use crate::support::peers::Peers;
use crate::support::{free_port, http, wait_for};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring")
}

fn promtool(peers: &Peers, args: &[&str], file: &Path) -> Result<String, String> {
    let output = Command::new(peers.program("promtool")).args(args).arg(file).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(said) }
}

#[test]
fn rules_are_valid_and_fire_when_they_should() {
    let Some(peers) = Peers::get() else { return };
    promtool(&peers, &["check", "rules"], &monitoring().join("alerts.yaml")).unwrap();
    promtool(&peers, &["test", "rules"], &monitoring().join("alerts.test.yaml")).unwrap();
    // One threshold off, and the same test fails.
    let dir = peers.path().join("broken");
    std::fs::create_dir(&dir).unwrap();
    let rules = std::fs::read_to_string(monitoring().join("alerts.yaml")).unwrap();
    let broken =
        rules.replace("crivet_vetter_restarts_total[15m]) > 2", "crivet_vetter_restarts_total[15m]) > 200");
    assert_ne!(rules, broken);
    std::fs::write(dir.join("alerts.yaml"), broken).unwrap();
    std::fs::copy(monitoring().join("alerts.test.yaml"), dir.join("alerts.test.yaml")).unwrap();
    let said = promtool(&peers, &["test", "rules"], &dir.join("alerts.test.yaml")).unwrap_err();
    assert!(said.contains("FAILED"), "{said}");
}

/// The samples of a page, without the time.
fn samples(page: &str) -> Vec<(&str, &str)> {
    page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' ')).collect()
}

/// A file for `promtool test rules`: half an hour of one page, then another of the next; and which alerts fire at its end.
fn rules_test(before: &str, after: &str, firing: &[&str]) -> String {
    let rules = monitoring().join("alerts.yaml");
    let mut text = format!(
        "rule_files: [{}]\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n",
        rules.display()
    );
    let old = samples(before);
    for (series, value) in samples(after) {
        // A series that comes into being counts from nothing.
        let old = old.iter().find(|(name, _)| *name == series).map_or("0", |(_, value)| value);
        let labelled = match series.split_once('{') {
            Some((name, labels)) => format!("{name}{{instance=\"node\",{labels}"),
            None => format!("{series}{{instance=\"node\"}}"),
        };
        writeln!(text, "  - series: '{labelled}'\n    values: {old}x30 {value}x14").unwrap();
    }
    text.push_str("  promql_expr_test:\n  - expr: count by (alertname) (ALERTS{alertstate=\"firing\"})\n    eval_time: 37m\n    exp_samples:\n");
    for alert in firing {
        writeln!(text, "    - {{labels: '{{alertname=\"{alert}\"}}', value: 1}}").unwrap();
    }
    if firing.is_empty() {
        text = text.replace("    exp_samples:\n", "    exp_samples: []\n");
    }
    text
}

#[test]
fn alerts_go_by_what_a_running_crivet_exposes() {
    let address = format!("127.0.0.1:{}", free_port());
    let settings = format!("metricsAddress: {address}\n");
    let Some(node) = Node::start(&Setup { settings: &settings, ..Setup::default() }) else { return };
    let page = || {
        let reply = http::request(&address, "GET", "/metrics", &[], &[]).ok()?;
        String::from_utf8(reply.body).ok()
    };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    let unsigned = node.push("unsigned", &node.says("never").file("n", "2"));
    node.crictl().pull(&signed.reference).unwrap();
    let healthy = wait_for("the metrics", Duration::from_secs(10), page);

    // A refused image, and policies that are not taken over.
    node.crictl().pull(&unsigned.reference).unwrap_err();
    node.crivet.put_policies(&["kind: [".to_owned()]);
    let trouble = wait_for("the bad policies", Duration::from_secs(10), || {
        page().filter(|page| page.contains("crivet_config_source{source=\"last_good\"} 1"))
    });

    let file = node.peers.path().join("rules.test.yaml");
    std::fs::write(&file, rules_test(&healthy, &healthy, &[])).unwrap();
    promtool(&node.peers, &["test", "rules"], &file).unwrap();
    let firing = ["CrivetDenied", "CrivetLastGoodConfiguration", "CrivetPoliciesNotTakenOver"];
    std::fs::write(&file, rules_test(&healthy, &trouble, &firing)).unwrap();
    promtool(&node.peers, &["test", "rules"], &file).unwrap();
}

#[test]
fn every_metric_that_is_watched_is_exposed_by_a_running_crivet() {
    let address = format!("127.0.0.1:{}", free_port());
    // Metadata that expire are there with a TUF repository only.
    let tuf = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tuf/good");
    let trust = format!(
        "trust: {{roots: [{{name: corp, tuf: {{mirror: 'file://{tuf}', root: {tuf}/1.root.json}}}}]}}"
    );
    let settings = format!("metricsAddress: {address}\n{trust}\n");
    let Some(node) = Node::start(&Setup { settings: &settings, ..Setup::default() }) else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    node.crictl().pull(&signed.reference).unwrap();
    let page = wait_for("the metrics", Duration::from_secs(10), || {
        let reply = http::request(&address, "GET", "/metrics", &[], &[]).ok()?;
        let page = String::from_utf8(reply.body).ok()?;
        page.contains("crivet_trust_root_usable{root=\"corp\"} 1").then_some(page)
    });
    let exposed: BTreeSet<&str> =
        samples(&page).iter().map(|(name, _)| name.split_once('{').map_or(*name, |(name, _)| name)).collect();
    for file in ["alerts.yaml", "crivet.json"] {
        let text = std::fs::read_to_string(monitoring().join(file)).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let watched: BTreeSet<&str> = words.filter(|word| word.starts_with("crivet_")).collect();
        assert!(watched.len() > 10, "{file}");
        for metric in watched {
            assert!(exposed.contains(metric), "{file} asks for {metric}, which is not among {exposed:?}");
        }
    }
}
