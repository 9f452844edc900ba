//! The other things that may stand where an image is named, and the images that are none.

use crate::support::cri::Cri;
use crate::support::crictl::named;
use crate::support::crivet::{key_policy, policy};
use crate::support::node::{DENIED, Node, Setup, UNDECIDED, assert_refused};
use serde_json::json;

#[test]
fn a_create_by_anything_but_an_id_or_a_digest_is_undecided() {
    let Some(node) = Node::enforcing() else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    node.crictl().pull(&signed.reference).unwrap();
    let pod = node.crictl().sandbox("names").unwrap();
    let create = |image: &str, reference: &str| {
        node.crictl().create_of("c", &pod, "e2e", &named(image, reference), &json!([]))
    };
    let hex = signed.id.strip_prefix("sha256:").unwrap();
    for name in
        [&hex[..12], &format!("sha256:{}", &hex[..12]), "busybox", &signed.reference, "/var/checkpoint.tar"]
    {
        for reference in [&signed.reference, &signed.by_digest, ""] {
            let text = "expected CreateContainer to name an image ID or repository@digest";
            assert_refused(create(name, reference), UNDECIDED, &[text]);
        }
    }
    assert_eq!(node.containers(), "");
    // The valid ones: full ID, its bare hex, repository@digest.
    for name in [&signed.id, hex, &signed.by_digest] {
        let id = create(name, &signed.reference).unwrap();
        node.crictl().run(["rm", &id]).unwrap();
    }
}

#[test]
fn a_digest_the_pod_did_not_name_is_not_created_for_it() {
    let Some(node) = Node::enforcing() else { return };
    let signed = node.push_signed("app", &node.says("vouched for"));
    // The same layers, so that only the configuration tells them apart.
    let other = node.push("other", &node.says("never"));
    assert_eq!(signed.chain, other.chain);
    node.crictl().pull(&signed.reference).unwrap();
    node.preload(&other.reference);
    for (name, image) in [("id", &other.id), ("digest", &other.by_digest)] {
        assert_refused(node.create(name, &named(image, &signed.by_digest)), UNDECIDED, &[&other.id]);
    }
    assert_eq!(node.containers(), "");
}

#[test]
fn an_image_without_a_repository_is_decided_by_rules_for_all_images_only() {
    let Some(node) = Node::enforcing() else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    node.crictl().pull(&signed.reference).unwrap();
    let pod = node.crictl().sandbox("names").unwrap();
    let create = |name: &str, reference: &str| {
        node.crictl().create_of(name, &pod, "e2e", &named(&signed.id, reference), &json!([]))
    };
    let hex = signed.id.strip_prefix("sha256:").unwrap().to_owned();
    for reference in [&signed.id, &hex] {
        assert_refused(create("c", reference), DENIED, &["no", "policy that covers it"]);
    }

    let all = |spec: &str| [policy("everything", "**", spec), key_policy("all", &node.glob("**"), &node.key)];
    let pem = |indent: &str| node.key.public.lines().map(|l| format!("{indent}{l}\n")).collect::<String>();
    let keys = format!("  requirements:\n    keys:\n      - data: |\n{}", pem("          "));
    node.crivet.put_policies(&all(&keys));
    for reference in [&signed.id, &hex] {
        let remedy = "name the image by its repository in the pod";
        assert_refused(create("c", reference), DENIED, &["policy everything ", remedy]);
    }
    node.crivet.put_policies(&all(&format!("{keys}    claimedRepository: {{insecureAny: true}}\n")));
    for (name, reference) in [("id", &signed.id), ("hex", &hex)] {
        create(name, reference).unwrap();
    }
    // crictl writes what the image is where the pod's own words are missing.
    let cri = Cri::connect(&node.crivet.socket());
    let empty = Cri::create_request("empty", &pod, &signed.id, "");
    assert!(cri.create_at_once(vec![empty.clone()]).remove(0).is_ok());
    node.crivet.put_policies(&[key_policy("all", &node.glob("**"), &node.key)]);
    let refusal = cri.create_at_once(vec![empty]).remove(0).unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::Unknown);
    assert!(refusal.message().contains("expected a policy that covers it, found none"), "{refusal}");
    node.crivet.put_policies(&all(&format!("{keys}    claimedRepository: {{insecureAny: true}}\n")));
    let unsigned = node.push("unsigned", &node.says("never"));
    node.preload(&unsigned.reference);
    let none = node.crictl().create_of("none", &pod, "e2e", &named(&unsigned.id, ""), &json!([]));
    assert_refused(none, DENIED, &["policy everything ", &unsigned.digest]);
}

fn a_checkpoint_is_refused(setup: &Setup<'_>) {
    let Some(node) = Node::start(setup) else { return };
    for (number, name) in
        ["org.criu.checkpoint.container.name", "io.kubernetes.cri-o.annotations.checkpoint.name"]
            .into_iter()
            .enumerate()
    {
        let image = node.says("restored").file("n", &number.to_string()).annotation(name, "app");
        let signed = node.push_signed(&format!("checkpoint{number}"), &image);
        assert_refused(node.crictl().pull(&signed.reference), UNDECIDED, &["container checkpoint"]);
        node.preload(&signed.reference);
        let create = node.create(&format!("c{number}"), &named(&signed.id, &signed.reference));
        assert_refused(create, UNDECIDED, &["container checkpoint"]);
    }
    assert_eq!(node.containers(), "");
}

#[test]
fn a_signed_checkpoint_is_no_image_on_containerd_1_6() {
    a_checkpoint_is_refused(&Setup::default());
}

#[test]
fn a_signed_checkpoint_is_no_image_on_containerd_2() {
    a_checkpoint_is_refused(&Setup::on_containerd_2());
}

#[test]
fn a_denied_digest_is_refused_by_its_tag_for_pull_and_create() {
    let Some(node) = Node::enforcing() else { return };
    let image = node.says("withdrawn");
    let withdrawn = node.push_signed("app", &image);
    let kept = node.push_signed("kept", &node.says("kept"));
    node.crictl().pull(&withdrawn.reference).unwrap();
    let pod = node.crictl().sandbox("denied").unwrap();
    node.crictl().create("before", &pod, &withdrawn).unwrap();

    let deny = policy("withdrawn", &withdrawn.by_digest, "  deny: {reason: CVE}\n");
    let accept = "  insecureAcceptAnything: {reason: a test}\n";
    for others in [
        vec![key_policy("all", &node.glob("**"), &node.key)],
        vec![policy("all", &node.glob("**"), accept)],
        vec![policy("all", &node.glob("**"), accept), policy("exactly", &withdrawn.reference, accept)],
    ] {
        node.crivet.put_policies(&[others, vec![deny.clone()]].concat());
        let text = ["policy withdrawn ", "CVE"];
        for reference in [&withdrawn.reference, &withdrawn.by_digest] {
            assert_refused(node.crictl().pull(reference), DENIED, &text);
            let create =
                node.crictl().create_of("c", &pod, "e2e", &named(&withdrawn.id, reference), &json!([]));
            assert_refused(create, DENIED, &text);
        }
        node.crictl().pull(&kept.reference).unwrap();
    }

    // Another manifest of the same image, signed and listed beside: the denied one is not outweighed.
    node.crivet.put_policies(&[key_policy("all", &node.glob("**"), &node.key), deny]);
    let again = node.push_signed("app", &image.annotation("org.example", "pushed again"));
    assert_eq!(again.id, withdrawn.id);
    node.crictl().pull(&again.reference).unwrap();
    let create =
        || node.crictl().create_of("c", &pod, "e2e", &named(&again.id, &again.reference), &json!([]));
    assert_refused(create(), DENIED, &["policy withdrawn "]);
}

#[test]
fn a_denied_digest_is_undecided_while_it_cannot_be_resolved() {
    let Some(mut node) = Node::enforcing() else { return };
    let app = node.push("app", &node.says("accepted, whatever it is"));
    let denied = format!("{}/app@sha256:{}", node.registry.address(), "ab".repeat(32));
    node.crivet.put_policies(&[
        policy("all", &node.glob("**"), "  insecureAcceptAnything: {reason: a test}\n"),
        policy("withdrawn", &denied, "  deny: {reason: CVE}\n"),
    ]);
    node.registry.stop();
    assert_refused(node.crictl().pull(&app.reference), "RegistryUnavailable: ", &[&app.reference]);
}

#[test]
fn an_image_volume_is_vetted_as_the_containers_image_is() {
    let Some(node) = Node::start(&Setup::on_containerd_2()) else { return };
    let app = node.push_signed("app", &node.says("$(cat /volume/data)"));
    let data = node.says("unused").file("data", "from the volume");
    let signed = node.push_signed("data", &data);
    let unsigned = node.push("unsigned", &data.file("more", "never"));
    node.crictl().pull(&app.reference).unwrap();
    node.crictl().pull(&signed.reference).unwrap();
    node.preload(&unsigned.reference);
    let pod = node.crictl().sandbox("volumes").unwrap();
    let create = |name: &str, volume: serde_json::Value| {
        let mounts = json!([{"container_path": "/volume", "readonly": true, "image": volume}]);
        node.crictl().create_of(name, &pod, "e2e", &named(&app.id, &app.reference), &mounts)
    };
    assert_refused(create("c", named(&unsigned.id, &unsigned.reference)), DENIED, &[&unsigned.digest]);
    // Named as the signed one, by the pod only.
    assert_refused(create("c", named(&unsigned.id, &signed.reference)), DENIED, &[&unsigned.digest]);
    assert_refused(create("c", named(&unsigned.id, &signed.by_digest)), UNDECIDED, &[&unsigned.id]);
    assert_refused(
        create("c", named(&unsigned.reference, &unsigned.reference)),
        UNDECIDED,
        &["expected CreateContainer to name an image ID"],
    );
    assert_eq!(node.containers(), "");
    let made = create("c", named(&signed.id, &signed.reference)).unwrap();
    node.crictl().run(["start", &made]).unwrap();
}
