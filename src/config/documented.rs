//! docs/configuration.md against the keys that are read.

use super::ProxyConfiguration;

const PAGE: &str = include_str!("../../docs/configuration.md");

/// The keys that are read in a section (`""`: at the top), as the error about one that is not tells them.
fn read(section: &str) -> Vec<String> {
    let inner = section.split('.').rev().filter(|key| !key.is_empty());
    let text = inner.fold("unknown: 1".to_owned(), |inner, key| format!("{key}: {{{inner}}}"));
    let error = ProxyConfiguration::parse("c.yaml", text.as_bytes()).unwrap_err().to_string();
    let (_, keys) = error.split_once("expected ").unwrap_or_else(|| panic!("{error}"));
    let keys = keys.trim_start_matches("one of ").replace(['`', '\''], "").replace(" or ", ", ");
    let within = if section.is_empty() { String::new() } else { format!("{section}.") };
    keys.split(", ").map(|key| format!("{within}{}", key.trim())).collect()
}

#[test]
fn every_key_has_one_row_and_every_row_a_key() {
    let sections =
        ["auditLog", "registry", "registry.credentials", "vetting", "trust", "evidence", "tracing"];
    let mut keys = read("");
    keys.extend(sections.iter().flat_map(|section| read(section)));
    keys.retain(|key| !sections.contains(&key.as_str()));
    let (_, table) = PAGE.split_once("\n## Keys\n").unwrap();
    let table = table.split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut rows: Vec<String> = rows.map(str::to_owned).collect();
    keys.sort_unstable();
    rows.sort_unstable();
    assert_eq!(rows, keys);
}
