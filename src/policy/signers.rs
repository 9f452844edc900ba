//! Who may sign, as native policies write it, compiled.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::model::Signer;
use crate::image::quoted;
use crate::limits;
use crate::verify::{
    Authority, Certificate, FulcioClaim, Identity, KeyAuthority, KeylessAuthority, Matcher, PkiAuthority,
    PkiSubject, PublicKey, Witness, Witnesses,
};
use crate::yaml::{Document, Fault};

pub(super) type Text = Spanned<String>;

/// The trusted root of a signer that names none: sigstore's public good instance.
pub(super) const PUBLIC_GOOD: &str = "public-good";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Key {
    pub name: Option<String>,
    pub data: Text,
    transparency_logs: Option<Threshold>,
    timestamps: Option<Threshold>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Keyless {
    name: Option<String>,
    trust_root: Option<String>,
    identities: Vec<WrittenIdentity>,
    #[serde(rename = "insecureIgnoreSCT")]
    insecure_ignore_sct: Option<Spanned<bool>>,
    transparency_logs: Option<Threshold>,
    timestamps: Option<Threshold>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Certificates {
    name: Option<String>,
    roots: Text,
    intermediates: Option<Text>,
    subjects: Vec<WrittenSubject>,
    transparency_logs: Option<Threshold>,
    timestamps: Option<Threshold>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WrittenIdentity {
    issuer: Option<Text>,
    issuer_reg_exp: Option<Text>,
    subject: Option<Text>,
    subject_reg_exp: Option<Text>,
    email: Option<Text>,
    claims: Option<BTreeMap<String, Spanned<Claim>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Claim {
    Exact(String),
    Expression(Expression),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Expression {
    reg_exp: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenSubject {
    subject: Option<Text>,
    subject_reg_exp: Option<Text>,
    email: Option<String>,
    hostname: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Threshold {
    threshold: Spanned<u64>,
    trust_root: Option<String>,
}

/// Signers as written under one key: any one of them.
pub(super) struct Written<'a> {
    pub keys: &'a [Key],
    pub keyless: &'a [Keyless],
    pub certificates: &'a [Certificates],
}

impl Written<'_> {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.keyless.is_empty() && self.certificates.is_empty()
    }
}

/// Reads the signers of a policy, which are under the key `at`: each once.
pub(super) struct Reader<'a> {
    pub document: &'a Document<'a>,
    pub at: &'a str,
    pub faults: &'a mut Vec<Fault>,
}

impl Reader<'_> {
    pub fn signers(&mut self, written: &Written<'_>) -> Vec<Signer> {
        let count = written.keys.len() + written.keyless.len() + written.certificates.len();
        if count > limits::POLICY_KEYS {
            self.fault_at_start(
                "",
                format!(
                    "expected at most {} signers (limit POLICY_KEYS), found {count}; split the policy",
                    limits::POLICY_KEYS
                ),
            );
            return Vec::new();
        }
        let mut signers: Vec<Signer> = Vec::with_capacity(count);
        for key in written.keys {
            let witnesses = Witnesses {
                logs: self.witness("keys.transparencyLogs", key.transparency_logs.as_ref(), 0, true),
                timestamps: self.witness("keys.timestamps", key.timestamps.as_ref(), 0, true),
            };
            let Some(authority) = self.key("keys.data", key.name.as_ref(), &key.data, witnesses) else {
                continue;
            };
            if is_among(&signers, &authority) {
                self.fault_at("keys", &key.data, TWICE.to_owned());
            } else {
                signers.push(Signer::new(authority).at(self.document.line_of(&key.data)));
            }
        }
        let mut others = Vec::with_capacity(count);
        for keyless in written.keyless {
            let line = self.line_of_identity(keyless.identities.first());
            others.extend(self.keyless(keyless).map(|authority| (authority, line)));
        }
        for certificates in written.certificates {
            let line = self.document.line_of(&certificates.roots);
            others.extend(self.pki(certificates).map(|authority| (authority, line)));
        }
        for (authority, line) in others {
            if is_among(&signers, &authority) {
                self.fault_at_start("", TWICE.to_owned());
            } else {
                signers.push(Signer::new(authority).at(line));
            }
        }
        signers
    }

    /// The line of an identity's subject, which is what tells identities apart.
    fn line_of_identity(&self, identity: Option<&WrittenIdentity>) -> u64 {
        let texts = identity.into_iter().flat_map(
            |WrittenIdentity { issuer, subject, subject_reg_exp, email, .. }| {
                [subject_reg_exp, subject, email, issuer].into_iter().flatten()
            },
        );
        texts.into_iter().next().map_or(self.document.line(), |text| self.document.line_of(text))
    }

    /// A public key, PEM.
    pub fn key(
        &mut self,
        key: &str,
        name: Option<&String>,
        data: &Text,
        witnesses: Witnesses,
    ) -> Option<Authority> {
        match PublicKey::from_pem(data.value.as_bytes()) {
            Ok(public) => Some(Authority::Key(KeyAuthority {
                name: name.map(|name| shown(name)),
                key: public,
                witnesses,
            })),
            Err(error) => {
                self.fault_at(key, data, error.to_string());
                None
            }
        }
    }

    fn keyless(&mut self, written: &Keyless) -> Option<Authority> {
        let root = written.trust_root.clone().unwrap_or_else(|| PUBLIC_GOOD.to_owned());
        let sct = match &written.insecure_ignore_sct {
            Some(ignore) if !ignore.value => {
                self.fault_at(
                    "keyless.insecureIgnoreSCT",
                    ignore,
                    "expected true, found false; leave it out".to_owned(),
                );
                true
            }
            Some(_) => false,
            None => true,
        };
        if written.identities.is_empty() {
            self.fault_at_start(
                "keyless.identities",
                "expected at least one identity, found none; add one".to_owned(),
            );
        }
        let identities: Vec<_> =
            written.identities.iter().filter_map(|identity| self.identity(identity)).collect();
        let logs = written.transparency_logs.as_ref();
        let witnesses = Witnesses {
            // As cosign and policy-controller want it unless told otherwise.
            logs: self.witness("keyless.transparencyLogs", logs, 1, false),
            timestamps: self.witness("keyless.timestamps", written.timestamps.as_ref(), 0, false),
        };
        if witnesses.logs.count == 0 && witnesses.timestamps.count == 0 {
            let text = "expected a log or a timestamp authority that has to vouch for the time, found neither; write timestamps: {threshold: 1}";
            self.fault_at_start("keyless", text.to_owned());
        }
        let whole = identities.len() == written.identities.len() && !identities.is_empty();
        whole.then(|| {
            let name = written.name.as_ref().map(|name| shown(name));
            Authority::Keyless(KeylessAuthority { name, root, identities, sct, witnesses })
        })
    }

    fn identity(&mut self, written: &WrittenIdentity) -> Option<Identity> {
        let issuer = (written.issuer.as_ref(), written.issuer_reg_exp.as_ref());
        let at = self.key_of("keyless");
        let mut reader = Reader { document: self.document, at: &at, faults: self.faults };
        let named = match (&written.email, &written.subject, &written.subject_reg_exp) {
            (Some(email), None, None) => reader
                .named(issuer, (Some(email), None))
                .map(|identity| Identity { by_email: true, ..identity }),
            (Some(email), ..) => {
                let text = "expected it, subject or subjectRegExp, found several; keep one";
                reader.fault_at("identities.email", email, text.to_owned());
                None
            }
            (None, subject, expression) => reader.named(issuer, (subject.as_ref(), expression.as_ref())),
        };
        let mut claims = Vec::new();
        let mut whole = true;
        for (name, expected) in written.claims.iter().flatten() {
            let Some(claim) = FulcioClaim::ALL.iter().find(|claim| claim.name() == name) else {
                let known: Vec<_> = FulcioClaim::ALL.iter().map(|claim| claim.name()).collect();
                let text = format!("expected one of {}, found {}", known.join(", "), quoted(name));
                self.fault_at("keyless.identities.claims", expected, text);
                whole = false;
                continue;
            };
            let matcher = match &expected.value {
                Claim::Exact(text) => Ok(Matcher::Exact(text.clone())),
                Claim::Expression(expression) => Matcher::regex(&expression.reg_exp),
            };
            match matcher {
                Ok(matcher) => claims.push((*claim, matcher)),
                Err(error) => {
                    self.fault_at(&format!("keyless.identities.claims.{name}"), expected, error.to_string());
                    whole = false;
                }
            }
        }
        let named = named?;
        whole.then_some(Identity { claims, ..named })
    }

    /// An identity by issuer and subject, each written exactly or as an expression.
    pub fn named(
        &mut self,
        issuer: (Option<&Text>, Option<&Text>),
        subject: (Option<&Text>, Option<&Text>),
    ) -> Option<Identity> {
        let issuer = self.matcher("identities.issuer", issuer.0, issuer.1);
        let subject = self.matcher("identities.subject", subject.0, subject.1);
        Some(Identity { issuer: issuer?, subject: subject?, by_email: false, claims: Vec::new() })
    }

    fn matcher(&mut self, key: &str, exact: Option<&Text>, expression: Option<&Text>) -> Option<Matcher> {
        let found = self.optional_matcher(key, exact, expression).ok()?;
        if found.is_none() {
            self.fault_at_start(key, format!("expected it or {}RegExp, found neither; write one", last(key)));
        }
        found
    }

    fn optional_matcher(
        &mut self,
        key: &str,
        exact: Option<&Text>,
        expression: Option<&Text>,
    ) -> Result<Option<Matcher>, ()> {
        match (exact, expression) {
            (None, None) => Ok(None),
            (Some(exact), None) if exact.value.is_empty() => {
                self.fault_at(key, exact, "expected a text, found an empty one".to_owned());
                Err(())
            }
            (Some(exact), None) => Ok(Some(Matcher::Exact(exact.value.clone()))),
            (None, Some(expression)) => Matcher::regex(&expression.value).map(Some).map_err(|error| {
                self.fault_at(&format!("{key}RegExp"), expression, error.to_string());
            }),
            (Some(_), Some(expression)) => {
                self.fault_at(
                    key,
                    expression,
                    format!("expected it or {}RegExp, found both; keep one", last(key)),
                );
                Err(())
            }
        }
    }

    fn pki(&mut self, written: &Certificates) -> Option<Authority> {
        let roots = self.chain("certificates.roots", &written.roots)?;
        let intermediates = match &written.intermediates {
            Some(pem) => self.chain("certificates.intermediates", pem)?,
            None => Vec::new(),
        };
        if written.subjects.is_empty() {
            self.fault_at_start(
                "certificates.subjects",
                "expected at least one subject, found none; add one".to_owned(),
            );
        }
        let mut subjects = Vec::with_capacity(written.subjects.len());
        for subject in &written.subjects {
            let matcher = self.optional_matcher(
                "certificates.subjects.subject",
                subject.subject.as_ref(),
                subject.subject_reg_exp.as_ref(),
            );
            let Ok(matcher) = matcher else { continue };
            let compiled = PkiSubject {
                subject: matcher,
                email: subject.email.clone(),
                hostname: subject.hostname.clone(),
            };
            if compiled == PkiSubject::default() {
                let text = "expected subject, subjectRegExp, email or hostname, found none; write one";
                self.fault_at_start("certificates.subjects", text.to_owned());
            } else {
                subjects.push(compiled);
            }
        }
        let witnesses = Witnesses {
            logs: self.witness("certificates.transparencyLogs", written.transparency_logs.as_ref(), 0, true),
            timestamps: self.witness("certificates.timestamps", written.timestamps.as_ref(), 0, true),
        };
        let whole = subjects.len() == written.subjects.len() && !subjects.is_empty();
        whole.then(|| {
            let name = written.name.as_ref().map(|name| shown(name));
            Authority::Pki(PkiAuthority { name, roots, intermediates, subjects, witnesses })
        })
    }

    /// Certificates, PEM, at least one.
    pub fn chain(&mut self, key: &str, pem: &Text) -> Option<Vec<Certificate>> {
        match Certificate::from_pem(&pem.value) {
            Ok(chain) => Some(chain),
            Err(error) => {
                self.fault_at(key, pem, error.to_string());
                None
            }
        }
    }

    /// `rootless` signers have no trusted root of their own, so that the one that witnesses is named or the default.
    fn witness(&mut self, key: &str, written: Option<&Threshold>, default: u8, rootless: bool) -> Witness {
        let Some(Threshold { threshold, trust_root }) = written else {
            return Witness { count: default, root: None };
        };
        let count = u8::try_from(threshold.value).ok().filter(|count| *count <= limits::WITNESSES);
        if count.is_none() {
            let text = format!(
                "expected a threshold of at most {} (limit WITNESSES), found {}",
                limits::WITNESSES,
                threshold.value
            );
            self.fault_at(&format!("{key}.threshold"), threshold, text);
        }
        let root = trust_root.clone().or_else(|| rootless.then(|| PUBLIC_GOOD.to_owned()));
        let count = count.unwrap_or(0);
        Witness { count, root: root.filter(|_| count > 0) }
    }

    fn fault_at<V>(&mut self, key: &str, value: &Spanned<V>, text: String) {
        let fault = self.document.fault_at(value, format!("{}: {text}", self.key_of(key)));
        self.faults.push(fault);
    }

    fn fault_at_start(&mut self, key: &str, text: String) {
        let fault = self.document.fault_at_start(format!("{}: {text}", self.key_of(key)));
        self.faults.push(fault);
    }

    fn key_of(&self, key: &str) -> String {
        if key.is_empty() { self.at.to_owned() } else { format!("{}.{key}", self.at) }
    }
}

const TWICE: &str = "expected each signer once, found one twice; remove it";

/// Whether one of them is the same but for its name.
fn is_among(signers: &[Signer], authority: &Authority) -> bool {
    let nameless = |authority: &Authority| {
        let mut authority = authority.clone();
        match &mut authority {
            Authority::Key(KeyAuthority { name, .. })
            | Authority::Keyless(KeylessAuthority { name, .. })
            | Authority::Pki(PkiAuthority { name, .. }) => *name = None,
        }
        authority
    };
    signers.iter().any(|signer| nameless(&signer.authority) == nameless(authority))
}

fn last(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, last)| last)
}

/// The predicate type that cosign's `--type` stands for by a short name.
pub(super) fn predicate_type_of(short: &str) -> Option<&'static str> {
    Some(match short {
        "custom" => "https://cosign.sigstore.dev/attestation/v1",
        "slsaprovenance" | "slsaprovenance02" => "https://slsa.dev/provenance/v0.2",
        "slsaprovenance1" => "https://slsa.dev/provenance/v1",
        "link" => "https://in-toto.io/Link/v1",
        "spdx" | "spdxjson" => "https://spdx.dev/Document",
        "cyclonedx" => "https://cyclonedx.org/bom",
        "vuln" => "https://cosign.sigstore.dev/attestation/vuln/v1",
        "openvex" => "https://openvex.dev/ns",
        _ => return None,
    })
}

/// A name for messages.
pub(super) fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(63).collect()
}
