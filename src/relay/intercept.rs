//! Enforce mode: a vetted call is read whole, decided, forwarded as it came, and looked at again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::ask::{Refusal, decide};
use super::body::{RequestBody, ResponseBody, Whole};
use super::upstream::{NoAnswer, Upstream, no_answer};
use super::{Relay, altered, documents, healed, hidden, look, pause, user, vouched};
use crate::audit::Reason;
use crate::cri::deadline::Budget;
use crate::cri::facts::{self, Facts, Handler, ROLE_IMAGE, ROLE_PAUSE};
use crate::cri::methods::{Service, Vetted};
use crate::cri::reply::Reply;
use crate::cri::v1::PodSandboxConfig;
use crate::decision::Permit;
use crate::limits;
use crate::vetter::wire::{Call, ImageUse, Kind};

/// Vets a call, forwards it with a permit in hand, and looks at what came of it.
pub async fn vet_then_forward(
    relay: &Arc<Relay>,
    upstream: &Upstream,
    service: Service,
    vetted: Vetted,
    head: Parts,
    body: Incoming,
) -> Result<Response<ResponseBody>, h2::Error> {
    let budget = Budget::new(&head.headers, relay.live.borrow().vetting_timeout, Instant::now().into_std());
    let (body, _held) = match read(relay, body).await {
        Ok(read) => read,
        Err(reply) => return Ok(relay.refused(vetted, head.uri.path(), reply)),
    };
    let Facts { mut call, unknown, sandbox, handler } = match facts::facts(vetted, &body) {
        Ok(facts) => facts,
        Err(error) => {
            return Ok(relay.refused(vetted, head.uri.path(), Reply::undecided(&error.to_string())));
        }
    };
    call.traceparent = traceparent(&head.headers);
    alert_unknown(relay, &unknown);
    let result: Result<Answer, No> = async {
        if vetted == Vetted::CreateContainer {
            let now = Instant::now();
            for image in &mut call.images {
                image.pulled_anew = relay.hidden.has_no_turn(&image.reference, now);
            }
        }
        // Asked beside all else, and it counts where a proof does.
        let mut user = match vetted {
            Vetted::CreateContainer => user::ask(relay, &call),
            Vetted::PullImage | Vetted::RunPodSandbox => None,
        };
        let permit = match vetted {
            Vetted::RunPodSandbox => sandbox_permit(relay, &mut call, sandbox, budget).await,
            Vetted::PullImage | Vetted::CreateContainer => decide(relay, &call, budget).await,
        };
        // A refusal is a decision too.
        relay.metrics.vetted(vetted);
        let permit = permit?;
        if vetted == Vetted::CreateContainer {
            healed::user_was_read_since(relay, &call).await?;
        }
        if permit.images().first().is_none_or(|image| image.digest.is_none()) {
            user = None;
        }
        // What is known before anything is made need not be removed.
        if let Some(told) = user.take_if(|user| user.is_finished()) {
            user::told(told, budget).await?;
        }
        if permit.images().iter().any(|image| image.chain_id.is_some()) && vetted != Vetted::PullImage {
            look::possible(relay).await?;
            known_handler(relay, handler.as_ref(), budget).await?;
        }
        // Whole or not is read from the disk by others, and takes its time: what is made is not made twice for it.
        let looked_at = match vetted {
            Vetted::CreateContainer | Vetted::RunPodSandbox => {
                vouched::before(relay, &call, &wanted(&permit), budget).await?
            }
            Vetted::PullImage => Vec::new(),
        };
        let whole = async {
            match vetted {
                Vetted::CreateContainer => are_whole(relay, &call, &permit, budget).await,
                Vetted::RunPodSandbox | Vetted::PullImage => Ok(()),
            }
        };
        // Beside the create: before it starts, what is not whole is gone again.
        let (answer, whole) = tokio::join!(forward(upstream, service, head, body, &permit), whole);
        let answer = answer?;
        // CRI-O holds a config to its digest, too: what it came across is told as what it is.
        let whole = match whole {
            Err(refusal) if !answer.succeeded() && refusal.is_denial() => return Err(refusal.into()),
            whole => whole,
        };
        if answer.succeeded() {
            if vetted == Vetted::CreateContainer {
                // Before the look: the runtime lists it already.
                relay.found.came_through(&facts::made(vetted, &answer.data).unwrap_or_default());
            }
            match vetted {
                Vetted::PullImage => hold_to_digest(relay, &call, &permit, budget).await?,
                Vetted::CreateContainer | Vetted::RunPodSandbox => {
                    let made = Made {
                        vetted,
                        answer: answer.data.clone(),
                        chain_ids: permit.images().iter().map(|image| image.chain_id.clone()).collect(),
                        snapshotters: container(&call, &looked_at).cloned().unwrap_or_default(),
                        user,
                        whole,
                    };
                    if made.is_held_to_anything() {
                        let held = hold_and_record(Arc::clone(relay), call.clone(), made, budget);
                        // Goes on if nobody waits any more: what was made is there.
                        tokio::spawn(held).await.unwrap_or_else(|_| {
                            let text =
                                "what was made could not be looked at: a fault inside crivet; see its log";
                            Err(Refusal::own(text, Reason::Runtime))
                        })?;
                    }
                }
            }
        }
        Ok(answer)
    }
    .await;
    if let (Vetted::PullImage, Some(image)) = (vetted, call.images.first()) {
        // However the name is written there.
        relay.user_answers.forget();
        // Before the answer is out: the kubelet asks for the image again.
        hidden::pulled(relay, &image.named, &call.namespace, result.as_ref().is_ok_and(Answer::succeeded));
    }
    match result {
        Ok(answer) => Ok(answer.into_response()),
        Err(No::Answer(none)) => none.into_response(),
        Err(No::Refused(Refusal { reply, unrecorded })) => {
            if let Some((outcome, reason)) = unrecorded {
                relay.vetter.tell_refused(&call, &reply, outcome, reason);
            }
            Ok(reply.into_response())
        }
    }
}

/// A permit for a sandbox, its image's documents as they were vetted.
async fn sandbox_permit(
    relay: &Relay,
    call: &mut Call,
    sandbox: Option<PodSandboxConfig>,
    budget: Budget,
) -> Result<Permit, Refusal> {
    let permit = pause::permit(relay, call, sandbox, budget).await?;
    // Not beside the call, as with a container: it runs when the call ends.
    are_whole(relay, call, &permit, budget).await?;
    Ok(permit)
}

/// Whether the runtime's documents of the images are what was vetted, and nothing says that their layers are not.
async fn are_whole(relay: &Relay, call: &Call, permit: &Permit, budget: Budget) -> Result<(), Refusal> {
    let documents = permit.images().iter().map(|image| image.documents.clone()).collect();
    let chain_ids = permit.images().iter().map(|image| image.chain_id.as_deref());
    let left = budget.left(std::time::Instant::now());
    let whole = timeout(left, async {
        documents::are_whole(relay, call, documents).await?;
        altered::stand_on_whole_layers(relay, call, chain_ids).await
    });
    let whole = whole.await;
    whole.unwrap_or_else(|_| Err(documents::not_read()))
}

/// The same of the layers alone, when something was made of the images: the runtime may have unpacked one within the call, onto what is
/// altered. That took its time, so nothing of the budget need be left.
async fn still_stand_on_whole_layers(
    relay: &Relay,
    call: &Call,
    chain_ids: &[Option<String>],
) -> Result<(), Refusal> {
    let chain_ids = chain_ids.iter().map(Option::as_deref);
    let within = Duration::from_secs(limits::RUNTIME_CALL_SECONDS);
    let whole = timeout(within, altered::stand_on_whole_layers(relay, call, chain_ids)).await;
    whole.unwrap_or_else(|_| Err(documents::not_read()))
}

/// Whether what the runtime makes by its handler is known to run what was vetted, within what is left of the budget.
async fn known_handler(relay: &Relay, handler: Option<&Handler>, budget: Budget) -> Result<(), Refusal> {
    let known = timeout(budget.left(std::time::Instant::now()), look::handler(relay, handler)).await;
    known.unwrap_or_else(|_| {
        let text = "the runtime did not say in time by which handler it would make it, and what that does";
        Err(Refusal::own(text, Reason::Runtime))
    })
}

/// Why a vetted call has no answer of the runtime's.
enum No {
    Refused(Refusal),
    Answer(NoAnswer),
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> No {
        No::Refused(refusal)
    }
}

impl From<NoAnswer> for No {
    fn from(none: NoAnswer) -> No {
        No::Answer(none)
    }
}

/// The runtime's whole answer to a vetted call.
struct Answer {
    head: http::response::Parts,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

impl Answer {
    fn succeeded(&self) -> bool {
        let status = self.trailers.as_ref().unwrap_or(&self.head.headers).get("grpc-status");
        status.is_some_and(|status| status.as_bytes() == b"0")
    }

    fn into_response(self) -> Response<ResponseBody> {
        Response::from_parts(self.head, ResponseBody::Whole(Whole::new(self.data, self.trailers)))
    }
}

/// Forwards the original bytes. Takes a permit, and nobody but the decision module can make one.
async fn forward(
    upstream: &Upstream,
    service: Service,
    head: Parts,
    body: Bytes,
    _permit: &Permit,
) -> Result<Answer, No> {
    let again = || RequestBody::Whole(Whole::new(body.clone(), None));
    let (head, mut incoming) = upstream.send_whole(service, &head, again).await?.into_parts();
    let socket = Arc::clone(upstream.socket(service));
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = incoming.frame().await {
        match frame.map_err(|error| no_answer(&error, &socket))?.into_data() {
            Ok(bytes) if data.len() + bytes.len() <= limits::VETTED_ANSWER_BYTES => {
                data.extend_from_slice(&bytes)
            }
            Ok(_) => {
                let cap = limits::VETTED_ANSWER_BYTES;
                let text =
                    format!("the runtime's answer is larger than {cap} bytes (limits::VETTED_ANSWER_BYTES)");
                return Err(Refusal::own(&text, Reason::LimitReached).into());
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Answer { head, data: data.into(), trailers })
}

/// What a pull brought must be what was vetted, or nothing of this call counts as vetted.
async fn hold_to_digest(relay: &Relay, call: &Call, permit: &Permit, budget: Budget) -> Result<(), Refusal> {
    let (Some(image), Some(vetted)) = (call.images.first(), permit.images().first()) else { return Ok(()) };
    let Some(digest) = &vetted.digest else { return Ok(()) };
    let arrived = relay.runtime.image_status(&image.named).await;
    let arrived = arrived.map_err(|error| {
        let text = format!("what {} brought cannot be read back: {error}", image.named);
        Refusal::own(&text, Reason::Runtime)
    })?;
    let id = arrived.map(|image| image.id).unwrap_or_default();
    if vetted.image_ids.iter().any(|known| same_id(known, &id)) {
        return Ok(());
    }
    let arrived = ImageUse {
        named: id,
        reference: image.reference.clone(),
        role: ROLE_IMAGE.to_owned(),
        vetted_digest: digest.clone(),
        ..Default::default()
    };
    let pulled = Call { kind: Kind::PulledImage.into(), images: vec![arrived], ..call.clone() };
    decide(relay, &pulled, budget).await.map(drop)
}

/// containerd writes `sha256:<hex>`, CRI-O the hex alone.
pub fn same_id(a: &str, b: &str) -> bool {
    let hex = |id: &str| id.strip_prefix("sha256:").unwrap_or(id).to_owned();
    !a.is_empty() && hex(a) == hex(b)
}

/// What was made, and what it is held to.
struct Made {
    vetted: Vetted,
    answer: Bytes,
    /// The layers that each of the call's images stands on, where they are known. What was made has to stand on those of its own.
    chain_ids: Vec<Option<String>>,
    /// The snapshotters whose layers were looked at; empty: nothing asked for that.
    snapshotters: Vec<String>,
    user: Option<user::Asked>,
    whole: Result<(), Refusal>,
}

impl Made {
    fn is_held_to_anything(&self) -> bool {
        self.chain_ids.iter().any(Option::is_some)
            || !self.snapshotters.is_empty()
            || self.user.is_some()
            || self.whole.is_err()
    }
}

/// As [`hold_to_vetted`]; a refusal is recorded here, because its caller may have gone.
async fn hold_and_record(relay: Arc<Relay>, call: Call, made: Made, budget: Budget) -> Result<(), Refusal> {
    let mut held = hold_to_vetted(&relay, &call, made, budget).await;
    if let Err(refusal) = &mut held
        && let Some((outcome, reason)) = refusal.unrecorded.take()
    {
        relay.vetter.tell_refused(&call, &refusal.reply, outcome, reason);
    }
    held
}

/// What was made must stand on the image that was vetted, as the kubelet took it for, or it is removed.
async fn hold_to_vetted(relay: &Relay, call: &Call, made: Made, budget: Budget) -> Result<(), Refusal> {
    let Made { vetted, answer, chain_ids, snapshotters, user, whole } = made;
    let made =
        facts::made(vetted, &answer).map_err(|error| Refusal::own(&error.to_string(), Reason::Runtime))?;
    let whole = match whole {
        Ok(()) => still_stand_on_whole_layers(relay, call, &chain_ids).await,
        refused => refused,
    };
    let whole = match whole {
        Ok(()) if !snapshotters.is_empty() => vouched::stands_on(relay, &made, &snapshotters).await,
        whole => whole,
    };
    let looked = async {
        let Some(Some(chain_id)) = container(call, &chain_ids) else { return Ok(()) };
        look::look(relay, &made, chain_id).await
    };
    let told = async {
        let Some(user) = user else { return Ok(()) };
        user::told(user, budget).await
    };
    let (looked, told) = tokio::join!(looked, told);
    if looked.is_err() {
        relay.metrics.removed_after_look();
    }
    // What was altered is told before what moves by itself.
    let held = whole.and(looked).and(told);
    if let Err(refusal) = &held {
        look::remove(relay, vetted, &made, refusal).await;
    }
    held
}

/// Of what there is of each image, that of the one that is run.
fn container<'a, T>(call: &Call, of_images: &'a [T]) -> Option<&'a T> {
    let mut of_role = call.images.iter().zip(of_images);
    of_role.find(|(image, _)| image.role == ROLE_IMAGE || image.role == ROLE_PAUSE).map(|(_, of)| of)
}

/// What policies ask of the images' layers on the node's disk.
fn wanted(permit: &Permit) -> Vec<Option<vouched::Wanted>> {
    let wanted = permit.images().iter().map(|image| {
        let within = image.layers_checked_within?;
        let image_id = image.image_ids.first().cloned().unwrap_or_default();
        Some(vouched::Wanted { image_id, chain_id: image.chain_id.clone().unwrap_or_default(), within })
    });
    wanted.collect()
}

/// Reads a vetted call's body, bounded in bytes and time.
pub async fn read(relay: &Relay, mut body: Incoming) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), Reply> {
    let deadline = Instant::now() + Duration::from_secs(limits::VETTED_CALL_SECONDS);
    let (mut whole, mut held) = (Vec::new(), Vec::new());
    loop {
        let frame = timeout_at(deadline, body.frame()).await.map_err(|_| {
            let seconds = limits::VETTED_CALL_SECONDS;
            Reply::undecided(&format!(
                "the call did not arrive within {seconds} s (limits::VETTED_CALL_SECONDS)"
            ))
        })?;
        let Some(frame) = frame else { return Ok((whole.into(), held)) };
        let frame = frame.map_err(|_| Reply::undecided("the call was cut off before it had arrived"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limits::VETTED_CALL_BYTES {
            let cap = limits::VETTED_CALL_BYTES;
            let text = format!("the call is larger than {cap} bytes (limits::VETTED_CALL_BYTES)");
            return Err(Reply::undecided(&text));
        }
        let share = u32::try_from(data.len()).unwrap_or(u32::MAX);
        held.push(Arc::clone(&relay.held_bytes).try_acquire_many_owned(share).map_err(|_| {
            Reply::undecided("too many large calls at once (limits::VETTED_CALLS_BYTES); try again")
        })?);
        whole.extend_from_slice(&data);
    }
}

/// Alerts on fields crivet has never heard of: an image reference once arrived in such a one.
pub fn alert_unknown(relay: &Relay, unknown: &[String]) {
    if !unknown.is_empty() {
        relay.metrics.unknown_fields();
        tracing::warn!(fields = %unknown.join(" "), "a vetted call has fields this crivet has never heard of; is it older than the kubelet?");
    }
}

/// The W3C trace context of a call, for its audit record.
pub fn traceparent(headers: &HeaderMap) -> String {
    headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok())
        .filter(|value| value.len() <= 64)
        .unwrap_or_default()
        .to_owned()
}
