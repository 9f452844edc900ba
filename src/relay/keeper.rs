//! The vetter's keeper: starts the vetter, asks it, answers its questions about the runtime, notices that it
//! hangs, and starts it anew. Whatever the vetter does, the relay only ever waits within a call's budget.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use prost::Message;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::clients::millis;
use super::descriptors;
use super::permits::Permits;
use super::questions::{Questions, answer, names_no_more_than_there_is};
use crate::audit::Reason;
use crate::config::NodeCredentials;
use crate::control::wire as control;
use crate::cri::facts::ROLE_PAUSE;
use crate::cri::reply::Reply;
use crate::cri::runtime::RuntimeClient;
use crate::decision::NoVerdict;
use crate::limits;
use crate::metrics::RelayMetrics;
use crate::registry::ProxySettings;
use crate::vetter::wire::{
    self, Call, Configure, Configured, Decided, FromVetter, ImageUse, Outcome, Ping, RuntimeAnswer, ToVetter,
    Verdict, from_vetter, to_vetter,
};

/// Longest a call waits for a vetter that is being started.
const WAIT_FOR_START: Duration = Duration::from_secs(3);
/// First pause before a vetter that died is started anew; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A vetter that lived so long starts anew without a pause.
const SETTLED: Duration = Duration::from_secs(10);
/// Time for the vetter's last audit records when the relay stops.
const LAST_RECORDS: Duration = Duration::from_secs(1);
const PING_EVERY: Duration = Duration::from_secs(limits::VETTER_SILENCE_SECONDS / 3);
const SILENCE: Duration = Duration::from_secs(limits::VETTER_SILENCE_SECONDS);
/// Frames to the vetter that wait to be written.
const OUTGOING: usize = limits::QUESTIONS;

/// The relay's end of the vetter. Cheap to clone.
#[derive(Clone)]
pub struct Vetter {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    outgoing: Mutex<Option<mpsc::Sender<Bytes>>>,
    living: watch::Sender<bool>,
    configured: watch::Sender<Option<Configured>>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Verdict>>>,
    next: AtomicU64,
    about: Mutex<About>,
    /// Decisions of the relay's own that wait for a vetter, as frames.
    untold: Mutex<Vec<Bytes>>,
    stop: CancellationToken,
    stopped: CancellationToken,
}

/// The vetter and its policies, as commands are told; what it said last.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The process.
    pub vetter: control::Vetter,
    /// What is in force.
    pub policies: control::Policies,
}

/// What the keeper needs to keep a vetter.
pub struct Keeper {
    /// What vetters are started with; `None` while no whole configuration is known, and then there is no vetter.
    pub orders: watch::Receiver<Option<Orders>>,
    /// Answers the vetter's questions.
    pub runtime: RuntimeClient,
    /// Voided when the vetter says that policies changed.
    pub permits: Arc<Permits>,
    /// The relay's counters.
    pub metrics: Arc<RelayMetrics>,
}

/// What a vetter is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct Orders {
    /// Started as this user and group; `None`: as the relay's own.
    pub user: Option<(u32, u32)>,
    /// The files with the node's logins. The vetter gets what is in them, and cannot name others.
    pub credentials: NodeCredentials,
    /// The configuration in force.
    pub configure: Configure,
}

impl Keeper {
    /// Keeps a vetter running until the returned handle and all its clones are gone.
    pub fn start(self) -> Vetter {
        let shared = Arc::<Shared>::default();
        let vetter = Vetter { shared: Arc::clone(&shared) };
        tokio::spawn(self.keep(shared));
        vetter
    }

    async fn keep(mut self, shared: Arc<Shared>) {
        let mut pause = FIRST_PAUSE;
        loop {
            // The sender lives as long as the relay does.
            let Ok(orders) = self.orders.wait_for(Option::is_some).await.map(|orders| orders.clone()) else {
                return;
            };
            let Some(orders) = orders else { continue };
            let started = Instant::now();
            let exhausted = |error: &std::io::Error| descriptors::are_exhausted(error);
            let why = match descriptors::or_from_reserve(|| spawn(orders.user), exhausted) {
                Ok((child, socket)) => {
                    shared.started(&child, orders.user);
                    self.attend(child, socket, orders.configure, &shared).await
                }
                Err(error) => format!("it cannot be started: {error}"),
            };
            shared.no_vetter();
            if shared.stop.is_cancelled() {
                return shared.stopped.cancel();
            }
            tracing::error!(reason = %why, "the vetter ended; starting it anew");
            self.metrics.vetter_restarted();
            lock(&shared.about).vetter.restarts += 1;
            if started.elapsed() > SETTLED {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Serves one vetter's life; says why it ended.
    async fn attend(
        &mut self,
        mut child: Child,
        socket: UnixStream,
        configure: Configure,
        shared: &Arc<Shared>,
    ) -> String {
        let (mut sink, mut frames) = wire::link(socket).split();
        let (outgoing, mut queue) = mpsc::channel::<Bytes>(OUTGOING);
        let (questions, mut answers) = Questions::new();
        let writer = tokio::spawn(async move {
            loop {
                let (frame, turn) = tokio::select! {
                    Some(frame) = queue.recv() => (frame, None),
                    Some((frame, turn)) = answers.recv() => (frame, Some(turn)),
                    else => break,
                };
                if sink.send(frame).await.is_err() {
                    break;
                }
                // Only now: what a vetter does not read is not heaped up here.
                drop(turn);
            }
        });
        post(&outgoing, to_vetter::Body::Configure(configure));
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let why = loop {
            tokio::select! {
                frame = frames.next() => match frame {
                    Some(Ok(frame)) => {
                        heard = Instant::now();
                        match FromVetter::decode(frame) {
                            Ok(message) => self.handle(message, shared, &outgoing, &questions),
                            Err(_) => break "it sent a frame that is no message".to_owned(),
                        }
                    }
                    Some(Err(error)) => break format!("its socket failed: {error}"),
                    None => break match timeout(Duration::from_secs(1), child.wait()).await {
                        Ok(Ok(status)) => status.to_string(),
                        _ => "it closed its socket".to_owned(),
                    },
                },
                _ = pings.tick() => {
                    if heard.elapsed() > SILENCE {
                        break format!("no sign of life for {} s (limits::VETTER_SILENCE_SECONDS)", SILENCE.as_secs());
                    }
                    post(&outgoing, to_vetter::Body::Ping(Ping {}));
                }
                () = shared.stop.cancelled() => break "the relay is stopping".to_owned(),
                Ok(()) = self.orders.changed() => {
                    let Some(Orders { configure, .. }) = self.orders.borrow_and_update().clone() else { continue };
                    if !post(&outgoing, to_vetter::Body::Configure(configure)) {
                        // The next one starts with it.
                        break "a new configuration could not be handed to it".to_owned();
                    }
                }
            }
        };
        // Nobody is there to be answered.
        questions.end();
        writer.abort();
        let _ = writer.await;
        drop(frames);
        if shared.stop.is_cancelled() {
            // The end of its socket ends it, after its last audit records are written.
            let _ = timeout(LAST_RECORDS, child.wait()).await;
        }
        let _ = child.start_kill();
        let _ = timeout(Duration::from_secs(5), child.wait()).await;
        why
    }

    fn handle(
        &self,
        message: FromVetter,
        shared: &Arc<Shared>,
        outgoing: &mpsc::Sender<Bytes>,
        questions: &Questions,
    ) {
        match message.body {
            Some(from_vetter::Body::Configured(configured)) => {
                // A vetter that was started anew changes nothing for the permits it finds, other policies do.
                self.permits.rest_on(&configured.basis);
                if !configured.policy_error.is_empty() {
                    tracing::error!(error = %configured.policy_error, "the policies that were asked for are not in force");
                }
                tracing::info!(policy_set = %configured.policy_set, "the vetter is ready");
                lock(&shared.about).policies = control::Policies {
                    set: configured.policy_set.clone(),
                    count: configured.policies,
                    loaded: millis(SystemTime::now()),
                    error: configured.policy_error.clone(),
                };
                for untold in std::mem::take(&mut *lock(&shared.untold)) {
                    let _ = outgoing.try_send(untold);
                }
                *lock(&shared.outgoing) = Some(outgoing.clone());
                shared.living.send_replace(true);
                shared.configured.send_replace(Some(configured));
                // How it stands with these is not to be unknown, or as before, until the next turn.
                post(outgoing, to_vetter::Body::Ping(Ping {}));
            }
            Some(from_vetter::Body::Verdict(verdict)) => {
                if let Some(waiting) = lock(&shared.waiting).remove(&message.id) {
                    // Whoever asked may have given up.
                    let _ = waiting.send(verdict);
                }
            }
            Some(from_vetter::Body::Runtime(question)) => {
                let (runtime, metrics, permits) =
                    (self.runtime.clone(), self.metrics.clone(), self.permits.clone());
                let credentials = self.orders.borrow().as_ref().map(|orders| orders.credentials.clone());
                let credentials = credentials.unwrap_or_default();
                let asked = names_no_more_than_there_is(&question).and_then(|()| {
                    questions.ask(async move {
                        let answer = answer(question, &runtime, &metrics, &permits, credentials).await;
                        to_vetter(message.id, to_vetter::Body::Runtime(answer)).or_else(|| {
                            let error = "the answer is larger than limits::LINK_FRAME_BYTES".to_owned();
                            no_answer(message.id, error)
                        })
                    })
                });
                if let Err(why) = asked
                    && let Some(answer) = no_answer(message.id, why)
                {
                    // Where there is no room for it, the vetter gives up by itself.
                    let _ = outgoing.try_send(answer);
                }
            }
            Some(from_vetter::Body::Pong(state)) => lock(&shared.about).vetter.state = Some(state),
            None => {}
        }
    }
}

fn no_answer(id: u64, error: String) -> Option<Bytes> {
    to_vetter(id, to_vetter::Body::Runtime(RuntimeAnswer { error, ..Default::default() }))
}

/// Of the relay's environment, what the vetter's log and its way to registries depend on.
fn is_handed_on(variable: &str) -> bool {
    matches!(variable, "RUST_LOG" | "SSL_CERT_FILE" | "SSL_CERT_DIR")
        || ProxySettings::VARIABLES.contains(&variable)
}

fn spawn(user: Option<(u32, u32)>) -> std::io::Result<(Child, UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("crivet")
        .arg("vetter")
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_handed_on)))
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .kill_on_drop(true);
    if let Some((uid, gid)) = user {
        // With a user, the standard library also empties the supplementary groups.
        command.uid(uid).gid(gid);
    }
    Ok((command.spawn()?, UnixStream::from_std(ours)?))
}

/// Sends what needs no answer; `false` if too much waits already, and it is lost.
fn post(outgoing: &mpsc::Sender<Bytes>, body: to_vetter::Body) -> bool {
    to_vetter(0, body).is_some_and(|frame| outgoing.try_send(frame).is_ok())
}

/// A frame for the vetter; `None` if it is larger than a frame may be: sending it would break the link.
fn to_vetter(id: u64, body: to_vetter::Body) -> Option<Bytes> {
    let cap = match &body {
        to_vetter::Body::Vet(_) | to_vetter::Body::Decided(_) => limits::CALL_FACTS_BYTES,
        _ => limits::LINK_FRAME_BYTES,
    };
    Some(wire::frame(&ToVetter { id, body: Some(body) })).filter(|frame| frame.len() <= cap)
}

/// A decision about a call whose names and labels are more than the vetter is told: who it was about is still told.
fn shortened(decided: Decided) -> Decided {
    tracing::warn!(
        "the names of a call are cut in its audit record: they are larger than crivet vets (limits::CALL_FACTS_BYTES)"
    );
    let call = decided.call.unwrap_or_default();
    let images = call.images.iter().take(limits::IMAGES_PER_CALL).map(|image| ImageUse {
        named: cut(&image.named),
        reference: cut(&image.reference),
        role: cut(&image.role),
        ..Default::default()
    });
    let call = Call {
        kind: call.kind,
        beside: call.beside,
        namespace: cut(&call.namespace),
        pod_name: cut(&call.pod_name),
        pod_uid: cut(&call.pod_uid),
        container_name: cut(&call.container_name),
        images: images.collect(),
        traceparent: call.traceparent,
        ..Default::default()
    };
    Decided { call: Some(call), ..decided }
}

/// At most [`limits::QUOTED_CHARS`] bytes of a name, and how many it has.
fn cut(name: &str) -> String {
    if name.len() <= limits::QUOTED_CHARS {
        return name.to_owned();
    }
    let start = name.get(..name.floor_char_boundary(limits::QUOTED_CHARS)).unwrap_or_default();
    format!("{start}... ({} bytes)", name.len())
}

impl Shared {
    fn keep_untold(&self, frame: Bytes) {
        let mut untold = lock(&self.untold);
        if untold.iter().map(Bytes::len).sum::<usize>() + frame.len() > limits::UNTOLD_BYTES {
            tracing::warn!(
                "a decision is not in the audit log: no vetter was there to write it for too long (limits::UNTOLD_BYTES)"
            );
        } else {
            untold.push(frame);
        }
    }

    fn started(&self, child: &Child, user: Option<(u32, u32)>) {
        let vetter = &mut lock(&self.about).vetter;
        vetter.pid = child.id().unwrap_or_default();
        vetter.uid = user.map_or_else(|| rustix::process::geteuid().as_raw(), |(uid, _)| uid);
        vetter.started = millis(SystemTime::now());
    }

    fn no_vetter(&self) {
        lock(&self.about).vetter.pid = 0;
        *lock(&self.outgoing) = None;
        self.living.send_replace(false);
        self.configured.send_replace(None);
        // Dropping the senders tells those who wait.
        lock(&self.waiting).clear();
    }
}

impl Vetter {
    /// Whether a vetter is there to be asked.
    pub fn is_living(&self) -> bool {
        *self.shared.living.borrow()
    }

    /// How the vetter is and what it has in force, as it said last.
    pub fn about(&self) -> About {
        lock(&self.shared.about).clone()
    }

    /// What the vetter has in force, as it says it; `None` while none lives.
    pub fn told(&self) -> watch::Receiver<Option<Configured>> {
        self.shared.configured.subscribe()
    }

    /// What the vetter has in force once that is at least the configuration of this serial.
    pub async fn configured(&self, serial: u64, within: Duration) -> Result<Configured, NoVerdict> {
        let mut told = self.shared.configured.subscribe();
        let is_it = |told: &Option<Configured>| told.as_ref().is_some_and(|told| told.serial >= serial);
        let told = timeout(within, told.wait_for(is_it)).await.map_err(|_| NoVerdict::Away)?;
        told.map_err(|_| NoVerdict::Away)?.clone().ok_or(NoVerdict::Away)
    }

    /// Ends the vetter in order; returns when it is gone, or after about a second.
    pub async fn stop(&self) {
        let was_living = self.is_living();
        self.shared.stop.cancel();
        if was_living {
            let _ = timeout(2 * LAST_RECORDS, self.shared.stopped.cancelled()).await;
        }
    }

    /// Asks about a call; answers within `budget`, whatever the vetter does.
    pub async fn ask(&self, mut call: Call, budget: Duration) -> Result<Verdict, NoVerdict> {
        let deadline = Instant::now() + budget;
        let outgoing = self.outgoing(deadline.min(Instant::now() + WAIT_FOR_START)).await?;
        call.budget_ms = u32::try_from(budget.as_millis()).unwrap_or(u32::MAX);
        let (answer, verdict) = oneshot::channel();
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let question = to_vetter(id, to_vetter::Body::Vet(call)).ok_or(NoVerdict::TooLarge)?;
        {
            let mut waiting = lock(&self.shared.waiting);
            if waiting.len() >= limits::QUESTIONS {
                return Err(NoVerdict::Busy);
            }
            waiting.insert(id, answer);
        }
        let _forget = Forget { shared: &self.shared, id };
        outgoing.try_send(question).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NoVerdict::Busy,
            mpsc::error::TrySendError::Closed(_) => NoVerdict::Away,
        })?;
        timeout_at(deadline, verdict).await.map_err(|_| NoVerdict::Late)?.map_err(|_| NoVerdict::Away)
    }

    /// Hands over a decision the relay made by itself, for the audit log; to the next vetter if none lives.
    pub fn tell(&self, call: &Call, verdict: Verdict) {
        self.tell_why(call, verdict, String::new());
    }

    /// As [`Vetter::tell`], of a call the relay answered undecided, or would have.
    pub fn tell_undecided(&self, call: &Call, reply: &Reply, reason: Reason) {
        self.tell_refused(call, reply, Outcome::Undecided, reason);
    }

    /// As [`Vetter::tell`], of a call the relay refused by itself, or would have.
    pub fn tell_refused(&self, call: &Call, reply: &Reply, outcome: Outcome, reason: Reason) {
        let message = reply.message.clone();
        let verdict = Verdict { outcome: outcome.into(), message, ..Default::default() };
        self.tell_why(call, verdict, reason.as_str().to_owned());
    }

    fn tell_why(&self, call: &Call, verdict: Verdict, reason: String) {
        let mut call = Call { auth: None, ..call.clone() };
        if call.images.is_empty() {
            // What it is about is not known: the pause image's name.
            call.images.push(ImageUse { role: ROLE_PAUSE.to_owned(), ..Default::default() });
        }
        let decided = Decided { call: Some(call), verdict: Some(verdict), reason };
        let whole = to_vetter(0, to_vetter::Body::Decided(decided.clone()));
        let frame = whole.or_else(|| to_vetter(0, to_vetter::Body::Decided(shortened(decided))));
        let Some(frame) = frame else { return };
        let unsent = match lock(&self.shared.outgoing).as_ref() {
            Some(outgoing) => outgoing.try_send(frame).err().map(mpsc::error::TrySendError::into_inner),
            None => Some(frame),
        };
        if let Some(frame) = unsent {
            self.shared.keep_untold(frame);
        }
    }

    async fn outgoing(&self, until: Instant) -> Result<mpsc::Sender<Bytes>, NoVerdict> {
        let mut living = self.shared.living.subscribe();
        timeout_at(until, living.wait_for(|living| *living))
            .await
            .map_err(|_| NoVerdict::Away)?
            .map_err(|_| NoVerdict::Away)?;
        lock(&self.shared.outgoing).clone().ok_or(NoVerdict::Away)
    }
}

/// A question nobody waits for any more is not kept.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.shared.waiting).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_call_there_can_be_is_told_shortened() {
        let long = "\u{20ac}".repeat(1 << 16);
        let image = ImageUse {
            named: long.clone(),
            reference: long.clone(),
            role: "mounts[1000].image".into(),
            ..Default::default()
        };
        let call = Call {
            namespace: long.clone(),
            pod_name: long.clone(),
            pod_uid: long.clone(),
            container_name: long.clone(),
            labels: [(long.clone(), long)].into(),
            images: vec![image; 1000],
            ..Default::default()
        };
        let decided = Decided { call: Some(call), reason: "LimitReached".into(), ..Default::default() };
        let short = shortened(decided);
        let call = short.call.clone().unwrap();
        assert_eq!(call.images.len(), limits::IMAGES_PER_CALL);
        assert!(call.namespace.ends_with("... (196608 bytes)"), "{}", call.namespace);
        assert!(to_vetter(0, to_vetter::Body::Decided(short)).is_some());
    }
}
