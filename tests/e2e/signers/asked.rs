//! What is asked about a fixture: by whom it is signed or attested, and of which type.

use crate::support::fixture::{self, Case};
use std::path::PathBuf;

/// Who has to have signed.
#[derive(Clone)]
pub enum Signer {
    /// The holder of a key; the public one, a PEM file.
    Key(PathBuf),
    /// Whom Fulcio has given a certificate.
    Identity { issuer: String, subject: String },
    /// Whom the case's private CA has given a certificate.
    Private { subject: String },
}

/// One question about one image, for cosign and crivet alike.
pub struct Question<'a> {
    pub case: &'a Case,
    /// The case's name, and what tells its questions apart where there are several.
    pub name: String,
    pub signer: Signer,
    /// The folder with the authorities that certificates have to be issued by: `trusted_root.json`, `ca-root.pem`.
    pub authorities: PathBuf,
    /// Asked for an attestation of this type, as cosign calls it; else for a signature.
    pub attestation: Option<&'static str>,
    /// Whether the services in the case's name have to vouch.
    pub witnesses: bool,
}

/// Types of attestations: a part of the case's name, cosign's word and the predicate type.
const TYPES: [(&str, &str, &str); 6] = [
    ("slsaprovenance02", "slsaprovenance02", "https://slsa.dev/provenance/v0.2"),
    ("spdx", "spdxjson", "https://spdx.dev/Document"),
    ("cyclonedx", "cyclonedx", "https://cyclonedx.org/bom"),
    ("vuln", "vuln", "https://cosign.sigstore.dev/attestation/vuln/v1"),
    ("custom", "https://example.com/review/v1", "https://example.com/review/v1"),
    ("", "slsaprovenance1", "https://slsa.dev/provenance/v1"),
];

/// Keys that signed fixtures, each another; none has signed with all.
const KEYS: [&str; 3] = [
    "key-none-legacy/cosign.pub",
    "three-signers-none-bundle/cosign-1.pub",
    "ed25519-none-legacy/cosign.pub",
];

impl Question<'_> {
    /// The image by digest, in that registry.
    pub fn image(&self, registry: &str) -> String {
        fixture::reference(self.case, registry)
    }

    /// The trusted root that policies name. A private CA stands in the policy itself; its logs are the case's all the same.
    pub fn trusted_root(&self) -> Option<Vec<u8>> {
        match self.signer {
            Signer::Private { .. } | Signer::Key(_) => self.case.file("trusted_root.json"),
            Signer::Identity { .. } => std::fs::read(self.authorities.join("trusted_root.json")).ok(),
        }
    }

    /// A service that has to vouch: `rekor`, `tsa`.
    pub fn asks_for(&self, service: &str) -> bool {
        self.witnesses && self.case.name.contains(service)
    }

    /// The URI of the type of attestation that is asked for.
    pub fn predicate_type(&self) -> Option<&'static str> {
        let asked = self.attestation?;
        TYPES.iter().find(|(_, cosign, _)| *cosign == asked).map(|(_, _, uri)| *uri)
    }
}

/// All that is true of a case, each by itself. Of `unsigned` nothing is; it is asked for a signature.
pub fn truths(case: &Case) -> Vec<Question<'_>> {
    let name = case.name.as_str();
    let (_, kind, _) = TYPES.iter().find(|(part, ..)| name.contains(part)).expect("the last one is any");
    let wanted = match name {
        _ if name.starts_with("attest-") => vec![Some(*kind)],
        _ if name.starts_with("saved-") => vec![None, Some("slsaprovenance1")],
        _ if name.starts_with("signed-and-attested-") => vec![None, Some("slsaprovenance1"), Some("vuln")],
        _ => vec![None],
    };
    let signers = signers(case);
    let mut questions = Vec::new();
    for (n, signer) in (1..).zip(&signers) {
        for attestation in &wanted {
            let mut name = case.name.clone();
            if signers.len() > 1 {
                name += &format!(", key {n}");
            }
            if wanted.len() > 1 {
                name += &format!(", {}", attestation.unwrap_or("signature"));
            }
            let (signer, attestation, authorities) = (signer.clone(), *attestation, case.dir.clone());
            questions.push(Question { case, name, signer, authorities, attestation, witnesses: true });
        }
    }
    questions
}

/// The same with another key, subject, issuer or authority, and another type of attestation: none of it is true.
pub fn lies(case: &Case) -> Vec<Question<'_>> {
    let truths = truths(case);
    let first = truths.first().expect("every case has a question");
    let others = match &first.signer {
        Signer::Key(_) => vec![("another key", Signer::Key(other_key(case)))],
        Signer::Identity { issuer, subject } => vec![
            ("another subject", Signer::Identity { issuer: issuer.clone(), subject: format!("{subject}x") }),
            ("another issuer", Signer::Identity { issuer: format!("{issuer}x"), subject: subject.clone() }),
        ],
        Signer::Private { subject } => {
            vec![("another subject", Signer::Private { subject: format!("{subject}x") })]
        }
    };
    let asked = |what: &str, signer: &Signer, attestation| Question {
        case,
        name: format!("{}: {what}", case.name),
        signer: signer.clone(),
        authorities: case.dir.clone(),
        attestation,
        witnesses: true,
    };
    let mut lies: Vec<_> =
        others.iter().map(|(what, signer)| asked(what, signer, first.attestation)).collect();
    if let Some(kind) = first.attestation {
        let other = if kind == "vuln" { "spdxjson" } else { "vuln" };
        lies.push(asked("another type", &first.signer, Some(other)));
    }
    if !matches!(first.signer, Signer::Key(_)) {
        let mut lie = asked("another authority", &first.signer, first.attestation);
        let others = ["pki-none-bundle", "pki-chain-none-bundle"].map(|name| case.dir.with_file_name(name));
        let root = |dir: &PathBuf| std::fs::read(dir.join("ca-root.pem")).ok();
        let [one, two] = others;
        lie.authorities = if root(&one) == root(&case.dir) { two } else { one };
        lies.push(lie);
    }
    lies
}

fn signers(case: &Case) -> Vec<Signer> {
    if let Some(who) = &case.identity {
        let (issuer, subject) = (who.issuer.clone(), who.subject.clone());
        // A private CA names no issuer.
        return vec![match issuer.as_str() {
            "" => Signer::Private { subject },
            _ => Signer::Identity { issuer, subject },
        }];
    }
    let keys: Vec<_> = (0..case.keys().len())
        .map(|n| if n == 0 { "cosign.pub".to_owned() } else { format!("cosign-{n}.pub") })
        .map(|file| Signer::Key(case.dir.join(file)))
        .collect();
    if keys.is_empty() { vec![Signer::Key(other_key(case))] } else { keys }
}

fn other_key(case: &Case) -> PathBuf {
    let fixtures = case.dir.parent().unwrap();
    let is_other = |file: &PathBuf| !case.keys().contains(&std::fs::read_to_string(file).unwrap());
    KEYS.iter().map(|file| fixtures.join(file)).find(is_other).expect("a key that did not sign")
}
