//! The real parts without crivet: what the other tests compare with, and proof that the harness works.

use crate::support::containerd::Containerd;
use crate::support::cosign::{Cosign, Version};
use crate::support::image::{self, Image};
use crate::support::kubelet::Kubelet;
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use crate::support::{http, wait_for};
use serde_json::{Value, json};
use std::time::Duration;

fn containerd_pulls_and_runs(version: &str) {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let containerd = Containerd::start(&peers, version, &registry);
    let pushed = Image::says(&peers, "hello from the image").push(&registry, "app", "1");

    let pulled = containerd.crictl().pull(&pushed.reference).unwrap();
    assert!(pulled.contains(&pushed.id), "{pulled} does not name {}", pushed.id);
    let container = containerd.crictl().start("hello", &pushed).unwrap();
    assert_eq!(container.first_line(), "hello from the image");
    container.remove(containerd.crictl()).unwrap();
    assert_eq!(containerd.crictl().run(["ps", "--all", "--quiet"]).unwrap(), "");
}

#[test]
fn containerd_1_6_pulls_and_runs() {
    containerd_pulls_and_runs("1.6");
}

#[test]
fn containerd_1_7_pulls_and_runs() {
    containerd_pulls_and_runs("1.7");
}

#[test]
fn containerd_2_pulls_and_runs() {
    containerd_pulls_and_runs("2");
}

#[test]
fn containerd_takes_this_machines_image_from_an_index() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let containerd = Containerd::start(&peers, "1.6", &registry);
    let ours = Image::says(&peers, "ours");
    let pushed = image::push_index(
        &registry,
        "multi",
        "1",
        &[
            (image::architecture(), ours.clone()),
            ("s390x", ours.file("other", "an image for another machine")),
        ],
    );

    containerd.crictl().pull(&pushed.by_digest).unwrap();
    let status = containerd.crictl().json(["inspecti", "-o", "json", &pushed.by_digest]).unwrap();
    assert_eq!(status["status"]["id"], json!(pushed.id));
    assert_eq!(status["status"]["repoDigests"], json!([pushed.by_digest]));
}

#[test]
fn an_image_that_is_not_there_is_the_runtimes_own_error() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let containerd = Containerd::start(&peers, "1.6", &registry);
    let absent = format!("{}/absent:1", registry.address());
    let error = containerd.crictl().pull(&absent).unwrap_err();
    assert!(error.contains("code = NotFound"), "{error}");
}

#[test]
fn kubelet_runs_a_static_pod_as_the_images_user() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let containerd = Containerd::start(&peers, "1.6", &registry);
    let kubelet = Kubelet::start(&peers, containerd.socket());
    let pushed = Image::says(&peers, "uid $(id -u)").user("1000").push(&registry, "app", "1");

    kubelet.add_pod("app", &pushed.reference, &json!({}));
    let pod = kubelet.wait_pod("app", Duration::from_secs(60), |pod| pod.ready());
    assert_eq!(pod.0["status"]["containerStatuses"][0]["imageID"].as_str().unwrap(), pushed.by_digest);
    assert_eq!(kubelet.first_line("app"), "uid 1000");
    kubelet.remove_pod("app");
    wait_for("the pod to go", Duration::from_secs(30), || kubelet.pod("app").is_none().then_some(()));
}

#[test]
fn kubelet_says_why_a_pod_with_an_absent_image_waits() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let containerd = Containerd::start(&peers, "1.6", &registry);
    let kubelet = Kubelet::start(&peers, containerd.socket());
    kubelet.add_pod("gone", &format!("{}/absent:1", registry.address()), &json!({}));
    let pod = kubelet.wait_pod("gone", Duration::from_secs(60), |pod| {
        pod.waiting().is_some_and(|w| w.0 == "ErrImagePull")
    });
    let (_, message) = pod.waiting().unwrap();
    assert!(message.contains("not found"), "{message}");
}

fn cosign_leaves_a_signature_tag(version: Version) {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let cosign = Cosign::new(&peers, version);
    let key = cosign.generate_key("key");
    let pushed = Image::says(&peers, "signed").push(&registry, "app", "1");
    cosign.sign(&key, &pushed.by_digest, &["-a", "env=test"]);

    let target = format!("/v2/app/manifests/{}.sig", pushed.digest.replace(':', "-"));
    let accept = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
    let reply = http::request(registry.address(), "GET", &target, &accept, &[]).unwrap();
    let manifest: Value = serde_json::from_slice(&reply.body).unwrap();
    let layer = &manifest["layers"][0];
    assert_eq!(layer["mediaType"], "application/vnd.dev.cosign.simplesigning.v1+json");
    assert!(layer["annotations"]["dev.cosignproject.cosign/signature"].is_string(), "{manifest}");
    assert!(registry.requests().contains(&format!("GET {target}")));
}

#[test]
fn cosign_2_leaves_a_signature_tag() {
    cosign_leaves_a_signature_tag(Version::V2);
}

#[test]
fn cosign_3_leaves_a_signature_tag_in_its_legacy_format() {
    cosign_leaves_a_signature_tag(Version::V3Legacy);
}
