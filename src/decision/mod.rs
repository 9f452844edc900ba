//! Decision, Permit, Denial: the only place that can make a permit.
//!
//! The relay forwards a vetted call only with a [`Permit`] in hand, and a permit comes from here only: from the
//! vetter's verdict. Absence never means yes: an answer that is late, missing or
//! not understood is undecided.

use std::time::Duration;

use crate::cri::reply::{REGISTRY_UNAVAILABLE, Reply, SIGNATURE_VALIDATION_FAILED};
use crate::vetter::wire::{Outcome, Verdict};

/// The right to forward one vetted call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    images: Vec<PermittedImage>,
    fresh_for: Duration,
    usable_when_vetter_down: Duration,
}

/// What a permit says of one image of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermittedImage {
    /// The digest whose policy held; `None` where policy asks for no proof.
    pub digest: Option<String>,
    /// Image IDs that crivet's own walk tied to the digest.
    pub image_ids: Vec<String>,
    /// The chain ID the new container must stand on; `None` where policy asks for no proof.
    pub chain_id: Option<String>,
    /// Digests of the documents by which it was tied to the digest: index, manifest and config.
    pub documents: Vec<String>,
    /// A check has to have found its layers whole within so long; `None`: no policy asks for that.
    pub layers_checked_within: Option<Duration>,
}

impl Permit {
    /// One entry per image of the call, in the call's order.
    pub fn images(&self) -> &[PermittedImage] {
        &self.images
    }

    /// How long equal calls need not ask again.
    pub fn fresh_for(&self) -> Duration {
        self.fresh_for
    }

    /// How long equal calls may start while no vetter lives.
    pub fn usable_when_vetter_down(&self) -> Duration {
        self.usable_when_vetter_down
    }
}

/// Why the vetter gave no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoVerdict {
    /// It is not running, or went away meanwhile.
    #[error("crivet's vetter is not running; it is started anew, try again")]
    Away,
    /// The time budget is used up.
    #[error("vetting took longer than its time budget; it goes on, try again")]
    Late,
    /// limits::QUESTIONS are waiting already.
    #[error("too many calls wait to be vetted (limits::QUESTIONS); try again")]
    Busy,
    /// Its facts are larger than limits::CALL_FACTS_BYTES.
    #[error(
        "the call's names and labels are larger than crivet vets (limits::CALL_FACTS_BYTES); make them fewer"
    )]
    TooLarge,
}

/// A permit from what the vetter said, or the reply for the kubelet. `images`: how many the call has.
pub fn from_verdict(verdict: Result<Verdict, NoVerdict>, images: usize) -> Result<Permit, Reply> {
    let verdict = verdict.map_err(|none| Reply::undecided(&none.to_string()))?;
    match verdict.outcome() {
        Outcome::Permitted if verdict.images.len() == images => Ok(Permit {
            images: verdict.images.into_iter().map(permitted).collect(),
            fresh_for: Duration::from_millis(verdict.fresh_ms.into()),
            usable_when_vetter_down: Duration::from_millis(verdict.usable_when_down_ms.into()),
        }),
        Outcome::Denied | Outcome::Undecided if starts_as_fixed(&verdict.message) => {
            Err(Reply { code: crate::cri::reply::Code::Unknown, message: verdict.message })
        }
        _ => Err(Reply::undecided("crivet's vetter answered something that is no verdict; see its log")),
    }
}

fn starts_as_fixed(message: &str) -> bool {
    message.starts_with(SIGNATURE_VALIDATION_FAILED) || message.starts_with(REGISTRY_UNAVAILABLE)
}

fn permitted(image: crate::vetter::wire::VettedImage) -> PermittedImage {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    PermittedImage {
        digest: some(image.digest),
        image_ids: image.image_ids,
        chain_id: some(image.chain_id),
        documents: image.documents,
        layers_checked_within: Some(image.layers_checked_within)
            .filter(|within| *within > 0)
            .map(|within| Duration::from_secs(within.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vetter::wire::VettedImage;

    fn permitted_verdict() -> Verdict {
        let image = VettedImage { digest: "sha256:d".into(), ..Default::default() };
        Verdict {
            outcome: Outcome::Permitted.into(),
            images: vec![image],
            fresh_ms: 1000,
            usable_when_down_ms: 2000,
            ..Default::default()
        }
    }

    #[test]
    fn a_permitting_verdict_is_a_permit() {
        let permit = from_verdict(Ok(permitted_verdict()), 1).unwrap();
        assert_eq!(permit.fresh_for(), Duration::from_secs(1));
        assert_eq!(permit.images()[0].chain_id, None);
    }

    #[test]
    fn a_verdict_about_fewer_images_than_the_call_has_is_none() {
        let reply = from_verdict(Ok(permitted_verdict()), 2).unwrap_err();
        assert!(reply.message.starts_with("SignatureValidationFailed: undecided: "));
    }

    #[test]
    fn a_verdict_without_outcome_is_none() {
        let reply = from_verdict(Ok(Verdict { images: permitted_verdict().images, ..Default::default() }), 1);
        assert!(reply.unwrap_err().message.starts_with("SignatureValidationFailed: undecided: "));
    }

    #[test]
    fn a_denial_without_the_kubelet_s_prefix_is_not_passed_on() {
        let verdict = Verdict { outcome: Outcome::Denied.into(), message: "no".into(), ..Default::default() };
        let reply = from_verdict(Ok(verdict), 1).unwrap_err();
        assert!(reply.message.starts_with("SignatureValidationFailed: undecided: "));
    }

    #[test]
    fn no_verdict_is_undecided() {
        for none in [NoVerdict::Away, NoVerdict::Late, NoVerdict::Busy, NoVerdict::TooLarge] {
            let reply = from_verdict(Err(none), 1).unwrap_err();
            assert!(reply.message.starts_with("SignatureValidationFailed: undecided: "), "{none}");
        }
    }
}
