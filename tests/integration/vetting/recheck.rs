//! Tags held to their registry when a container is made of what is on the node already.

use std::time::Duration;

use crivet::cri::v1;
use futures_util::future::join_all;
use prost::Message;
use serde_json::{Value, json};

use super::node::{Gate, Node, allowed, create, pod, pull, refusal};
use super::registry::{Image, digest_of, signature_tag};
use super::runtime::REMOVE;
use crate::registry::fake::{later, reply};
use crate::support::client::{Answer, CREATE, PULL};
use crate::support::{framed, until};

const UNDECIDED: &str = "SignatureValidationFailed: undecided: ";
const DENIED: &str = "SignatureValidationFailed: image ";
const AWAY: &str = "RegistryUnavailable: image ";
const IMAGE_STATUS: &str = "/runtime.v1.ImageService/ImageStatus";
/// A second, and the time that a clock may be late.
const AN_INTERVAL: Duration = Duration::from_millis(1100);

fn recheck(interval: &str, on_drift: &str, without_answer: &str) -> String {
    format!(
        "  recheck: {{interval: {interval}, onDrift: {on_drift}, whenRegistryDown: {without_answer}, whenLoginRefused: {without_answer}}}\n"
    )
}

/// A node in enforce mode whose runtime has a signed image under `app:1`, with these lines in its policy.
async fn node(spec: &str) -> (Node, Gate, Image, String) {
    let (node, image, name) = idle(spec).await;
    let gate = node.enforce().await;
    (node, gate, image, name)
}

async fn idle(spec: &str) -> (Node, Image, String) {
    let node = Node::new().await;
    node.policy("all.yaml", &node.signed_by("all", &node.signer, spec));
    let image = node.push_signed("app", "1", "one");
    let name = node.named("app:1");
    node.runtime.preloaded(&name, &image);
    (node, image, name)
}

/// How often the registry was asked what the tag is.
fn heads(node: &Node) -> usize {
    node.registry.asked().iter().filter(|asked| *asked == "HEAD /v2/app/manifests/1").count()
}

/// The registry answers so when it is asked what the tag is.
fn tag_is_answered(node: &Node, status: u16, headers: &'static [(&'static str, &'static str)]) {
    node.registry
        .instead(move |seen| (seen.path == "/v2/app/manifests/1").then(|| reply(status, headers, "")));
}

async fn recorded(node: &Node, decision: &str, reason: &str) -> Value {
    let what = format!("{decision} {reason}");
    node.record(&what, |record| record["decision"] == decision && record["reason"] == reason).await
}

/// As the kubelet asks whether it has to pull.
async fn presence(gate: &Gate, name: &str) -> Option<String> {
    let annotations = [("kubernetes.io/config.source".to_owned(), "api".to_owned())].into();
    status(gate, v1::ImageSpec { image: name.to_owned(), annotations, ..Default::default() }).await
}

/// As the kubelet asks for the user.
async fn user(gate: &Gate, name: &str) -> Option<String> {
    status(gate, v1::ImageSpec { image: name.to_owned(), ..Default::default() }).await
}

async fn status(gate: &Gate, image: v1::ImageSpec) -> Option<String> {
    let message = v1::ImageStatusRequest { image: Some(image) }.encode_to_vec();
    let answer: Answer = gate.client.call(IMAGE_STATUS, &message).await;
    assert!(allowed(&answer), "{answer:?}");
    let body = answer.data.get(5..).unwrap();
    assert_eq!(answer.data, framed(body));
    v1::ImageStatusResponse::decode(body).unwrap().image.map(|image| image.id)
}

#[tokio::test]
async fn tag_is_asked_for_once_in_an_interval() {
    let (node, gate, image, name) = node(&recheck("1h", "deny", "deny")).await;
    let id = image.id();
    let answers = join_all((0..50).map(|_| gate.create(&id, &name))).await;
    assert!(answers.iter().all(allowed), "{:?}", answers.iter().find(|answer| !allowed(answer)));
    assert_eq!(heads(&node), 1);
    // A vetter that asks its memory, not the relay its permit.
    gate.reload().await;
    assert!(allowed(&gate.create(&id, &name).await));
    assert_eq!(heads(&node), 1);
    assert_eq!(node.metric("crivet_recheck_requests_total{outcome=\"answered\"}").await, 1.0);
}

#[tokio::test]
async fn held_permit_does_not_outlive_the_interval() {
    let (node, gate, image, name) = node(&recheck("1s", "deny", "deny")).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    tokio::time::sleep(AN_INTERVAL).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    assert_eq!(heads(&node), 2);
    // Nor while no vetter lives: the policy says what without an answer is not to start.
    tokio::time::sleep(AN_INTERVAL).await;
    let killing = gate.keep_killing_the_vetter();
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(UNDECIDED) && text.contains("vetter"), "{text}");
    drop(killing);
}

#[tokio::test]
async fn what_a_pull_was_told_of_the_tag_is_not_asked_again() {
    let (node, gate, image, name) = node(&recheck("1h", "deny", "deny")).await;
    assert!(allowed(&gate.pull(&name).await));
    assert!(allowed(&gate.create(&image.id(), &name).await));
    assert_eq!(heads(&node), 0);
}

#[tokio::test]
async fn digests_and_policies_without_a_recheck_are_not_held_to_the_registry() {
    let (node, gate, image, name) = node("").await;
    node.registry.push("app", "1", &Image::new("two"));
    assert!(allowed(&gate.create(&image.id(), &name).await));
    node.policy("all.yaml", &node.signed_by("all", &node.signer, &recheck("1s", "deny", "deny")));
    gate.reload().await;
    let by_digest = format!("{}@{}", node.named("app"), image.digest());
    assert!(allowed(&gate.create(&image.id(), &by_digest).await));
    assert!(allowed(&gate.create(&image.id(), &format!("{name}@{}", image.digest())).await));
    assert_eq!(heads(&node), 0);
}

#[tokio::test]
async fn tag_that_moved_is_only_recorded_where_the_policy_warns() {
    let (node, gate, image, name) = node(&recheck("1h", "warn", "deny")).await;
    let other = Image::new("two");
    node.registry.push("app", "1", &other);
    for _ in 0..2 {
        assert!(allowed(&gate.create(&image.id(), &name).await));
    }
    let record = recorded(&node, "allowed", "ImageDrifted").await;
    let text = record["message"].as_str().unwrap();
    assert!(text.contains(&image.digest()) && text.contains(&other.digest()), "{text}");
    assert_eq!(record["effective"], "forwarded");
    // Each container is told of, and the registry is asked once.
    assert_eq!(node.metric("crivet_recheck_drift_total{effect=\"warn\"}").await, 2.0);
    assert_eq!(heads(&node), 1);
}

#[tokio::test]
async fn tag_that_moved_is_denied_where_the_policy_says_so() {
    let (node, gate, image, name) = node(&recheck("1s", "deny", "allow")).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let other = node.push_signed("app", "1", "two");
    tokio::time::sleep(AN_INTERVAL).await;
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(DENIED), "{text}");
    for told in [&image.digest(), &other.digest(), &name, "onDrift: deny", "policy all (all.yaml:1)"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let record = recorded(&node, "denied", "ImageDrifted").await;
    assert_eq!(
        (&record["effective"], &record["message"]),
        (&json!("refused"), &json!(text.replacen("SignatureValidationFailed: ", "", 1)))
    );
    assert_eq!(node.metric("crivet_recheck_drift_total{effect=\"deny\"}").await, 1.0);
    // The permit from before does not count for want of a vetter.
    let killing = gate.keep_killing_the_vetter();
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(UNDECIDED), "{text}");
    drop(killing);
    assert_eq!(node.runtime.containers(), 1);
}

#[tokio::test]
async fn tag_that_is_gone_is_denied_where_the_policy_says_so() {
    let (node, gate, image, name) = node(&recheck("1h", "deny", "allow")).await;
    tag_is_answered(&node, 404, &[]);
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(DENIED) && text.contains("found no such tag"), "{text}");
}

#[tokio::test]
async fn index_pushed_anew_over_the_same_image_is_no_drift() {
    let (node, gate, image, name) = node(&recheck("1h", "deny", "deny")).await;
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.digest(),
            "size": image.manifest.len(), "platform": {"os": "linux", "architecture": architecture()}}]});
    let index = index.to_string();
    node.registry.put_manifest("app", &digest_of(index.as_bytes()), index.clone());
    node.registry.put_manifest("app", "1", index);
    let answer = gate.create(&image.id(), &name).await;
    assert!(allowed(&answer), "{answer:?}");
    assert_eq!(node.metric("crivet_recheck_drift_total").await, 0.0);
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[tokio::test]
async fn registry_that_is_down_is_an_answer_of_its_own() {
    for without_answer in ["allow", "deny"] {
        let (node, gate, image, name) = node(&recheck("1h", "deny", without_answer)).await;
        tag_is_answered(&node, 503, &[]);
        let answer = gate.create(&image.id(), &name).await;
        if without_answer == "allow" {
            assert!(allowed(&answer), "{answer:?}");
            let record = recorded(&node, "allowed", "RecheckRegistryDown").await;
            assert!(record["message"].as_str().unwrap().contains("whenRegistryDown: allow"), "{record}");
        } else {
            let text = refusal(&answer);
            assert!(text.starts_with(AWAY) && text.contains("whenRegistryDown: deny"), "{text}");
            recorded(&node, "undecided", "RecheckRegistryDown").await;
        }
        // It is not asked again at once.
        let asked = heads(&node);
        assert_eq!(allowed(&gate.create(&image.id(), &name).await), without_answer == "allow");
        assert_eq!(heads(&node), asked);
        assert_eq!(node.metric("crivet_recheck_requests_total{outcome=\"registry_down\"}").await, 1.0);
    }
}

#[tokio::test]
async fn registry_that_hangs_counts_as_down() {
    let (node, image, name) = idle(&recheck("1h", "deny", "allow")).await;
    // What is allowed without an answer is not to be late for want of one.
    let gate = node.serve("mode: enforce\nvetting: {timeout: 4s}\n").await;
    // HEAD has no body that could be late; what answers its challenge has.
    let challenge = format!("Bearer realm=\"http://{}/token\"", node.host());
    node.registry.instead(move |seen| match seen.path.as_str() {
        "/v2/app/manifests/1" => Some(reply(401, &[("www-authenticate", &challenge)], "")),
        path if path.starts_with("/token") => Some(later(Duration::from_secs(60), reply(200, &[], ""))),
        _ => None,
    });
    let answer = gate.create(&image.id(), &name).await;
    assert!(allowed(&answer), "{answer:?}");
    recorded(&node, "allowed", "RecheckRegistryDown").await;
}

#[tokio::test]
async fn refused_login_is_an_answer_of_its_own() {
    for without_answer in ["allow", "deny"] {
        let (node, gate, image, name) = node(&recheck("1h", "deny", without_answer)).await;
        tag_is_answered(&node, 403, &[]);
        let answer = gate.create(&image.id(), &name).await;
        if without_answer == "allow" {
            assert!(allowed(&answer), "{answer:?}");
            recorded(&node, "allowed", "RecheckLoginRefused").await;
        } else {
            let text = refusal(&answer);
            assert!(text.starts_with(UNDECIDED) && text.contains("whenLoginRefused: deny"), "{text}");
            recorded(&node, "undecided", "RecheckLoginRefused").await;
        }
    }
}

#[tokio::test]
async fn in_audit_mode_drift_is_recorded_and_nothing_refused() {
    let (node, image, name) = idle(&recheck("1h", "deny", "deny")).await;
    node.registry.push("app", "1", &Image::new("two"));
    let gate = node.audit().await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let record = recorded(&node, "denied", "ImageDrifted").await;
    assert_eq!((&record["mode"], &record["effective"]), (&json!("audit"), &json!("forwarded")));
}

#[tokio::test]
async fn policy_that_audits_refuses_and_hides_nothing() {
    for (on_drift, decision) in [("deny", "denied"), ("repull", "allowed")] {
        let spec = format!("  mode: audit\n{}", recheck("1h", on_drift, "deny"));
        let (node, gate, image, name) = node(&spec).await;
        let other = node.push_signed("app", "1", "two");
        assert!(allowed(&gate.create(&image.id(), &name).await));
        let record = recorded(&node, decision, "ImageDrifted").await;
        assert_eq!(record["effective"], "forwarded");
        assert!(record["message"].as_str().unwrap().contains(&other.digest()), "{record}");
        assert_eq!(presence(&gate, &name).await, Some(image.id()));
    }
}

/// A node with `onDrift: repull` whose tag has moved to another signed image, and whose first container was undecided for it.
async fn hidden(without_answer: &str) -> (Node, Gate, Image, Image, String) {
    let (node, gate, image, name) = node(&recheck("1h", "repull", without_answer)).await;
    let other = node.push_signed("app", "1", "two");
    assert_eq!(presence(&gate, &name).await, Some(image.id()));
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(UNDECIDED) && text.contains(&other.digest()), "{text}");
    assert!(text.contains("is permitted; the pod pulls it at its next try"), "{text}");
    recorded(&node, "undecided", "ImageDrifted").await;
    (node, gate, image, other, name)
}

#[tokio::test]
async fn image_whose_tag_moved_is_hidden_until_it_is_pulled_anew() {
    let (node, gate, image, other, name) = hidden("deny").await;
    assert_eq!(presence(&gate, &name).await, None);
    assert_eq!(node.metric("crivet_recheck_hidden").await, 1.0);
    // Never from the question for the user: without an image the kubelet runs the container as root.
    assert_eq!(user(&gate, &name).await, Some(image.id()));
    assert_eq!(presence(&gate, &image.id()).await, Some(image.id()));
    // On whatever connection.
    let elsewhere = Gate { client: gate.crivet.client().await, crivet: gate.crivet };
    assert_eq!(presence(&elsewhere, &name).await, None);
    assert!(allowed(&elsewhere.pull(&name).await));
    assert_eq!(presence(&elsewhere, &name).await, Some(other.id()));
    assert!(allowed(&elsewhere.create(&other.id(), &name).await));
    assert_eq!(node.metric("crivet_recheck_hidden").await, 0.0);
    assert_eq!(node.metric("crivet_recheck_repulls_total{outcome=\"pulled\"}").await, 1.0);
    assert_eq!(heads(&node), 1);
}

#[tokio::test]
async fn failed_pull_leaves_what_was_vetted() {
    let (node, gate, image, _, name) = hidden("deny").await;
    assert_eq!(presence(&gate, &name).await, None);
    node.runtime.state().error = Some((14, "no way to the registry".to_owned()));
    assert_eq!(gate.pull(&name).await.code(), 14);
    node.runtime.state().error = None;
    assert_eq!(presence(&gate, &name).await, Some(image.id()));
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let record = recorded(&node, "allowed", "ImageDrifted").await;
    assert!(record["message"].as_str().unwrap().contains("was to be pulled a short time ago"), "{record}");
    assert_eq!(node.metric("crivet_recheck_drift_total{effect=\"not_pulled\"}").await, 1.0);
    assert_eq!(node.metric("crivet_recheck_repulls_total{outcome=\"failed\"}").await, 1.0);
}

#[tokio::test]
async fn failed_pull_of_another_namespace_does_not_end_hiding() {
    let (node, gate, _, other, name) = hidden("deny").await;
    node.runtime.state().error = Some((14, "no way to the registry".to_owned()));
    let elsewhere = v1::PullImageRequest { sandbox_config: Some(pod("elsewhere")), ..pull(&name) };
    let without_pod = v1::PullImageRequest { sandbox_config: None, ..pull(&name) };
    for request in [elsewhere, without_pod] {
        assert_eq!(gate.client.call(PULL, &request.encode_to_vec()).await.code(), 14);
        assert_eq!(presence(&gate, &name).await, None);
    }
    node.runtime.state().error = None;
    assert!(allowed(&gate.pull(&name).await));
    assert_eq!(presence(&gate, &name).await, Some(other.id()));
    assert_eq!(node.metric("crivet_recheck_repulls_total{outcome=\"failed\"}").await, 0.0);
}

#[tokio::test]
async fn moved_tag_about_which_nothing_can_be_decided_is_not_called_unpermitted() {
    let (node, gate, image, name) = node(&recheck("1h", "repull", "deny")).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let other = node.push_signed("app", "1", "two");
    gate.reload().await;
    let signatures = format!("/v2/app/manifests/{}", signature_tag(&other.digest()));
    node.registry.instead(move |seen| (seen.path == signatures).then(|| reply(503, &[], "away")));
    node.policy("all.yaml", &node.signed_by("all", &node.signer, &recheck("1s", "repull", "deny")));
    gate.reload().await;
    tokio::time::sleep(AN_INTERVAL).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let record = recorded(&node, "allowed", "ImageDrifted").await;
    assert!(record["message"].as_str().unwrap().contains("which could not be vetted"), "{record}");
    assert_eq!(node.metric("crivet_recheck_drift_total{effect=\"undecided\"}").await, 1.0);
    assert_eq!(node.metric("crivet_recheck_drift_total{effect=\"not_permitted\"}").await, 0.0);
    assert_eq!(presence(&gate, &name).await, Some(image.id()));
}

#[tokio::test]
async fn one_request_serves_pods_with_logins_of_their_own() {
    let (node, gate, image, name) = node(&recheck("5s", "deny", "deny")).await;
    let namespaces: Vec<String> = (0..20).map(|number| format!("n{number}")).collect();
    for namespace in &namespaces {
        let auth = v1::AuthConfig {
            username: namespace.clone(),
            password: "secret".to_owned(),
            ..Default::default()
        };
        let request =
            v1::PullImageRequest { sandbox_config: Some(pod(namespace)), auth: Some(auth), ..pull(&name) };
        assert!(allowed(&gate.client.call(PULL, &request.encode_to_vec()).await));
    }
    // Longer than all of them together take.
    tokio::time::sleep(Duration::from_millis(5100)).await;
    let before = heads(&node);
    let requests: Vec<_> =
        namespaces.iter().map(|ns| create(ns, &image.id(), &name).encode_to_vec()).collect();
    let answers = join_all(requests.iter().map(|request| gate.client.call(CREATE, request))).await;
    assert!(answers.iter().all(allowed), "{:?}", answers.iter().find(|answer| !allowed(answer)));
    assert_eq!(heads(&node) - before, 1);
}

#[tokio::test]
async fn hiding_ends_where_nothing_is_enforced() {
    let (node, gate, image, _, name) = hidden("deny").await;
    node.configure("mode: audit\n");
    gate.reload().await;
    assert_eq!(presence(&gate, &name).await, Some(image.id()));
    node.configure("mode: enforce\nforceEnforce: true\n");
    gate.reload().await;
    assert_eq!(presence(&gate, &name).await, Some(image.id()));
}

#[tokio::test]
async fn unsigned_image_under_a_moved_tag_never_stops_the_vetted_one() {
    let (node, gate, image, name) = node(&recheck("1h", "repull", "deny")).await;
    let unsigned = node.push("app", "1", "not vouched for");
    for _ in 0..2 {
        let answer = gate.create(&image.id(), &name).await;
        assert!(allowed(&answer), "{answer:?}");
        assert_eq!(presence(&gate, &name).await, Some(image.id()));
    }
    let record = recorded(&node, "allowed", "ImageDrifted").await;
    let text = record["message"].as_str().unwrap();
    assert!(text.contains(&unsigned.digest()) && text.contains("which is not permitted"), "{text}");
    assert_eq!(node.metric("crivet_recheck_drift_total{effect=\"not_permitted\"}").await, 2.0);
}

/// Root hazard: the kubelet reads the user by the pod's name of the image, and creates by an ID.
#[tokio::test]
async fn container_whose_name_moved_on_the_node_is_undecided() {
    let (node, gate, image, name) = node("").await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let other = node.push_signed("app", "1", "two");
    node.runtime.preloaded(&node.named("app:old"), &image);
    node.runtime.preloaded(&name, &other);
    // With a held permit, too.
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(UNDECIDED), "{text}");
    assert!(text.contains(&image.id()) && text.contains(&other.id()), "{text}");
    recorded(&node, "undecided", "NameMoved").await;
    assert!(allowed(&gate.create(&other.id(), &name).await));
    // The runtime was not waited for before the create: what was made is gone.
    assert_eq!(node.runtime.containers(), 2);
    assert_eq!(node.runtime.calls(REMOVE).len(), node.runtime.calls(CREATE).len() - 2);
}

/// What the kubelet was told says more than what the runtime says afterwards, and spares the question.
#[tokio::test]
async fn container_of_the_image_that_the_kubelet_was_told_of_asks_the_runtime_nothing() {
    let (node, gate, image, name) = node("").await;
    let asked = |node: &Node| node.runtime.calls(IMAGE_STATUS).len();
    assert!(allowed(&gate.create(&image.id(), &name).await));
    assert_eq!(user(&gate, &name).await, Some(image.id()));
    let before = asked(&node);
    assert!(allowed(&gate.create(&image.id(), &name).await));
    assert_eq!(asked(&node), before);
    // Whether to pull is not the question.
    let other = node.push_signed("app", "1", "two");
    node.runtime.preloaded(&node.named("app:old"), &image);
    node.runtime.preloaded(&name, &other);
    assert_eq!(presence(&gate, &name).await, Some(other.id()));
    assert!(allowed(&gate.create(&image.id(), &name).await));
    // Told of another one since. That the name leads back by the create changes nothing: the kubelet has that one's user.
    assert_eq!(user(&gate, &name).await, Some(other.id()));
    node.runtime.preloaded(&name, &image);
    let before = asked(&node);
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(UNDECIDED) && text.contains(&other.id()), "{text}");
    assert_eq!(asked(&node), before);
    // Told of both lately: which of them this create's kubelet heard is not known, so the runtime is asked.
    assert_eq!(user(&gate, &name).await, Some(image.id()));
    let before = asked(&node);
    assert!(allowed(&gate.create(&image.id(), &name).await));
    assert!(asked(&node) > before);
}

/// Without an image the kubelet runs the container as root.
#[tokio::test]
async fn container_whose_kubelet_was_told_of_no_image_is_undecided() {
    let (node, gate, image, _) = node("").await;
    let name = node.named("app:late");
    assert_eq!(user(&gate, &name).await, None);
    node.runtime.preloaded(&name, &image);
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(UNDECIDED) && text.contains("found none"), "{text}");
    assert_eq!(user(&gate, &name).await, Some(image.id()));
    assert!(allowed(&gate.create(&image.id(), &name).await));
}

#[tokio::test]
async fn container_whose_name_is_gone_from_the_node_is_undecided() {
    let (node, gate, image, _) = node("").await;
    let gone = node.named("app:gone");
    let text = refusal(&gate.create(&image.id(), &gone).await);
    assert!(text.starts_with(UNDECIDED) && text.contains("found none"), "{text}");
    // By digest the name says which content is meant, and the runtime need not list it.
    assert!(allowed(&gate.create(&image.id(), &format!("{gone}@{}", image.digest())).await));
    assert_eq!(node.runtime.containers(), 1);
}

#[tokio::test]
async fn doctor_tells_of_what_was_not_pulled_anew() {
    let (node, gate, _, _, name) = hidden("deny").await;
    node.runtime.state().error = Some((14, "no way to the registry".to_owned()));
    assert_eq!(gate.pull(&name).await.code(), 14);
    until("the finding", 20, || {
        let config = node.place.path().join("config.yaml");
        let output = std::process::Command::new(crate::support::daemon::CRIVET)
            .args(["doctor", "-o", "json", "--config"])
            .arg(config)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.contains("image-not-pulled-anew") && said.contains(&name)
    })
    .await;
}
