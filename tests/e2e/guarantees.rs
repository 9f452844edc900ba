//! Ways onto a node that docs/guarantees.md names and that no other topic has.

use crate::support::crictl::named;
use crate::support::node::{DENIED, Node, UNDECIDED, assert_refused};
use crate::support::wait_for;
use serde_json::json;
use std::time::Duration;

#[test]
fn an_unsigned_image_that_was_imported_is_not_created() {
    let Some(node) = Node::enforcing() else { return };
    let unsigned = node.push("unsigned", &node.says("never").file("n", "imported"));
    let tar = node.peers.path().join("imported.tar");
    node.containerd.ctr(&["images", "pull", "--plain-http", &unsigned.reference]);
    node.containerd.ctr(&["images", "export", tar.to_str().unwrap(), &unsigned.reference]);
    node.containerd.crictl().run(["rmi", &unsigned.id]).unwrap();
    node.containerd.ctr(&["images", "import", tar.to_str().unwrap()]);
    wait_for("the imported image", Duration::from_secs(10), || {
        node.containerd.crictl().json(["inspecti", "-o", "json", &unsigned.id]).ok()
    });
    let create = node.create("imported", &named(&unsigned.id, &unsigned.reference));
    assert_refused(create, DENIED, &[&unsigned.digest]);
    assert_eq!(node.containers(), "");
}

/// As a tool pushes something that is no image: with an empty config, and with a config of its own type.
#[test]
fn a_signed_artifact_is_no_image() {
    let Some(node) = Node::enforcing() else { return };
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    for (name, config_type, config) in [
        ("empty", "application/vnd.oci.empty.v1+json", "{}"),
        ("own", "application/vnd.example.config.v1+json", r#"{"model": "small"}"#),
    ] {
        let blob = |bytes: &str, media_type: &str| json!({"mediaType": media_type, "digest": node.registry.put_blob(name, bytes.as_bytes()), "size": bytes.len()});
        let body = json!({"schemaVersion": 2, "mediaType": manifest, "artifactType": "application/vnd.example.v1",
            "config": blob(config, config_type), "layers": [blob("data", "application/octet-stream")]});
        let digest = node.registry.put_manifest(name, "1", manifest, body.to_string().as_bytes());
        let repository = format!("{}/{name}", node.registry.address());
        node.cosign.sign(&node.key, &format!("{repository}@{digest}"), &[]);
        assert_refused(node.crictl().pull(&format!("{repository}:1")), UNDECIDED, &[name]);
    }
}
