//! One fetch of evidence, for all who wait for it.

use std::sync::Arc;

use bytes::Bytes;

use super::{Form, Gathered};
use crate::image::Digest;
use crate::image::manifest::Descriptor;
use crate::limits;
use crate::proofs::{Moment, Proofs};
use crate::registry::Cap;
use crate::telemetry::Role;
use crate::verify::{
    ATTESTATION_MEDIA_TYPE, BUNDLE_MEDIA_TYPE, Evidence, EvidenceManifest, PREDICATE_TYPE,
    SIGNATURE_MEDIA_TYPE, SignatureLayer, SignatureManifest, is_evidence,
};
use crate::vetter::trouble::Trouble;
use crate::vetter::visit::Visit;

/// The type that cosign's bundles have in an index under the fallback tag, which it writes without their own
/// (facts about cosign 3.1, seen), and that any other artifact may have there.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";

/// What cosign 2 called the referrers it kept signatures and attestations in, where it was asked to.
const OLD_TYPES: [&str; 2] =
    ["application/vnd.dev.cosign.artifact.sig.v1+json", "application/vnd.dev.cosign.artifact.att.v1+json"];

pub(super) struct Fetch {
    pub visit: Visit,
    pub digest: Digest,
    pub form: Form,
    pub tag_prefix: String,
    /// Under which name it is kept.
    pub place: String,
    pub proofs: Arc<Proofs>,
}

/// What was found so far.
#[derive(Default)]
struct Found {
    evidence: Vec<Evidence>,
    /// Several signers often sign the same bytes.
    blobs: Vec<(Digest, Bytes)>,
    bytes: usize,
    incomplete: Option<Trouble>,
}

impl Fetch {
    pub async fn run(mut self) -> Result<Gathered, Trouble> {
        let mut span = self.visit.trace.span("fetch evidence", Role::Internal);
        span.set("crivet.digest", &self.digest.to_string());
        span.set("crivet.form", &self.form.to_string());
        self.visit.trace = span.below();
        let found = match &self.form {
            Form::SignatureTag => self.tagged("sig", SIGNATURE_MEDIA_TYPE).await,
            Form::AttestationTag => self.tagged("att", ATTESTATION_MEDIA_TYPE).await,
            Form::Referrers(types) => self.referrers(|found| types.contains(found)).await,
        };
        let Found { evidence, incomplete, .. } = found.inspect_err(|why| span.failed(&why.to_string()))?;
        span.set("crivet.evidence", &evidence.len().to_string());
        if evidence.is_empty() && incomplete.is_none() {
            self.proofs.keep_none(self.digest, &self.place, &self.visit.credential, Moment::now());
        }
        self.proofs.keep_evidence(
            self.digest,
            &self.place,
            evidence.clone(),
            incomplete.is_none(),
            Moment::now(),
        );
        Ok(Gathered { evidence: evidence.into(), incomplete, held: false })
    }

    /// cosign's tag scheme: one manifest under a tag, one layer per signature (SIGNATURE_SPEC, "Storage").
    async fn tagged(&self, suffix: &str, media_type: &str) -> Result<Found, Trouble> {
        let mut found = Found::default();
        let tag = format!("{}sha256-{}.{suffix}", self.tag_prefix, self.digest.hex());
        let manifest = match self.manifest(&tag).await {
            Ok(manifest) => SignatureManifest::parse(media_type, &manifest)?,
            Err(Trouble::Fetch(error)) if error.is_not_found() => return Ok(found),
            Err(trouble) => return Err(trouble),
        };
        for layer in manifest {
            self.layer(layer, &mut found).await;
        }
        Ok(found)
    }

    async fn manifest(&self, tag: &str) -> Result<Bytes, Trouble> {
        if self.visit.guest.is_some() {
            // GET only what HEAD says is there: GET is what registries count.
            self.visit.evidence_head(tag).await?;
        }
        Ok(self.visit.evidence_by_tag(tag).await?.bytes)
    }

    /// What refers to the digest (OCI distribution spec v1.1, "Listing Referrers"). Candidates are told by their type
    /// before they are counted, so that what is no evidence hides none.
    async fn referrers(&self, wanted: impl Fn(&str) -> bool) -> Result<Found, Trouble> {
        let listed = self.visit.referrers(&self.digest).await?;
        let mut found = Found { incomplete: listed.incomplete.map(Trouble::Fetch), ..Found::default() };
        let of_type = |listed: &Descriptor| {
            let predicate_type = listed.annotations.get(PREDICATE_TYPE);
            predicate_type.is_none_or(|found| wanted(found))
        };
        let mut candidates: Vec<(u8, Descriptor)> = listed
            .found
            .into_iter()
            .filter(of_type)
            .filter_map(|listed| Some((rank(listed.artifact_type.as_deref())?, listed)))
            .collect();
        candidates.sort_by_key(|(rank, _)| *rank);
        if candidates.len() > limits::SIGNATURES {
            found.stop(format!(
                "expected at most {} signatures and attestations that refer to {} (limit SIGNATURES), found {}; remove those nobody needs",
                limits::SIGNATURES,
                self.digest,
                candidates.len()
            ));
        }
        for (_, candidate) in candidates.into_iter().take(limits::SIGNATURES) {
            if let Err(trouble) = self.referrer(&candidate, &wanted, &mut found).await {
                found.incomplete = found.incomplete.take().or(Some(trouble));
            }
        }
        Ok(found)
    }

    async fn referrer(
        &self,
        candidate: &Descriptor,
        wanted: impl Fn(&str) -> bool,
        found: &mut Found,
    ) -> Result<(), Trouble> {
        let manifest = match self.visit.manifest(&candidate.digest).await {
            Ok(manifest) => manifest,
            // An index under the fallback tag may list what was deleted since.
            Err(Trouble::Fetch(error)) if error.is_not_found() => return Ok(()),
            Err(trouble) => return Err(trouble),
        };
        // One that cannot be read may be evidence only if it says that it is.
        let manifest = match EvidenceManifest::parse(is_evidence, &manifest) {
            Ok(manifest) => manifest,
            Err(_) if rank(candidate.artifact_type.as_deref()) != Some(0) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // A list says what refers to what; what is listed has to say so itself.
        if manifest.subject != Some(self.digest)
            || manifest.predicate_type.is_some_and(|found| !wanted(&found))
        {
            return Ok(());
        }
        for layer in manifest.layers {
            self.layer(layer, found).await;
        }
        Ok(())
    }

    async fn layer(&self, layer: SignatureLayer, found: &mut Found) {
        let descriptor = &layer.descriptor;
        let cap = match descriptor.media_type.as_str() {
            SIGNATURE_MEDIA_TYPE => Cap::SIGNATURE_PAYLOAD,
            _ => Cap::BUNDLE,
        };
        let known = found.blobs.iter().find(|(known, _)| *known == descriptor.digest);
        let bytes = match known.map(|(_, bytes)| bytes.clone()) {
            Some(bytes) => bytes,
            None => match self.visit.blob(&descriptor.digest, cap).await {
                Ok(bytes) => bytes,
                Err(trouble) => {
                    found.incomplete = found.incomplete.take().or(Some(trouble));
                    return;
                }
            },
        };
        found.bytes += bytes.len();
        if found.bytes > limits::EVIDENCE_BYTES {
            found.stop(format!(
                "expected at most {} bytes of signatures and attestations on {} (limit EVIDENCE_BYTES), found more; remove those nobody needs",
                limits::EVIDENCE_BYTES,
                self.digest
            ));
            return;
        }
        found.blobs.push((descriptor.digest, bytes.clone()));
        found.evidence.push(layer.into_evidence(bytes));
    }
}

impl Found {
    fn stop(&mut self, why: String) {
        self.incomplete = self.incomplete.take().or(Some(Trouble::Limit(why)));
    }
}

/// Whether a referrer of this type may be evidence: 0 if it says so, 1 if it does not say. Bundles come first, so that
/// what does not say cannot push them over the limit.
fn rank(artifact_type: Option<&str>) -> Option<u8> {
    match artifact_type {
        Some(known) if known.starts_with(BUNDLE_MEDIA_TYPE) || OLD_TYPES.contains(&known) => Some(0),
        Some(EMPTY_TYPE) | None => Some(1),
        Some(_) => None,
    }
}
