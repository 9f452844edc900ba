//! A tag that moves in its registry under `imagePullPolicy: IfNotPresent`: a real kubelet with an API server's pods, whose
//! registry wants their pull secret.

use crate::support::api_server::ApiServer;
use crate::support::crivet::{key_policy, policy, signed_by};
use crate::support::image::Pushed;
use crate::support::kubelet::{Kubelet, Pod};
use crate::support::node::{Node, Setup};
use crate::support::registry::Registry;
use crate::support::wait_for;
use serde_json::Value;
use std::time::Duration;

const A_MINUTE: Duration = Duration::from_secs(60);
/// A second, and the time that a clock may be late.
const AN_INTERVAL: Duration = Duration::from_millis(1200);
const LOGIN: &str = "puller:correct-horse";
/// What `htpasswd -B` makes of [`LOGIN`].
const HTPASSWD: &str = "puller:$2y$05$abcdefghijklmnopqrstuuZ0Fx87Pb/Aqb0E90lfvCwzXnaFKUHpS\n";
const IF_NOT_PRESENT: &str = "IfNotPresent";

/// Dropped in this order.
struct Cluster {
    kubelet: Kubelet,
    api: ApiServer,
    private: Registry,
    node: Node,
}

impl Cluster {
    /// A node in enforce mode with a private registry, whose policy rechecks tags each second.
    fn start(on_drift: &str, setup: &Setup<'_>) -> Option<Self> {
        let node = Node::start(setup)?;
        let private = Registry::start_private(&node.peers, LOGIN, HTPASSWD);
        node.containerd.may_pull_from(&private);
        node.cosign.log_in(private.address(), LOGIN);
        let recheck = format!(
            "  recheck: {{interval: 1s, onDrift: {on_drift}, whenRegistryDown: allow, whenLoginRefused: deny}}\n{}",
            signed_by(&node.key)
        );
        node.crivet.put_policies(&[
            key_policy("all", &node.glob("**"), &node.key),
            policy("private", &format!("{}/**", private.address()), &recheck),
        ]);
        let api = ApiServer::start();
        api.put_pull_secret(private.address(), LOGIN);
        let kubelet = Kubelet::start_with_api(&node.peers, &node.crivet.socket(), &api);
        Some(Self { kubelet, api, private, node })
    }

    /// Pushes an image that says `word` and as whom it runs, and signs it or not.
    fn push(&self, word: &str, signed: bool) -> Pushed {
        let image = self.node.says(&format!("{word} $(id -u)")).user("1000").file("word", word);
        let pushed = image.push(&self.private, "team/app", "1");
        if signed {
            self.node.sign(&pushed);
        }
        pushed
    }

    /// A pod of this name runs, and says this.
    fn runs(&self, name: &str, image: &str, says: &str) {
        self.api.add_pod(name, image, IF_NOT_PRESENT);
        self.api.wait_pod(name, A_MINUTE, |pod| pod.ready());
        assert_eq!(self.kubelet.first_line(name), says);
    }

    fn recorded(&self, decision: &str, reason: &str) -> Value {
        let is_it = |record: &Value| record["decision"] == decision && record["reason"] == reason;
        let what = format!("a record of {decision} {reason}");
        wait_for(&what, Duration::from_secs(20), || self.node.crivet.audit().into_iter().find(is_it))
    }
}

fn repulled(setup: &Setup<'_>) {
    let Some(cluster) = Cluster::start("repull", setup) else { return };
    let first = cluster.push("first", true);
    cluster.runs("before", &first.reference, "first 1000");
    let second = cluster.push("second", true);
    std::thread::sleep(AN_INTERVAL);
    cluster.runs("after", &first.reference, "second 1000");
    let record = cluster.recorded("undecided", "ImageDrifted");
    assert!(record["message"].as_str().unwrap().contains(&second.digest), "{record}");
    // It was pulled by the kubelet, with the pod's own login: the runtime has no other.
    let pulls = cluster.node.crivet.audit();
    let pulls = pulls.iter().filter(|r| r["kind"] == "PullImage" && r["pod"] == "after-node");
    assert!(
        pulls.clone().any(|r| r["decision"] == "allowed" && r["digest"] == second.digest.as_str()),
        "{pulls:?}"
    );
    // The pod from before is left alone, and another one does not pull again.
    cluster.api.wait_pod("before", A_MINUTE, |pod| pod.ready());
    assert_eq!(cluster.kubelet.pod_log("before"), ["first 1000"]);
    std::thread::sleep(AN_INTERVAL);
    cluster.runs("again", &first.reference, "second 1000");
    let audit = cluster.node.crivet.audit();
    assert!(!audit.iter().any(|r| r["kind"] == "PullImage" && r["pod"] == "again-node"), "{audit:?}");
}

#[test]
fn tag_that_moved_to_a_permitted_image_is_pulled_anew_with_the_pod_s_login() {
    repulled(&Setup::default());
}

#[test]
fn tag_that_moved_to_a_permitted_image_is_pulled_anew_on_containerd_2() {
    repulled(&Setup::on_containerd_2());
}

#[test]
fn tag_that_moved_to_an_unsigned_image_never_stops_the_vetted_one() {
    let Some(cluster) = Cluster::start("repull", &Setup::default()) else { return };
    let first = cluster.push("first", true);
    cluster.runs("before", &first.reference, "first 1000");
    let unsigned = cluster.push("unsigned", false);
    std::thread::sleep(AN_INTERVAL);
    cluster.runs("after", &first.reference, "first 1000");
    let record = cluster.recorded("allowed", "ImageDrifted");
    let text = record["message"].as_str().unwrap();
    assert!(text.contains(&unsigned.digest) && text.contains("not permitted"), "{text}");
}

#[test]
fn pod_says_why_where_a_moved_tag_is_denied() {
    let Some(cluster) = Cluster::start("deny", &Setup::default()) else { return };
    let first = cluster.push("first", true);
    cluster.runs("before", &first.reference, "first 1000");
    let second = cluster.push("second", true);
    std::thread::sleep(AN_INTERVAL);
    cluster.api.add_pod("after", &first.reference, IF_NOT_PRESENT);
    let told = |digest: &str, message: &str| message.contains(digest) && message.contains("onDrift: deny");
    let waits = |pod: &Pod| {
        pod.waiting()
            .is_some_and(|(_, message)| told(&second.digest, &message) && told(&first.digest, &message))
    };
    cluster.api.wait_pod("after", A_MINUTE, waits);
    assert!(cluster.kubelet.pod_log("after").is_empty());
    cluster.api.wait_pod("before", A_MINUTE, |pod| pod.ready());
}

#[test]
fn moved_tag_is_recorded_where_the_policy_warns() {
    let Some(cluster) = Cluster::start("warn", &Setup::default()) else { return };
    let first = cluster.push("first", true);
    cluster.runs("before", &first.reference, "first 1000");
    let second = cluster.push("second", true);
    std::thread::sleep(AN_INTERVAL);
    cluster.runs("after", &first.reference, "first 1000");
    let record = cluster.recorded("allowed", "ImageDrifted");
    assert_eq!(record["effective"], "forwarded");
    assert!(record["message"].as_str().unwrap().contains(&second.digest), "{record}");
}

#[test]
fn registry_that_is_down_stops_only_what_was_not_vetted() {
    let Some(mut cluster) = Cluster::start("deny", &Setup::default()) else { return };
    let vetted = cluster.push("vetted", true);
    cluster.runs("before", &vetted.reference, "vetted 1000");
    let other = cluster.node.says("never").push(&cluster.private, "team/other", "1");
    cluster.node.sign(&other);
    cluster.node.containerd.crictl().pull_as(&other.reference, "e2e", LOGIN).unwrap();
    cluster.private.stop();
    std::thread::sleep(AN_INTERVAL);
    cluster.runs("after", &vetted.reference, "vetted 1000");
    cluster.recorded("allowed", "RecheckRegistryDown");
    cluster.api.add_pod("other", &other.reference, IF_NOT_PRESENT);
    let waits =
        |pod: &Pod| pod.waiting().is_some_and(|(_, message)| message.contains("RegistryUnavailable: "));
    cluster.api.wait_pod("other", A_MINUTE, waits);
    assert!(cluster.kubelet.pod_log("other").is_empty());
}

/// The kubelet asks the same question for pods that never pull: they fail while the image is hidden, and not for longer.
#[test]
fn pod_that_never_pulls_starts_when_hiding_has_ended() {
    let Some(cluster) = Cluster::start("repull", &Setup::default()) else { return };
    let first = cluster.push("first", true);
    cluster.runs("before", &first.reference, "first 1000");
    cluster.push("second", true);
    std::thread::sleep(AN_INTERVAL);
    cluster.api.add_pod("after", &first.reference, "Never");
    let reason =
        |reason: &'static str| move |pod: &Pod| pod.waiting().is_some_and(|(found, _)| found == reason);
    cluster.api.wait_pod("after", A_MINUTE, reason("ErrImageNeverPull"));
    cluster.api.wait_pod("after", 3 * A_MINUTE, |pod| pod.ready());
    assert_eq!(cluster.kubelet.first_line("after"), "first 1000");
    let record = cluster.recorded("allowed", "ImageDrifted");
    assert!(record["message"].as_str().unwrap().contains("was to be pulled a short time ago"), "{record}");
    let (_, doctor) = cluster.node.crivet.json("doctor", &[]);
    assert!(doctor.to_string().contains("nobody pulled it"), "{doctor}");
}
