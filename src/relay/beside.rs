//! Audit mode: a vetted call is forwarded as it comes, and vetted beside. Nothing here can fail or delay it.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http::request::Parts;
use hyper::body::Incoming;

use super::ask::Refusal;
use super::body::{Passing, Relayed, ResponseBody};
use super::intercept::{alert_unknown, same_id, traceparent};
use super::upstream::Upstream;
use super::{Relay, altered, documents, look, pause, vouched};
use crate::audit::Reason;
use crate::cri::facts::{self, Facts};
use crate::cri::methods::{Service, Vetted};
use crate::cri::reply::Reply;
use crate::decision::NoVerdict;
use crate::limits;
use crate::vetter::wire::{Call, Kind, Outcome, Verdict};

/// Longest the vetting beside a call may take. Nobody waits for it.
pub const BUDGET: Duration = Duration::from_secs(limits::BACKGROUND_SECONDS + 60);

/// Forwards a call and copies it as it passes; vets the copy when the call has its answer.
pub async fn forward_then_vet(
    relay: Arc<Relay>,
    upstream: &Upstream,
    service: Service,
    vetted: Vetted,
    head: Parts,
    body: Incoming,
) -> Result<Response<ResponseBody>, h2::Error> {
    let trace = traceparent(&head.headers);
    let body = Passing::within(body, limits::VETTED_CALL_BYTES, Arc::clone(&relay.held_bytes));
    let response = match upstream.send_passing(service, &head, &body).await {
        Ok(response) => response,
        Err(none) => return none.into_response(),
    };
    let place = Arc::clone(&relay.beside).try_acquire_owned().ok();
    if place.is_none() {
        relay.metrics.not_vetted();
        body.take();
    }
    let path = head.uri.path().to_owned();
    let (head, incoming) = response.into_parts();
    let socket = Arc::clone(upstream.socket(service));
    let (relayed, answer) = Relayed::new(incoming, socket).copied(limits::VETTED_ANSWER_BYTES);
    tokio::spawn(async move {
        // Given when the answer has passed, or when its reader has gone.
        let answer = answer.await.unwrap_or_default();
        if vetted == Vetted::CreateContainer {
            relay.found.came_through(&facts::made(vetted, &answer).unwrap_or_default());
        }
        let Some(place) = place else { return };
        // Its bytes go at once, as their share of what all calls may keep did: the vetting may take minutes.
        let facts = body.take().map(|bytes| facts::facts(vetted, &bytes));
        match facts {
            Some(Ok(mut facts)) => {
                // For a pull that only enforce mode makes.
                facts.sandbox = None;
                facts.call.traceparent = trace;
                alert_unknown(&relay, &facts.unknown);
                vet(&relay, vetted, facts, &answer).await;
            }
            Some(Err(error)) => {
                relay.relayed_unread(facts::kind(vetted), &path, &Reply::undecided(&error.to_string()));
            }
            None => relay.relayed_unread(facts::kind(vetted), &path, &not_kept()),
        }
        drop(place);
    });
    Ok(Response::from_parts(head, ResponseBody::Relayed(relayed)))
}

async fn vet(relay: &Relay, vetted: Vetted, facts: Facts, answer: &[u8]) {
    let is_too_large = facts.bytes() > limits::CALL_FACTS_BYTES;
    let mut call = Call { beside: true, ..facts.call };
    if is_too_large {
        // The vetter is not told of so many; nor are megabytes of labels to wait for anything else.
        return not_vetted(relay, &call, NoVerdict::TooLarge);
    }
    if vetted == Vetted::RunPodSandbox {
        match pause::complete(relay, &mut call).await {
            Ok(Ok(())) => {}
            Ok(Err(name)) => {
                let text = format!("the pause image {name} is not there");
                return undecided(relay, &call, &text, Reason::PauseImage);
            }
            Err(text) => return undecided(relay, &call, &text, Reason::PauseImage),
        }
    }
    let verdict = match relay.vetter.ask(call.clone(), BUDGET).await {
        Ok(verdict) => {
            relay.metrics.vetted(vetted);
            verdict
        }
        Err(none) => return not_vetted(relay, &call, none),
    };
    // Whatever the runtime answered: enforce mode would not have asked it.
    let needs_proof = verdict.images.iter().any(|image| !image.chain_id.is_empty());
    if facts.handler.is_some()
        && needs_proof
        && look::possible(relay).await.is_ok()
        && let Err(Refusal { reply, unrecorded }) = look::handler(relay, facts.handler.as_ref()).await
    {
        told(relay, &call, &reply, unrecorded);
    }
    let Ok(made) = facts::made(vetted, answer) else { return };
    match vetted {
        Vetted::PullImage => read_back(relay, &call, &verdict).await,
        Vetted::CreateContainer | Vetted::RunPodSandbox => {
            // As enforce mode says it, which would have made nothing.
            if needs_proof && let Err(Refusal { reply, unrecorded }) = look::possible(relay).await {
                return told(relay, &call, &reply, unrecorded);
            }
            let documents = verdict.images.iter().map(|image| image.documents.clone()).collect();
            if let Err(Refusal { reply, unrecorded }) = documents::are_whole(relay, &call, documents).await {
                told(relay, &call, &reply, unrecorded);
            }
            let chain_ids = verdict.images.iter().map(|image| Some(image.chain_id.as_str()));
            let chain_ids = chain_ids.map(|chain_id| chain_id.filter(|chain_id| !chain_id.is_empty()));
            let stands = altered::stand_on_whole_layers(relay, &call, chain_ids).await;
            let is_altered = stands.is_err();
            if let Err(Refusal { reply, unrecorded }) = stands {
                told(relay, &call, &reply, unrecorded);
            }
            let wanted: Vec<_> = verdict.images.iter().map(vouched::Wanted::of).collect();
            if !is_altered
                && let Err(Refusal { reply, unrecorded }) = vouched::beside(relay, &call, &wanted).await
            {
                told(relay, &call, &reply, unrecorded);
            }
            // What it is made of comes first; what is mounted is not looked at.
            if let Some(chain_id) = verdict.images.first().map(|image| &image.chain_id)
                && !chain_id.is_empty()
                && let Err(Refusal { reply, unrecorded }) = look::look(relay, &made, chain_id).await
            {
                told(relay, &call, &reply, unrecorded);
            }
        }
    }
}

fn not_vetted(relay: &Relay, call: &Call, none: NoVerdict) {
    relay.metrics.not_vetted();
    tracing::warn!(reason = %none, "a call was relayed and not vetted");
    if none == NoVerdict::TooLarge {
        // Not because of anything that passes: enforce mode would refuse it each time.
        undecided(relay, call, &none.to_string(), Reason::LimitReached);
    }
}

/// Why there is no copy of a call. Which of these it was is known to the body only.
fn not_kept() -> Reply {
    let cap = limits::VETTED_CALL_BYTES;
    Reply::undecided(&format!(
        "expected a call that arrives whole, of at most {cap} bytes (limits::VETTED_CALL_BYTES), and not too many large ones at once (limits::VETTED_CALLS_BYTES), found another"
    ))
}

/// What the pull brought, held to what was vetted.
async fn read_back(relay: &Relay, call: &Call, verdict: &Verdict) {
    let (Some(image), Some(vetted)) = (call.images.first(), verdict.images.first()) else { return };
    let Ok(Some(arrived)) = relay.runtime.image_status(&image.named).await else { return };
    if vetted.digest.is_empty() || vetted.image_ids.iter().any(|known| same_id(known, &arrived.id)) {
        return;
    }
    let mut pulled = Call { kind: Kind::PulledImage.into(), ..call.clone() };
    for image in &mut pulled.images {
        image.named = arrived.id.clone();
        image.vetted_digest = vetted.digest.clone();
    }
    // Its record is all that is wanted.
    let _ = relay.vetter.ask(pulled, BUDGET).await;
}

/// Records what enforce mode would have answered by itself.
fn told(relay: &Relay, call: &Call, reply: &Reply, unrecorded: Option<(Outcome, Reason)>) {
    let (outcome, reason) = unrecorded.unwrap_or((Outcome::Undecided, Reason::Runtime));
    relay.vetter.tell_refused(call, reply, outcome, reason);
}

fn undecided(relay: &Relay, call: &Call, text: &str, reason: Reason) {
    relay.vetter.tell_undecided(call, &Reply::undecided(text), reason);
}
