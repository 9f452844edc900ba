//! Who says which mode is in force: takes over configurations, watches break-glass, and has a switch to enforce
//! checked before it is made. What follows from them is [`mode::in_force`]; this is the one place that puts it in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::break_glass::{self, Event, Watched};
use super::clients::millis;
use super::keeper::Orders;
use super::mode::{self, Asked, Switch};
use super::{Live, Relay, Stance, descriptors, disk, switch};
use crate::config::{self, LastGood, Loaded, Mode, Settings, Source};
use crate::control::wire;
use crate::image::Digest;
use crate::metrics::RelayMetrics;

/// How often the break-glass file is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is said that break-glass is in force, and how soon a configuration that could not be kept is tried again.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What a reload tells of itself; the service manager's words are not the relay's business.
pub trait Told {
    /// A reload begins.
    fn reloading(&self);
    /// It is over.
    fn ready(&self);
}

/// The state that the mode in force follows from.
pub struct Governor {
    file: PathBuf,
    glass_file: PathBuf,
    loaded: Loaded,
    asked: Asked,
    switch: Switch,
    glass: Watched,
    /// The mode that was in force by configuration, break-glass aside, before the configuration at hand.
    settled: Option<Mode>,
    /// The newest configuration in force, to be kept for a start with a bad one.
    good: watch::Sender<Option<LastGood>>,
    serial: u64,
    /// When a refused switch is tried again, and the pause after that.
    retry: Option<Instant>,
    pause: Duration,
    orders_of: fn(&Loaded) -> Option<Orders>,
    /// What the vetter works by under the configuration at hand, whatever the mode in force.
    base: Option<Orders>,
    live: watch::Sender<Live>,
    running: watch::Sender<wire::Configuration>,
    orders: watch::Sender<Option<Orders>>,
    metrics: Arc<RelayMetrics>,
    began: Instant,
    said: Option<Instant>,
}

impl Governor {
    /// Takes over the configuration of a start. `orders_of`: what the vetter works by under a configuration.
    pub fn new(
        file: PathBuf,
        runtime_dir: &Path,
        loaded: Loaded,
        orders_of: fn(&Loaded) -> Option<Orders>,
        metrics: Arc<RelayMetrics>,
    ) -> Governor {
        let nothing = mode::in_force(&Asked::Audit, &Switch::Done, None);
        let (live, _) = watch::channel(live(&loaded, nothing));
        let (orders, _) = watch::channel(None);
        let (running, _) = watch::channel(running(&file, &loaded));
        let mut governor = Governor {
            file,
            glass_file: break_glass::path(runtime_dir),
            asked: asked(&loaded),
            loaded,
            switch: Switch::Done,
            glass: Watched::default(),
            settled: None,
            good: watch::channel(None).0,
            serial: 0,
            retry: None,
            pause: switch::FIRST_RETRY,
            orders_of,
            base: None,
            live,
            running,
            orders,
            metrics,
            began: Instant::now(),
            said: None,
        };
        governor.take_over();
        governor.look();
        governor.apply();
        governor
    }

    /// The settings in force, from now on.
    pub fn live(&self) -> watch::Receiver<Live> {
        self.live.subscribe()
    }

    /// The configuration that runs, as commands on the node are told.
    pub fn running(&self) -> watch::Receiver<wire::Configuration> {
        self.running.subscribe()
    }

    /// What vetters are started with.
    pub fn orders(&self) -> watch::Receiver<Option<Orders>> {
        self.orders.subscribe()
    }

    /// Governs as long as the relay lives.
    pub async fn run(mut self, relay: Arc<Relay>, told: impl Told) {
        tokio::spawn(keep(self.good.subscribe(), SAY_EVERY));
        let mut hangups = signal(SignalKind::hangup()).ok();
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (checked, mut results) = mpsc::channel::<(u64, Result<(), String>)>(1);
        let mut under_way = None;
        loop {
            if self.check_is_due() && under_way != Some(self.serial) {
                under_way = Some(self.serial);
                let (relay, serial, checked) = (Arc::clone(&relay), self.serial, checked.clone());
                tokio::spawn(async move {
                    let result = switch::check(&relay, serial).await;
                    let _ = checked.send((serial, result)).await;
                });
            }
            tokio::select! {
                _ = ticks.tick() => {
                    self.look();
                    descriptors::refill();
                }
                Some((serial, result)) = results.recv() => {
                    if under_way == Some(serial) {
                        under_way = None;
                    }
                    // That of a configuration before says nothing.
                    if serial == self.serial {
                        self.checked(result);
                    }
                }
                () = hangup(&mut hangups) => {
                    told.reloading();
                    self.reload(&relay);
                    told.ready();
                }
            }
        }
    }

    /// Takes over the configuration anew: mode, unmatched and everything that is the vetter's. A bad one changes nothing.
    fn reload(&mut self, relay: &Relay) {
        match config::load(&self.file) {
            Ok(loaded) if loaded.source == Source::Given => {
                relay.permits.void();
                self.running.send_replace(running(&self.file, &loaded));
                self.asked = asked(&loaded);
                self.loaded = loaded;
                self.take_over();
                self.apply();
                tracing::info!("reloaded");
            }
            Ok(loaded) => self.changes_nothing(loaded.error.unwrap_or_default()),
            Err(error) => self.changes_nothing(error.to_string()),
        }
    }

    fn changes_nothing(&self, error: String) {
        tracing::error!(%error, "the new configuration is bad; nothing has changed");
        self.running.send_modify(|told| told.error = error);
    }

    /// Decides whether the configuration at hand is a switch to enforce. A node that never audited (its first boot) is
    /// not switched: audit until the check is through would run what it was never to run.
    fn take_over(&mut self) {
        self.serial += 1;
        self.base = (self.orders_of)(&self.loaded);
        self.pause = switch::FIRST_RETRY;
        self.retry = None;
        let (whole, given) = match &self.loaded.settings {
            Settings::Whole(whole) => (whole, self.loaded.source == Source::Given),
            Settings::Salvaged(_) => return self.switch = Switch::Done,
        };
        let before = self.settled.or_else(|| config::kept_mode(&whole.state_dir));
        let switches = given && whole.mode == Mode::Enforce && before == Some(Mode::Audit);
        if switches && !whole.force_enforce {
            self.settled = before;
            self.switch = Switch::Checking;
            tracing::info!(
                "audit until it is known that the pause image and the static pods would be let through"
            );
        } else {
            if switches {
                tracing::warn!(
                    "forceEnforce: switched to enforce without a look at the pause image and the static pods"
                );
            }
            self.settle();
        }
    }

    /// The configuration at hand is in force as it is.
    fn settle(&mut self) {
        self.switch = Switch::Done;
        self.retry = None;
        if let Settings::Whole(whole) = &self.loaded.settings {
            self.settled = Some(whole.mode);
        }
        // Kept only now: after a restart a switch that was refused is to be refused again.
        if let Some(good) = self.loaded.last_good() {
            self.good.send_replace(Some(good));
        }
    }

    fn check_is_due(&self) -> bool {
        match &self.switch {
            Switch::Done => false,
            Switch::Checking => true,
            Switch::Refused(_) => self.retry.is_some_and(|at| Instant::now() >= at),
        }
    }

    fn checked(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => {
                tracing::info!("switched to enforce: the pause image and the static pods are let through");
                self.settle();
            }
            Err(why) => {
                if self.switch != Switch::Refused(why.clone()) {
                    tracing::error!(reason = %why, "forceEnforce: true overrides this, at the price of a node that may not come back");
                }
                self.switch = Switch::Refused(why);
                self.retry = Some(Instant::now() + self.pause);
                self.pause = switch::LONGEST_RETRY.min(2 * self.pause);
            }
        }
        self.apply();
    }

    /// Looks for the break-glass file, and at the clocks.
    fn look(&mut self) {
        let (wall, now) = (SystemTime::now(), Instant::now());
        let monotonic = now.saturating_duration_since(self.began);
        let found = break_glass::read(&self.glass_file);
        let rejected = self.glass.rejected().map(str::to_owned);
        let event = self.glass.look(found, wall, monotonic);
        let file = self.glass_file.display();
        match &event {
            Some(Event::Begun) => self.metrics.break_glass_used(),
            Some(Event::Ended(why)) => {
                self.said = None;
                tracing::warn!(why, "break-glass has ended; the configuration's mode is in force again");
            }
            Some(Event::Rejected(why)) => {
                tracing::error!(%file, %why, "a break-glass file is there and is NOT in force");
            }
            None => {}
        }
        let due = self.said.is_none_or(|said| now >= said + SAY_EVERY);
        if let Some(active) = self.glass.active().filter(|_| due || event == Some(Event::Begun)) {
            self.said = Some(now);
            let left = self.glass.left(wall, monotonic).as_secs().div_ceil(60);
            tracing::warn!(reason = %active.reason, minutes_left = left, "BREAK-GLASS: nothing is enforced");
        }
        if event.is_some() || self.glass.rejected() != rejected.as_deref() {
            self.apply();
        }
    }

    /// Puts in force what follows from it all.
    fn apply(&mut self) {
        let glass = self.glass.active().map(|written| {
            let expires = crate::audit::rfc3339(written.expires);
            format!("break-glass until {expires}: {}", written.reason)
        });
        let in_force = mode::in_force(&self.asked, &self.switch, glass.as_deref());
        self.metrics.mode(in_force.configured, in_force.stance.as_str(), in_force.because.as_str());
        self.metrics
            .break_glass(self.glass.active().map(|written| written.expires), self.glass.rejected().is_some());
        // The same words for every such reason: other words would have the vetter load everything anew.
        let audits = in_force.stance == Stance::Audit && self.asked == Asked::Enforce;
        let mut orders = self.base.clone();
        if let Some(orders) = &mut orders {
            orders.configure.serial = self.serial;
            orders.configure.audit_because =
                if audits { "the relay does not enforce".to_owned() } else { String::new() };
        }
        let mut live = live(&self.loaded, in_force);
        live.break_glass = self.glass.active().cloned();
        live.break_glass_rejected = self.glass.rejected().unwrap_or_default().to_owned();
        // The vetter's first: what it is asked from now on is for the mode that follows.
        self.orders.send_if_modified(|old| {
            let changed = *old != orders;
            *old = orders;
            changed
        });
        self.live.send_if_modified(|old| {
            let changed = *old != live;
            *old = live;
            changed
        });
    }
}

/// Keeps the newest configuration, beside the relay's own thread: a disk that hangs holds up no call. What could not be
/// kept is tried again after a while.
async fn keep(mut good: watch::Receiver<Option<LastGood>>, a_while: Duration) {
    loop {
        let newest = good.borrow_and_update().clone();
        let again = match newest {
            Some(newest) => (!written(newest).await).then_some(a_while),
            None => None,
        };
        tokio::select! {
            changed = good.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
        }
    }
}

async fn written(good: LastGood) -> bool {
    let written = disk::wait_for(move || good.write()).await;
    if let Err(error) = &written {
        tracing::error!(%error, "the configuration cannot be kept for a start with a bad one; it is tried again every minute");
    }
    written.is_ok()
}

async fn hangup(hangups: &mut Option<Signal>) {
    match hangups {
        Some(hangups) => {
            hangups.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn running(file: &Path, loaded: &Loaded) -> wire::Configuration {
    let whole = matches!(loaded.settings, Settings::Whole(_));
    wire::Configuration {
        path: file.display().to_string(),
        source: loaded.source.name().to_owned(),
        error: loaded.error.clone().unwrap_or_default(),
        hash: if whole { Digest::of(loaded.text().as_bytes()).to_string() } else { String::new() },
        loaded: millis(SystemTime::now()),
    }
}

fn asked(loaded: &Loaded) -> Asked {
    let mode = match &loaded.settings {
        Settings::Whole(whole) => Some(whole.mode),
        // What is enforced cannot be known without the rest of the configuration.
        Settings::Salvaged(salvage) => salvage.mode.filter(|mode| *mode == Mode::Audit),
    };
    match mode {
        Some(Mode::Audit) => Asked::Audit,
        Some(Mode::Enforce) => Asked::Enforce,
        None => Asked::Unknown(format!(
            "crivet's configuration is bad: {}; mend it and reload crivet",
            loaded.error.as_deref().unwrap_or("unknown error")
        )),
    }
}

fn live(loaded: &Loaded, in_force: mode::InForce) -> Live {
    let (vetting_timeout, allowed) = match &loaded.settings {
        Settings::Whole(whole) => (whole.vetting.timeout, Arc::new(whole.insecure_allowed.clone())),
        Settings::Salvaged(_) => (Duration::ZERO, Arc::default()),
    };
    Live { in_force, break_glass: None, break_glass_rejected: String::new(), vetting_timeout, allowed }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_configuration_that_cannot_be_kept_is_kept_once_it_can() {
        let place = tempfile::tempdir().unwrap();
        let (file, in_the_way) = (place.path().join("config.yaml"), place.path().join("state"));
        let text = format!(
            "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nlisten: unix:///run/l.sock\n\
             runtimeEndpoint: unix:///run/r.sock\nmode: audit\nunmatched: deny\nstateDir: {}\n",
            in_the_way.display()
        );
        std::fs::write(&file, &text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(&in_the_way, "").unwrap();
        let (good, wanted) = watch::channel(config::load(&file).unwrap().last_good());
        let a_while = Duration::from_millis(50);
        let keeping = tokio::spawn(keep(wanted, a_while));
        tokio::time::sleep(a_while * 3).await;
        std::fs::remove_file(&in_the_way).unwrap();
        let kept = in_the_way.join("config.last-good.yaml");
        let wait = async {
            while !kept.exists() {
                tokio::time::sleep(a_while).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it was not tried again");
        assert_eq!(std::fs::read_to_string(kept).unwrap(), text);
        drop(good);
        keeping.await.unwrap();
    }
}
