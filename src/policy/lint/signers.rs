//! Signers that are wider, weaker or shorter-lived than was most likely meant.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::{Warning, ending};
use crate::image::{Digest, quoted_name};
use crate::policy::model::Policy;
use crate::verify::{
    Algorithm, AltName, Authority, Certificate, CertificateSigner, FulcioClaim, Identity, Matcher, PublicKey,
    Signer,
};

/// The smallest RSA keys that are good beyond 2030 (NIST SP 800-57 part 1, table 4).
const RSA_BITS: usize = 3072;

/// People and workflows that nobody means, one for each kind of issuer that lets anybody in.
const STRANGERS: [(&str, &str); 7] = [
    (
        "https://token.actions.githubusercontent.com",
        "https://github.com/anybody-1/anything-1/.github/workflows/any.yml@refs/heads/main",
    ),
    ("https://gitlab.com", "https://gitlab.com/anybody-1/anything-1//.gitlab-ci.yml@refs/heads/main"),
    ("https://accounts.google.com", "anybody-1@gmail.com"),
    ("https://github.com/login/oauth", "anybody-1@anything-1.example"),
    ("https://oauth2.sigstore.dev/auth", "anybody-1@anything-1.example"),
    ("https://login.microsoftonline.com", "anybody-1@outlook.com"),
    ("https://anything-1.example", "https://anything-1.example/anybody-1"),
];

pub(super) fn lint(policy: &Policy, now: SystemTime, warnings: &mut Vec<Warning>) {
    for signer in policy.requirements().into_iter().flat_map(|requirement| &requirement.signers) {
        let mut warn = |text: String| warnings.push(Warning::at(policy, signer.line, text));
        let name = signer.authority.name().map_or(String::new(), |name| format!("{name}: "));
        match &signer.authority {
            Authority::Key(key) => {
                if let Some(text) = weak(&key.key) {
                    warn(format!("{name}{text}"));
                }
            }
            Authority::Keyless(keyless) => {
                for identity in &keyless.identities {
                    if let Some(stranger) = anybody(&signer.authority, identity) {
                        warn(format!(
                            "{name}anybody can sign: {identity} takes {} too; name the owner and the workflow, or the whole address",
                            quoted_name(stranger)
                        ));
                    }
                    expression("issuerRegExp", &identity.issuer, &mut warn);
                    expression("subjectRegExp", &identity.subject, &mut warn);
                    for (claim, matcher) in &identity.claims {
                        expression(claim.name(), matcher, &mut warn);
                    }
                }
            }
            Authority::Pki(pki) => {
                for certificate in pki.roots.iter().chain(&pki.intermediates) {
                    let what = format!("{name}certificate {}", quoted_name(certificate.subject()));
                    ending(&what, certificate.not_after(), now).into_iter().for_each(&mut warn);
                    if let Some(text) = weak_certificate(certificate) {
                        warn(format!("{what}: {text}"));
                    }
                }
                for subject in pki.subjects.iter().filter_map(|subject| subject.subject.as_ref()) {
                    expression("subjectRegExp", subject, &mut warn);
                }
            }
        }
    }
}

fn weak(key: &PublicKey) -> Option<String> {
    match key.algorithm() {
        Algorithm::Rsa(bits) if bits < RSA_BITS => Some(format!(
            "an RSA key of {bits} bits is too weak for what has to last beyond 2030; take one of {RSA_BITS} bits or more, or ECDSA P-256"
        )),
        _ => None,
    }
}

fn weak_certificate(certificate: &Certificate) -> Option<String> {
    match certificate.key() {
        Ok(key) => weak(&key),
        Err(error) => Some(format!("its key cannot verify anything: {error}")),
    }
}

/// A stranger whom an identity takes.
fn anybody(authority: &Authority, identity: &Identity) -> Option<&'static str> {
    let Authority::Keyless(keyless) = authority else { return None };
    let mut alone = keyless.clone();
    alone.identities = vec![identity.clone()];
    let alone = Authority::Keyless(alone);
    // Whatever an expression takes of a stranger, it takes of anybody; a text is a choice.
    let claims: BTreeMap<FulcioClaim, String> = identity
        .claims
        .iter()
        .map(|(claim, matcher)| {
            let said = match (claim, matcher) {
                // What says nothing about who signs is as was asked.
                (
                    FulcioClaim::RunnerEnvironment
                    | FulcioClaim::BuildTrigger
                    | FulcioClaim::GithubWorkflowTrigger
                    | FulcioClaim::GithubWorkflowName
                    | FulcioClaim::GithubWorkflowRef
                    | FulcioClaim::SourceRepositoryRef
                    | FulcioClaim::SourceRepositoryVisibilityAtSigning,
                    Matcher::Exact(text),
                ) => text.clone(),
                _ => "https://anything-1.example/anybody-1".to_owned(),
            };
            (*claim, said)
        })
        .collect();
    let takes = |(issuer, subject): &&(&str, &'static str)| {
        let name = match subject.contains("://") {
            true => AltName::Uri((*subject).to_owned()),
            false => AltName::Email((*subject).to_owned()),
        };
        alone.names(&Signer::Certificate(CertificateSigner {
            fingerprint: Digest::of(subject.as_bytes()),
            issuer: Some((*issuer).to_owned()),
            names: vec![name],
            claims: claims.clone(),
        }))
    };
    STRANGERS.iter().find(takes).map(|(_, subject)| *subject)
}

/// What looks as if it had been written for a search, which finds a part.
fn expression(key: &str, matcher: &Matcher, warn: &mut dyn FnMut(String)) {
    let Matcher::Regex(pattern) = matcher else { return };
    let written = pattern.written();
    if let Some(around) = plain_dot(written) {
        warn(format!("{key}: the dot in {} stands for any character; write \\.", quoted_name(around)));
    }
    let open = |part: &str| [".*", ".+"].contains(&part);
    let first = written.strip_prefix('^').unwrap_or(written);
    let last = written.strip_suffix('$').filter(|rest| !rest.ends_with('\\')).unwrap_or(written);
    let escaped =
        last.strip_suffix(".*").or(last.strip_suffix(".+")).is_some_and(|rest| rest.ends_with('\\'));
    if first.get(..2).is_some_and(open) {
        warn(format!(
            "{key}: {} takes anything that ends so, whoever owns what stands before; write the beginning out",
            quoted_name(written)
        ));
    // The ref of a workflow is chosen by whoever owns the repository.
    } else if !escaped
        && !written.contains("@refs/")
        && last.len().checked_sub(2).and_then(|at| last.get(at..)).is_some_and(open)
    {
        warn(format!(
            "{key}: {} takes anything that begins so; write the end out, and [^/]+ for one part of a path",
            quoted_name(written)
        ));
    }
}

/// A part of the expression with a dot between letters or digits that is not escaped: one that was meant as it stands.
fn plain_dot(written: &str) -> Option<&str> {
    let bytes = written.as_bytes();
    let (mut in_class, mut escaped) = (false, false);
    for (at, byte) in written.bytes().enumerate() {
        let was_escaped = std::mem::take(&mut escaped);
        match byte {
            _ if was_escaped => {}
            b'\\' => escaped = true,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'.' if !in_class => {
                let plain = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
                let before = at.checked_sub(1).and_then(|at| bytes.get(at));
                if plain(before) && plain(bytes.get(at + 1)) {
                    let start = written.get(..at)?.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '-');
                    let rest = written.get(at + 1..)?;
                    let end =
                        rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
                    return written.get(start.map_or(0, |start| start + 1)..at + 1 + end);
                }
            }
            _ => {}
        }
    }
    None
}
