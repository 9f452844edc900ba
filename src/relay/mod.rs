//! The relay: listener, upstream, passthrough, intercept, and the vetter's keeper.
//!
//! A request's way: [`serve`] accepts its connection, [`Relay::call`] finds its class in the method table, and
//! it is relayed undecoded, vetted first ([`intercept`]) or vetted beside ([`beside`]).

pub mod altered;
pub mod ask;
pub mod beside;
pub mod body;
pub mod break_glass;
pub mod checked;
pub mod clients;
pub mod control;
pub mod descriptors;
mod disk;
pub mod documents;
pub mod found;
pub mod gather;
pub mod govern;
pub mod healed;
pub mod hidden;
pub mod http2;
pub mod intercept;
pub mod keeper;
pub mod listener;
pub mod look;
pub mod mode;
pub mod pause;
pub mod permits;
pub mod presence;
mod questions;
pub mod requested;
pub mod revet;
pub mod serve;
pub mod stacks;
pub mod switch;
pub mod upstream;
pub mod user;
pub mod vouched;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::request::Parts;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::sync::{Semaphore, watch};

use self::altered::Altered;
use self::body::{Passing, Relayed, ResponseBody};
use self::checked::Checked;
use self::clients::Clients;
use self::documents::Documents;
use self::found::Found;
use self::healed::Healed;
use self::hidden::Hidden;
use self::keeper::Vetter;
use self::pause::PauseImage;
use self::permits::Permits;
use self::requested::Requested;
use self::revet::Revetting;
use self::serve::Stop;
use self::stacks::Stacks;
use self::upstream::{Endpoints, Upstream};
use self::user::answers::Answers;
use crate::audit::Reason;
use crate::config::InsecureAllowed;
use crate::cri::facts;
use crate::cri::methods::{Class, Service, Vetted, classify, is_server_stream};
use crate::cri::reply::Reply;
use crate::cri::runtime::RuntimeClient;
use crate::limits;
use crate::metrics::RelayMetrics;
use crate::vetter::wire::{Call, ImageUse, Kind};

/// The call by which a kubelet with evented PLEG listens.
const EVENTS: &str = "/runtime.v1.RuntimeService/GetContainerEvents";

/// What is done about vetted calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stance {
    /// Nothing is refused, delayed or made to fail; vetting happens beside.
    Audit,
    /// Nothing vetted passes without a permit.
    Enforce,
    /// The configuration does not say: vetted calls are undecided, for this reason.
    Unknown(String),
}

impl Stance {
    /// In one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Enforce => "enforce",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// The settings that change while the relay runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// The mode in force, and why.
    pub in_force: mode::InForce,
    /// The break-glass file in force.
    pub break_glass: Option<break_glass::Written>,
    /// Why one that is there is not; empty if none is there.
    pub break_glass_rejected: String,
    /// Longest a call's vetting may take.
    pub vetting_timeout: Duration,
    /// What enforce mode lets run although nothing holds it to what was vetted.
    pub allowed: Arc<InsecureAllowed>,
}

/// The relay's state, shared by all its connections.
pub struct Relay {
    /// Settings in force.
    pub live: watch::Receiver<Live>,
    /// The runtime's sockets.
    pub endpoints: Endpoints,
    /// For crivet's own calls.
    pub runtime: RuntimeClient,
    /// Who decides.
    pub vetter: Vetter,
    /// Permits held.
    pub permits: Arc<Permits>,
    /// Counters.
    pub metrics: Arc<RelayMetrics>,
    /// The pod sandboxes' image.
    pub pause: PauseImage,
    /// Who is connected.
    pub clients: Clients,
    /// What came through, and what did not.
    pub found: Found,
    /// Images hidden until they are pulled anew.
    pub hidden: Arc<Hidden>,
    /// Documents of images, as the runtime has them.
    pub documents: Documents,
    /// What was said of the names that the kubelet reads users by.
    pub user_answers: Answers,
    /// Layers that a check of the node's disk found altered.
    pub altered: Altered,
    /// Layers that one found whole, and when.
    pub checked: Checked,
    /// What is below a snapshot.
    pub stacks: Stacks,
    /// Images that wait for one.
    pub requested: Requested,
    /// Images that were removed because of it.
    pub healed: Arc<Healed>,
    /// What runs and is stored and that the policies in force do not allow.
    pub revetting: Revetting,
    held_bytes: Arc<Semaphore>,
    beside: Arc<Semaphore>,
}

/// What a relay is made of.
pub struct Members {
    /// See [`Relay::live`].
    pub live: watch::Receiver<Live>,
    /// See [`Relay::endpoints`].
    pub endpoints: Endpoints,
    /// See [`Relay::runtime`].
    pub runtime: RuntimeClient,
    /// See [`Relay::vetter`].
    pub vetter: Vetter,
    /// See [`Relay::permits`].
    pub permits: Arc<Permits>,
    /// See [`Relay::metrics`].
    pub metrics: Arc<RelayMetrics>,
    /// The setting `pauseImage`.
    pub pause_image: Option<String>,
}

impl Relay {
    /// A relay of these parts.
    pub fn new(parts: Members) -> Arc<Relay> {
        Arc::new(Relay {
            live: parts.live,
            endpoints: parts.endpoints,
            runtime: parts.runtime,
            vetter: parts.vetter,
            permits: parts.permits,
            metrics: parts.metrics,
            pause: PauseImage::new(parts.pause_image),
            clients: Clients::default(),
            found: Found::default(),
            hidden: Arc::default(),
            documents: Documents::default(),
            user_answers: Answers::default(),
            altered: Altered::default(),
            checked: Checked::default(),
            stacks: Stacks::default(),
            requested: Requested::default(),
            healed: Arc::default(),
            revetting: Revetting::default(),
            held_bytes: Arc::new(Semaphore::new(limits::VETTED_CALLS_BYTES)),
            beside: Arc::new(Semaphore::new(limits::BESIDE_CALLS)),
        })
    }

    /// One call, from its headers to its answer; an error resets its stream.
    pub async fn call(
        self: Arc<Relay>,
        upstream: Arc<Upstream>,
        stop: Stop,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, h2::Error> {
        let stop = if is_server_stream(request.uri().path()) { stop.streams } else { stop.calls };
        if request.uri().path() == EVENTS {
            self.found.somebody_listens();
        }
        let response = tokio::select! {
            biased;
            response = self.route(&upstream, request) => response?,
            () = stop.cancelled() => {
                return Ok(Reply::unavailable("crivet is shutting down; call again".to_owned()).into_response());
            }
        };
        Ok(response.map(|body| match body {
            ResponseBody::Relayed(body) => ResponseBody::Relayed(body.until(stop.cancelled_owned())),
            other => other,
        }))
    }

    async fn route(
        self: Arc<Relay>,
        upstream: &Upstream,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, h2::Error> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let class = classify(path);
        self.metrics.call(class, SystemTime::now());
        let stance = self.live.borrow().in_force.stance.clone();
        match (class, stance) {
            (Class::Passthrough(_), Stance::Enforce)
                if self.hidden.any() && path == presence::IMAGE_STATUS =>
            {
                Box::pin(presence::answer(self, upstream, head, body)).await
            }
            (Class::Passthrough(Service::Image), Stance::Enforce) if path == presence::IMAGE_STATUS => {
                Box::pin(user::answers::pass(self, upstream, &head, body)).await
            }
            (Class::Passthrough(service) | Class::UnknownRead(service), _) => {
                if path == presence::IMAGE_STATUS {
                    // Not kept while nothing is enforced: what was said before is no longer the last word.
                    self.user_answers.forget();
                }
                passthrough(upstream, service, &head, body).await
            }
            (Class::Vetted(service, vetted), Stance::Audit) => {
                // Boxed, as the next: what passes through should not carry the room they need.
                Box::pin(beside::forward_then_vet(self, upstream, service, vetted, head, body)).await
            }
            (Class::Vetted(service, vetted), Stance::Enforce) => {
                Box::pin(intercept::vet_then_forward(&self, upstream, service, vetted, head, body)).await
            }
            (
                Class::RefusedUnlessAllowed(service) | Class::UnknownWrite(service),
                Stance::Audit | Stance::Enforce,
            ) if self.is_allowed_unvetted(path) => {
                tracing::warn!(path, "relayed unvetted, as insecureAllowUnvetted says");
                passthrough(upstream, service, &head, body).await
            }
            (Class::RefusedUnlessAllowed(service), Stance::Audit) => {
                self.relayed_unread(Kind::RestorePod, path, &cannot_be_vetted(path));
                passthrough(upstream, service, &head, body).await
            }
            (Class::UnknownWrite(service), Stance::Audit) => {
                self.relayed_unread(Kind::Other, path, &not_known(path));
                passthrough(upstream, service, &head, body).await
            }
            (Class::Vetted(..) | Class::RefusedUnlessAllowed(_), Stance::Unknown(why)) => {
                Ok(Reply::undecided(&why).into_response())
            }
            (Class::RefusedUnlessAllowed(_), Stance::Enforce) => {
                Ok(self.refused_unread(Kind::RestorePod, path, cannot_be_vetted(path)))
            }
            (Class::UnknownWrite(_), Stance::Enforce | Stance::Unknown(_)) => {
                Ok(self.refused_unread(Kind::Other, path, not_known(path)))
            }
            (Class::ForeignService, _) => {
                let path: String = path.chars().take(limits::QUOTED_CHARS).collect();
                let text =
                    format!("crivet forwards runtime.v1 only, not {path}; use the runtime's own socket");
                Ok(Reply::unimplemented(text).into_response())
            }
        }
    }
}

impl Relay {
    fn is_allowed_unvetted(&self, path: &str) -> bool {
        let method = path.strip_prefix("/runtime.v1.");
        method
            .is_some_and(|method| self.live.borrow().allowed.unvetted.iter().any(|allowed| allowed == method))
    }

    /// Refuses a vetted call of which nothing is known but its path.
    fn refused(&self, vetted: Vetted, path: &str, reply: Reply) -> Response<ResponseBody> {
        self.refused_unread(facts::kind(vetted), path, reply)
    }

    /// Records a refusal that no vetter was asked about.
    fn refused_unread(&self, kind: Kind, path: &str, reply: Reply) -> Response<ResponseBody> {
        tracing::warn!(path, "refused");
        self.vetter.tell_undecided(&unread(kind, path), &reply, Reason::CallNotVettable);
        reply.into_response()
    }

    /// Counts and records a call that is relayed because nothing is enforced, and that no vetter can be asked about.
    fn relayed_unread(&self, kind: Kind, path: &str, reply: &Reply) {
        tracing::warn!(path, reason = %reply.message, "a call was relayed that enforce mode would refuse");
        self.metrics.not_vetted();
        let call = Call { beside: true, ..unread(kind, path) };
        self.vetter.tell_undecided(&call, reply, Reason::CallNotVettable);
    }
}

/// A call of which nothing is known but its path.
fn unread(kind: Kind, path: &str) -> Call {
    let image = ImageUse { named: path.to_owned(), ..Default::default() };
    Call { kind: kind.into(), images: vec![image], ..Default::default() }
}

fn cannot_be_vetted(path: &str) -> Reply {
    Reply::undecided(&format!(
        "{path} makes containers that crivet cannot vet; insecureAllowUnvetted lets it through"
    ))
}

fn not_known(path: &str) -> Reply {
    Reply::unimplemented(format!(
        "{path} is newer than this crivet, which refuses in enforce mode what it does not know"
    ))
}

/// Relays a call undecoded.
async fn passthrough(
    upstream: &Upstream,
    service: Service,
    head: &Parts,
    body: Incoming,
) -> Result<Response<ResponseBody>, h2::Error> {
    let body = Passing::new(body, limits::REPLAYED_CALL_BYTES);
    let response = upstream.send_passing(service, head, &body).await;
    body.take();
    match response {
        Ok(response) => {
            let socket = Arc::clone(upstream.socket(service));
            Ok(response.map(|incoming| ResponseBody::Relayed(Relayed::new(incoming, socket))))
        }
        Err(none) => none.into_response(),
    }
}
