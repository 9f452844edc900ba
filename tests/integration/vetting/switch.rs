//! The switch from audit to enforce: refused while it would keep the node from coming back.

use crivet::control::wire::Status;
use crivet::control::{self, Control};
use crivet::cri::v1;
use crivet::limits;
use crivet::vetter::wire::{
    self, Call, Configure, FromVetter, ImageUse, Kind, Outcome, RuntimeAnswer, ToVetter, from_vetter,
    to_vetter,
};
use futures_util::{SinkExt, StreamExt};
use prost::Message;
use tokio::net::UnixStream;

use super::cli::{crivet, shown};
use super::layers::checked;
use super::node::{Gate, Node, allowed, refusal};
use super::registry::Image;
use super::runtime::Pod;
use crate::registry::fake::reply;
use crate::support::within;

/// A node with a signed pause image and one static pod, whose image is signed or not.
async fn node(static_pod_is_signed: bool) -> (Node, Image) {
    let node = Node::strict().await;
    let pause = node.push_signed("pause", "1", "pause");
    node.runtime.preloaded(&node.named("pause:1"), &pause);
    let etcd = node.push("etcd", "1", "etcd");
    node.runtime.preloaded(&node.named("etcd:1"), &etcd);
    if static_pod_is_signed {
        node.registry.sign("etcd", &etcd, &node.signer);
    }
    runs(&node, "etcd-node", "file", &etcd, "etcd:1");
    (node, etcd)
}

fn runs(node: &Node, name: &'static str, source: &'static str, image: &Image, reference: &str) {
    let (image_id, reference) = (image.id(), node.named(reference));
    node.runtime.state().pods.push(Pod { name, source, image_id, reference });
}

fn mode(node: &Node, mode: &str) -> String {
    format!("mode: {mode}\npauseImage: {}\n", node.named("pause:1"))
}

impl Node {
    pub async fn status(&self) -> Status {
        let socket = control::socket(self.place.path());
        Control::connect(&socket).await.unwrap().status().await.unwrap()
    }

    /// Waits for a status like this one.
    pub async fn status_like(&self, what: &str, like: impl Fn(&Status) -> bool) -> Status {
        let asking = async {
            loop {
                let status = self.status().await;
                if like(&status) {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        within(what, 30, asking).await
    }

    /// Waits until the configuration that is kept for a start with a bad one has this line.
    async fn keeps(&self, line: &str) {
        let kept = self.place.path().join("state/config.last-good.yaml");
        let reading = async {
            while !std::fs::read_to_string(&kept).unwrap_or_default().contains(line) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        within(line, 30, reading).await;
    }
}

/// A node that audits, and is told to enforce.
async fn switched(node: &Node) -> Gate {
    let gate = node.serve(&mode(node, "audit")).await;
    node.configure(&mode(node, "enforce"));
    gate.reload().await;
    gate
}

#[tokio::test]
async fn a_switch_that_breaks_nothing_is_made_and_kept() {
    let (node, _) = node(true).await;
    let other = node.push("other", "1", "other");
    // What comes from the API is rescheduled elsewhere, and the switch is about such pods.
    runs(&node, "web", "api", &other, "other:1");
    let gate = switched(&node).await;
    node.status_like("enforce", |status| status.mode == "enforce").await;
    assert!(refusal(&gate.pull(&node.named("other:1")).await).contains("no signature"));
    node.keeps("mode: enforce").await;
    let page = node.metrics().await;
    let said = "crivet_mode_info{configured=\"enforce\",mode=\"enforce\",because=\"configuration\"} 1";
    assert!(page.contains(said), "{page}");
}

#[tokio::test]
async fn a_static_pod_that_would_be_denied_refuses_the_switch_until_its_image_is_signed() {
    let (node, etcd) = node(false).await;
    let gate = switched(&node).await;
    let is_refused = |status: &Status| status.mode_because.contains("refused");
    let status = node.status_like("the refusal", is_refused).await;
    assert_eq!((status.mode.as_str(), status.configured_mode.as_str()), ("audit", "enforce"));
    for said in
        ["static pod kube-system/etcd-node container main", &etcd.digest(), "no signature", "sign these"]
    {
        assert!(status.mode_because.contains(said), "{said}: {}", status.mode_because);
    }
    assert!(!status.mode_because.contains("pause"), "{}", status.mode_because);
    assert!(allowed(&gate.pull(&node.named("etcd:1")).await));
    assert!(gate.crivet.log().contains("forceEnforce: true overrides this"));
    assert!(node.metrics().await.contains("because=\"switch_refused\"} 1"));
    // A restart does not make it one that was always enforcing.
    node.keeps("mode: audit").await;
    drop(gate);
    let gate = node.start(&[]).await;
    node.status_like("the refusal after a restart", is_refused).await;
    assert!(allowed(&gate.pull(&node.named("etcd:1")).await));
    node.registry.sign("etcd", &etcd, &node.signer);
    node.status_like("the switch, by itself", |status| status.mode == "enforce").await;
    node.keeps("mode: enforce").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn switch_waits_for_the_checks_that_a_policy_asks_for_of_pause_image_and_static_pods() {
    let (node, etcd) = node(true).await;
    let other = node.push_signed("other", "1", "other");
    node.runtime.preloaded(&node.named("other:1"), &other);
    let spec = "  content: {layersCheckedWithin: 72h}\n";
    node.policy("all.yaml", &node.signed_by("all", &node.signer, spec));
    let _gate = switched(&node).await;
    let pause = node.push("pause", "1", "pause");
    let (refused, expected) =
        (|status: &Status| status.mode_because.contains("refused"), "layersCheckedWithin");
    let status = node.status_like("the refusal", refused).await;
    assert_eq!(status.mode, "audit");
    for said in [
        "the pause image",
        "static pod kube-system/etcd-node container main",
        expected,
        "crivet content check",
    ] {
        assert!(status.mode_because.contains(said), "{said}: {}", status.mode_because);
    }
    // The inventory says so beforehand, of what does not stop the switch, too.
    let config = node.place.path().join("config.yaml");
    let inventory = crivet(&["inventory", "--config", shown(&config), "-o", "json"]).await;
    let said: serde_json::Value = serde_json::from_str(&inventory.out).unwrap();
    assert_eq!((inventory.code, &said["judgedBy"]), (Some(2), &"daemon".into()), "{said}");
    assert_eq!(said["summary"]["running"]["allowed"], 0, "{said}");
    assert!(said["notInUse"][0]["message"].as_str().unwrap().contains(expected), "{said}");
    // Nothing is enforced, and nothing requested.
    assert!(!node.place.path().join("content-requested").exists());

    checked(&node, &pause, |_| {}).await;
    checked(&node, &etcd, |told| told.found = "a file".into()).await;
    let status = node.status_like("the denial", |status| status.mode_because.contains("altered")).await;
    assert!(!status.mode_because.contains("the pause image"), "{}", status.mode_because);
    assert!(!status.mode_because.contains(expected), "{}", status.mode_because);
    checked(&node, &etcd, |_| {}).await;
    node.status_like("the switch, by itself", |status| status.mode == "enforce").await;
}

#[tokio::test]
async fn a_static_pod_with_an_image_volume_that_would_be_denied_refuses_the_switch_until_it_is_signed() {
    let (node, _) = node(true).await;
    let (data, name) = (node.push("data", "1", "data"), node.named("data:1"));
    node.runtime.preloaded(&name, &data);
    let volume = v1::ImageSpec { image: data.id(), user_specified_image: name, ..Default::default() };
    node.runtime.state().volumes.push(volume);
    let _gate = switched(&node).await;
    let status = node.status_like("the refusal", |status| status.mode_because.contains("refused")).await;
    for said in ["static pod kube-system/etcd-node container main", &data.digest(), "no signature"] {
        assert!(status.mode_because.contains(said), "{said}: {}", status.mode_because);
    }
    node.registry.sign("data", &data, &node.signer);
    node.status_like("the switch, by itself", |status| status.mode == "enforce").await;
}

/// A container of the static pod that has ended.
fn ended(node: &Node, name: &str, created_at: i64, image: &Image, reference: &str) {
    let image = v1::ImageSpec {
        image: image.id(),
        user_specified_image: node.named(reference),
        ..Default::default()
    };
    node.runtime.state().running.push(v1::Container {
        id: format!("{name}-{created_at}"),
        pod_sandbox_id: "sandbox of etcd-node".to_owned(),
        metadata: Some(v1::ContainerMetadata { name: name.to_owned() }),
        image_ref: image.image.clone(),
        image: Some(image),
        state: v1::ContainerState::ContainerExited.into(),
        created_at,
        ..Default::default()
    });
}

#[tokio::test]
async fn a_container_of_a_static_pod_that_has_ended_refuses_the_switch_by_its_last_image() {
    let (node, _) = node(true).await;
    let (old, init) = (node.push("old", "1", "old"), node.push("init", "1", "init"));
    for (image, name) in [(&old, "old:1"), (&init, "init:1")] {
        node.runtime.preloaded(&node.named(name), image);
    }
    // Made of another image since, and it was that one which failed.
    ended(&node, "setup", 2, &init, "init:1");
    ended(&node, "setup", 1, &old, "old:1");
    ended(&node, "main", 1, &old, "old:1");
    let _gate = switched(&node).await;
    let status = node.status_like("the refusal", |status| status.mode_because.contains("refused")).await;
    for said in ["static pod kube-system/etcd-node container setup", &init.digest(), "no signature"] {
        assert!(status.mode_because.contains(said), "{said}: {}", status.mode_because);
    }
    for unsaid in ["container main", &old.digest()] {
        assert!(!status.mode_because.contains(unsaid), "{unsaid}: {}", status.mode_because);
    }
    node.registry.sign("init", &init, &node.signer);
    node.status_like("the switch, by itself", |status| status.mode == "enforce").await;
}

#[tokio::test]
async fn a_static_pod_on_a_snapshotter_that_binds_nothing_refuses_the_switch_until_it_is_allowed() {
    let (node, _) = node(true).await;
    node.runtime.state().snapshotter = Some("stargz".to_owned());
    let gate = switched(&node).await;
    let status = node.status_like("the refusal", |status| status.mode_because.contains("refused")).await;
    for said in ["static pod kube-system/etcd-node container main", "\"stargz\"", "insecureAllowSnapshotters"]
    {
        assert!(status.mode_because.contains(said), "{said}: {}", status.mode_because);
    }
    node.configure(&format!("{}insecureAllowSnapshotters: [stargz]\n", mode(&node, "enforce")));
    gate.reload().await;
    node.status_like("the switch", |status| status.mode == "enforce").await;
}

/// containerd 1.6 does not keep the pod's own words.
#[tokio::test]
async fn a_runtime_that_does_not_say_what_the_pod_said_is_asked_for_all_names_of_the_image() {
    let (node, etcd) = node(false).await;
    node.runtime.state().pods[0].reference = String::new();
    node.runtime.preloaded(&node.named("mirror:1"), &etcd);
    let _gate = switched(&node).await;
    let is_refused = |status: &Status| status.mode_because.contains("refused");
    let status = node.status_like("the refusal", is_refused).await;
    assert!(status.mode_because.contains("container main: SignatureValidationFailed: image "));
    assert!(status.mode_because.contains("no signature"), "{}", status.mode_because);
}

#[tokio::test]
async fn more_names_of_an_image_than_can_be_asked_about_refuse_the_switch() {
    let (node, etcd) = node(true).await;
    node.runtime.state().pods[0].reference = String::new();
    let names = || (0..limits::IMAGES_PER_CALL).map(|name| node.named(&format!("etcd:name-{name}")));
    for listed in node.runtime.state().images.values_mut().filter(|listed| listed.id == etcd.id()) {
        listed.repo_tags.extend(names());
    }
    let _gate = switched(&node).await;
    let status = node.status_like("the refusal", |status| status.mode_because.contains("refused")).await;
    for said in ["static pod kube-system/etcd-node container main", "limits::IMAGES_PER_CALL"] {
        assert!(status.mode_because.contains(said), "{said}: {}", status.mode_because);
    }
}

#[tokio::test]
async fn on_crio_without_a_store_signed_images_refuse_the_switch_because_nothing_would_be_made() {
    let (node, _) = node(true).await;
    node.runtime.becomes_crio();
    let _gate = switched(&node).await;
    let status = node.status_like("the refusal", |status| status.mode_because.contains("refused")).await;
    for said in [
        "the pause image: SignatureValidationFailed: undecided: nothing is made",
        "static pod kube-system/etcd-node container main: SignatureValidationFailed: undecided: nothing",
    ] {
        assert!(status.mode_because.contains(said), "{said}: {}", status.mode_because);
    }
    assert_eq!(status.mode, "audit");
}

#[tokio::test]
async fn an_unsigned_pause_image_refuses_the_switch() {
    let (node, _) = node(true).await;
    node.policy("all.yaml", &node.signed_by("all", &super::signer::Signer::new(), ""));
    let _gate = switched(&node).await;
    let status = node.status_like("the refusal", |status| status.mode_because.contains("refused")).await;
    assert!(
        status.mode_because.contains("the pause image: SignatureValidationFailed"),
        "{}",
        status.mode_because
    );
    assert_eq!(status.mode, "audit");
}

#[tokio::test]
async fn what_cannot_be_decided_refuses_the_switch() {
    for (why, said) in
        [("pause", "set pauseImage"), ("policies", "bad.yaml:1: "), ("registry", "RegistryUnavailable: ")]
    {
        let (node, _) = node(true).await;
        let lines = |mode: &str| match why {
            "pause" => format!("mode: {mode}\n"),
            _ => self::mode(&node, mode),
        };
        let gate = node.serve(&lines("audit")).await;
        match why {
            "policies" => node.policy("bad.yaml", "colour: red\n"),
            "registry" => node.registry.instead(|_| Some(reply(503, &[], ""))),
            _ => {}
        }
        node.configure(&lines("enforce"));
        gate.reload().await;
        let status = node.status_like("the refusal", |status| status.mode_because.contains("refused")).await;
        assert!(status.mode_because.contains(said), "{said}: {}", status.mode_because);
        assert_eq!(status.mode, "audit");
    }
}

#[tokio::test]
async fn force_enforce_switches_at_once() {
    let (node, etcd) = node(false).await;
    let gate = node.serve(&mode(&node, "audit")).await;
    node.configure(&format!("{}forceEnforce: true\n", mode(&node, "enforce")));
    gate.reload().await;
    assert_eq!(node.status().await.mode, "enforce");
    assert!(refusal(&gate.create(&etcd.id(), &node.named("etcd:1")).await).contains("no signature"));
    node.keeps("forceEnforce").await;
}

#[tokio::test]
async fn neither_a_new_node_nor_a_restart_of_an_enforcing_one_is_a_switch() {
    let (node, _) = node(false).await;
    node.configure(&mode(&node, "enforce"));
    for start in ["the first", "another"] {
        let gate = node.start(&[]).await;
        assert_eq!(node.status().await.mode, "enforce", "{start}");
        assert!(refusal(&gate.pull(&node.named("etcd:1")).await).contains("no signature"), "{start}");
    }
}

/// The relay may enforce a moment before the vetter has been told.
#[tokio::test]
async fn a_call_that_waits_is_held_to_the_policies_by_a_vetter_that_still_audits() {
    let (node, _) = node(false).await;
    let config = node.configure("mode: enforce\n");
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(crivet::vetter::session::serve(theirs));
    let mut link = wire::link(ours);
    let configure = Configure {
        settings: std::fs::read_to_string(config).unwrap(),
        audit_because: "break-glass".to_owned(),
        serial: 7,
    };
    let image =
        ImageUse { named: node.named("etcd:1"), reference: node.named("etcd:1"), ..Default::default() };
    let call = |beside| Call {
        kind: Kind::PullImage.into(),
        budget_ms: 20_000,
        beside,
        images: vec![image.clone()],
        ..Default::default()
    };
    for (id, body) in [
        (0, to_vetter::Body::Configure(configure)),
        (1, to_vetter::Body::Vet(call(false))),
        (2, to_vetter::Body::Vet(call(true))),
    ] {
        link.send(wire::frame(&ToVetter { id, body: Some(body) })).await.unwrap();
    }
    let mut verdicts = [None, None];
    let mut serial = 0;
    while verdicts.iter().any(Option::is_none) {
        let frame = within("the verdicts", 20, link.next()).await.unwrap().unwrap();
        let message = FromVetter::decode(frame).unwrap();
        match message.body {
            Some(from_vetter::Body::Configured(configured)) => serial = configured.serial,
            Some(from_vetter::Body::Verdict(verdict)) => {
                verdicts[usize::try_from(message.id).unwrap() - 1] = Some(verdict.outcome());
            }
            Some(from_vetter::Body::Runtime(_)) => {
                let answer = RuntimeAnswer { not_found: true, ..Default::default() };
                let body = Some(to_vetter::Body::Runtime(answer));
                link.send(wire::frame(&ToVetter { id: message.id, body })).await.unwrap();
            }
            _ => {}
        }
    }
    assert_eq!(serial, 7);
    assert_eq!(verdicts, [Some(Outcome::Denied), Some(Outcome::Permitted)]);
}
