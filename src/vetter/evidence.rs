//! Evidence about a digest: fetched once for many waiters, kept, and fetched anew when it no longer suffices.

mod fetch;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::flight::Flights;
use super::trouble::Trouble;
use super::visit::Visit;
use crate::image::Digest;
use crate::proofs::{DENIED_FOR, Held, Moment, Proofs};
use crate::registry::Credential;
use crate::verify::Evidence;
use fetch::Fetch;

/// What was found on a digest at one place.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// As much as could be had.
    pub evidence: Arc<[Evidence]>,
    /// Why there may be more: whoever is not satisfied is then undecided, not denied.
    pub incomplete: Option<Trouble>,
    /// It was at hand, and not fetched for this question.
    pub held: bool,
}

/// How evidence is kept in a registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// Signatures under cosign's tag `sha256-<hex>.sig`.
    SignatureTag,
    /// Attestations under cosign's tag `sha256-<hex>.att`.
    AttestationTag,
    /// What refers to the digest: sigstore bundles, and what cosign once kept so. Only what has one of these predicate
    /// types, or does not say its type.
    Referrers(BTreeSet<String>),
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SignatureTag => f.write_str("sig"),
            Self::AttestationTag => f.write_str("att"),
            Self::Referrers(types) => {
                f.write_str("referrers")?;
                types.iter().try_for_each(|predicate_type| write!(f, " {predicate_type}"))
            }
        }
    }
}

/// What is asked about, and how.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Where the evidence is looked for, and as whom.
    pub visit: &'a Visit,
    /// What cosign's tags begin with there.
    pub tag_prefix: &'a str,
    /// What it has to be about.
    pub digest: Digest,
    /// How it is kept.
    pub form: &'a Form,
    /// Waited for until then; what is held has to do otherwise.
    pub by: Instant,
}

impl Question<'_> {
    /// Under which name it is kept: what is found in another form, or at another place, is another answer.
    fn place(&self) -> String {
        format!("{} {} {}", self.visit.repository.repo_name(), self.tag_prefix, self.form)
    }
}

/// Digest, place, credential: what one credential is told is not another's answer. And whether nobody waits: a
/// live call does not wait for a guest.
type Key = (Digest, String, Credential, bool);

/// Fetches evidence and keeps it in the proofs.
pub struct Evidences {
    flights: Flights<Key, Result<Gathered, Trouble>>,
    proofs: Arc<Proofs>,
}

/// How old kept evidence may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// As fresh as the configuration says.
    Fresh(Duration),
    /// What is held did not suffice: anew, unless it was fetched within seconds.
    Anew,
}

impl Evidences {
    /// Evidence kept in these proofs.
    pub fn new(proofs: Arc<Proofs>) -> Evidences {
        Evidences { flights: Flights::default(), proofs }
    }

    /// The evidence about a digest at one place.
    ///
    /// # Errors
    /// It could not be fetched; what is held is then still in the proofs.
    pub async fn about(&self, question: Question<'_>, wanted: Wanted) -> Result<Gathered, Trouble> {
        let Question { visit, digest, by, .. } = question;
        let (place, now) = (question.place(), Moment::now());
        let longest = match wanted {
            Wanted::Fresh(longest) => longest,
            Wanted::Anew => DENIED_FOR,
        };
        if let Some(held) = self.proofs.evidence(&digest, &place, now)
            && held.complete
            && held.age.within(longest)
        {
            return Ok(Gathered::held(held));
        }
        if self.proofs.none(&digest, &place, &visit.credential, now) {
            return Ok(Gathered { evidence: Arc::default(), incomplete: None, held: true });
        }
        let key = (digest, place.clone(), visit.credential.clone(), visit.guest.is_some());
        let fetch = Fetch {
            visit: visit.clone(),
            digest,
            form: question.form.clone(),
            tag_prefix: question.tag_prefix.to_owned(),
            place,
            proofs: Arc::clone(&self.proofs),
        };
        self.flights.join(key, by, fetch.run()).await.unwrap_or(Err(Trouble::Late))
    }

    /// What is held, unless it is older than `usable`. There may be more: only a yes follows from it.
    pub fn held(&self, question: &Question<'_>, usable: Option<Duration>) -> Option<Gathered> {
        let held = self.proofs.evidence(&question.digest, &question.place(), Moment::now())?;
        let is_usable = usable.is_none_or(|usable| held.age.within(usable));
        is_usable.then(|| Gathered::held(held))
    }
}

impl Gathered {
    fn held(held: Held) -> Gathered {
        Gathered { evidence: held.evidence, incomplete: None, held: true }
    }
}
