//! Whether a signer is one of those that may sign (facts, step 13).

use super::authority::{Authority, Identity, KeylessAuthority, PkiAuthority, PkiSubject};
use super::certificate::AltName;
use super::outcome::{CertificateSigner, Signer};
use crate::image::quoted_name;

/// Most identities that one message lists.
const LISTED: usize = 3;

/// Whether the signer is one of the authority's. The error says what was expected and found.
pub(super) fn check(authority: &Authority, signer: &Signer) -> Result<(), String> {
    match (authority, signer) {
        // Its key has verified the signature.
        (Authority::Key(authority), Signer::Key(fingerprint))
            if authority.key.fingerprint() == *fingerprint =>
        {
            Ok(())
        }
        (Authority::Keyless(KeylessAuthority { identities, .. }), Signer::Certificate(found)) => {
            let mut failed = Vec::new();
            for identity in identities {
                match identity.holds(found) {
                    Ok(()) => return Ok(()),
                    Err(text) => failed.push(text),
                }
            }
            Err(expected(failed, signer))
        }
        (Authority::Pki(PkiAuthority { subjects, .. }), Signer::Certificate(found)) => {
            if subjects.iter().any(|subject| subject.holds(found)) {
                return Ok(());
            }
            Err(expected(subjects.iter().map(ToString::to_string).collect(), signer))
        }
        _ => Err(expected(Vec::new(), signer)),
    }
}

impl Authority {
    /// Whether this signer is one of it, whatever it asks for besides.
    pub fn names(&self, signer: &Signer) -> bool {
        check(self, signer).is_ok()
    }
}

fn expected(identities: Vec<String>, signer: &Signer) -> String {
    let more = identities.len().saturating_sub(LISTED);
    let mut listed = identities.into_iter().take(LISTED).collect::<Vec<_>>().join(", or ");
    if listed.is_empty() {
        listed = "nobody".to_owned();
    }
    let more = if more > 0 { format!(", or {more} more") } else { String::new() };
    format!("expected {listed}{more}, found {signer}")
}

impl Identity {
    /// Issuer and one name and all claims, of one certificate. The error is what was expected, and of claims what was
    /// found.
    fn holds(&self, found: &CertificateSigner) -> Result<(), String> {
        let issuer = found.issuer.as_deref().is_some_and(|issuer| self.issuer.matches(issuer));
        let counts = |name: &&AltName| !self.by_email || matches!(name, AltName::Email(_));
        let subject = found.names.iter().filter(counts).any(|name| self.subject.matches(name.as_str()));
        if !issuer || !subject {
            return Err(self.to_string());
        }
        for (claim, matcher) in &self.claims {
            let value = found.claims.get(claim);
            if !value.is_some_and(|value| matcher.matches(value)) {
                let value = value.map_or_else(|| "none".to_owned(), |value| quoted_name(value));
                return Err(format!("{claim} {matcher} (found {value})"));
            }
        }
        Ok(())
    }
}

impl PkiSubject {
    fn holds(&self, found: &CertificateSigner) -> bool {
        let Self { subject, email, hostname } = self;
        let any = |test: &dyn Fn(&AltName) -> bool| found.names.iter().any(test);
        let asked = subject.is_some() || email.is_some() || hostname.is_some();
        asked
            && subject.as_ref().is_none_or(|subject| any(&|name| subject.matches(name.as_str())))
            && email
                .as_ref()
                .is_none_or(|email| any(&|name| matches!(name, AltName::Email(found) if found == email)))
            && hostname.as_ref().is_none_or(|hostname| {
                any(&|name| matches!(name, AltName::Dns(found) if found.eq_ignore_ascii_case(hostname)))
            })
    }
}
