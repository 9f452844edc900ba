//! What containers/image calls `sigstoreSigned`, and OpenShift a root of trust: a signature by keys, by a Fulcio identity or
//! by a PKI, with material that is part of the policy.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::model::{ClaimedRepository, NamedRepository, Requirement, Signer, Wanted};
use super::signed_identity::SignedIdentity;
use super::signers::Text;
use crate::image::quoted;
use crate::limits;
use crate::trust::own::of_own;
use crate::trust::source::RootSource;
use crate::verify::{
    Authority, Certificate, Identity, KeyAuthority, KeylessAuthority, Matcher, PkiAuthority, PkiSubject,
    PublicKey, Witness, Witnesses,
};
use crate::yaml::{Document, Fault};

/// A PEM text, and where the policy has it.
pub(super) struct Pem<'a> {
    /// The key it is under, for messages.
    pub key: String,
    /// What is written there.
    pub written: &'a Text,
    /// The text itself.
    pub pem: String,
}

impl<'a> Pem<'a> {
    /// PEM that is written base64-encoded.
    pub fn encoded(key: &str, written: &'a Text, document: &Document<'_>) -> Result<Self, Fault> {
        let packed: String = written.value.split_ascii_whitespace().collect();
        let decoded = STANDARD.decode(packed).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded {
            Some(pem) if !pem.trim().is_empty() => Ok(Self { key: key.to_owned(), written, pem }),
            _ => {
                let found =
                    if written.value.contains("-----BEGIN") { "PEM as it is" } else { "something else" };
                let text = format!("{key}: expected PEM, base64-encoded (base64 -w0 FILE), found {found}");
                Err(document.fault_at(written, text))
            }
        }
    }
}

/// By whom an image has to be signed.
pub(super) enum By<'a> {
    /// One of these keys.
    Keys(Vec<Pem<'a>>),
    /// A certificate of this authority for this e-mail address, which this issuer vouched for.
    Fulcio { authorities: Pem<'a>, issuer: &'a Text, email: &'a Text },
    /// A certificate of these authorities for all that is said.
    Pki {
        roots: Pem<'a>,
        intermediates: Option<Pem<'a>>,
        email: Option<&'a Text>,
        hostname: Option<&'a Text>,
    },
}

/// Compiles one requirement. `logs`: the keys of Rekor, of which one has to have the signature; none: not asked for.
/// Material that is verified with by way of a trusted root makes one of its own, to be put into `roots`.
pub(super) fn requirement(
    document: &Document<'_>,
    file: &str,
    (by, logs, identity): (By<'_>, &[Pem<'_>], SignedIdentity),
    roots: &mut Vec<RootSource>,
) -> Result<Requirement, Fault> {
    let logs_of = |authorities: &[Certificate], at: &Pem<'_>| -> Result<Option<RootSource>, Fault> {
        let keys: Vec<PublicKey> = logs.iter().map(|log| key(document, log)).collect::<Result<_, Fault>>()?;
        if keys.is_empty() && authorities.is_empty() {
            return Ok(None);
        }
        let keys: Vec<&[u8]> = keys.iter().map(PublicKey::der).collect();
        let authorities: Vec<&[u8]> = authorities.iter().map(Certificate::der).collect();
        let place = format!("{file}:{}", document.line_of(at.written));
        let root = of_own(&authorities, &keys, place);
        root.map(Some).map_err(|why| document.fault_at(at.written, format!("{}: {why}", at.key)))
    };
    let one_log = |root: Option<&RootSource>| Witnesses {
        logs: Witness { count: u8::from(root.is_some()), root: root.map(|root| root.name.clone()) },
        timestamps: Witness::default(),
    };
    let first = match &by {
        By::Keys(keys) => keys.first().map(|key| key.written),
        By::Fulcio { authorities, .. } => Some(authorities.written),
        By::Pki { roots, .. } => Some(roots.written),
    };
    let line = first.map_or(document.line(), |written| document.line_of(written));
    let (authorities, root) = match by {
        By::Keys(keys) => {
            let root = logs.first().map_or(Ok(None), |first| logs_of(&[], first))?;
            let witnesses = one_log(root.as_ref());
            let of = |pem: &Pem<'_>| {
                let key = key(document, pem)?;
                Ok(Authority::Key(KeyAuthority { name: None, key, witnesses: witnesses.clone() }))
            };
            (keys.iter().map(of).collect::<Result<Vec<_>, Fault>>()?, root)
        }
        By::Fulcio { authorities, issuer, email } => {
            let root = logs_of(&certificates(document, &authorities)?, &authorities)?;
            let subject = Matcher::Exact(email.value.clone());
            let issuer = Matcher::Exact(issuer.value.clone());
            let identity = Identity { issuer, subject, by_email: true, claims: Vec::new() };
            let keyless = KeylessAuthority {
                name: None,
                root: root.as_ref().map(|root| root.name.clone()).unwrap_or_default(),
                identities: vec![identity],
                // There is no place for a CT log's key, and containers/image asks for none.
                sct: false,
                witnesses: one_log(root.as_ref()),
            };
            (vec![Authority::Keyless(keyless)], root)
        }
        By::Pki { roots, intermediates, email, hostname } => {
            let subject = PkiSubject {
                subject: None,
                email: email.map(|email| email.value.clone()),
                hostname: hostname.map(|hostname| hostname.value.clone()),
            };
            let pki = PkiAuthority {
                name: None,
                roots: certificates(document, &roots)?,
                intermediates: match &intermediates {
                    Some(pem) => certificates(document, pem)?,
                    None => Vec::new(),
                },
                subjects: vec![subject],
                // As of now: nothing says when it was signed.
                witnesses: Witnesses::default(),
            };
            (vec![Authority::Pki(pki)], None)
        }
    };
    roots.extend(root);
    Ok(Requirement {
        wanted: Wanted::Signature,
        signers: authorities.into_iter().map(|authority| Signer::new(authority).at(line)).collect(),
        repository: ClaimedRepository { named: NamedRepository::Signed(identity), unnamed: false },
        max_age: None,
        conditions: Vec::new(),
    })
}

/// An e-mail address, as far as it is looked at: a certificate's has to be the very same.
pub(super) fn email<'a>(document: &Document<'_>, key: &str, written: &'a Text) -> Result<&'a Text, Fault> {
    let parts = written.value.split_once('@');
    let plain = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
    match parts.filter(|(local, domain)| plain(local) && plain(domain)) {
        Some(_) => Ok(written),
        None => {
            let text = format!("{key}: expected an e-mail address, found {}", quoted(&written.value));
            Err(document.fault_at(written, text))
        }
    }
}

fn key(document: &Document<'_>, pem: &Pem<'_>) -> Result<PublicKey, Fault> {
    PublicKey::from_pem(pem.pem.as_bytes())
        .map_err(|error| document.fault_at(pem.written, format!("{}: {error}", pem.key)))
}

fn certificates(document: &Document<'_>, pem: &Pem<'_>) -> Result<Vec<Certificate>, Fault> {
    Certificate::from_pem(&pem.pem)
        .map_err(|error| document.fault_at(pem.written, format!("{}: {error}", pem.key)))
}

/// Refuses more keys than one requirement, which is written `at`, may name.
pub(super) fn at_most(document: &Document<'_>, at: &Text, key: &str, found: usize) -> Result<(), Fault> {
    if (1..=limits::POLICY_KEYS).contains(&found) {
        return Ok(());
    }
    let cap = limits::POLICY_KEYS;
    let text = format!("{key}: expected one to {cap} keys (limit POLICY_KEYS), found {found}");
    Err(document.fault_at(at, text))
}
