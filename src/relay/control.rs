//! The daemon's end of the control socket, for commands on this node. Whoever can open it (0600) is root.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{SinkExt, StreamExt};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::clients::millis;
use super::{Relay, Stance, listener};
use crate::control::wire::{Answer, Request, Status, answer, link, request};
use crate::limits;
use crate::vetter::wire::{Call, Kind, frame};

/// Longest a judgement may take. The vetter's budget for work nobody waits for holds beside it.
const JUDGEMENT: Duration = Duration::from_secs(120);

/// What the daemon was started with.
pub struct Started {
    /// When.
    pub at: SystemTime,
    /// The listening socket, as configured.
    pub listen: String,
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
            Some(request::Body::Status(_)) => answer::Body::Status(status(relay, started)),
            Some(request::Body::Judge(call)) => judge(relay, call).await,
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
    match relay.vetter.ask(call, JUDGEMENT).await {
        Ok(verdict) => answer::Body::Judged(verdict),
        Err(none) => answer::Body::Error(none.to_string()),
    }
}

fn status(relay: &Relay, started: &Started) -> Status {
    let (mode, mode_because) = match &relay.live.borrow().stance {
        Stance::Audit => ("audit", String::new()),
        Stance::Enforce => ("enforce", String::new()),
        Stance::Unknown(why) => ("unknown", why.clone()),
    };
    let (found, found_count, watching) = relay.found.status();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: millis(started.at),
        listen: started.listen.clone(),
        runtime_endpoint: relay.endpoints.runtime.display().to_string(),
        image_endpoint: relay.endpoints.image.display().to_string(),
        mode: mode.to_owned(),
        mode_because,
        vetter_living: relay.vetter.is_living(),
        clients: relay.clients.list(),
        found,
        found_count: u32::try_from(found_count).unwrap_or(u32::MAX),
        watching: watching.to_owned(),
    }
}
