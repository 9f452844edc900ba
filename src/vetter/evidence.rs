//! Evidence about a digest: fetched once for many waiters, kept, and fetched anew when it no longer suffices.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::flight::Flights;
use super::trouble::Trouble;
use super::visit::Visit;
use crate::image::Digest;
use crate::limits;
use crate::proofs::{DENIED_FOR, Proofs};
use crate::registry::{Cap, Credential};
use crate::telemetry::Role;
use crate::verify::{SignatureManifest, SimpleSigning};

/// What was found on a digest in a repository.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Signatures with their payloads, as many as could be had.
    pub signatures: Arc<[SimpleSigning]>,
    /// Why there may be more: whoever is not satisfied is then undecided, not denied.
    pub incomplete: Option<Trouble>,
    /// When it was fetched; `None`: just now.
    pub held_since: Option<Instant>,
}

/// What is asked about, and how.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Where the evidence is looked for, and as whom.
    pub visit: &'a Visit,
    /// What it has to be about.
    pub digest: Digest,
    /// Waited for until then; what is held has to do otherwise.
    pub answer_by: Instant,
}

/// Digest, repository, credential: what one credential is told is not another's answer. And whether nobody waits: a
/// live call does not wait for a guest.
type Key = (Digest, String, Credential, bool);

/// Fetches evidence and keeps it in the proofs.
pub struct Evidences {
    flights: Flights<Key, Result<Evidence, Trouble>>,
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

    /// The evidence about a digest in a repository.
    ///
    /// # Errors
    /// It could not be fetched; what is held, however old, is then still in the proofs.
    pub async fn about(&self, question: Question<'_>, wanted: Wanted) -> Result<Evidence, Trouble> {
        let Question { visit, digest, answer_by } = question;
        let (name, now) = (visit.repository.repo_name(), Instant::now());
        let longest = match wanted {
            Wanted::Fresh(longest) => longest,
            Wanted::Anew => DENIED_FOR,
        };
        if let Some(held) = self.held(digest, &name, now)
            && held.held_since.is_some_and(|since| now.duration_since(since) < longest)
        {
            return Ok(held);
        }
        if self.proofs.none(&digest, &name, &visit.credential, now) {
            return Ok(Evidence { signatures: Arc::default(), incomplete: None, held_since: Some(now) });
        }
        let fetch = Fetch { visit: visit.clone(), proofs: Arc::clone(&self.proofs), digest };
        let key = (digest, name, visit.credential.clone(), visit.guest.is_some());
        self.flights.join(key, answer_by, fetch.run()).await.unwrap_or(Err(Trouble::Late))
    }

    /// What is held, however old.
    pub fn held(&self, digest: Digest, repository: &str, now: Instant) -> Option<Evidence> {
        let held = self.proofs.signatures(&digest, repository, now)?;
        Some(Evidence { signatures: held.found, incomplete: None, held_since: Some(held.fetched) })
    }
}

/// One fetch, for all who wait for it.
struct Fetch {
    visit: Visit,
    proofs: Arc<Proofs>,
    digest: Digest,
}

impl Fetch {
    /// cosign's tag scheme: one manifest under `sha256-<hex>.sig`, one layer per signature (SIGNATURE_SPEC, "Storage").
    async fn run(mut self) -> Result<Evidence, Trouble> {
        let mut span = self.visit.trace.span("fetch signatures", Role::Internal);
        span.set("crivet.digest", &self.digest.to_string());
        self.visit.trace = span.below();
        let found = self.fetch().await;
        match &found {
            Ok(found) => span.set("crivet.signatures", &found.signatures.len().to_string()),
            Err(why) => span.failed(&why.to_string()),
        }
        found
    }

    async fn fetch(&self) -> Result<Evidence, Trouble> {
        let manifest = match self.manifest().await {
            Ok(manifest) => manifest,
            Err(Trouble::Fetch(error)) if error.is_not_found() => {
                self.keep_none();
                return Ok(Evidence { signatures: Arc::default(), incomplete: None, held_since: None });
            }
            Err(trouble) => return Err(trouble),
        };
        let (mut signatures, mut incomplete) = (Vec::<SimpleSigning>::new(), None);
        let mut payloads: Vec<(Digest, Bytes)> = Vec::new();
        for layer in SignatureManifest::parse(&manifest)? {
            let payload = layer.descriptor.digest;
            // Several signers often sign the same bytes.
            let known = payloads.iter().find(|(known, _)| *known == payload).map(|(_, bytes)| bytes.clone());
            let bytes = match known {
                Some(bytes) => bytes,
                None => match self.visit.blob(&payload, Cap::SIGNATURE_PAYLOAD).await {
                    Ok(bytes) => bytes,
                    Err(trouble) => {
                        incomplete = Some(trouble);
                        continue;
                    }
                },
            };
            payloads.push((payload, bytes.clone()));
            signatures.push(SimpleSigning { payload: bytes.to_vec(), signature: layer.signature });
        }
        debug_assert!(signatures.len() <= limits::SIGNATURES);
        if signatures.is_empty() && incomplete.is_none() {
            self.keep_none();
        }
        if !signatures.is_empty() && incomplete.is_none() {
            let name = self.visit.repository.repo_name();
            self.proofs.keep_signatures(self.digest, &name, signatures.clone(), Instant::now());
        }
        Ok(Evidence { signatures: signatures.into(), incomplete, held_since: None })
    }

    async fn manifest(&self) -> Result<Bytes, Trouble> {
        let tag = format!("sha256-{}.sig", self.digest.hex());
        if self.visit.guest.is_some() {
            // GET only what HEAD says is there: GET is what registries count.
            self.visit.evidence_head(&tag).await?;
        }
        Ok(self.visit.evidence_by_tag(&tag).await?.bytes)
    }

    fn keep_none(&self) {
        self.proofs.keep_none(
            self.digest,
            &self.visit.repository.repo_name(),
            &self.visit.credential,
            Instant::now(),
        );
    }
}
