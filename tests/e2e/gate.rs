//! crivet between the kubelet and containerd: what is signed runs, what is not does not.

use crate::support::containerd::Containerd;
use crate::support::cosign::{Cosign, Key, Version};
use crate::support::critest;
use crate::support::crivet::{Crivet, key_policy};
use crate::support::image::{Image, Pushed};
use crate::support::kubelet::Kubelet;
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use crate::support::wait_for;
use serde_json::json;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const A_MINUTE: Duration = Duration::from_secs(60);

/// A node with crivet on it. Everything of the registry wants a signature; the pause image has one.
struct Node {
    peers: Peers,
    registry: Registry,
    containerd: Containerd,
    crivet: Crivet,
    cosign: Cosign,
    key: Key,
}

impl Node {
    fn start(mode: &str) -> Option<Self> {
        let peers = Peers::get()?;
        let registry = Registry::start(&peers);
        let containerd = Containerd::start(&peers, "1.6", &registry);
        let cosign = Cosign::new(&peers, Version::V2);
        let key = cosign.generate_key("key");
        cosign.sign(&key, &containerd.pause().by_digest, &[]);
        let policy = key_policy("all", &format!("{}/**", registry.address()), &key);
        let crivet = Crivet::start(&peers, &containerd, mode, &[policy]);
        Some(Self { crivet, containerd, registry, cosign, key, peers })
    }

    fn push(&self, name: &str, image: &Image) -> Pushed {
        image.push(&self.registry, name, "1")
    }

    fn push_signed(&self, name: &str, image: &Image) -> Pushed {
        let pushed = self.push(name, image);
        self.cosign.sign(&self.key, &pushed.by_digest, &[]);
        pushed
    }

    fn says(&self, line: &str) -> Image {
        Image::says(&self.peers, line)
    }

    fn kubelet(&self) -> Kubelet {
        Kubelet::start(&self.peers, &self.crivet.socket())
    }
}

#[test]
fn a_signed_image_is_pulled_and_runs() {
    let Some(node) = Node::start("enforce") else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    node.crivet.crictl().pull(&signed.reference).unwrap();
    let container = node.crivet.crictl().start("signed", &signed).unwrap();
    assert_eq!(container.first_line(), "vouched for");
}

#[test]
fn an_unsigned_image_is_not_pulled() {
    let Some(node) = Node::start("enforce") else { return };
    let unsigned = node.push("unsigned", &node.says("never"));
    let refusal = node.crivet.crictl().pull(&unsigned.reference).unwrap_err();
    assert!(refusal.contains("code = Unknown desc = SignatureValidationFailed: "), "{refusal}");
    assert!(refusal.contains(&unsigned.digest), "{refusal}");
    let images = node.containerd.crictl().run(["images", "--quiet"]).unwrap();
    assert!(!images.contains(&unsigned.id), "{images}");
    let recorded = || node.crivet.audit().into_iter().find(|r| r.to_string().contains(&unsigned.digest));
    wait_for("the audit record", Duration::from_secs(5), recorded);
}

#[test]
fn an_unsigned_image_that_is_already_there_does_not_run() {
    let Some(node) = Node::start("enforce") else { return };
    let unsigned = node.push("unsigned", &node.says("never"));
    node.containerd.crictl().pull(&unsigned.reference).unwrap();
    let Err(refusal) = node.crivet.crictl().start("unsigned", &unsigned) else {
        panic!("a container of an unsigned image was made")
    };
    assert!(refusal.contains("SignatureValidationFailed: "), "{refusal}");
    assert_eq!(node.containerd.crictl().run(["ps", "--all", "--quiet"]).unwrap(), "");
}

#[test]
fn kubelet_runs_a_signed_static_pod_as_the_images_user() {
    let Some(node) = Node::start("enforce") else { return };
    let signed = node.push_signed("signed", &node.says("uid $(id -u)").user("1000"));
    let kubelet = node.kubelet();
    kubelet.add_pod("signed", &signed.reference, &json!({}));
    kubelet.wait_pod("signed", A_MINUTE, |pod| pod.ready());
    assert_eq!(kubelet.first_line("signed"), "uid 1000");
}

#[test]
fn kubelet_shows_why_an_unsigned_static_pod_waits() {
    let Some(node) = Node::start("enforce") else { return };
    let unsigned = node.push("unsigned", &node.says("never"));
    let kubelet = node.kubelet();
    kubelet.add_pod("unsigned", &unsigned.reference, &json!({}));
    let denied = |reason: &str| reason == "SignatureValidationFailed";
    let pod = kubelet.wait_pod("unsigned", A_MINUTE, |pod| pod.waiting().is_some_and(|w| denied(&w.0)));
    let (_, message) = pod.waiting().unwrap();
    assert!(message.contains(&unsigned.digest), "{message}");
    assert!(kubelet.pod_log("unsigned").is_empty());
}

#[test]
fn in_audit_mode_an_unsigned_static_pod_runs() {
    let Some(node) = Node::start("audit") else { return };
    let unsigned = node.push("unsigned", &node.says("allowed for now"));
    let kubelet = node.kubelet();
    kubelet.add_pod("unsigned", &unsigned.reference, &json!({}));
    kubelet.wait_pod("unsigned", A_MINUTE, |pod| pod.ready());
    assert_eq!(kubelet.first_line("unsigned"), "allowed for now");
    let recorded = || node.crivet.audit().into_iter().find(|r| r.to_string().contains(&unsigned.digest));
    wait_for("the audit record", Duration::from_secs(20), recorded);
}

#[test]
fn crivet_killed_under_a_running_kubelet_leaves_pods_ready() {
    let Some(mut node) = Node::start("enforce") else { return };
    let signed = node.push_signed("signed", &node.says("still here"));
    let kubelet = node.kubelet();
    kubelet.add_pod("before", &signed.reference, &json!({}));
    kubelet.wait_pod("before", A_MINUTE, |pod| pod.ready());
    assert_eq!(kubelet.first_line("before"), "still here");

    node.crivet.kill();
    node.crivet.start_again(&node.peers);
    kubelet.add_pod("after", &signed.reference, &json!({}));
    kubelet.wait_pod("after", A_MINUTE, |pod| pod.ready());
    assert!(kubelet.pod("before").is_some_and(|pod| pod.ready()));
    assert_eq!(kubelet.pod_log("before"), ["still here"], "the container was started again");
    assert!(!kubelet.log().contains("container runtime is down"));
}

#[test]
fn sigterm_ends_crivet_in_order() {
    let Some(mut node) = Node::start("enforce") else { return };
    assert!(Path::new("/proc").join(node.crivet.pid().to_string()).exists());
    assert_eq!(node.crivet.stop(), Some(0));
}

#[test]
fn a_registry_that_is_away_leaves_the_pull_undecided() {
    let Some(mut node) = Node::start("enforce") else { return };
    let signed = node.push_signed("signed", &node.says("later"));
    node.registry.stop();
    let refusal = node.crivet.crictl().pull(&signed.reference).unwrap_err();
    assert!(refusal.contains("code = Unknown desc = RegistryUnavailable: "), "{refusal}");
}

/// containerd finds the image of a container by one of its names (facts: it creates by name), so whoever may
/// name images can put another file system under a container that was made by a vetted ID.
#[test]
fn a_name_that_moves_never_puts_another_file_system_under_a_container() {
    let Some(node) = Node::start("enforce") else { return };
    let image_signed = node.says("vouched for");
    let image_other = node.says("never").file("other", "another file system");
    let signed = node.push_signed("signed", &image_signed);
    let other = node.push("other", &image_other);
    node.crivet.crictl().pull(&signed.reference).unwrap();
    node.containerd.crictl().pull(&other.reference).unwrap();
    let pod = node.crivet.crictl().sandbox("race").unwrap();
    // First in the alphabet, so that containerd takes this one of the names. Pulling updates a name in place;
    // `ctr images tag --force` would take it away for a moment, and containerd would notice.
    let name = format!("{}/a:moving", node.registry.address());
    image_signed.push(&node.registry, "a", "signed");
    image_other.push(&node.registry, "a", "other");

    let done = AtomicBool::new(false);
    let made = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for tag in ["signed", "other"] {
                    node.registry.move_tag("a", "moving", tag);
                    node.containerd.ctr(&["images", "pull", "--plain-http", &name]);
                }
            }
        });
        let create = |number| node.crivet.crictl().create(&format!("c{number}"), &pod, &signed).ok();
        let half = |start| move || (start..1000).step_by(2).filter_map(create).collect::<Vec<_>>();
        let creators: Vec<_> = (0..2).map(|start| scope.spawn(half(start))).collect();
        let made: Vec<_> = creators.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        made
    });
    assert!(made.len() > 500, "only {} of 1000 were made", made.len());
    let chains = node.containerd.chains();
    let wrong = made.iter().filter(|id| chains[*id] != signed.chain).count();
    assert_eq!(wrong, 0, "of {} containers", made.len());
}

#[test]
fn critest_passes_the_same_tests_through_crivet() {
    let Some(node) = Node::start("audit") else { return };
    critest::push_images(&node.peers, &node.registry);
    let direct = critest::run(&node.peers, node.containerd.socket());
    let passed = direct.iter().filter(|(_, outcome)| *outcome == "passed").count();
    assert!(passed >= 70, "only {passed} pass on containerd itself: {direct:#?}");

    let through = critest::run(&node.peers, &node.crivet.socket());
    let differ: Vec<_> =
        direct.iter().filter(|(name, outcome)| through.get(*name) != Some(outcome)).collect();
    assert!(differ.is_empty(), "other outcomes than containerd's own: {differ:#?}");
    assert_eq!(direct.len(), through.len());
}
