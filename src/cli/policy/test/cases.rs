//! A file of `crivet policy test`, as written (policy/policytest.schema.json).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::audit::{Decision, Reason};
use crate::image::{Digest, ImageName, quoted};
use crate::limits;
use crate::policy::{Labels, Mode, Says, Subject};
use crate::verify::{AltName, CertificateSigner, FulcioClaim, Signer};
use crate::yaml::{self, Document};

type Text = Spanned<String>;

/// One image, and what is expected of the policies for it.
pub(super) struct Case {
    /// `file:line`.
    pub source: String,
    pub title: String,
    pub image: String,
    pub name: ImageName,
    pub namespace: Option<String>,
    pub labels: Labels,
    /// Of the content, for policies that deny by it.
    pub digest: Option<Digest>,
    pub expected: Expected,
}

impl Case {
    /// Whom the policies are asked for.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            name: &self.name,
            namespace: self.namespace.as_deref(),
            labels: &self.labels,
            is_pause: false,
        }
    }
}

/// What is expected; each that is written has to be so.
pub(super) struct Expected {
    pub policies: Option<Vec<String>>,
    pub says: Option<Says>,
    pub mode: Option<Mode>,
    pub attestations: Option<Vec<String>>,
    pub accepts: Vec<Someone>,
    pub refuses: Vec<Someone>,
    pub decision: Option<Decision>,
    pub reason: Option<Reason>,
    pub message: Option<String>,
}

impl Expected {
    /// Whether something is expected that only evidence can tell, unless a name alone does.
    pub fn asks_for_a_decision(&self) -> bool {
        self.decision.is_some() || self.reason.is_some() || self.message.is_some()
    }
}

/// Somebody who may or may not sign.
pub(super) struct Someone {
    pub shown: String,
    pub who: Who,
    pub attestation: Option<String>,
}

pub(super) enum Who {
    Name(String),
    Signer(Signer),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    api_version: Text,
    kind: Text,
    cases: Vec<WrittenCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCase {
    name: Option<String>,
    image: Text,
    namespace: Option<String>,
    #[serde(default, rename = "podLabels")]
    pod_labels: Labels,
    digest: Option<Text>,
    expect: WrittenExpected,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenExpected {
    policies: Option<Vec<String>>,
    says: Option<WrittenSays>,
    mode: Option<Mode>,
    attestations: Option<Vec<String>>,
    #[serde(default)]
    accepts: Vec<WrittenSomeone>,
    #[serde(default)]
    refuses: Vec<WrittenSomeone>,
    decision: Option<Text>,
    reason: Option<Text>,
    message: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenSays {
    Nothing,
    Accepts,
    Denies,
    Asks,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSomeone {
    name: Option<String>,
    key: Option<Text>,
    issuer: Option<String>,
    subject: Option<Text>,
    #[serde(default)]
    claims: BTreeMap<String, Text>,
    attestation: Option<String>,
}

/// Reads a file. It decides nothing on a node, so that it may be anybody's.
///
/// # Errors
/// What is wrong with it, each fault one line.
pub(super) fn read(path: &Path) -> Result<Vec<Case>, Vec<String>> {
    let file = path.display().to_string();
    let text = bounded(path).map_err(|error| vec![format!("{file}: {error}")])?;
    let fault = |line: u64, text: String| vec![format!("{file}:{line}: {text}")];
    let (mut cases, mut faults) = (Vec::new(), Vec::new());
    for document in yaml::documents(&text) {
        let written: Written = document.read().map_err(|found| fault(found.line, found.text))?;
        let kind = (written.api_version.value.as_str(), written.kind.value.as_str());
        if kind != ("crivet.dev/v1alpha1", "PolicyTest") {
            let text = format!(
                "expected crivet.dev/v1alpha1 PolicyTest, found {} {}; policies are given with --policy",
                quoted(kind.0),
                quoted(kind.1)
            );
            return Err(fault(document.line_of(&written.kind), text));
        }
        for case in written.cases {
            match checked(&document, &file, case) {
                Ok(case) => cases.push(case),
                Err((line, text)) => faults.extend(fault(line, text)),
            }
        }
    }
    if cases.len() > limits::POLICY_TEST_CASES {
        let cap = limits::POLICY_TEST_CASES;
        faults = vec![format!(
            "{file}: expected at most {cap} cases (limit POLICY_TEST_CASES), found {}; split the file",
            cases.len()
        )];
    } else if cases.is_empty() && faults.is_empty() {
        faults = vec![format!(
            "{file}: expected at least one case, found none; a file without cases tests nothing"
        )];
    }
    if faults.is_empty() { Ok(cases) } else { Err(faults) }
}

fn bounded(path: &Path) -> Result<String, String> {
    let (mut text, cap) = (String::new(), limits::POLICY_TEST_BYTES);
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(cap as u64 + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() > cap {
        return Err(format!("expected at most {cap} bytes (limit POLICY_TEST_BYTES); split the file"));
    }
    Ok(text)
}

type Fault = (u64, String);

fn checked(document: &Document<'_>, file: &str, written: WrittenCase) -> Result<Case, Fault> {
    let at = |text: &Text, key: &str, why: String| (document.line_of(text), format!("{key}: {why}"));
    let line = document.line_of(&written.image);
    let name = ImageName::parse(&written.image.value)
        .map_err(|error| at(&written.image, "image", error.to_string()))?;
    let digest = written
        .digest
        .as_ref()
        .map(|text| Digest::parse(&text.value).map_err(|error| at(text, "digest", error.to_string())));
    let expect = written.expect;
    let decision = expect.decision.as_ref().map(|text| {
        let known = || "expected allowed, denied or undecided".to_owned();
        Decision::named(&text.value).ok_or_else(|| at(text, "decision", known()))
    });
    let reason = expect.reason.as_ref().map(|text| {
        let known = || format!("expected a reason as audit records have it, found {}", quoted(&text.value));
        Reason::named(&text.value).ok_or_else(|| at(text, "reason", known()))
    });
    let someone = |written: Vec<WrittenSomeone>, key: &str| -> Result<Vec<Someone>, Fault> {
        written.into_iter().map(|one| someone(document, line, key, one)).collect()
    };
    let expected = Expected {
        policies: expect.policies.map(sorted),
        says: expect.says.map(|says| match says {
            WrittenSays::Nothing => Says::Nothing,
            WrittenSays::Accepts => Says::Accepts,
            WrittenSays::Denies => Says::Denies,
            WrittenSays::Asks => Says::Asks,
        }),
        mode: expect.mode,
        attestations: expect.attestations.map(sorted),
        accepts: someone(expect.accepts, "accepts")?,
        refuses: someone(expect.refuses, "refuses")?,
        decision: decision.transpose()?,
        reason: reason.transpose()?,
        message: expect.message,
    };
    let Expected { policies, says, mode, attestations, accepts, refuses, .. } = &expected;
    let offline = policies.is_some() || says.is_some() || mode.is_some() || attestations.is_some();
    if !offline && accepts.is_empty() && refuses.is_empty() && !expected.asks_for_a_decision() {
        return Err((
            line,
            "expect: expected at least one key, found none; a case without one tests nothing".to_owned(),
        ));
    }
    Ok(Case {
        source: format!("{file}:{line}"),
        title: written.name.unwrap_or_else(|| written.image.value.clone()),
        image: written.image.value,
        name,
        namespace: written.namespace.filter(|namespace| !namespace.is_empty()),
        labels: written.pod_labels,
        digest: digest.transpose()?,
        expected,
    })
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names.dedup();
    names
}

fn someone(document: &Document<'_>, line: u64, key: &str, written: WrittenSomeone) -> Result<Someone, Fault> {
    let WrittenSomeone { name, key: fingerprint, issuer, subject, claims, attestation } = written;
    let (shown, who) = match (name, fingerprint, subject) {
        (Some(name), None, None) if issuer.is_none() && claims.is_empty() => (name.clone(), Who::Name(name)),
        (None, Some(text), None) if issuer.is_none() && claims.is_empty() => {
            let digest = Digest::parse(&text.value)
                .map_err(|error| (document.line_of(&text), format!("{key}.key: {error}")))?;
            (format!("key {digest}"), Who::Signer(Signer::Key(digest)))
        }
        (None, None, Some(subject)) => {
            let mut known = BTreeMap::new();
            for (name, value) in claims {
                let claim = FulcioClaim::from_name(&name).ok_or_else(|| {
                    (
                        document.line_of(&value),
                        format!("{key}.claims: expected a claim of Fulcio's, found {}", quoted(&name)),
                    )
                })?;
                known.insert(claim, value.value);
            }
            let signer = Signer::Certificate(CertificateSigner {
                fingerprint: Digest::of(subject.value.as_bytes()),
                issuer,
                names: names(&subject.value),
                claims: known,
            });
            (signer.to_string(), Who::Signer(signer))
        }
        _ => {
            let text = format!(
                "{key}: expected one of name, key (sha256:…) and subject (with issuer and claims where a keyless signer is meant), found none or several"
            );
            return Err((line, text));
        }
    };
    Ok(Someone { shown, who, attestation })
}

/// A subject as a certificate would have it, by its form.
fn names(subject: &str) -> Vec<AltName> {
    let text = subject.to_owned();
    vec![match (subject.contains("://"), subject.contains('@')) {
        (true, _) => AltName::Uri(text),
        (false, true) => AltName::Email(text),
        (false, false) => AltName::Dns(text),
    }]
}
