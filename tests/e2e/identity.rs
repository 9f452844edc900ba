//! Which image a name, an ID or a digest stands for: decided by bytes, whatever the runtime calls it.

use crate::support::crictl::named;
use crate::support::crivet::{key_policy, policy, signed_by};
use crate::support::image;
use crate::support::kubelet::{Kubelet, Pod};
use crate::support::node::{DENIED, Node, REGISTRY_UNAVAILABLE, Setup, UNDECIDED, assert_refused};
use crate::support::wait_for;
use serde_json::json;
use std::time::Duration;

#[test]
fn an_image_imported_under_a_signed_images_digest_is_not_created() {
    let Some(node) = Node::enforcing() else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    let other = node.push("other", &node.says("never").file("other", "another file system"));
    let tar = node.peers.path().join("false.tar");
    node.preload(&other.reference);
    node.containerd.ctr(&["images", "tag", &other.reference, &signed.by_digest]);
    node.containerd.ctr(&["images", "export", tar.to_str().unwrap(), &signed.by_digest]);
    node.containerd.crictl().run(["rmi", &other.id]).unwrap();
    node.containerd.ctr(&["images", "import", tar.to_str().unwrap()]);
    let status = wait_for("the imported image", Duration::from_secs(10), || {
        node.containerd.crictl().json(["inspecti", "-o", "json", &other.id]).ok()
    });
    // The lie is in place: the runtime itself says that this image is the signed one.
    assert_eq!(status["status"]["repoDigests"], json!([signed.by_digest]));

    for (name, reference) in [("by-digest", &signed.by_digest), ("by-tag", &signed.reference)] {
        assert_refused(node.create(name, &named(&other.id, reference)), UNDECIDED, &[&other.id]);
    }
    // As CRI-O's kubelets name it, and nobody else: what the runtime has under that name is looked at.
    let by_name = named(&signed.by_digest, &signed.reference);
    assert_refused(node.create("by-name", &by_name), UNDECIDED, &[&other.id]);
    assert_eq!(node.containers(), "");
}

#[test]
fn an_image_imported_under_a_signed_images_tag_is_not_created() {
    let Some(node) = Node::enforcing() else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    let other = node.push("other", &node.says("never").file("other", "another file system"));
    node.preload(&other.reference);
    node.containerd.ctr(&["images", "tag", &other.reference, &signed.reference]);
    assert_refused(node.create("false", &named(&other.id, &signed.reference)), DENIED, &[&other.digest]);
    assert_eq!(node.containers(), "");
}

#[test]
fn a_signed_image_that_came_past_crivet_is_vetted_at_create() {
    let Some(node) = Node::enforcing() else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    node.preload(&signed.reference);
    let container = node.crictl().start("preloaded", &signed).unwrap();
    assert_eq!(container.first_line(), "vouched for");
}

#[test]
fn a_preloaded_image_never_vetted_is_undecided_while_the_registry_is_away() {
    let Some(mut node) = Node::enforcing() else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    node.preload(&signed.reference);
    let pod = node.crictl().sandbox("later").unwrap();
    node.registry.stop();
    assert_refused(node.crictl().create("later", &pod, &signed), REGISTRY_UNAVAILABLE, &[&signed.reference]);
    assert_eq!(node.containers(), "");
}

#[test]
fn an_image_vetted_before_starts_while_the_registry_is_away_though_permits_are_void() {
    let Some(mut node) = Node::enforcing() else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    node.crictl().pull(&signed.reference).unwrap();
    let pod = node.crictl().sandbox("proven").unwrap();
    node.crictl().create("before", &pod, &signed).unwrap();
    node.registry.stop();
    node.crictl().create("held", &pod, &signed).unwrap();
    node.crivet.put_policies(&[key_policy("another-name", &node.glob("**"), &node.key)]);
    node.crictl().create("proven", &pod, &signed).unwrap();
    // A new sandbox as well: the pause image is vetted by what is known of it.
    node.crictl().sandbox("another").unwrap();
}

/// The new vetter knows nothing and can ask nobody: what the relay holds for the first pod serves the second.
#[test]
fn a_new_pod_of_a_proven_image_starts_without_vetter_and_registry() {
    let Some(mut node) = Node::enforcing() else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    let unsigned = node.push("unsigned", &node.says("never").file("n", "2"));
    node.preload(&unsigned.reference);
    let kubelet = Kubelet::start(&node.peers, &node.crivet.socket());
    kubelet.add_pod("first", &signed.reference, &json!({}));
    kubelet.wait_pod("first", Duration::from_secs(60), |pod| pod.ready());
    node.registry.stop();
    node.crivet.kill_vetter();
    for (name, image) in [("second", &signed), ("never", &unsigned)] {
        kubelet.add_pod(name, &image.reference, &json!({"imagePullPolicy": "Never"}));
    }
    kubelet.wait_pod("second", Duration::from_secs(60), |pod| pod.ready());
    let refused = |reason: &str| reason == "CreateContainerError" || reason == "RegistryUnavailable";
    let waits = |pod: &Pod| pod.waiting().is_some_and(|(reason, _)| refused(&reason));
    kubelet.wait_pod("never", Duration::from_secs(60), waits);
}

#[test]
fn evidence_older_than_fresh_for_counts_while_the_registry_is_away() {
    let setup = Setup { settings: "vetting: {freshFor: 1s}\n", ..Setup::default() };
    let Some(mut node) = Node::start(&setup) else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    node.crictl().pull(&signed.reference).unwrap();
    let pod = node.crictl().sandbox("proven").unwrap();
    node.registry.stop();
    std::thread::sleep(Duration::from_millis(1100));
    node.crictl().create("proven", &pod, &signed).unwrap();
}

#[test]
fn a_signature_in_one_repository_does_not_speak_for_the_same_image_in_another() {
    let Some(node) = Node::enforcing() else { return };
    let other_key = node.cosign.generate_key("other");
    node.crivet.put_policies(&[
        key_policy("all", &node.glob("**"), &node.key),
        key_policy("b", &node.glob("b/**"), &other_key),
    ]);
    // Two manifests with one config, so one ID; and one manifest in two repositories.
    let image = node.says("vouched for");
    let signed = node.push_signed("a/app", &image);
    let unsigned = node.push("a/unsigned", &image.clone().annotation("org.example", "another manifest"));
    let elsewhere = node.push("b/app", &image);
    assert_eq!([&signed.id, &signed.id], [&unsigned.id, &elsewhere.id]);
    assert_ne!(signed.digest, unsigned.digest);
    assert_eq!(signed.digest, elsewhere.digest);
    node.crictl().pull(&signed.reference).unwrap();
    for other in [&unsigned, &elsewhere] {
        node.preload(&other.reference);
    }

    let pod = node.crictl().sandbox("one-id").unwrap();
    for round in ["first", "again"] {
        node.crictl().create(&format!("a-{round}"), &pod, &signed).unwrap();
        for other in [&unsigned, &elsewhere] {
            assert_refused(
                node.crictl().create(&format!("b-{round}"), &pod, other),
                DENIED,
                &[&other.reference],
            );
        }
    }
    // Each policy is satisfied by its own key's signature, in its own repository.
    node.cosign.sign(&node.key, &elsewhere.by_digest, &[]);
    assert_refused(node.crictl().pull(&elsewhere.reference), DENIED, &["policy b "]);
    node.cosign.sign(&other_key, &elsewhere.by_digest, &[]);
    wait_for("the new signature to count", Duration::from_secs(10), || {
        node.crictl().create("b-signed", &pod, &elsewhere).ok()
    });
}

#[test]
fn a_lax_namespaces_answer_is_not_a_strict_namespaces() {
    let Some(node) = Node::enforcing() else { return };
    let lax = "  namespaces: [lax]\n  insecureAcceptAnything: {reason: a test}\n";
    let lax_key = node.cosign.generate_key("lax");
    let half_lax = format!("  namespaces: [half-lax]\n{}", signed_by(&lax_key));
    node.crivet.put_policies(&[
        key_policy("all", &node.glob("**"), &node.key),
        policy("lax", &node.glob("**"), lax),
        policy("half-lax", &node.glob("**"), &half_lax),
    ]);
    let image = node.push("app", &node.says("for some"));
    node.cosign.sign(&lax_key, &image.by_digest, &[]);
    node.preload(&image.reference);
    let pod = node.crictl().sandbox("namespaces").unwrap();
    let create = |name: &str, namespace: &str| {
        node.crictl().create_of(name, &pod, namespace, &named(&image.id, &image.reference), &json!([]))
    };
    for round in ["first", "again"] {
        create(&format!("lax-{round}"), "lax").unwrap();
        create(&format!("half-{round}"), "half-lax").unwrap();
        assert_refused(create("strict", "strict"), DENIED, &["policy all "]);
    }
}

#[test]
fn a_signature_on_the_index_speaks_for_its_image() {
    let Some(node) = Node::enforcing() else { return };
    let ours = node.says("ours");
    let images = [(image::architecture(), ours.clone()), ("s390x", ours.file("other", "another machine's"))];
    let index = image::push_index(&node.registry, "multi", "1", &images);
    assert_refused(node.crictl().pull(&index.reference), DENIED, &[&index.digest]);
    node.sign(&index);
    wait_for("the signature to count", Duration::from_secs(10), || node.crictl().pull(&index.reference).ok());
    assert_eq!(node.crictl().start("multi", &index).unwrap().first_line(), "ours");
}

#[test]
fn a_signature_on_the_platforms_manifest_speaks_for_it_and_not_for_anothers() {
    let Some(node) = Node::enforcing() else { return };
    let ours = node.says("ours");
    let other = ours.clone().file("other", "another machine's");
    let images = [(image::architecture(), ours.clone()), ("s390x", other)];
    let index = image::push_index(&node.registry, "multi", "1", &images);
    let [of_ours, of_other] = index.manifests.as_slice() else { panic!("two manifests") };
    let by_digest = |digest: &str| format!("{}/multi@{digest}", node.registry.address());
    node.cosign.sign(&node.key, &by_digest(of_other), &[]);
    assert_refused(node.crictl().pull(&index.reference), DENIED, &[&index.digest]);
    node.cosign.sign(&node.key, &by_digest(of_ours), &[]);
    wait_for("the signature to count", Duration::from_secs(10), || node.crictl().pull(&index.reference).ok());
    assert_eq!(node.crictl().start("multi", &index).unwrap().first_line(), "ours");
}

/// A pod of a runtime whose guest may pull by itself. That runtime is runc's shim under another type: what runs of it is known
/// to us, and not to crivet.
fn a_runtime_that_may_run_something_else(version: &str) {
    let setup = Setup { containerd: version, pause_is_there: true, ..Setup::default() };
    let Some(node) = Node::start(&setup) else { return };
    let signed = node.push_signed("signed", &node.says("of a guest"));
    node.crictl().pull(&signed.reference).unwrap();
    let refused = |answer| assert_refused(answer, UNDECIDED, &["io.containerd.guest.v2"]);
    refused(node.crictl().sandbox_of("pod", "guest"));
    assert_eq!(node.containerd.crictl().run(["pods", "-q"]).unwrap(), "");
    let pod = node.containerd.crictl().sandbox_of("past", "guest").unwrap();
    refused(node.crictl().create("past", &pod, &signed));
    assert_eq!(node.containerd.crictl().run(["ps", "-aq"]).unwrap(), "");
    let runc = node.crictl().sandbox("runc").unwrap();
    node.crictl().create("runc", &runc, &signed).unwrap();
}

#[test]
fn a_runtime_that_may_run_something_else_than_was_vetted_makes_nothing_on_containerd_1_6() {
    a_runtime_that_may_run_something_else("1.6");
}

#[test]
fn a_runtime_that_may_run_something_else_than_was_vetted_makes_nothing_on_containerd_2() {
    a_runtime_that_may_run_something_else("2");
}
