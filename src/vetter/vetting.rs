//! What came of one image.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::case::InForce;
use super::trouble::Trouble;
use super::wire::ImageUse;
use crate::audit::{Decision, Reason};
use crate::image::{Digest, Tie};
use crate::limits;
use crate::policy::Check;

/// What came of one image.
#[derive(Clone, Debug)]
pub struct Vetting {
    /// What was decided.
    pub decision: Decision,
    /// Why it was not allowed, or what its recheck found though it was, or that it is exempted.
    pub reason: Option<Reason>,
    /// A registry or the network is why it is undecided.
    pub registry: bool,
    /// Whether a decision against the image refuses the call, going by its policies' modes.
    pub enforced: bool,
    /// Whether what is known of the image binds the relay: not where the policies that cover it only audit, and also where
    /// those that refuse have said yes and one that audits has not.
    pub binds: bool,
    /// The same as one deterministic line; empty if there is nothing to say.
    pub text: String,
    /// The normalised reference it was decided under, where there is one.
    pub reference: Option<String>,
    /// The digest the decision is about.
    pub digest: Option<Digest>,
    /// What that digest was walked to: on a pull, every image it may be on this platform.
    pub ties: Vec<Tie>,
    /// Until when it may be allowed without being looked at anew: an exemption ends, or a certificate that has no other time
    /// to go by.
    pub until: Option<SystemTime>,
    /// Each policy that covers the image, and what it says.
    pub policies: Vec<PolicyVetting>,
    /// What its tag's recheck means for the call.
    pub recheck: Rechecked,
    /// How long ago a check may have found its layers on the node's disk whole; `None`: no policy asks for that.
    pub layers_checked_within: Option<Duration>,
}

/// What follows from what the registry said of a tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rechecked {
    /// Until when that may be relied on; `None`: nothing was asked.
    pub fresh_until: Option<Instant>,
    /// The same while no vetter lives.
    pub usable_until: Option<Instant>,
    /// The image is to be pulled anew before a container is made of it.
    pub pull_anew: bool,
}

/// What one policy says.
#[derive(Clone, Debug)]
pub struct PolicyVetting {
    /// Its name.
    pub name: String,
    /// Where it is written.
    pub source: String,
    /// What it says by itself.
    pub decision: Decision,
    /// The image is exempted from it.
    pub exempted: bool,
    /// Each check made.
    pub checks: Vec<Check>,
}

impl Vetting {
    /// With what the policies say that only audit, where those that refuse have said yes.
    pub(super) fn with_audited(self, audited: Vetting) -> Vetting {
        let (policies, until) = (
            self.policies.iter().chain(&audited.policies).cloned().collect(),
            self.until.into_iter().chain(audited.until).min(),
        );
        let fresh_until = self.recheck.fresh_until.into_iter().chain(audited.recheck.fresh_until).min();
        let recheck = Rechecked { fresh_until, ..self.recheck };
        // What was noted by those that refuse comes first.
        let told = match (audited.decision, &self.reason) {
            (Decision::Allowed, Some(_)) => (self.reason, self.text),
            _ => (audited.reason, audited.text),
        };
        Vetting {
            decision: audited.decision,
            reason: told.0,
            text: told.1,
            registry: audited.registry,
            enforced: false,
            policies,
            until,
            recheck,
            ..self
        }
    }

    /// An image whose vetting is not done when the answer is due.
    pub fn late(in_force: &InForce, image: &ImageUse) -> Vetting {
        let name = if image.reference.is_empty() { &image.named } else { &image.reference };
        let shown: String = name.escape_debug().take(limits::QUOTED_CHARS).collect();
        let late = Vetting::undecided(in_force, Trouble::Late);
        Vetting { text: format!("image {shown}: {}", late.text), ..late }
    }

    pub(super) fn undecided(in_force: &InForce, trouble: Trouble) -> Vetting {
        Vetting {
            decision: Decision::Undecided,
            reason: Some(trouble.reason()),
            registry: false,
            enforced: in_force.enforces(None),
            binds: false,
            text: trouble.to_string(),
            reference: None,
            digest: None,
            ties: Vec::new(),
            until: None,
            policies: Vec::new(),
            recheck: Rechecked::default(),
            layers_checked_within: None,
        }
    }
}
