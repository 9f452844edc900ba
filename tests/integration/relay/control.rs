//! The control socket: commands on the node ask a running daemon.

use std::os::unix::fs::PermissionsExt;

use crivet::control::{self, Control, ControlError};
use crivet::vetter::wire::{Call, ImageUse, Outcome};

use crate::support::client::LIST;
use crate::support::daemon::{Crivet, Place};
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
    let [connected] = status.clients.as_slice() else { panic!("{:?}", status.clients) };
    assert_eq!((connected.pid, connected.calls), (std::process::id(), 3));
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
    let verdict = control.judge(call).await.unwrap();
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
