//! The control socket: commands on the node ask a running daemon.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crivet::control::wire::Status;
use crivet::control::{self, Control, ControlError};
use crivet::vetter::wire::{Call, ImageUse, Outcome};

use crate::support::client::LIST;
use crate::support::daemon::{Crivet, Place, send_signal};
use crate::support::runtime::FakeRuntime;

#[tokio::test(flavor = "multi_thread")]
async fn status_names_the_mode_and_who_is_connected() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    for _ in 0..3 {
        client.call(LIST, &[]).await;
    }
    let socket = control::socket(place.path());
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let status = Control::connect(&socket).await.unwrap().status().await.unwrap();
    assert_eq!((status.mode.as_str(), status.pid), ("audit", crivet.pid()));
    assert_eq!(status.listen, format!("unix://{}", crivet.listen().display()));
    let configuration = status.configuration.unwrap();
    assert_eq!((configuration.source.as_str(), configuration.error.as_str()), ("file", ""));
    assert!(configuration.hash.starts_with("sha256:"), "{configuration:?}");
    assert!(status.last_call >= status.started / 1000 * 1000);
    let passed = status.calls.iter().find(|calls| calls.class == "passthrough").unwrap();
    assert_eq!((passed.seen, passed.method.as_str()), (3, ""));
    let [connected] = status.clients.as_slice() else { panic!("{:?}", status.clients) };
    assert_eq!((connected.pid, connected.calls), (std::process::id(), 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_of_the_vetter_its_policies_and_its_log() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::audit(&place).await;
    let mut control = Control::connect(&control::socket(place.path())).await.unwrap();
    let mut status = control.status().await.unwrap();
    let told = |status: &Status| {
        let built = status.policies.as_ref().is_some_and(|policies| !policies.set.is_empty());
        let state = status.vetter.as_ref().and_then(|vetter| vetter.state.as_ref());
        built && state.is_some_and(|state| state.audit_log.is_some())
    };
    while !told(&status) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        status = control.status().await.unwrap();
    }
    let (vetter, policies) = (status.vetter.clone().unwrap(), status.policies.clone().unwrap());
    assert_eq!((vetter.uid, vetter.restarts), (rustix::process::geteuid().as_raw(), 0));
    assert!(vetter.pid != 0 && vetter.pid != crivet.pid());
    assert!(policies.set.starts_with("sha256:") && policies.error.is_empty(), "{policies:?}");
    let log = vetter.state.unwrap().audit_log.unwrap();
    assert_eq!(log.path, place.path().join("audit.jsonl").display().to_string());
    assert!(log.free_bytes.is_some_and(|free| free > 0) && log.lost == 0, "{log:?}");

    send_signal(vetter.pid, "KILL");
    while status.vetter.as_ref().is_none_or(|after| after.restarts == 0 || after.pid == 0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        status = control.status().await.unwrap();
    }
    assert_ne!(status.vetter.unwrap().pid, vetter.pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_that_a_reload_was_bad_and_what_runs_still() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::audit(&place).await;
    let mut control = Control::connect(&control::socket(place.path())).await.unwrap();
    let before = control.status().await.unwrap().configuration.unwrap();
    std::fs::write(
        &before.path,
        "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nmode: enforced\n",
    )
    .unwrap();
    crivet.signal("HUP");
    let mut after = before.clone();
    while after.error.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        after = control.status().await.unwrap().configuration.unwrap();
    }
    assert!(after.error.contains("config.yaml:3"), "{}", after.error);
    assert_eq!((after.source, after.hash), (before.source, before.hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_judgement_says_what_enforcement_would_do_in_audit_mode_too() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let _crivet = Crivet::serve(&place, "mode: audit\nunmatched: deny\n").await;
    let mut control = Control::connect(&control::socket(place.path())).await.unwrap();
    let named = format!("sha256:{}", "ab".repeat(32));
    let image = ImageUse { named, reference: "registry.test/app:1".into(), ..Default::default() };
    let call = Call { images: vec![image], namespace: "prod".into(), ..Default::default() };
    let verdict = control.judge(call, Duration::from_secs(20)).await.unwrap();
    let [judged] = verdict.judged.as_slice() else { panic!("{verdict:?}") };
    assert_eq!((judged.outcome(), judged.refuses), (Outcome::Denied, true));
    assert!(
        judged.message.starts_with("SignatureValidationFailed: image registry.test/app:1: expected a policy")
    );
    assert!(
        !place.path().join("audit.jsonl").exists(),
        "what crivet asks by itself is no decision about a call"
    );
}

#[tokio::test]
async fn a_daemon_that_is_away_is_named_by_its_socket() {
    let place = Place::new();
    let Err(error) = Control::connect(&control::socket(place.path())).await else {
        panic!("somebody answers")
    };
    assert!(matches!(error, ControlError::Away { .. }));
    assert!(error.to_string().contains("control.sock"), "{error}");
}
