//! The section `trust`: which roots there are, and where they come from.

use serde::Deserialize;

use super::settings::{Check, Text};
use super::units::absolute;
use crate::limits;
use crate::trust::source::{
    self, Anchor, Given, Mirror, REFRESH_EVERY, RootSource, Settings, TARGETS, TRUSTED_ROOT_TARGET, TufSource,
};
use crate::yaml::Fault;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WrittenTrust {
    roots: Option<Vec<WrittenRoot>>,
    refresh_every: Option<Text>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRoot {
    name: Text,
    embedded: Option<Empty>,
    file: Option<Text>,
    tuf: Option<WrittenTuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenTuf {
    mirror: Text,
    root: Text,
    targets: Option<Text>,
    trusted_root_target: Option<Text>,
}

pub(super) fn check(within: &Check<'_>, written: &WrittenTrust) -> Result<Settings, Fault> {
    let (minute, month) = (std::time::Duration::from_secs(60), std::time::Duration::from_secs(30 * 86_400));
    let refresh_every =
        within.time("trust.refreshEvery", &written.refresh_every, REFRESH_EVERY, minute, month)?;
    let Some(roots) = &written.roots else {
        return Ok(Settings { refresh_every, ..Settings::default() });
    };
    let mut read: Vec<RootSource> = Vec::new();
    for root in roots {
        let name = within.of("trust.roots.name", &root.name, source::name)?;
        let fault = |text: String| Err(within.fault_at(&root.name, format!("trust.roots: {text}")));
        if read.len() == limits::TRUST_ROOTS {
            return fault(format!("expected at most {} roots (limit TRUST_ROOTS)", limits::TRUST_ROOTS));
        }
        if read.iter().any(|other| other.name == name) {
            return fault(format!("expected each name once, found {name} twice; rename one"));
        }
        let given = match (&root.embedded, &root.file) {
            (Some(Empty {}), Some(_)) => {
                return fault(format!("expected embedded or file, found both for {name}; remove one"));
            }
            (Some(Empty {}), None) => Some(Given::Embedded),
            (None, Some(path)) => Some(Given::File(within.of("trust.roots.file", path, absolute)?)),
            (None, None) => None,
        };
        let tuf = root.tuf.as_ref().map(|tuf| repository(within, tuf)).transpose()?;
        if given.is_none() && tuf.is_none() {
            return fault(format!(
                "expected embedded, file or tuf, found none for {name}; say where it comes from"
            ));
        }
        read.push(RootSource { name, given, tuf, document: None });
    }
    Ok(Settings { roots: read, refresh_every })
}

fn repository(within: &Check<'_>, written: &WrittenTuf) -> Result<TufSource, Fault> {
    let path = |key, value: &Option<Text>, default: &str| {
        Ok::<_, Fault>(within.optional(key, value, source::relative)?.unwrap_or_else(|| default.to_owned()))
    };
    Ok(TufSource {
        mirror: within.of("trust.roots.tuf.mirror", &written.mirror, Mirror::parse)?,
        anchor: Anchor::File(within.of("trust.roots.tuf.root", &written.root, absolute)?),
        targets: path("trust.roots.tuf.targets", &written.targets, TARGETS)?,
        target: path("trust.roots.tuf.trustedRootTarget", &written.trusted_root_target, TRUSTED_ROOT_TARGET)?,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::config::ProxyConfiguration;

    fn parse(section: &str) -> Result<Settings, String> {
        let text = format!(
            "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nlisten: unix:///a\nruntimeEndpoint: unix:///b\nmode: audit\nunmatched: allow\n{section}\n"
        );
        let read = ProxyConfiguration::parse("config.yaml", text.as_bytes());
        read.map(|read| read.trust).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_section_there_is_the_public_good_root_alone() {
        assert_eq!(parse(""), Ok(Settings::default()));
        let settings = parse("trust: {refreshEvery: 1h}").unwrap();
        assert_eq!(
            (settings.roots, settings.refresh_every),
            (Settings::default().roots, Duration::from_secs(3600))
        );
        assert_eq!(parse("trust: {roots: []}").unwrap().roots, []);
    }

    #[test]
    fn every_kind_of_root_is_read() {
        let roots = parse(
            "trust:\n  roots:\n  - {name: public-good, embedded: {}}\n  - {name: corp, file: /etc/crivet/trust/corp.json}\n  - name: x\n    embedded: {}\n    tuf: {mirror: 'https://tuf.example/', root: /etc/crivet/trust/root.json, targets: t, trustedRootTarget: a/b.json}\n  - {name: y, tuf: {mirror: 'file:///srv/tuf', root: /r.json}}\n",
        )
        .unwrap()
        .roots;
        let corp = Given::File(PathBuf::from("/etc/crivet/trust/corp.json"));
        assert_eq!(
            roots.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(),
            ["public-good", "corp", "x", "y"]
        );
        assert_eq!((&roots[0].given, &roots[1].given), (&Some(Given::Embedded), &Some(corp)));
        let expected = TufSource {
            mirror: Mirror::Http("https://tuf.example".to_owned()),
            anchor: Anchor::File(PathBuf::from("/etc/crivet/trust/root.json")),
            targets: "t".to_owned(),
            target: "a/b.json".to_owned(),
        };
        assert_eq!((&roots[2].given, &roots[2].tuf), (&Some(Given::Embedded), &Some(expected)));
        let expected = TufSource {
            mirror: Mirror::Folder(PathBuf::from("/srv/tuf")),
            anchor: Anchor::File(PathBuf::from("/r.json")),
            targets: TARGETS.to_owned(),
            target: TRUSTED_ROOT_TARGET.to_owned(),
        };
        assert_eq!((&roots[3].given, &roots[3].tuf), (&None, &Some(expected)));
    }

    #[test]
    fn each_break_is_named_with_line_and_key() {
        for (section, expected) in [
            ("{name: A, embedded: {}}", "trust.roots.name: expected a name of"),
            ("{name: a}", "trust.roots: expected embedded, file or tuf, found none for a"),
            ("{name: a, embedded: {}, file: /x}", "trust.roots: expected embedded or file, found both for a"),
            ("{name: a, embedded: {x: 1}}", "unknown field `x`"),
            ("{name: a, file: x}", "trust.roots.file: expected an absolute path"),
            ("{name: a, url: x}", "unknown field `url`"),
            ("{name: a, tuf: {mirror: 'https://x'}}", "missing field `root`"),
            ("{name: a, tuf: {mirror: x, root: /r}}", "trust.roots.tuf.mirror: expected a TUF repository"),
            (
                "{name: a, tuf: {mirror: 'https://x', root: r}}",
                "trust.roots.tuf.root: expected an absolute path",
            ),
            (
                "{name: a, tuf: {mirror: 'https://x', root: /r, targets: ../x}}",
                "trust.roots.tuf.targets: expected a path below the mirror",
            ),
        ] {
            let error = parse(&format!("trust: {{roots: [{section}]}}")).unwrap_err();
            assert!(error.contains("config.yaml:7: ") && error.contains(expected), "{section}: {error}");
        }
        let twice = "trust: {roots: [{name: a, embedded: {}}, {name: a, embedded: {}}]}";
        assert!(parse(twice).unwrap_err().contains("expected each name once, found a twice"));
        let many: Vec<String> = (0..33).map(|n| format!("{{name: a{n}, embedded: {{}}}}")).collect();
        assert!(
            parse(&format!("trust: {{roots: [{}]}}", many.join(", "))).unwrap_err().contains("TRUST_ROOTS")
        );
        assert!(
            parse("trust: {refreshEvery: 5s}").unwrap_err().contains("trust.refreshEvery: expected 60 to")
        );
    }
}
