//! Where permits come from: one that the relay holds, else the vetter's verdict.

use std::time::Duration;

use tokio::time::Instant;

use super::altered::shown;
use super::permits::Age;
use super::{Relay, hidden};
use crate::audit::Reason;
use crate::cri::deadline::Budget;
use crate::cri::reply::Reply;
use crate::decision::{NoVerdict, Permit, from_verdict};
use crate::image::Reference;
use crate::vetter::wire::{Call, Kind, Outcome, Verdict, VettedImage};

/// How long after its use a held permit is told to the vetter, for the audit log.
const RECORDED_AFTER: Duration = Duration::from_millis(100);

/// Why a vetted call was not let through.
#[derive(Debug)]
pub struct Refusal {
    /// The answer for the kubelet.
    pub reply: Reply,
    /// Set where the relay refused by itself: nobody has written that down yet.
    pub unrecorded: Option<(Outcome, Reason)>,
}

impl Refusal {
    /// The relay's own, undecided.
    pub fn own(text: &str, reason: Reason) -> Refusal {
        Refusal { reply: Reply::undecided(text), unrecorded: Some((Outcome::Undecided, reason)) }
    }

    /// The relay's own, denied: there is evidence.
    pub fn denied(text: &str, reason: Reason) -> Refusal {
        Refusal { reply: Reply::denied(text), unrecorded: Some((Outcome::Denied, reason)) }
    }

    /// Whether the relay denies by itself.
    pub fn is_denial(&self) -> bool {
        matches!(self.unrecorded, Some((Outcome::Denied, _)))
    }
}

/// A permit for a call: one that is held, else the vetter's.
pub async fn decide(relay: &Relay, call: &Call, budget: Budget) -> Result<Permit, Refusal> {
    let age = if relay.vetter.is_living() { Age::Fresh } else { Age::UsableWhenVetterDown };
    if let Some(permit) = relay.permits.find(call, age, Instant::now()) {
        return Ok(held(relay, call, permit));
    }
    let generation = relay.permits.generation();
    let verdict = relay.vetter.ask(call.clone(), budget.left(Instant::now().into_std())).await;
    if matches!(verdict, Err(NoVerdict::Away | NoVerdict::Late))
        && let Some(permit) = relay.permits.find(call, Age::UsableWhenVetterDown, Instant::now())
    {
        return Ok(held(relay, call, permit));
    }
    let unrecorded = match &verdict {
        Ok(_) => None,
        Err(NoVerdict::Away) => Some(Reason::VetterAway),
        Err(NoVerdict::Late) => Some(Reason::TooSlow),
        Err(NoVerdict::Busy | NoVerdict::TooLarge) => Some(Reason::LimitReached),
    };
    if let Ok(verdict) = &verdict {
        refused(relay, call, verdict);
    }
    let unrecorded = unrecorded.map(|reason| (Outcome::Undecided, reason));
    let is_too_large = matches!(verdict, Err(NoVerdict::TooLarge));
    let permit = from_verdict(verdict, call.images.len()).map_err(|mut reply| {
        if let (true, Some(image)) = (is_too_large, call.images.first()) {
            reply = Reply::undecided(&format!("{}: {}", shown(image), NoVerdict::TooLarge));
        }
        Refusal { reply, unrecorded }
    })?;
    if call.kind() != Kind::PullImage && call.kind() != Kind::PulledImage {
        relay.permits.hold(call, &permit, generation, Instant::now());
    }
    Ok(permit)
}

/// What follows from a verdict that refuses, beside the answer.
fn refused(relay: &Relay, call: &Call, verdict: &Verdict) {
    match verdict.outcome() {
        Outcome::Denied => relay.permits.forget(call),
        Outcome::Undecided if call.kind() == Kind::CreateContainer => {
            // Only what this call is about: the vetter has no say over other images.
            let named = call.images.iter().filter_map(|image| Reference::parse(&image.reference).ok());
            let hides = |image: &Reference| {
                image.digest().is_none() && verdict.pull_anew.contains(&image.to_string())
            };
            named.filter(hides).for_each(|image| hidden::hide(relay, &image, &call.namespace));
        }
        Outcome::Permitted | Outcome::Undecided | Outcome::UnknownOutcome => {}
    }
}

fn held(relay: &Relay, call: &Call, permit: Permit) -> Permit {
    relay.metrics.permit_used();
    let images = permit.images().iter().map(|image| VettedImage {
        digest: image.digest.clone().unwrap_or_default(),
        image_ids: image.image_ids.clone(),
        chain_id: image.chain_id.clone().unwrap_or_default(),
        ..Default::default()
    });
    let verdict =
        Verdict { outcome: Outcome::Permitted.into(), images: images.collect(), ..Default::default() };
    let (vetter, call) = (relay.vetter.clone(), call.clone());
    tokio::spawn(async move {
        // The record can wait, the create cannot: on a small node the vetter would wake up in its way.
        tokio::time::sleep(RECORDED_AFTER).await;
        vetter.tell(&call, verdict);
    });
    permit
}
