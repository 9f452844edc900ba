//! Who may have signed.

use std::fmt;

use regex::{Regex, RegexBuilder};

use super::certificate::Certificate;
use super::claims::FulcioClaim;
use super::key::PublicKey;
use crate::image::quoted_name;
use crate::limits;

/// Who may have signed, and what besides the signature is asked for. One of these has to hold by itself (facts,
/// step 14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// A public key.
    Key(KeyAuthority),
    /// A short-lived certificate for an identity, by a trusted root's certificate authority.
    Keyless(KeylessAuthority),
    /// A certificate by a certificate authority of the policy's own.
    Pki(PkiAuthority),
}

impl Authority {
    /// Its name in the policy.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Key(KeyAuthority { name, .. })
            | Self::Keyless(KeylessAuthority { name, .. })
            | Self::Pki(PkiAuthority { name, .. }) => name.as_deref(),
        }
    }

    /// What besides the signature is asked for.
    pub fn witnesses(&self) -> &Witnesses {
        match self {
            Self::Key(KeyAuthority { witnesses, .. })
            | Self::Keyless(KeylessAuthority { witnesses, .. })
            | Self::Pki(PkiAuthority { witnesses, .. }) => witnesses,
        }
    }
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAuthority {
    /// Its name in the policy.
    pub name: Option<String>,
    /// The key.
    pub key: PublicKey,
    /// What besides is asked for.
    pub witnesses: Witnesses,
}

/// Identities that a trusted root's certificate authorities vouch for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeylessAuthority {
    /// Its name in the policy.
    pub name: Option<String>,
    /// The name of the trusted root whose certificate authorities, and CT logs, count.
    pub root: String,
    /// Of these one has to hold.
    pub identities: Vec<Identity>,
    /// Whether a CT log of the root has to have promised to log the certificate. The public-good instance's
    /// certificates have it, GitHub's do not.
    pub sct: bool,
    /// What besides is asked for. Some verified time is always needed.
    pub witnesses: Witnesses,
}

/// Certificate authorities of the policy's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PkiAuthority {
    /// Its name in the policy.
    pub name: Option<String>,
    /// The certificates that are trusted.
    pub roots: Vec<Certificate>,
    /// Those that may stand between them and the signer's.
    pub intermediates: Vec<Certificate>,
    /// Of these one has to hold.
    pub subjects: Vec<PkiSubject>,
    /// What besides is asked for. Where neither is, the certificate has to be valid now.
    pub witnesses: Witnesses,
}

/// How many distinct transparency logs and timestamp authorities have to vouch (GHSA-9vcr-p3rj-q5q6: two entries of one
/// log count once).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Witnesses {
    /// Transparency logs.
    pub logs: Witness,
    /// Timestamp authorities.
    pub timestamps: Witness,
}

/// How many of a kind, and by whose word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Witness {
    /// How many distinct ones; zero: not asked for.
    pub count: u8,
    /// The name of the trusted root that has them. `None`: that of a keyless authority's certificates, and nothing for
    /// others: none can count then.
    pub root: Option<String>,
}

/// An identity of a keyless signer. All that it says has to hold of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The issuer of the OIDC token.
    pub issuer: Matcher,
    /// One of the certificate's subject alternative names.
    pub subject: Matcher,
    /// Of those only its e-mail addresses count.
    pub by_email: bool,
    /// Further claims of Fulcio's certificate.
    pub claims: Vec<(FulcioClaim, Matcher)>,
}

/// Whom a private PKI's certificate has to name. All that is set has to hold; nothing set matches nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PkiSubject {
    /// One of its subject alternative names, of whatever kind.
    pub subject: Option<Matcher>,
    /// One of its e-mail addresses.
    pub email: Option<String>,
    /// One of its DNS names, as written.
    pub hostname: Option<String>,
}

/// What a text has to be.
#[derive(Debug, Clone)]
pub enum Matcher {
    /// Exactly this.
    Exact(String),
    /// Matched by this expression from its first to its last character.
    Regex(Pattern),
}

/// A regular expression that is anchored at both ends, and linear in time.
#[derive(Debug, Clone)]
pub struct Pattern {
    written: String,
    anchored: Regex,
}

/// Why a regular expression is not taken: a wrong policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Longer than [`limits::REGEX_BYTES`].
    #[error(
        "expected a regular expression of at most {} bytes (limit REGEX_BYTES), found {found}",
        limits::REGEX_BYTES
    )]
    TooLong {
        /// Length found, bytes.
        found: usize,
    },
    /// None at all: it would match nothing but the empty text.
    #[error("expected a regular expression, found an empty text")]
    Empty,
    /// Its syntax, or its size once compiled ([`limits::REGEX_PROGRAM_BYTES`]).
    #[error("expected a regular expression (RE2 syntax), found {}: {why}", quoted_name(.found))]
    Syntax {
        /// The expression.
        found: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Matcher {
    /// Whether `text` is what it has to be.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(expected) => expected == text,
            Self::Regex(pattern) => pattern.anchored.is_match(text),
        }
    }

    /// A regular expression, anchored at both ends whatever it says itself (facts, step 13).
    pub fn regex(written: &str) -> Result<Self, PatternError> {
        if written.len() > limits::REGEX_BYTES {
            return Err(PatternError::TooLong { found: written.len() });
        }
        if written.is_empty() {
            return Err(PatternError::Empty);
        }
        let compile = |text: &str| {
            RegexBuilder::new(text).size_limit(limits::REGEX_PROGRAM_BYTES).build().map_err(|error| {
                let last = error.to_string();
                let why = last.lines().last().unwrap_or_default().trim().to_owned();
                PatternError::Syntax { found: written.to_owned(), why }
            })
        };
        // By itself first: `a)|(b` is an expression only within the brackets below, and would be one without anchors.
        compile(written)?;
        let anchored = compile(&format!(r"\A(?:{written})\z"))?;
        Ok(Self::Regex(Pattern { written: written.to_owned(), anchored }))
    }
}

impl Pattern {
    /// As written, without the anchors.
    pub fn written(&self) -> &str {
        &self.written
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(two)) => one == two,
            (Self::Regex(one), Self::Regex(two)) => one.written == two.written,
            _ => false,
        }
    }
}

impl Eq for Matcher {}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(expected) => f.write_str(&quoted_name(expected)),
            Self::Regex(pattern) => write!(f, "what matches {}", quoted_name(&pattern.written)),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.by_email { "e-mail" } else { "subject" };
        write!(f, "{what} {} by issuer {}", self.subject, self.issuer)?;
        for (claim, matcher) in &self.claims {
            write!(f, ", {claim} {matcher}")?;
        }
        Ok(())
    }
}

impl fmt::Display for PkiSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.subject.as_ref().map(|subject| format!("subject {subject}")),
            self.email.as_ref().map(|email| format!("e-mail {}", quoted_name(email))),
            self.hostname.as_ref().map(|hostname| format!("hostname {}", quoted_name(hostname))),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { f.write_str("nobody") } else { f.write_str(&parts.join(" and ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_expression_is_anchored_at_both_ends() {
        let matcher = Matcher::regex("https://github.com/org/.*|x").unwrap();
        assert!(matcher.matches("https://github.com/org/app"));
        assert!(matcher.matches("x"));
        for other in ["evil https://github.com/org/app", "xx", "https://github.com/org/app\n", ""] {
            assert!(!matcher.matches(other), "{other:?}");
        }
        // Multi-line mode does not move the ends either.
        let matcher = Matcher::regex("(?m)^a$").unwrap();
        assert!(matcher.matches("a") && !matcher.matches("a\nb"));
    }

    #[test]
    fn expression_that_would_leave_its_brackets_is_refused() {
        for bad in ["a)|(b", "(?x) a #", "[", "a{100000}{100000}", "\\"] {
            assert!(matches!(Matcher::regex(bad), Err(PatternError::Syntax { .. })), "{bad}");
        }
        assert_eq!(Matcher::regex(""), Err(PatternError::Empty));
        let error = Matcher::regex(&"x".repeat(limits::REGEX_BYTES + 1)).unwrap_err();
        assert!(error.to_string().contains("limit REGEX_BYTES"));
        assert!(!Matcher::regex("[").unwrap_err().to_string().contains('\n'));
    }

    #[test]
    fn exact_matcher_takes_no_wildcards() {
        let matcher = Matcher::Exact("a.*".to_owned());
        assert!(matcher.matches("a.*") && !matcher.matches("abc"));
    }
}
