//! `crivet serve`: the relay process.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sd_notify::NotifyState;

use crate::config::{self, LoadError, Loaded, ProxyConfiguration, Settings, Source};
use crate::control;
use crate::cri::runtime::RuntimeClient;
use crate::metrics::RelayMetrics;
use crate::relay::control::{self as relay_control, Started};
use crate::relay::govern::{Governor, Told};
use crate::relay::keeper::{Keeper, Orders};
use crate::relay::permits::Permits;
use crate::relay::upstream::Endpoints;
use crate::relay::{Members, Relay, altered, descriptors, found, listener, revet, serve as accept};
use crate::users;
use crate::vetter::load::VETTER_STATE;
use crate::vetter::wire::Configure;

/// sysexits.h EX_CONFIG.
const EX_CONFIG: u8 = 78;
/// sysexits.h EX_OSERR.
const EX_OSERR: u8 = 71;

/// Serves until SIGTERM or SIGINT.
pub fn serve(config: &Path) -> ExitCode {
    crate::logging::to_stderr();
    let loaded = match config::load(config) {
        Ok(loaded) => loaded,
        Err(error) => return no_configuration(&error),
    };
    let connections = descriptors::prepare();
    // One thread: the relay moves frames, and what takes time happens in the vetter.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::from(EX_OSERR);
        }
    };
    let code = runtime.block_on(relay(config.to_owned(), loaded, connections));
    // Calls that are cut off were told; what runs beside is not waited for.
    runtime.shutdown_background();
    code
}

fn no_configuration(error: &LoadError) -> ExitCode {
    tracing::error!(%error, "no usable configuration");
    ExitCode::from(EX_CONFIG)
}

async fn relay(path: PathBuf, loaded: Loaded, connections: usize) -> ExitCode {
    say(&loaded);
    let (listen, endpoints, drain, pause) = match &loaded.settings {
        Settings::Whole(c) => (
            c.listen.clone(),
            Endpoints::new(c.runtime_endpoint.path().to_owned(), c.image_endpoint.path().to_owned()),
            c.drain_timeout,
            c.pause_image.as_ref().map(ToString::to_string),
        ),
        Settings::Salvaged(s) => (
            s.listen.clone(),
            Endpoints::new(s.runtime_endpoint.path().to_owned(), s.image_endpoint.path().to_owned()),
            Duration::from_secs(5),
            None,
        ),
    };
    let listener = match listener::listener(listen.path()).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(socket = %listen, %error, "cannot listen");
            return ExitCode::from(EX_OSERR);
        }
    };
    let runtime = RuntimeClient::new(&endpoints.runtime, &endpoints.image);
    let (permits, metrics) = (Arc::<Permits>::default(), Arc::<RelayMetrics>::default());
    let state = match &loaded.settings {
        Settings::Whole(whole) => Some(whole.state_dir.clone()),
        Settings::Salvaged(_) => None,
    };
    let governor = Governor::new(path, listen.runtime_dir(), loaded, orders, Arc::clone(&metrics));
    let vetter = Keeper {
        orders: governor.orders(),
        runtime: runtime.clone(),
        permits: Arc::clone(&permits),
        metrics: Arc::clone(&metrics),
    }
    .start();
    tokio::spawn(listener::follow_runtime(listen.path().into(), Arc::clone(&endpoints.runtime)));
    let relay = Relay::new(Members {
        live: governor.live(),
        endpoints,
        runtime,
        vetter,
        permits,
        metrics,
        pause_image: pause,
    });
    // Before the first call, and before a check can tell more.
    if let Some(state) = &state {
        relay.altered.load(state).await;
        relay.checked.load(state, SystemTime::now()).await;
        relay.healed.load(state).await;
        altered::tell(&relay);
    }
    relay.requested.open(listen.runtime_dir()).await;
    if let Some(control) = relay_control::open(&control::socket(listen.runtime_dir())).await {
        let started =
            Started { at: SystemTime::now(), listen: listen.to_string(), configuration: governor.running() };
        tokio::spawn(relay_control::serve(Arc::clone(&relay), started, control));
    }
    if let Some(state) = state {
        tokio::spawn(found::watch(Arc::clone(&relay), state.clone()));
        tokio::spawn(revet::watch(Arc::clone(&relay), state));
    }
    tokio::spawn(governor.run(Arc::clone(&relay), ServiceManager));
    tokio::spawn(watchdog());
    notify(&[NotifyState::Ready]);
    tracing::info!("serving");
    let vetter = relay.vetter.clone();
    accept::serve(relay, listener, connections, stopped(), drain).await;
    vetter.stop().await;
    tracing::info!("stopped");
    ExitCode::SUCCESS
}

fn say(loaded: &Loaded) {
    if let Some(error) = &loaded.error {
        match loaded.source {
            Source::Given => {}
            Source::LastGood => tracing::error!(%error, "the configuration is bad; using the last good one"),
            Source::Salvaged => {
                tracing::error!(%error, "the configuration is bad and none was kept; relaying without vetting")
            }
        }
    }
}

/// What the vetter works by; none without a whole configuration: the stance then says so to whoever calls.
fn orders(loaded: &Loaded) -> Option<Orders> {
    let Settings::Whole(whole) = &loaded.settings else { return None };
    let user = whole.vetter_user.as_deref().and_then(vetter_user);
    prepare_folders(whole, user);
    let credentials = whole.registry.credentials.clone();
    Some(Orders { user, credentials, configure: Configure { settings: loaded.text(), ..Default::default() } })
}

/// Makes the folders that are the vetter's to write, where there are none yet: its part of stateDir, and the
/// audit log's. (Under systemd they are made by tmpfiles, and the relay has no right to give folders away.) What
/// fails here is said again, with its consequence, by whoever cannot write.
fn prepare_folders(config: &ProxyConfiguration, user: Option<(u32, u32)>) {
    let state = config.state_dir.join(VETTER_STATE);
    let folders = [Some(state.as_path()), config.audit_log.path.parent()];
    for folder in folders.into_iter().flatten().filter(|folder| !folder.exists()) {
        let made = std::fs::create_dir_all(folder).and_then(|()| match user {
            Some((uid, gid)) => std::os::unix::fs::chown(folder, Some(uid), Some(gid)),
            None => Ok(()),
        });
        if let Err(error) = made {
            tracing::error!(folder = %folder.display(), %error, "a folder for the vetter cannot be made");
        }
    }
}

fn vetter_user(name: &str) -> Option<(u32, u32)> {
    match users::find(name) {
        Ok(ids) => Some(ids),
        Err(error) => {
            // Running it unprivileged is the second wall, not the first: a node without vetting is worse.
            tracing::error!(%error, "the vetter runs as the relay's own user");
            None
        }
    }
}

/// systemd, if there is one.
struct ServiceManager;

impl Told for ServiceManager {
    fn reloading(&self) {
        // sd_notify(3): RELOADING comes with the time.
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            notify(&[NotifyState::Reloading, now]);
        }
    }

    fn ready(&self) {
        notify(&[NotifyState::Ready]);
    }
}

async fn stopped() {
    super::told_to_stop().await;
    notify(&[NotifyState::Stopping]);
}

/// Tells systemd's watchdog that this thread still turns.
async fn watchdog() {
    let Some(every) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(every / 3);
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
