//! CreateContainer in enforce mode: by ID, looked at afterwards, and held permits.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crivet::cri::v1;
use crivet::limits;
use futures_util::future::join_all;
use prost::Message;
use serde_json::json;

use super::node::{Gate, Node, allowed, create, refusal};
use super::registry::{Image, digest_of};
use super::runtime::REMOVE;
use crate::registry::fake::reply;
use crate::support::client::CREATE;
use crate::support::framed;

const UNDECIDED: &str = "SignatureValidationFailed: undecided: ";

/// A node in enforce mode whose runtime has a signed image under `app:1`.
pub async fn preloaded(lines: &str) -> (Node, Gate, Image, String) {
    let node = Node::strict().await;
    let image = node.push_signed("app", "1", "one");
    let name = node.named("app:1");
    node.runtime.preloaded(&name, &image);
    let gate = node.serve(&format!("mode: enforce\n{lines}")).await;
    (node, gate, image, name)
}

#[tokio::test]
async fn container_on_the_vetted_layers_is_answered_as_the_runtime_did() {
    let (node, gate, image, name) = preloaded("").await;
    let mut message = create("prod", &image.id(), &name).encode_to_vec();
    // A field no version of the CRI has: 2000, length-delimited.
    message.extend_from_slice(&[0x82, 0x7d, 3, b'n', b'e', b'w']);
    let answer = gate.client.call(CREATE, &message).await;
    let made = v1::CreateContainerResponse { container_id: "c0".to_owned() }.encode_to_vec();
    assert!(allowed(&answer) && answer.data == framed(&made), "{answer:?}");
    assert_eq!(node.runtime.calls(CREATE)[0].data, framed(&message));
    assert_eq!(node.metric("crivet_unknown_fields_total").await, 1.0);
    let record = node.record("the record", |r| r["kind"] == "CreateContainer").await;
    assert_eq!((&record["decision"], &record["effective"]), (&json!("allowed"), &json!("forwarded")));
    assert_eq!((&record["container"], &record["namespace"]), (&json!("main"), &json!("prod")));
}

/// A node whose runtime, a CRI-O that does not say where its store is, has a signed image under `app:1`; the image's ID as
/// that writes it, and the name.
async fn on_crio() -> (Node, String, String) {
    let node = Node::strict().await;
    let image = node.push_signed("app", "1", "one");
    let name = node.named("app:1");
    node.runtime.preloaded(&name, &image);
    node.runtime.becomes_crio();
    let id = image.id().trim_start_matches("sha256:").to_owned();
    (node, id, name)
}

const NOT_LOOKED_AT: &str = "nothing is made that cannot be looked at afterwards: CRI-O's store: expected ImageFsInfo to name the folder";

#[tokio::test]
async fn on_crio_without_a_store_audit_mode_vets_by_its_ids_and_says_what_enforce_mode_would() {
    let (node, id, name) = on_crio().await;
    let gate = node.serve("mode: audit\n").await;
    assert!(allowed(&gate.create(&id, &name).await));
    let record = node.record("the record", |r| r["decision"] == "allowed").await;
    assert_eq!(
        (&record["kind"], &record["imageId"]),
        (&json!("CreateContainer"), &json!(format!("sha256:{id}")))
    );
    let record = node.record("what enforce mode would say", |r| r["decision"] == "undecided").await;
    assert_eq!(
        (&record["reason"], &record["effective"]),
        (&json!("Runtime"), &json!("forwarded")),
        "{record:#}"
    );
    let text = record["message"].as_str().unwrap();
    assert!(text.contains(NOT_LOOKED_AT), "{text}");

    let (node, id, name) = on_crio().await;
    let gate = node.enforce().await;
    assert_eq!(refusal(&gate.create(&id, &name).await), text);
}

#[tokio::test]
async fn on_crio_without_a_store_enforce_mode_makes_no_container_that_needs_a_proof() {
    let (node, id, name) = on_crio().await;
    let gate = node.enforce().await;
    let text = refusal(&gate.create(&id, &name).await);
    assert!(text.starts_with(UNDECIDED) && text.contains(NOT_LOOKED_AT), "{text}");
    assert!(node.runtime.calls(CREATE).is_empty());
    drop(gate);

    let (node, id, _) = on_crio().await;
    let free = node.serve("mode: enforce\nunmatched: allow\n").await;
    assert!(allowed(&free.create(&id, "registry.invalid/app:1").await));
}

#[tokio::test]
async fn container_on_other_layers_is_removed_and_undecided() {
    let (node, gate, image, name) = preloaded("").await;
    node.runtime.state().parent = Some(digest_of(b"other layers"));
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(UNDECIDED), "{text}");
    assert!(text.contains(&image.chain()) && text.contains(&digest_of(b"other layers")), "{text}");
    assert_eq!((node.runtime.containers(), node.runtime.calls(REMOVE).len()), (0, 1));
    assert_eq!(node.metric("crivet_removed_after_look_total").await, 1.0);
    let record = node.record("the record of the look", |r| r["decision"] == "undecided").await;
    assert_eq!((&record["effective"], &record["message"]), (&json!("refused"), &json!(text)));
    assert_eq!(record["reason"], "ContentDiffers");
    // With the permit it holds, too.
    assert_eq!(refusal(&gate.create(&image.id(), &name).await), text);
    node.runtime.state().parent = None;
    assert!(allowed(&gate.create(&image.id(), &name).await));
}

#[tokio::test]
async fn container_of_a_snapshotter_that_binds_nothing_is_removed_and_undecided() {
    let (node, gate, image, name) = preloaded("").await;
    node.runtime.state().snapshotter = Some("stargz".to_owned());
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(UNDECIDED) && text.contains("\"stargz\""), "{text}");
    assert_eq!((node.runtime.containers(), node.runtime.calls(REMOVE).len()), (0, 1));
    let record = node.record("the record of the look", |r| r["decision"] == "undecided").await;
    assert_eq!((&record["effective"], &record["reason"]), (&json!("refused"), &json!("ContentUnbound")));
    node.runtime.state().snapshotter = Some("btrfs".to_owned());
    assert!(allowed(&gate.create(&image.id(), &name).await));
}

#[tokio::test]
async fn container_of_a_runtime_that_may_run_something_else_is_removed_and_undecided() {
    let (node, gate, image, name) = preloaded("").await;
    node.runtime.state().runtime = Some("io.containerd.kata.v2".to_owned());
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(UNDECIDED) && text.contains("insecureAllowRuntimes"), "{text}");
    assert_eq!((node.runtime.containers(), node.runtime.calls(REMOVE).len()), (0, 1));
}

#[tokio::test]
async fn what_binds_nothing_runs_where_the_configuration_names_it_and_in_audit_mode() {
    let insecure = "insecureAllowSnapshotters: [stargz]\ninsecureAllowRuntimes: [io.containerd.kata.v2]\n";
    for (mode, recorded) in
        [(format!("mode: enforce\n{insecure}"), false), ("mode: audit\n".to_owned(), true)]
    {
        let (node, gate, image, name) = preloaded("").await;
        drop(gate);
        node.runtime.state().snapshotter = Some("stargz".to_owned());
        node.runtime.state().runtime = Some("io.containerd.kata.v2".to_owned());
        let gate = node.serve(&mode).await;
        assert!(allowed(&gate.create(&image.id(), &name).await), "{mode}");
        if recorded {
            let record =
                node.record("what enforce mode would say", |r| r["reason"] == "ContentUnbound").await;
            assert_eq!(
                (&record["decision"], &record["effective"]),
                (&json!("undecided"), &json!("forwarded"))
            );
        }
        // It still has to stand on the vetted layers.
        if !recorded {
            node.runtime.state().parent = Some(digest_of(b"other layers"));
            let text = refusal(&gate.create(&image.id(), &name).await);
            assert!(text.contains(&digest_of(b"other layers")), "{text}");
        }
    }
}

#[tokio::test]
async fn container_that_cannot_be_looked_at_is_removed_and_undecided() {
    let (node, gate, image, name) = preloaded("").await;
    node.runtime.state().no_containers_service = true;
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(UNDECIDED) && text.contains("cannot be looked at"), "{text}");
    assert_eq!((node.runtime.containers(), node.runtime.calls(REMOVE).len()), (0, 1));
}

#[tokio::test]
async fn unsigned_image_that_is_already_there_is_denied() {
    let node = Node::strict().await;
    let image = node.push("app", "1", "one");
    node.runtime.preloaded(&node.named("app:1"), &image);
    let gate = node.enforce().await;
    let text = refusal(&gate.create(&image.id(), &node.named("app:1")).await);
    assert!(text.starts_with("SignatureValidationFailed: image ") && text.contains("no signature"), "{text}");
    assert_eq!(node.runtime.containers(), 0);
}

#[tokio::test]
async fn unsigned_image_imported_under_a_signed_image_s_digest_is_refused() {
    let (node, gate, signed, name) = preloaded("").await;
    let unsigned = Image::new("not vouched for");
    node.runtime.preloaded(&format!("{}@{}", node.named("app"), signed.digest()), &unsigned);
    node.runtime.lists(&unsigned, &format!("{}@{}", node.named("app"), signed.digest()));
    for reference in [&name, &format!("{}@{}", node.named("app"), signed.digest())] {
        let text = refusal(&gate.create(&unsigned.id(), reference).await);
        assert!(text.starts_with(UNDECIDED) && text.contains(&unsigned.id()), "{text}");
    }
    assert_eq!(node.runtime.containers(), 0);
}

/// An index that nobody has but the registry, over these manifests.
fn index(images: &[&Image]) -> String {
    let manifests: Vec<_> = images
        .iter()
        .map(|image| {
            json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.digest(),
                "size": image.manifest.len()})
        })
        .collect();
    json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests})
        .to_string()
}

#[tokio::test]
async fn image_that_may_be_what_is_denied_waits_for_the_registry_to_say() {
    for contains in [true, false] {
        let (node, gate, image, name) = preloaded("").await;
        let other = node.push("app", "2", "two");
        let index = index(&[if contains { &image } else { &other }]);
        let digest = digest_of(index.as_bytes());
        node.registry.put_manifest("app", &digest, index);
        for listed in node.runtime.state().images.values_mut() {
            listed.repo_digests.push(format!("{}@{digest}", node.named("app")));
        }
        node.policy("denied.yaml", &node.denying("denied").replace("/**'", &format!("/**@{digest}'")));
        gate.reload().await;
        let asked = digest.clone();
        node.registry.instead(move |seen| seen.path.ends_with(&asked).then(|| reply(503, &[], "")));
        let text = refusal(&gate.create(&image.id(), &name).await);
        assert!(text.starts_with("RegistryUnavailable: ") && text.contains(&digest), "{text}");
        node.registry.well();
        let answer = gate.create(&image.id(), &name).await;
        match contains {
            true => assert!(refusal(&answer).contains("policy denied "), "{answer:?}"),
            false => assert!(allowed(&answer), "{answer:?}"),
        }
        assert_eq!(node.runtime.containers(), usize::from(!contains));
    }
}

#[tokio::test]
async fn names_given_to_an_image_do_not_push_its_denied_digest_past_the_limit() {
    let (node, gate, image, name) = preloaded("").await;
    let index = index(&[&image]);
    let denied = digest_of(index.as_bytes());
    node.registry.put_manifest("app", &denied, index);
    let given = (0..=limits::CANDIDATES).map(|name| digest_of(&name.to_be_bytes())).chain([denied.clone()]);
    let given: Vec<_> = given.map(|digest| format!("{}@{digest}", node.named("app"))).collect();
    for listed in node.runtime.state().images.values_mut() {
        listed.repo_digests.extend(given.clone());
    }
    assert!(allowed(&gate.create(&image.id(), &name).await));
    node.policy("denied.yaml", &node.denying("denied").replace("/**'", &format!("/**@{denied}'")));
    gate.reload().await;
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.contains("policy denied "), "{text}");
}

#[tokio::test]
async fn create_that_names_no_content_is_undecided_whatever_policy_says() {
    let node = Node::new().await;
    let gate = node.serve("mode: enforce\nunmatched: allow\n").await;
    // The path of a checkpoint, a tag, a shortened ID, nothing.
    for named in ["/var/lib/checkpoint.tar", "registry.invalid/app:1", "sha256:abcd", "abcdef012345", ""] {
        let text = refusal(&gate.create(named, "registry.invalid/app:1").await);
        assert!(text.starts_with(UNDECIDED) && text.contains("repository@digest"), "{named}: {text}");
    }
    assert!(node.runtime.calls(CREATE).is_empty());
    assert!(allowed(&gate.create(&Image::new("one").id(), "registry.invalid/app:1").await));
}

#[tokio::test]
async fn unsigned_image_volume_is_denied() {
    let (node, gate, image, name) = preloaded("").await;
    let volume = node.push("volume", "1", "files");
    let volume_name = node.named("volume:1");
    node.runtime.preloaded(&volume_name, &volume);
    let mut call = create("prod", &image.id(), &name);
    let mount =
        v1::ImageSpec { image: volume.id(), user_specified_image: volume_name.clone(), ..Default::default() };
    call.config.as_mut().unwrap().mounts.push(v1::Mount { image: Some(mount) });
    let text = refusal(&gate.client.call(CREATE, &call.encode_to_vec()).await);
    assert!(text.starts_with("SignatureValidationFailed: image ") && text.contains(&volume_name), "{text}");
    node.registry.sign("volume", &volume, &node.signer);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(allowed(&gate.client.call(CREATE, &call.encode_to_vec()).await));
}

#[tokio::test]
async fn held_permit_asks_nobody_and_is_for_its_namespace_only() {
    let (node, gate, image, name) = preloaded("").await;
    let policy = node.denying("closed").replace("spec:", "spec:\n  namespaces: [closed]");
    node.policy("closed.yaml", &policy);
    gate.reload().await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let asked = node.registry.asked().len();
    for _ in 0..3 {
        assert!(allowed(&gate.create(&image.id(), &name).await));
    }
    assert_eq!(node.registry.asked().len(), asked);
    assert_eq!(node.metric("crivet_permits_used_total").await, 3.0);
    let other = gate.client.call(CREATE, &create("closed", &image.id(), &name).encode_to_vec()).await;
    assert!(refusal(&other).contains("closed for today"));
}

#[tokio::test]
async fn two_hundred_creates_at_once_cause_one_set_of_requests() {
    let (node, gate, image, name) = preloaded("").await;
    let id = image.id();
    let answers = join_all((0..200).map(|_| gate.create(&id, &name))).await;
    assert!(answers.iter().all(allowed), "{:?}", answers.iter().find(|answer| !allowed(answer)));
    let mut times = HashMap::<String, usize>::new();
    node.registry.asked().into_iter().for_each(|asked| *times.entry(asked).or_default() += 1);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    // The runtime's own store has manifest and config: the signatures and one payload are asked for.
    assert_eq!(times.len(), 2, "{times:?}");
}

/// Whatever is the matter with the vetter: what is proven starts, and nothing else does.
async fn starts_what_is_proven(node: &Node, gate: &Gate, image: &Image, name: &str) {
    let started = Instant::now();
    let answer = gate.create(&image.id(), name).await;
    assert!(allowed(&answer), "{answer:?}");
    let unknown = Image::new("unknown");
    let text = refusal(&gate.create(&unknown.id(), name).await);
    assert!(text.starts_with(UNDECIDED) && text.contains("try again"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(node.runtime.containers(), 2);
}

#[tokio::test]
async fn vetter_that_hangs_costs_nothing_that_is_proven() {
    let (node, gate, image, name) = preloaded("vetting: {timeout: 1s, freshFor: 1s}\n").await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    gate.signal_vetter("STOP");
    starts_what_is_proven(&node, &gate, &image, &name).await;
    gate.signal_vetter("CONT");
}

#[tokio::test]
async fn vetter_that_is_killed_again_and_again_costs_nothing_that_is_proven() {
    let (node, gate, image, name) = preloaded("vetting: {timeout: 1s, freshFor: 1s}\n").await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let killing = gate.keep_killing_the_vetter();
    starts_what_is_proven(&node, &gate, &image, &name).await;
    drop(killing);
}
