//! The section `evidence`: where signatures and attestations are besides registries.

use std::path::PathBuf;

use serde::Deserialize;

use super::settings::{Check, Text};
use super::units::absolute;
use crate::limits;
use crate::yaml::Fault;

/// Where evidence is besides registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// OCI image layouts, and folders of them.
    pub layouts: Vec<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WrittenEvidence {
    #[serde(default)]
    layouts: Vec<Text>,
}

pub(super) fn check(within: &Check<'_>, written: &WrittenEvidence) -> Result<Evidence, Fault> {
    let mut layouts = Vec::new();
    for folder in &written.layouts {
        let path = within.of("evidence.layouts", folder, absolute)?;
        let fault = |text: String| Err(within.fault_at(folder, format!("evidence.layouts: {text}")));
        if layouts.len() == limits::LAYOUT_FOLDERS {
            let most = limits::LAYOUT_FOLDERS;
            return fault(format!(
                "expected at most {most} folders (limit LAYOUT_FOLDERS); put layouts side by side into one"
            ));
        }
        if layouts.contains(&path) {
            return fault(format!("expected each folder once, found {} twice; remove one", path.display()));
        }
        layouts.push(path);
    }
    Ok(Evidence { layouts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProxyConfiguration;

    fn parse(section: &str) -> Result<Vec<PathBuf>, String> {
        let text = format!(
            "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nlisten: unix:///a\nruntimeEndpoint: unix:///b\nmode: audit\nunmatched: allow\n{section}\n"
        );
        let read = ProxyConfiguration::parse("config.yaml", text.as_bytes());
        read.map(|read| read.evidence.layouts).map_err(|error| error.to_string())
    }

    #[test]
    fn folders_are_read_in_their_order_and_none_is_the_default() {
        assert_eq!(parse(""), Ok(Vec::new()));
        assert_eq!(parse("evidence: {}"), Ok(Vec::new()));
        assert_eq!(
            parse("evidence: {layouts: [/b, /a]}"),
            Ok(vec![PathBuf::from("/b"), PathBuf::from("/a")])
        );
    }

    #[test]
    fn each_break_is_named_with_line_and_key() {
        let many: Vec<String> = (0..17).map(|n| format!("/{n}")).collect();
        for (section, expected) in [
            ("{layouts: [a]}".to_owned(), "evidence.layouts: expected an absolute path"),
            ("{layouts: [/a/../b]}".to_owned(), "evidence.layouts: expected an absolute path"),
            ("{layouts: [/a, /a]}".to_owned(), "evidence.layouts: expected each folder once, found /a twice"),
            ("{folders: [/a]}".to_owned(), "unknown field `folders`"),
            (format!("{{layouts: [{}]}}", many.join(", ")), "limit LAYOUT_FOLDERS"),
        ] {
            let error = parse(&format!("evidence: {section}")).unwrap_err();
            assert!(error.contains("config.yaml:7: ") && error.contains(expected), "{section}: {error}");
        }
    }
}
