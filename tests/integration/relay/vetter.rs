//! Whatever becomes of the vetter, calls that pass through do not notice.

use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crivet::vetter::wire::{self, to_vetter};
use futures_util::{SinkExt, StreamExt};
use tokio::net::UnixStream;

use crate::support::client::{CREATE, Client, LIST, PULL, VERSION};
use crate::support::daemon::{Crivet, Place, send_signal};
use crate::support::runtime::FakeRuntime;
use crate::support::{until, within};

/// Passthrough calls on two connections until told to stop; each must succeed, and soon.
struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<tokio::task::JoinHandle<Duration>>,
}

impl Load {
    async fn start(crivet: &Crivet) -> Load {
        let stop = Arc::<AtomicBool>::default();
        let mut workers = Vec::new();
        for _ in 0..2 {
            let client = crivet.client().await;
            let stop = Arc::clone(&stop);
            workers.push(tokio::spawn(async move {
                let (mut calls, mut slowest) = (0, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) || calls < 100 {
                    let begun = Instant::now();
                    for path in [VERSION, LIST] {
                        let answer = client.call(path, &[7; 100]).await;
                        assert_eq!(answer.code(), 0, "{}", answer.message());
                        assert_eq!(answer.data.len(), 105);
                    }
                    slowest = slowest.max(begun.elapsed());
                    calls += 2;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                slowest
            }));
        }
        Load { stop, workers }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            let slowest = worker.await.unwrap();
            // Far above what a loaded machine needs, far below what waiting for a vetter takes.
            assert!(slowest < Duration::from_secs(1), "a call took {slowest:?}");
        }
    }
}

fn pull() -> Vec<u8> {
    let image = crivet::cri::v1::ImageSpec { image: "registry.invalid/app:1".into(), ..Default::default() };
    prost::Message::encode_to_vec(&crivet::cri::v1::PullImageRequest {
        image: Some(image),
        ..Default::default()
    })
}

fn create() -> Vec<u8> {
    let image = crivet::cri::v1::ImageSpec { image: "sha256:ab".into(), ..Default::default() };
    let config = crivet::cri::v1::ContainerConfig { image: Some(image), ..Default::default() };
    let request = crivet::cri::v1::CreateContainerRequest { config: Some(config), ..Default::default() };
    prost::Message::encode_to_vec(&request)
}

/// In audit mode vetted calls pass, too, and without a wait.
async fn vetted_calls_pass(client: &Client) {
    for (path, message) in [(PULL, pull()), (CREATE, create())] {
        let begun = Instant::now();
        let answer = client.call(path, &message).await;
        assert_eq!((answer.code(), answer.data.len()), (0, message.len() + 5), "{path}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{path} took {:?}", begun.elapsed());
    }
}

/// In enforce mode nothing gets through, whether no vetter answers or one that knows no policy for it.
async fn vetted_calls_are_refused(client: &Client) {
    let (pull, create) = (pull(), create());
    let (pulled, created) = tokio::join!(client.call(PULL, &pull), client.call(CREATE, &create));
    for answer in [pulled, created] {
        assert_eq!(answer.code(), 2, "{}", answer.message());
        assert!(answer.message().starts_with("SignatureValidationFailed: "), "{}", answer.message());
    }
}

/// Runs `harm` under load in either mode.
async fn passthrough_does_not_notice(harm: impl AsyncFn(&Crivet)) {
    for mode in ["audit", "enforce"] {
        let place = Place::new();
        let _runtime = FakeRuntime::echo(place.path());
        let crivet =
            Crivet::serve(&place, &format!("mode: {mode}\nunmatched: deny\nvetting: {{timeout: 1s}}\n"))
                .await;
        let client = crivet.client().await;
        let load = Load::start(&crivet).await;
        harm(&crivet).await;
        if mode == "audit" {
            vetted_calls_pass(&client).await;
        } else {
            vetted_calls_are_refused(&client).await;
        }
        load.end().await;
    }
}

/// The vetter's process, if there is one now.
fn vetter(crivet: &Crivet) -> Option<u32> {
    let pid = crivet.pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().filter_map(|child| child.parse().ok()).find(|child: &u32| {
        std::fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|line| line == b"crivet\0vetter\0")
    })
}

async fn living_vetter(crivet: &Crivet) -> u32 {
    let mut found = None;
    until("a vetter", 20, || {
        found = vetter(crivet);
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test]
async fn a_vetter_that_is_killed_again_and_again() {
    passthrough_does_not_notice(async |crivet| {
        for _ in 0..3 {
            let killed = living_vetter(crivet).await;
            send_signal(killed, "KILL");
            until("another vetter, or none", 5, || vetter(crivet) != Some(killed)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_vetter_that_hangs() {
    passthrough_does_not_notice(async |crivet| {
        send_signal(living_vetter(crivet).await, "STOP");
    })
    .await;
}

/// Bytes of labels, all of which the vetter is told.
fn create_with_labels(bytes: usize) -> Vec<u8> {
    let labels = [("label".to_owned(), "x".repeat(bytes))].into();
    let pod = crivet::cri::v1::PodSandboxConfig { labels, ..Default::default() };
    let request = crivet::cri::v1::CreateContainerRequest { sandbox_config: Some(pod), ..Default::default() };
    prost::Message::encode_to_vec(&request)
}

#[tokio::test]
async fn a_vetter_that_runs_out_of_memory() {
    passthrough_does_not_notice(async |crivet| {
        let vetter_then = living_vetter(crivet).await;
        let limited =
            Command::new("prlimit").args(["--as=1048576", "--pid", &vetter_then.to_string()]).status();
        assert!(limited.unwrap().success());
        let client = crivet.client().await;
        // No one call may be large: many at once need more than the heap has.
        let large = create_with_labels(60 << 10);
        let asked = async {
            while vetter(crivet) == Some(vetter_then) {
                let calls = (0..100).map(|_| client.call(CREATE, &large));
                futures_util::future::join_all(calls).await;
            }
        };
        within("its end", 60, asked).await;
    })
    .await;
}

/// Else it would live, answer the keeper's pings, and never decide anything.
#[tokio::test]
async fn a_vetter_that_cannot_start_a_thread_for_its_configuration_ends() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = theirs.into_std().unwrap();
    theirs.set_nonblocking(false).unwrap();
    let mut vetter = tokio::process::Command::new(env!("CARGO_BIN_EXE_crivet"))
        .arg("vetter")
        .stdin(OwnedFd::from(theirs))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut link = wire::link(ours);
    let tell = |body| wire::frame(&wire::ToVetter { id: 0, body: Some(body) });
    link.send(tell(to_vetter::Body::Ping(wire::Ping {}))).await.unwrap();
    within("its first sign of life", 20, link.next()).await.unwrap().unwrap();
    let pid = vetter.id().unwrap().to_string();
    assert!(Command::new("prlimit").args(["--as=1048576", "--pid", &pid]).status().unwrap().success());
    link.send(tell(to_vetter::Body::Configure(wire::Configure::default()))).await.unwrap();
    within("its end", 10, vetter.wait()).await.unwrap();
}

#[tokio::test]
async fn a_call_too_large_for_the_vetter_is_undecided_and_the_next_is_decided() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::serve(&place, "mode: enforce\nunmatched: deny\n").await;
    let client = crivet.client().await;
    let answer = client.call(CREATE, &create_with_labels(8 << 20)).await;
    assert_eq!(answer.code(), 2);
    assert!(answer.message().contains("limits::CALL_FACTS_BYTES"), "{}", answer.message());
    let answer = client.call(PULL, &pull()).await;
    assert_eq!(answer.code(), 2);
    assert!(!answer.message().contains("undecided"), "{}", answer.message());
}

/// What is too large to be vetted is still told: by the start of each name, and without labels.
#[tokio::test]
async fn a_call_too_large_for_the_vetter_is_in_the_audit_log() {
    const LONG: usize = 1 << 20;
    let name = format!("registry.invalid/{}", "x".repeat(LONG));
    let image = crivet::cri::v1::ImageSpec {
        image: "sha256:ab".into(),
        user_specified_image: name,
        ..Default::default()
    };
    let config = crivet::cri::v1::ContainerConfig { image: Some(image), ..Default::default() };
    let metadata = crivet::cri::v1::PodSandboxMetadata { namespace: "prod".into(), ..Default::default() };
    let pod = crivet::cri::v1::PodSandboxConfig {
        metadata: Some(metadata),
        labels: [("label".to_owned(), "x".repeat(LONG))].into(),
    };
    let request = crivet::cri::v1::CreateContainerRequest {
        config: Some(config),
        sandbox_config: Some(pod),
        ..Default::default()
    };
    let message = prost::Message::encode_to_vec(&request);
    for (mode, code, effective) in [("audit", 0, "forwarded"), ("enforce", 2, "refused")] {
        let place = Place::new();
        let _runtime = FakeRuntime::echo(place.path());
        let crivet = Crivet::serve(&place, &format!("mode: {mode}\nunmatched: deny\n")).await;
        let answer = crivet.client().await.call(CREATE, &message).await;
        assert_eq!(answer.code(), code, "{mode}");
        let says = |word: &str| answer.message().contains(word);
        assert!(code == 0 || says("image \"registry.invalid/xxx") && says("limits::CALL_FACTS_BYTES"));
        let log = || std::fs::read_to_string(place.path().join("audit.jsonl")).unwrap_or_default();
        until("the record", 20, || log().ends_with('\n')).await;
        let record: serde_json::Value = serde_json::from_str(log().lines().next().unwrap()).unwrap();
        let told = ["reason", "namespace", "effective"].map(|field| record[field].as_str().unwrap());
        assert_eq!(told, ["LimitReached", "prod", effective], "{record}");
        let reference = record["reference"].as_str().unwrap();
        assert!(reference.starts_with("registry.invalid/xxx") && reference.len() < 400, "{reference}");
        assert!(crivet.log().contains("limits::CALL_FACTS_BYTES"), "{mode}");
    }
}

/// A refusal while no vetter lives is written down by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_without_a_vetter_is_in_the_audit_log() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::serve(&place, "mode: enforce\nunmatched: deny\nvetting: {timeout: 1s}\n").await;
    let client = crivet.client().await;
    let garbage = client.call(CREATE, &[0xff; 9]).await;
    assert!(garbage.message().contains("undecided"), "{}", garbage.message());
    // The pause before the next start doubles, until a call does not wait for it any more.
    loop {
        send_signal(living_vetter(&crivet).await, "KILL");
        let answer = client.call(PULL, &pull()).await;
        if answer.message().contains("vetter is not running") {
            break;
        }
    }
    let log = || std::fs::read_to_string(place.path().join("audit.jsonl")).unwrap_or_default();
    until("both records", 20, || log().contains("VetterAway") && log().contains("CallNotVettable")).await;
}
