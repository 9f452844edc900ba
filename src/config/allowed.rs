//! The settings that begin with `insecureAllow`: what enforce mode lets run although nothing holds it to what was vetted.

use super::settings::{Check, Text};
use crate::cri::methods::{Class, classify};
use crate::limits;
use crate::yaml::Fault;

/// What enforce mode lets run although nothing holds it to what was vetted. Nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InsecureAllowed {
    /// RPCs (`Service/Method`) that crivet cannot vet.
    pub unvetted: Vec<String>,
    /// containerd's snapshotters whose chain IDs are not bound to content.
    pub snapshotters: Vec<String>,
    /// containerd's runtimes, and CRI-O's runtime handlers, that may run something else than what was unpacked.
    pub runtimes: Vec<String>,
}

pub(super) fn check(
    within: &Check<'_>,
    unvetted: &[Text],
    snapshotters: &[Text],
    runtimes: &[Text],
) -> Result<InsecureAllowed, Fault> {
    let all = |key: &str, texts: &[Text], parse: fn(&str) -> Result<String, String>| {
        texts.iter().map(|text| within.of(key, text, parse)).collect::<Result<Vec<_>, _>>()
    };
    Ok(InsecureAllowed {
        unvetted: all("insecureAllowUnvetted", unvetted, unvetted_method)?,
        snapshotters: all("insecureAllowSnapshotters", snapshotters, plugin)?,
        runtimes: all("insecureAllowRuntimes", runtimes, plugin)?,
    })
}

fn unvetted_method(text: &str) -> Result<String, String> {
    match classify(&format!("/runtime.v1.{text}")) {
        Class::RefusedUnlessAllowed(_) | Class::UnknownWrite(_) => Ok(text.to_owned()),
        _ => Err("expected an RPC that enforce mode refuses, such as RuntimeService/RestorePod".to_owned()),
    }
}

/// A name as the runtime has them: no pattern, so that each that is allowed is written out.
fn plugin(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    if text.is_empty() || text.len() > limits::PLUGIN_NAME_BYTES || !text.bytes().all(plain) {
        let most = limits::PLUGIN_NAME_BYTES;
        return Err(format!(
            "expected a whole name as the runtime's configuration has it, such as stargz, io.containerd.kata.v2 or kata, of at most {most} bytes (limit PLUGIN_NAME_BYTES); patterns do not work"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProxyConfiguration;

    fn parse(line: &str) -> Result<InsecureAllowed, String> {
        let text = format!(
            "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nlisten: unix:///a\nruntimeEndpoint: unix:///b\nmode: audit\nunmatched: allow\n{line}\n"
        );
        let read = ProxyConfiguration::parse("config.yaml", text.as_bytes());
        read.map(|read| read.insecure_allowed).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_allowed_that_is_not_written() {
        assert_eq!(parse(""), Ok(InsecureAllowed::default()));
        assert_eq!(parse("insecureAllowSnapshotters: [stargz]").unwrap().snapshotters, ["stargz"]);
        let runtimes = "insecureAllowRuntimes: [io.containerd.kata.v2, /opt/bin/containerd-shim-x-v1]";
        assert_eq!(
            parse(runtimes).unwrap().runtimes,
            ["io.containerd.kata.v2", "/opt/bin/containerd-shim-x-v1"]
        );
    }

    #[test]
    fn a_pattern_for_snapshotters_or_runtimes_is_no_name() {
        for line in [
            "insecureAllowSnapshotters: ['*']",
            "insecureAllowRuntimes: ['io.containerd.*']",
            "insecureAllowRuntimes: ['']",
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains("config.yaml:7") && error.contains("patterns do not work"), "{error}");
        }
    }
}
