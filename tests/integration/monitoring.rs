//! What the alert rules and the dashboard ask for is what crivet exposes: docs/metrics.md, which its own test holds
//! against the code. (That the rules work is promtool's to say, in the end-to-end tests.)

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

const ALERTS: &str = include_str!("../../monitoring/alerts.yaml");
const ALERTS_TEST: &str = include_str!("../../monitoring/alerts.test.yaml");
const DASHBOARD: &str = include_str!("../../monitoring/crivet.json");
const METRICS: &str = include_str!("../../docs/metrics.md");

fn alert_expressions() -> Vec<String> {
    let lines = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    lines.map(str::to_owned).collect()
}

fn dashboard_expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// Metrics with the label matchers that follow them.
fn asked(expression: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = expression.match_indices("crivet_").map(|(at, _)| at);
    let whole = starts.filter(|at| !expression[..*at].ends_with(is_name));
    whole
        .map(|at| {
            let rest = &expression[at..];
            let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
            let braces = rest[name.len()..].strip_prefix('{');
            let inner = braces.and_then(|inner| inner.split_once('}')).map_or("", |(inner, _)| inner);
            let matchers = inner.split(',').filter_map(|pair| {
                let (label, value) = pair.split_once('=')?;
                let label = label.trim().trim_end_matches('!').to_owned();
                Some((label, value.trim_start_matches('~').trim_matches('"').to_owned()))
            });
            (name.to_owned(), matchers.collect())
        })
        .collect()
}

/// Metric → labels and meaning, by the page.
fn documented() -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let rows = METRICS.lines().filter(|line| line.starts_with("| `crivet_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        (cells[0].trim_matches('`'), (cells[2], cells[3]))
    })
    .collect()
}

#[test]
fn what_is_asked_for_is_what_is_exposed() {
    let documented = documented();
    let expressions = [alert_expressions(), dashboard_expressions()].concat();
    assert!(expressions.len() > 30);
    let mut seen = BTreeSet::new();
    for expression in &expressions {
        let asked = asked(expression);
        assert!(!asked.is_empty() || expression.starts_with("up{"), "{expression}");
        for (name, matchers) in asked {
            seen.insert(name.clone());
            let family = name.strip_suffix("_bucket").unwrap_or(&name);
            let Some((labels, meaning)) = documented.get(family) else {
                panic!("{family} is not exposed: {expression}");
            };
            for (label, value) in matchers.iter().filter(|(label, _)| label != "instance") {
                assert!(
                    labels.contains(&format!("`{label}`")),
                    "{family} has no label {label}: {expression}"
                );
                assert!(
                    meaning.contains(&format!("`{value}`")),
                    "{family}: no {label} {value}: {expression}"
                );
            }
        }
    }
    // Everything that means trouble is watched.
    for family in documented.keys().filter(|family| family.ends_with("_total")) {
        assert!(seen.contains(*family), "neither an alert nor a panel asks for {family}");
    }
}

#[test]
fn each_alert_is_seen_to_fire() {
    let names: Vec<_> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 15);
    for name in names {
        let fires = format!("{{labels: '{{alertname=\"{name}\"}}', value: 1}}");
        assert!(ALERTS_TEST.contains(&fires), "alerts.test.yaml does not make {name} fire");
    }
}

#[test]
fn panels_neither_overlap_nor_share_a_number() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let (mut places, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{panel}");
        for (x, y) in
            (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            assert!(places.insert((x, y)), "{} overlaps", panel["title"]);
        }
        assert!(numbers.insert(panel["id"].as_u64().unwrap()), "{}", panel["title"]);
        assert!(panel["type"] == "row" || !panel["description"].as_str().unwrap().is_empty());
    }
}
