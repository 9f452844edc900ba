//! Evidence about a digest: fetched once for many waiters, kept, and fetched anew when it no longer suffices.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::background::Guest;
use super::flight::Flights;
use super::trouble::Trouble;
use crate::image::{Digest, Reference};
use crate::limits;
use crate::proofs::{DENIED_FOR, Proofs};
use crate::registry::{Cap, Client, Credential};
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

/// Digest, repository, credential: what one credential is told is not another's answer.
type Key = (Digest, String, Credential);

/// Fetches evidence and keeps it in the proofs.
pub struct Evidences {
    flights: Flights<Key, Result<Evidence, Trouble>>,
    proofs: Arc<Proofs>,
}

/// Where evidence is looked for, and as whom.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Speaks to the registry.
    pub registry: &'a Arc<Client>,
    /// The repository.
    pub repository: &'a Reference,
    /// Shown to the registry.
    pub credential: &'a Credential,
    /// Set where nobody waits.
    pub guest: Option<&'a Guest>,
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

    /// The evidence about `digest` in `repository`.
    ///
    /// # Errors
    /// It could not be fetched; what is held, however old, is then still in the proofs.
    pub async fn about(
        &self,
        place: Place<'_>,
        digest: Digest,
        wanted: Wanted,
        deadline: Instant,
    ) -> Result<Evidence, Trouble> {
        let Place { registry, repository, credential, guest } = place;
        let (name, now) = (repository.repo_name(), Instant::now());
        let longest = match wanted {
            Wanted::Fresh(longest) => longest,
            Wanted::Anew => DENIED_FOR,
        };
        if let Some(held) = self.held(digest, &name, now)
            && held.held_since.is_some_and(|since| now.duration_since(since) < longest)
        {
            return Ok(held);
        }
        if self.proofs.none(&digest, &name, credential, now) {
            return Ok(Evidence { signatures: Arc::default(), incomplete: None, held_since: Some(now) });
        }
        if let Some(guest) = guest {
            guest.turn(deadline).await?;
        }
        let key = (digest, name, credential.clone());
        let work = fetch(
            Arc::clone(registry),
            Arc::clone(&self.proofs),
            repository.clone(),
            digest,
            credential.clone(),
            deadline,
        );
        let found = self.flights.join(key, deadline, work).await.unwrap_or(Err(Trouble::Late));
        if let (Some(guest), Err(Trouble::Fetch(error))) = (guest, &found) {
            guest.told(error);
        }
        found
    }

    /// What is held, however old.
    pub fn held(&self, digest: Digest, repository: &str, now: Instant) -> Option<Evidence> {
        let held = self.proofs.signatures(&digest, repository, now)?;
        Some(Evidence { signatures: held.found, incomplete: None, held_since: Some(held.fetched) })
    }
}

/// cosign's tag scheme: one manifest under `sha256-<hex>.sig`, one layer per signature (SIGNATURE_SPEC, "Storage").
async fn fetch(
    registry: Arc<Client>,
    proofs: Arc<Proofs>,
    repository: Reference,
    digest: Digest,
    credential: Credential,
    deadline: Instant,
) -> Result<Evidence, Trouble> {
    let tag = format!("sha256-{}.sig", digest.hex());
    let name = repository.repo_name();
    let manifest = match registry.manifest_by_tag(&repository, &tag, &credential, deadline).await {
        Ok(manifest) => manifest,
        Err(error) if error.is_not_found() => {
            proofs.keep_none(digest, &name, &credential, Instant::now());
            return Ok(Evidence { signatures: Arc::default(), incomplete: None, held_since: None });
        }
        Err(error) => return Err(error.into()),
    };
    let (mut signatures, mut incomplete) = (Vec::<SimpleSigning>::new(), None);
    let mut payloads: Vec<(Digest, bytes::Bytes)> = Vec::new();
    for layer in SignatureManifest::parse(&manifest.bytes)? {
        let payload = layer.descriptor.digest;
        // Several signers often sign the same bytes.
        let known = payloads.iter().find(|(known, _)| *known == payload).map(|(_, bytes)| bytes.clone());
        let bytes = match known {
            Some(bytes) => bytes,
            None => match registry
                .blob(&repository, &payload, Cap::SIGNATURE_PAYLOAD, &credential, deadline)
                .await
            {
                Ok(bytes) => bytes,
                Err(error) => {
                    incomplete = Some(error.into());
                    continue;
                }
            },
        };
        payloads.push((payload, bytes.clone()));
        signatures.push(SimpleSigning { payload: bytes.to_vec(), signature: layer.signature });
    }
    debug_assert!(signatures.len() <= limits::SIGNATURES);
    if signatures.is_empty() && incomplete.is_none() {
        proofs.keep_none(digest, &name, &credential, Instant::now());
    }
    if !signatures.is_empty() && incomplete.is_none() {
        proofs.keep_signatures(digest, &name, signatures.clone(), Instant::now());
    }
    Ok(Evidence { signatures: signatures.into(), incomplete, held_since: None })
}
