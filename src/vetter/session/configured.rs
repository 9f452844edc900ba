//! What is in force: built when the relay orders it and when the policy folder was exchanged, put in force whole, told.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use tokio::sync::mpsc;

use super::{LOOK_EVERY, Session};
use crate::audit::{AuditLog, JOURNAL_SOCKET};
use crate::image::Digest;
use crate::metrics::{self, ConfigSource};
use crate::registry::{HostFiles, Observer};
use crate::telemetry::Tracer;
use crate::trust::Trust;
use crate::vetter::case::InForce;
use crate::vetter::load;
use crate::vetter::wire::{self, Configure, Configured, FromVetter, from_vetter};

/// A configuration to be built. Those that differ in their settings have a number of their own.
pub(super) struct Order {
    pub number: u64,
    pub configure: Configure,
}

impl Session {
    fn folder_identity(&self) -> Option<(Option<PathBuf>, Option<PathBuf>)> {
        Some(load::folder_identity(&self.in_force()?.config.policy_dir))
    }

    /// Builds what is ordered, in order, and anew when the policy folder was exchanged. Calls go on meanwhile.
    pub(super) async fn build(self: Arc<Session>, mut orders: mpsc::Receiver<Order>) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let (mut configure, mut identity) = (Configure::default(), None);
        loop {
            tokio::select! {
                order = orders.recv() => {
                    let Some(order) = order else { return };
                    configure = order.configure;
                    self.configure(&configure).await;
                    identity = self.folder_identity();
                    self.built.send_replace(order.number);
                }
                _ = looks.tick() => {
                    let read = |in_force: &Arc<InForce>| in_force.config.registry.hosts != HostFiles::None;
                    if let Some(in_force) = self.in_force().filter(read) {
                        // Aside, and not waited for: it waits for the disk.
                        tokio::task::spawn_blocking(move || in_force.registry.reread_hosts());
                    }
                    let now = self.folder_identity();
                    if now.is_some() && now != identity {
                        tracing::info!("the policy folder was exchanged");
                        self.configure(&configure).await;
                        identity = now;
                    }
                }
            }
        }
    }

    /// Builds the whole new set, then swaps; a bad one changes nothing, and says so.
    async fn configure(self: &Arc<Session>, configure: &Configure) {
        // What it finds now belongs to the settings before.
        if let Some(task) = self.trust_task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        let previous = self.in_force().and_then(|old| old.policies.as_ref().ok().cloned());
        let trusted = self.in_force().map(|old| Arc::clone(&old.trust));
        let settings = Digest::of(configure.settings.as_bytes());
        let audits = if configure.audit_because.is_empty() { "" } else { " audit" };
        let serial = configure.serial;
        let configure = configure.clone();
        // Reading and compiling may take a while with thousands of policies; calls go on meanwhile.
        let metrics = Arc::clone(&self.metrics);
        let observer: Observer = Arc::new(move |outcome| metrics.registry_request(outcome));
        let proofs = Arc::clone(&self.vetter.proofs);
        let load = move || load::load(&configure, previous, trusted.as_deref(), observer, &proofs);
        let loaded = tokio::task::spawn_blocking(load).await;
        let (policy_error, policy_set, policies) = match loaded {
            Ok(Ok(loaded)) => {
                let set = loaded.in_force.policies.as_ref().map(|set| set.hash().to_string());
                self.metrics.config_source(match (&set, &loaded.error) {
                    (Ok(_), None) => ConfigSource::Files,
                    (Ok(_), Some(_)) => ConfigSource::LastGood,
                    (Err(_), _) => ConfigSource::Nothing,
                });
                if let (Ok(set), None) = (&set, &loaded.error) {
                    self.metrics.policies_loaded(set, SystemTime::now());
                }
                let set = set.unwrap_or_default();
                let count = loaded.in_force.policies.as_ref().map_or(0, |set| set.len());
                self.put_in_force(loaded.in_force).await;
                (loaded.error.unwrap_or_default(), set, u32::try_from(count).unwrap_or(u32::MAX))
            }
            Ok(Err(error)) => (error, String::new(), 0),
            Err(_) => ("loading the policies failed; see the log".to_owned(), String::new(), 0),
        };
        if !policy_error.is_empty() {
            self.metrics.policies_rejected();
        }
        let basis = format!("{settings}{audits} {policy_set}");
        let told = Configured { policy_error, policy_set, basis, policies, serial, judges: String::new() };
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        self.tell_configured().await;
        self.keep_trust();
    }

    /// Tells the relay what is in force, the trusted roots with it.
    async fn tell_configured(&self) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(mut told) = told else { return };
        if let Some(in_force) = self.in_force() {
            told.basis = format!("{} {}", told.basis, in_force.trust_in_use());
            told.judges = in_force.judges();
        }
        let told = from_vetter::Body::Configured(told);
        // Never dropped for want of room: the relay would go on with permits of what was in force before.
        let _ = self.outgoing.send(wire::frame(&FromVetter { id: 0, body: Some(told) })).await;
    }

    /// Keeps the trusted roots in force up to date, until the next configuration.
    fn keep_trust(self: &Arc<Session>) {
        let Some(in_force) = self.in_force() else { return };
        let policies = in_force.policies.as_ref().ok().map(Arc::as_ref);
        let keeper = load::keeper(&in_force.config, policies, &in_force.registry);
        let session = Arc::clone(self);
        let task = keeper.run(Arc::clone(&in_force.trust), move |trust| session.trust_changed(trust));
        *self.trust_task.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(self.needs("keeping the trusted roots up to date", task));
    }

    /// Puts other trusted roots in force. Permits that the relay holds rest on the material of those before.
    fn trust_changed(self: &Arc<Session>, trust: Arc<Trust>) {
        let Some(old) = self.in_force() else { return };
        let new = old.trusting(trust);
        let same_material = old.trust_in_use() == new.trust_in_use();
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(new));
        if !same_material {
            let session = Arc::clone(self);
            tokio::spawn(async move { session.tell_configured().await });
        }
    }

    async fn put_in_force(self: &Arc<Session>, new: InForce) {
        self.serve_metrics(new.config.metrics_address).await;
        let log = &new.config.audit_log;
        let old = self.in_force();
        if old.is_none_or(|old| old.config.audit_log != *log) {
            let opened = AuditLog::open(&log.path, log.max_size, log.max_backups);
            let opened = match log.journal {
                true => opened.and_journal(Path::new(JOURNAL_SOCKET)),
                false => opened,
            };
            let old = self.audit.write().unwrap_or_else(PoisonError::into_inner).replace(Arc::new(opened));
            // What it has counted, nobody would write any more.
            if let Some(old) = old {
                old.flush(SystemTime::now());
            }
        }
        let traces_change = self.in_force().is_none_or(|old| old.config.tracing != new.config.tracing);
        if traces_change {
            let tracer =
                new.config.tracing.as_ref().map(|tracing| Tracer::new(tracing, Arc::clone(&self.metrics)));
            *self.tracer.write().unwrap_or_else(PoisonError::into_inner) = tracer;
        }
        let (logins, node) = (Arc::clone(&new.logins), self.vetter.node().clone());
        tokio::spawn(async move { logins.prepare(&node).await });
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(new));
    }

    /// Serves metrics at this address and no longer at another.
    async fn serve_metrics(self: &Arc<Session>, address: Option<SocketAddr>) {
        let served = self.metrics_task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((at, task)) = served {
            if Some(at) == address {
                *self.metrics_task.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, task));
                return;
            }
            task.abort();
        }
        let Some(address) = address else { return };
        match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => {
                let session = Arc::clone(self);
                let render = move || {
                    let session = Arc::clone(&session);
                    async move { session.page().await }
                };
                let serve = async move { match metrics::serve(listener, render).await {} };
                let task = self.needs("serving metrics", serve);
                *self.metrics_task.lock().unwrap_or_else(PoisonError::into_inner) = Some((address, task));
            }
            // Metrics are worth a loud word, and no call.
            Err(error) => tracing::error!(%address, %error, "metrics cannot be served"),
        }
    }

    async fn page(&self) -> String {
        self.metrics.proofs(&self.vetter.proofs.summary());
        self.metrics.rechecks(&self.vetter.rechecks().counted());
        if let Some(free) = self.state().audit_log.and_then(|log| log.free_bytes) {
            self.metrics.audit_log_free_bytes(free);
        }
        if let Some(in_force) = self.in_force() {
            self.metrics.trust(&in_force.trust);
            self.metrics.exemptions(in_force.policies.as_deref().ok(), self.latest());
            self.metrics.layouts(&in_force.layouts.summary());
        }
        if let Some(audit) = self.audit() {
            self.metrics.audit_records_lost(audit.lost(), audit.lost_to_journal());
        }
        self.metrics.render(&self.vetter.node().relay_metrics().await)
    }
}
