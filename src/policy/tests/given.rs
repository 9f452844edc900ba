//! What real tools signed, judged by policies that bring their own keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::sync::Arc;

use super::*;
use crate::trust::source::Given;
use crate::trust::{Origin, Root, State};
use crate::verify::fixture::{Fixture, now};

/// A signed image of `tests/fixtures/sigstore`, and what it was signed with.
pub(super) struct Signed {
    fixture: Fixture,
    /// Its repository, which is what its signature claims.
    pub repository: String,
    root: Value,
}

impl Signed {
    pub fn load(name: &str) -> Self {
        let fixture = Fixture::load(name);
        let read = |file: &str| -> Value {
            std::fs::read(fixture.dir.join(file))
                .map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
        };
        let repository = read("case.json")["image"].as_str().unwrap().to_owned();
        let root = read("trusted_root.json");
        Self { fixture, repository, root }
    }

    /// One of its files, base64-encoded.
    pub fn file(&self, name: &str) -> String {
        STANDARD.encode(std::fs::read(self.fixture.dir.join(name)).unwrap())
    }

    /// The key of Rekor v1, PEM, base64-encoded.
    pub fn rekor(&self) -> String {
        encoded("PUBLIC KEY", &[self.root["tlogs"][0]["publicKey"]["rawBytes"].as_str().unwrap()])
    }

    /// Fulcio's certificates, the root last, PEM, base64-encoded.
    pub fn fulcio(&self) -> String {
        let chain = self.root["certificateAuthorities"][0]["certChain"]["certificates"].as_array().unwrap();
        encoded("CERTIFICATE", &chain.iter().map(|one| one["rawBytes"].as_str().unwrap()).collect::<Vec<_>>())
    }

    /// All policies that cover the image by this tag or digest (or none) hold.
    pub fn holds(&self, set: &PolicySet, suffix: &str) -> bool {
        self.judge(set, suffix).iter().all(is_satisfied)
    }

    /// Why the one policy does not hold: expected, found and what to do.
    pub fn shortfall(&self, set: &PolicySet, suffix: &str) -> String {
        match &self.judge(set, suffix)[..] {
            [Judgement::Unsatisfied { expected, found, remedy, .. }] => {
                format!("{expected}; {found}; {remedy}")
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn by_digest(&self) -> String {
        format!("@{}", self.fixture.digests[0])
    }

    fn judge(&self, set: &PolicySet, suffix: &str) -> Vec<Judgement> {
        let name = ImageName::parse(&format!("{}{suffix}", self.repository)).unwrap();
        let subject =
            Subject { name: &name, namespace: Some("default"), labels: &NO_LABELS, is_pause: false };
        let digests = &self.fixture.digests;
        let roots = set.trust_roots().iter().map(|source| {
            let Some(Given::Inline(bytes)) = &source.given else { panic!() };
            let state = State {
                source: source.to_string(),
                kind: source.kind(),
                root: Some(Arc::new(Root::parse(bytes).unwrap())),
                origin: Origin::Source,
                at: None,
                expires: None,
                error: None,
                failures: 0,
                kept: None,
            };
            (source.name.clone(), state)
        });
        let trust = Trust::new(roots);
        let policies = set.applicable(&subject);
        assert!(!policies.is_empty(), "nothing covers {}", self.repository);
        let judge = |policy: &&Policy| {
            policy.judge(
                &subject,
                digests,
                &self.fixture.evidence,
                &Conditions::at(now()),
                &mut |evidence, signer, sought| {
                    verify::verify(evidence, &signer.authority, sought, digests, &trust, now())
                },
            )
        };
        policies.iter().map(judge).collect()
    }
}

fn encoded(label: &str, ders: &[&str]) -> String {
    let pem = ders.iter().map(|der| format!("-----BEGIN {label}-----\n{der}\n-----END {label}-----\n"));
    STANDARD.encode(pem.collect::<String>())
}

/// A key of nobody, PEM, base64-encoded.
pub(super) fn other_key() -> String {
    STANDARD.encode(Signer::new().pem())
}
