//! The daemon's end of the control socket, for commands on this node. Whoever can open it (0600) is root.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{SinkExt, StreamExt};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::clients::millis;
use super::{Relay, altered, healed, listener, look, vouched};
use crate::control::wire::{
    self, Answer, BreakGlass, ContentReport, ContentRequests, ContentTaken, Request, Status, answer, link,
    request,
};
use crate::limits;
use crate::metrics::Counted;
use crate::vetter::wire::{Call, Kind, frame};

/// Longest a judgement may take, whatever is asked for: it waits for its turn in the background.
const JUDGEMENT: Duration = super::beside::BUDGET;
/// Longest the runtime is waited for when somebody asks how the daemon is.
const RUNTIME: Duration = Duration::from_secs(2);
/// The class whose calls are told by method.
const VETTED: &str = "vetted";

/// What the daemon was started with.
pub struct Started {
    /// When.
    pub at: SystemTime,
    /// The listening socket, as configured.
    pub listen: String,
    /// The configuration that runs.
    pub configuration: watch::Receiver<wire::Configuration>,
}

/// The control socket, if it can be opened. That it cannot is worth a word, and no call.
pub async fn open(socket: &Path) -> Option<UnixListener> {
    let opened = listener::bind(socket).await;
    if let Err(error) = &opened {
        let socket = socket.display();
        tracing::error!(%socket, %error, "the control socket cannot be opened; crivet doctor cannot ask this daemon");
    }
    opened.ok()
}

/// Serves the control socket as long as the relay lives.
pub async fn serve(relay: Arc<Relay>, started: Started, listener: UnixListener) {
    let started = Arc::new(started);
    let places = Arc::new(Semaphore::new(limits::CONTROL_CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let (relay, started) = (Arc::clone(&relay), Arc::clone(&started));
                tokio::spawn(async move {
                    connection(&relay, &started, stream).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn connection(relay: &Relay, started: &Started, stream: UnixStream) {
    let mut link = link(stream);
    while let Some(Ok(bytes)) = link.next().await {
        let Ok(request) = Request::decode(bytes) else { return };
        let body = match request.body {
            Some(request::Body::Status(_)) => answer::Body::Status(status(relay, started).await),
            Some(request::Body::Judge(call)) => judge(relay, call).await,
            Some(request::Body::Content(report)) => content(relay, report).await,
            Some(request::Body::ContentRequests(_)) => {
                let image_ids = relay.requested.take(Instant::now()).await;
                answer::Body::ContentRequests(ContentRequests { image_ids })
            }
            None => answer::Body::Error(format!(
                "a question that crivet {} does not know; is the command newer than the daemon? restart the daemon",
                env!("CARGO_PKG_VERSION")
            )),
        };
        if link.send(frame(&Answer { body: Some(body) })).await.is_err() {
            return;
        }
    }
}

async fn judge(relay: &Relay, call: Call) -> answer::Body {
    let call = Call { kind: Kind::Inventory.into(), beside: true, ..call };
    let within = Duration::from_millis(call.budget_ms.into()).min(JUDGEMENT);
    let images = call.images.clone();
    match relay.vetter.ask(call, within).await {
        Ok(mut verdict) => {
            vouched::judged(relay, &images, &mut verdict.judged).await;
            answer::Body::Judged(verdict)
        }
        Err(none) => answer::Body::Error(none.to_string()),
    }
}

async fn content(relay: &Relay, report: ContentReport) -> answer::Body {
    if let Err(error) = healed::about_to_be_removed(relay, &report.to_be_removed).await {
        return answer::Body::Error(error);
    }
    match altered::take(relay, report, SystemTime::now()).await {
        Ok(altered) => {
            answer::Body::Content(ContentTaken { altered: u32::try_from(altered).unwrap_or(u32::MAX) })
        }
        Err(error) => answer::Body::Error(error),
    }
}

fn not_pulled(relay: &Relay) -> Vec<wire::NotPulled> {
    let all = relay.hidden.not_pulled(Instant::now()).into_iter().take(limits::FOUND_SHOWN);
    all.map(|(image, ended)| wire::NotPulled { image, ended: ended.as_str().to_owned() }).collect()
}

async fn status(relay: &Relay, started: &Started) -> Status {
    let runtime = runtime(relay).await;
    let (about, counted) = (relay.vetter.about(), relay.metrics.counted());
    let live = relay.live.borrow();
    let (found, found_count, watching) = relay.found.status();
    let (altered_layers, content_checked, content_checked_at) = relay.altered.status();
    let (content_requests, content_requests_count) = relay.requested.status(Instant::now());
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: millis(started.at),
        listen: started.listen.clone(),
        runtime_endpoint: relay.endpoints.runtime.display().to_string(),
        image_endpoint: relay.endpoints.image.display().to_string(),
        mode: live.in_force.stance.as_str().to_owned(),
        mode_because: live.in_force.text.clone(),
        vetter_living: relay.vetter.is_living(),
        clients: relay.clients.list(),
        found,
        found_count: u32::try_from(found_count).unwrap_or(u32::MAX),
        watching: watching.to_owned(),
        configuration: Some(started.configuration.borrow().clone()),
        policies: Some(about.policies),
        vetter: Some(about.vetter),
        calls: calls(&counted),
        last_call: counted.last_call.saturating_mul(1000),
        permits_held: relay.permits.len() as u64,
        runtime: Some(runtime),
        removed_after_look: counted.removed_after_look,
        content_altered: counted.content_altered,
        configured_mode: live.in_force.configured.to_owned(),
        break_glass: live
            .break_glass
            .as_ref()
            .map(|glass| BreakGlass { reason: glass.reason.clone(), expires: millis(glass.expires) }),
        break_glass_rejected: live.break_glass_rejected.clone(),
        hidden: u32::try_from(relay.hidden.count()).unwrap_or(u32::MAX),
        not_pulled: not_pulled(relay),
        altered_layers,
        altered_layers_count: u32::try_from(relay.altered.count()).unwrap_or(u32::MAX),
        content_checked,
        content_checked_at,
        content_requests,
        content_requests_count: u32::try_from(content_requests_count).unwrap_or(u32::MAX),
        revetted: Some(relay.revetting.status()),
    }
}

fn calls(counted: &Counted) -> Vec<wire::Calls> {
    let classes = counted.by_class.iter().filter(|(class, _)| *class != VETTED);
    let classes = classes.map(|(class, seen)| wire::Calls {
        class: (*class).to_owned(),
        seen: *seen,
        ..Default::default()
    });
    let methods = counted.vetted.iter().map(|(method, seen, vetted)| wire::Calls {
        class: VETTED.to_owned(),
        method: (*method).to_owned(),
        seen: *seen,
        vetted: *vetted,
    });
    classes.chain(methods).collect()
}

/// The runtime as it answers now, within [`RUNTIME`].
async fn runtime(relay: &Relay) -> wire::Runtime {
    let late = || format!("no answer within {} s", RUNTIME.as_secs());
    let version = async {
        let version = timeout(RUNTIME, relay.runtime.version()).await.map_err(|_| late())?;
        version.map_err(|error| error.to_string())
    };
    let pause =
        async { timeout(RUNTIME, relay.pause.name(&relay.runtime)).await.map_err(|_| late()).flatten() };
    let looked_at = async { timeout(RUNTIME, look::possible(relay)).await };
    let (version, pause, looked_at) = tokio::join!(version, pause, looked_at);
    let mut told = wire::Runtime::default();
    if let Ok(Err(refusal)) = looked_at {
        told.not_looked_at = refusal.reply.message;
    }
    match version {
        Ok(version) => (told.name, told.version) = (version.runtime_name, version.runtime_version),
        Err(error) => told.error = error,
    }
    match pause {
        Ok(name) => told.pause_image = name,
        Err(error) => told.pause_image_error = error,
    }
    told
}
