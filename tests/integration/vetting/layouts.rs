//! Evidence from OCI layouts on the node, where the registry is away or has none.

use std::path::Path;

use serde_json::{Value, json};

use super::node::{Node, allowed, refusal};
use super::registry::{Image, digest_of};
use super::signer::{Signed, Signer};
use crate::registry::fake::reply;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Writes a layout as cosign 2 saves an image with one signature.
fn save(dir: &Path, image: &Image, signed: &Signed) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = digest_of(bytes);
        std::fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).unwrap();
        digest
    };
    put(&image.config);
    let payload = put(&signed.payload);
    let signatures = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": {"digest": payload, "size": 2},
        "layers": [{"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": payload,
            "size": signed.payload.len(), "annotations": {"dev.cosignproject.cosign/signature": signed.signature}}]});
    let entry = |bytes: &[u8], kind: &str| {
        json!({"mediaType": MANIFEST, "digest": put(bytes), "size": bytes.len(),
            "annotations": {"kind": format!("dev.cosignproject.cosign/{kind}")}})
    };
    let entries: [Value; 2] =
        [entry(&image.manifest, "image"), entry(signatures.to_string().as_bytes(), "sigs")];
    let index = json!({"schemaVersion": 2, "manifests": entries});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// A node whose runtime has an unsigned image under `app:1`, and a folder for layouts.
async fn preloaded() -> (Node, Image, String, String) {
    let node = Node::strict().await;
    let image = node.push("app", "1", "one");
    let name = node.named("app:1");
    node.runtime.preloaded(&name, &image);
    let folder = node.place.path().join("evidence");
    std::fs::create_dir(&folder).unwrap();
    let lines = format!("mode: enforce\nevidence: {{layouts: [{}]}}\n", folder.display());
    (node, image, name, lines)
}

impl Node {
    fn save(&self, name: &str, image: &Image, signer: &Signer) {
        let signed = signer.sign(&image.digest(), &self.named("app"));
        save(&self.place.path().join("evidence").join(name), image, &signed);
    }
}

#[tokio::test]
async fn signature_on_the_node_lets_the_image_run_and_no_registry_is_asked() {
    let (node, image, name, lines) = preloaded().await;
    node.save("app", &image, &node.signer);
    let gate = node.serve(&lines).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    assert_eq!(node.registry.asked(), Vec::<String>::new());
    assert_eq!(node.metric("crivet_evidence_layouts ").await, 1.0);
    assert_eq!(node.metric("crivet_evidence_layout_images ").await, 1.0);
    assert_eq!(node.metric("crivet_evidence_layout_faults ").await, 0.0);
}

#[tokio::test]
async fn signature_by_another_key_on_the_node_leaves_it_to_the_registry() {
    let (node, image, name, lines) = preloaded().await;
    node.save("app", &image, &Signer::new());
    let signed = node.push_signed("app", "2", "two");
    node.runtime.preloaded(&node.named("app:2"), &signed);
    node.save("signed", &signed, &Signer::new());
    let gate = node.serve(&lines).await;
    node.registry.instead(|_| Some(reply(403, &[], "")));
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with("SignatureValidationFailed: undecided: "), "{text}");
    assert!(
        text.contains("; the evidence on the node does not suffice: policy all (all.yaml:1): "),
        "{text}"
    );
    node.registry.well();
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with("SignatureValidationFailed: image "), "{text}");
    assert!(allowed(&gate.create(&signed.id(), &node.named("app:2")).await));
}

#[tokio::test]
async fn image_that_is_refused_otherwise_is_undecided_while_a_layout_cannot_be_read() {
    let (node, image, name, lines) = preloaded().await;
    std::fs::create_dir(node.place.path().join("evidence/broken")).unwrap();
    std::fs::write(node.place.path().join("evidence/broken/index.json"), "{}").unwrap();
    let signed = node.push_signed("app", "2", "two");
    node.runtime.preloaded(&node.named("app:2"), &signed);
    let gate = node.serve(&lines).await;
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with("SignatureValidationFailed: undecided: "), "{text}");
    let told = [
        "evidence layout ",
        "/evidence/broken is left out: ",
        "what else is known does not suffice: policy all",
    ];
    assert!(told.iter().all(|part| text.contains(part)), "{text}");
    let record = node.record("the refusal", |r| r["decision"] == "undecided").await;
    assert_eq!(record["reason"], "EvidenceLayouts");
    assert_eq!(node.metric("crivet_evidence_layout_faults ").await, 1.0);
    // What is allowed by other evidence is.
    assert!(allowed(&gate.create(&signed.id(), &node.named("app:2")).await));
}
