//! The vetter's end of the socket pair: calls in, verdicts out.

mod configured;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant as Clock, SystemTime};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::configured::Order;
use super::answer;
use super::case::{Context, InForce};
use super::node::{Node, Questions};
use super::vet::Vetter;
use super::vetting::Vetting;
use super::wire::{
    self, Call, Configure, Configured, FromVetter, Kind, Outcome, State, ToVetter, Verdict, from_vetter,
    to_vetter,
};
use crate::audit::{AuditLog, Decision, Reason, Record};
use crate::config::Mode;
use crate::image::Platform;
use crate::limits;
use crate::metrics::VetterMetrics;
use crate::proofs::Moment;
use crate::telemetry::{Role, Span, Trace, Tracer};

/// How often the vetter looks after itself, and whether the policy folder was exchanged.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long what is learned aside is known to the next question of the same command.
const ASIDE_FOR: Duration = Duration::from_secs(60);

/// The end of a call's budget, kept for the answer's way.
const LEFT_FOR_THE_ANSWER: Duration = Duration::from_millis(500);

/// Longest the last proofs may take to get to the disk when crivet ends.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// Configurations that wait to be built.
const ORDERS: usize = 16;

/// One vetter process, from the first frame to the last.
struct Session {
    vetter: Arc<Vetter>,
    /// Judges where nothing is to be kept, and when it was last asked.
    aside: Mutex<Option<(Arc<Vetter>, Instant)>>,
    in_force: RwLock<Option<Arc<InForce>>>,
    tracer: RwLock<Option<Tracer>>,
    audit: RwLock<Option<Arc<AuditLog>>>,
    metrics: Arc<VetterMetrics>,
    metrics_task: Mutex<Option<(SocketAddr, AbortHandle)>>,
    /// Keeps the trusted roots up to date.
    trust_task: Mutex<Option<AbortHandle>>,
    /// What the relay was told last, its basis without the trusted roots.
    told: Mutex<Option<Configured>>,
    outgoing: mpsc::Sender<Bytes>,
    /// The number of the last configuration that was built.
    built: watch::Sender<u64>,
    /// Set when a part that this process is nothing without has failed.
    broken: CancellationToken,
}

/// Serves the relay until it goes away.
pub async fn serve(socket: UnixStream) {
    let (mut sink, mut frames) = wire::link(socket).split();
    let (outgoing, mut queue) = mpsc::channel::<Bytes>(limits::QUESTIONS);
    let questions = Arc::new(Questions::new(outgoing.clone()));
    let host = Platform::new(std::env::consts::OS, std::env::consts::ARCH, "");
    let session = Arc::new(Session {
        vetter: Arc::new(Vetter::new(Node::new(Arc::clone(&questions)), host)),
        aside: Mutex::default(),
        in_force: RwLock::default(),
        tracer: RwLock::default(),
        audit: RwLock::default(),
        metrics: Arc::default(),
        metrics_task: Mutex::default(),
        trust_task: Mutex::default(),
        told: Mutex::default(),
        outgoing,
        built: watch::Sender::default(),
        broken: CancellationToken::new(),
    });
    session.needs("the answers' way to the relay", async move {
        while let Some(frame) = queue.recv().await {
            if sink.send(frame).await.is_err() {
                break;
            }
        }
    });
    let (orders, to_build) = mpsc::channel(ORDERS);
    session.needs("putting configurations in force", Arc::clone(&session).build(to_build));
    let (mut newest, mut number) = (Configure::default(), 0);
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            frame = frames.next() => {
                let Some(Ok(frame)) = frame else { break };
                let Ok(message) = ToVetter::decode(frame) else { break };
                match message.body {
                    Some(to_vetter::Body::Configure(configure)) => {
                        number += u64::from(number == 0 || configure != newest);
                        newest = configure.clone();
                        if orders.try_send(Order { number, configure }).is_err() {
                            // The next vetter starts with the newest.
                            tracing::error!("configurations come faster than they can be built");
                            break;
                        }
                    }
                    Some(to_vetter::Body::Vet(call)) => session.vet(message.id, call, number),
                    Some(to_vetter::Body::Decided(decided)) => session.decided(decided),
                    Some(to_vetter::Body::Runtime(answer)) => questions.answered(message.id, answer),
                    Some(to_vetter::Body::Ping(_)) => session.send(0, from_vetter::Body::Pong(session.state())),
                    None => {}
                }
            }
            // Without it, a process would live that never decides again.
            () = session.broken.cancelled() => break,
            _ = ticks.tick() => {
                if let Some(audit) = session.audit() {
                    audit.tick(SystemTime::now());
                }
                session.forget_aside(Instant::now());
                session.vetter.proofs.tick(Moment::now());
            }
        }
    }
    if let Some(audit) = session.audit() {
        audit.flush(SystemTime::now());
    }
    session.vetter.proofs.close(LAST_WRITES);
}

/// What an unprivileged process may still write on the disk of a folder, bytes.
fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

impl Session {
    /// Runs what this process is nothing without beside all else: should it panic (a thread that cannot be started does),
    /// the process ends, and the relay starts another.
    fn needs(&self, what: &'static str, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let (work, broken) = (tokio::spawn(work), self.broken.clone());
        let handle = work.abort_handle();
        tokio::spawn(async move {
            if let Err(error) = work.await
                && error.is_panic()
            {
                tracing::error!(%error, part = what, "the vetter ends, to be started anew: a part of it failed");
                broken.cancel();
            }
        });
        handle
    }

    fn send(&self, id: u64, body: from_vetter::Body) {
        // Full only if the relay does not read: it will notice the silence.
        let _ = self.outgoing.try_send(wire::frame(&FromVetter { id, body: Some(body) }));
    }

    /// How this vetter is, for whoever asks the daemon.
    fn state(&self) -> State {
        let proofs = self.vetter.proofs.summary();
        let metrics = self.metrics_task.lock().unwrap_or_else(PoisonError::into_inner);
        State {
            proofs: proofs.walked as u64,
            proof_store: Some(wire::ProofStore {
                kept: proofs.store.kept.as_str().to_owned(),
                why: proofs.store.why,
                bytes: proofs.store.bytes,
                unwritten: proofs.unwritten as u64,
                set_aside: proofs.store.set_aside,
                set_aside_because: proofs.store.set_aside_because,
            }),
            audit_log: self.in_force().zip(self.audit()).map(|(in_force, audit)| {
                let settings = &in_force.config.audit_log;
                wire::AuditLog {
                    path: settings.path.display().to_string(),
                    lost: audit.lost(),
                    free_bytes: settings.path.parent().and_then(free_bytes),
                    max_bytes: settings.max_size,
                    backups: settings.max_backups,
                }
            }),
            credential_troubles: self
                .in_force()
                .map(|in_force| in_force.logins.troubles())
                .unwrap_or_default(),
            metrics_address: metrics.as_ref().map(|(at, _)| at.to_string()).unwrap_or_default(),
            trust: self.in_force().map(|in_force| wire::trust(&in_force.trust)).unwrap_or_default(),
            layouts: self.in_force().map(|in_force| wire::layouts(in_force.layouts.summary())),
        }
    }

    /// The highest time ever seen, which ends what the clock ends.
    fn latest(&self) -> SystemTime {
        self.vetter.proofs.latest(SystemTime::now())
    }

    fn in_force(&self) -> Option<Arc<InForce>> {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn audit(&self) -> Option<Arc<AuditLog>> {
        self.audit.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The span of a call; nothing, unless it is sampled.
    fn span(&self, call: &Call) -> Span {
        let tracer = self.tracer.read().unwrap_or_else(PoisonError::into_inner).clone();
        let trace = tracer.map_or_else(Trace::default, |tracer| tracer.trace(&call.traceparent));
        let kind = answer::kind(call.kind()).as_str();
        let mut span = trace.span(&format!("vet {kind}"), Role::Server);
        span.set("crivet.kind", kind);
        span.set("k8s.namespace.name", &call.namespace);
        span.set("k8s.pod.name", &call.pod_name);
        span.set("k8s.pod.uid", &call.pod_uid);
        span.set("k8s.container.name", &call.container_name);
        span
    }

    /// Vets a call beside all others, and answers. `number` is that of the configuration that was ordered before it.
    fn vet(self: &Arc<Session>, id: u64, call: Call, number: u64) {
        let session = Arc::clone(self);
        tokio::spawn(async move {
            let work = tokio::spawn({
                let session = Arc::clone(&session);
                async move { session.work(id, call, number).await }
            });
            // A bug in vetting is one call's undecided, not the vetter's end.
            if let Err(error) = work.await {
                tracing::error!(%error, "vetting failed");
                let verdict = answer::undecided("a fault inside crivet; see its log, try again");
                session.send(id, from_vetter::Body::Verdict(verdict));
            }
        });
    }

    async fn work(&self, id: u64, call: Call, number: u64) {
        let (started, arrived) = (Clock::now(), Instant::now());
        // Not by the settings before: what they only audit, the new ones may enforce. Policies that change under the
        // same settings are not waited for.
        let _ = self.built.subscribe().wait_for(|built| *built >= number).await;
        // What was proven before the restart is not asked for again, least of all of a registry that is down.
        self.vetter.proofs.loaded().await;
        let verdict = |verdict: Verdict| self.send(id, from_vetter::Body::Verdict(verdict));
        let Some(in_force) = self.in_force() else {
            return verdict(answer::undecided("crivet has no configuration; see its log"));
        };
        if call.images.len() > limits::IMAGES_PER_CALL {
            let (found, cap) = (call.images.len(), limits::IMAGES_PER_CALL);
            let text = format!("the call uses {found} images, more than {cap} (limits::IMAGES_PER_CALL)");
            return verdict(answer::undecided(&text));
        }
        // What crivet asks by itself is judged as if everything were enforced, whatever the mode. And a call that
        // waits is one of a relay that enforces: the vetter may not have been told yet that audit is over.
        let asked_by_crivet = matches!(call.kind(), Kind::Inventory | Kind::FoundContainer | Kind::Revetted);
        let actual = Arc::clone(&in_force);
        let audits = in_force.mode == Mode::Audit && (asked_by_crivet || !call.beside);
        let in_force = if audits { Arc::new(in_force.enforcing()) } else { in_force };
        let nobody_waits = !call.beside
            && !asked_by_crivet
            && !call.images.is_empty()
            && call.images.iter().all(|image| in_force.only_audits(&call.namespace, &call.labels, image));
        if nobody_waits {
            verdict(answer::nobody_waits(&in_force, &call));
        }
        let (beside, budget) = (call.beside || nobody_waits, Duration::from_millis(call.budget_ms.into()));
        let mut span = self.span(&call);
        let trace = span.below();
        let context = Context {
            kind: call.kind(),
            namespace: &call.namespace,
            labels: &call.labels,
            auth: call.auth.as_ref(),
            beside,
            trace: &trace,
            // Before the relay stops waiting: it could not say for which image, and the record would not know.
            answer_by: arrived + budget - LEFT_FOR_THE_ANSWER.min(budget / 10),
        };
        let vetter = self.vetter_for(&call);
        let vetting = async {
            let mut vettings: Vec<Vetting> = Vec::with_capacity(call.images.len());
            for image in &call.images {
                let place = async {
                    match beside {
                        true => Some(vetter.background().place(&image.reference).await),
                        false => None,
                    }
                };
                let Ok(_place) = timeout_at(context.answer_by, place).await else {
                    vettings.push(Vetting::late(&in_force, image));
                    continue;
                };
                let mut of_image = trace.span("image", Role::Internal);
                let below = of_image.below();
                let vetting = vetter.image(&in_force, Context { trace: &below, ..context }, image).await;
                answer::tell_span(&mut of_image, image, &vetting);
                vettings.push(vetting);
            }
            vettings
        };
        tokio::pin!(vetting);
        let in_time = match beside {
            true => Ok(vetting.as_mut().await),
            false => timeout_at(context.answer_by, vetting.as_mut()).await,
        };
        let Ok(vettings) = in_time else {
            span.failed("vetting took longer than its time budget");
            let late: Vec<_> = call.images.iter().map(|image| Vetting::late(&in_force, image)).collect();
            self.record(answer::records(&in_force, &call, &late, started.elapsed()));
            verdict(answer::verdict(&in_force, &late, self.latest()));
            // The next try finds it done.
            vetting.await;
            return;
        };
        answer::tell_call(&mut span, &in_force, &vettings);
        drop(span);
        let mut answer = match (asked_by_crivet, nobody_waits) {
            (true, _) => Some(answer::judged(&vettings)),
            (false, true) => None,
            (false, false) => Some(answer::verdict(&in_force, &vettings, self.latest())),
        };
        // A refusal that is answered has its record, whatever ends this process a moment later. A permit does not wait for one.
        if let Some(permit) = answer.take_if(|answer| answer.outcome() == Outcome::Permitted) {
            verdict(permit);
        }
        let all_allowed = vettings.iter().all(|v| v.decision == Decision::Allowed);
        let is_recorded = match call.kind() {
            Kind::Inventory => false,
            Kind::PulledImage => !all_allowed,
            // What is as it was is no news.
            Kind::Revetted => !all_allowed || call.was_not_allowed,
            _ => true,
        };
        if is_recorded {
            // The mode in a record is the daemon's.
            let of_record = if asked_by_crivet { &actual } else { &in_force };
            let records = answer::records(of_record, &call, &vettings, started.elapsed());
            self.record(records);
            self.metrics.exempted(&vettings);
        }
        if let Some(refusal) = answer {
            verdict(refusal);
        }
    }

    /// Who vets a call: without a trace where nothing is to be kept.
    fn vetter_for(&self, call: &Call) -> Arc<Vetter> {
        if !call.keep_nothing || call.kind() != Kind::Inventory {
            return Arc::clone(&self.vetter);
        }
        let mut aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        let (vetter, used) = aside.get_or_insert_with(|| (Arc::new(self.vetter.aside()), Instant::now()));
        *used = Instant::now();
        Arc::clone(vetter)
    }

    fn forget_aside(&self, now: Instant) {
        let mut aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        aside.take_if(|(_, used)| now.duration_since(*used) > ASIDE_FOR);
    }

    fn decided(&self, decided: wire::Decided) {
        if let (Some(in_force), Some(call), Some(verdict)) = (self.in_force(), decided.call, decided.verdict)
        {
            let mut span = self.span(&call);
            span.set("crivet.decided_by", "relay");
            if verdict.outcome() != Outcome::Permitted {
                span.failed(&verdict.message);
            }
            drop(span);
            self.record(answer::records_of_relay(&in_force, &call, &verdict, Reason::named(&decided.reason)));
        }
    }

    fn record(&self, records: Vec<Record>) {
        let audit = self.audit();
        for record in records {
            let took = Duration::from_millis(record.latency_ms);
            self.metrics.decided(record.kind, record.decision, record.mode, record.effective, took);
            if let Some(audit) = &audit {
                audit.log(record, SystemTime::now());
            }
        }
    }
}
