//! What the runtime has of a vetted image, altered on its disk.

use std::time::Duration;

use crivet::limits;
use futures_util::future::join_all;
use serde_json::json;

use super::create::preloaded;
use super::node::{allowed, refusal};
use super::runtime::CONTENT;

const ALTERED: &str = "it was altered on this node";

#[tokio::test]
async fn altered_config_or_manifest_is_denied_before_and_with_a_permit() {
    let (node, gate, image, name) = preloaded("").await;
    for made in 1..=2 {
        for digest in [image.id(), image.digest()] {
            not_hashed_a_moment_ago().await;
            let whole = node.runtime.alter(&digest, |content| content.push(b' '));
            let text = refusal(&gate.create(&image.id(), &name).await);
            assert!(text.starts_with("SignatureValidationFailed: image \""), "{text}");
            assert!(text.contains(ALTERED) && text.contains(&digest) && text.contains(&name), "{text}");
            node.runtime.alter(&digest, |content| *content = whole);
        }
        assert!(allowed(&gate.create(&image.id(), &name).await));
        // It is read beside the create: what was made is gone.
        assert_eq!(node.runtime.containers(), made);
    }
    assert_eq!(node.metric("crivet_content_altered_total").await, 4.0);
    let record = node.record("the record", |r| r["reason"] == "ContentAltered").await;
    assert_eq!((&record["decision"], &record["effective"]), (&json!("denied"), &json!("refused")));
}

/// What was hashed a moment ago counts.
async fn not_hashed_a_moment_ago() {
    tokio::time::sleep(Duration::from_millis(limits::DOCUMENT_SECONDS * 1000 + 100)).await;
}

/// Two documents: the manifest and the config.
#[tokio::test]
async fn containers_of_one_image_made_together_share_the_reading() {
    let (node, gate, image, name) = preloaded("").await;
    let id = image.id();
    let made = || join_all((0..50).map(|_| gate.create(&id, &name)));
    // The vetter reads for itself, and once.
    assert!(made().await.iter().all(allowed));
    not_hashed_a_moment_ago().await;
    let before = node.runtime.calls(CONTENT).len();
    assert!(made().await.iter().all(allowed));
    let read = node.runtime.calls(CONTENT).len() - before;
    // More than a second may pass between the first and the last.
    assert!((2..20).contains(&read), "{read} reads");
}

#[tokio::test]
async fn content_grown_beyond_what_is_read_is_denied() {
    let (node, gate, image, name) = preloaded("").await;
    node.runtime.alter(&image.id(), |content| content.resize(5 << 20, b' '));
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.contains(ALTERED) && text.contains("more than 4194304 bytes"), "{text}");
}

#[tokio::test]
async fn content_that_cannot_be_read_is_undecided() {
    let (node, gate, image, name) = preloaded("").await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    not_hashed_a_moment_ago().await;
    node.runtime.state().no_content_service = true;
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with("SignatureValidationFailed: undecided: image \""), "{text}");
    assert!(text.contains("cannot be read"), "{text}");
}

#[tokio::test]
async fn what_the_runtime_does_not_have_was_not_altered() {
    let (node, gate, image, name) = preloaded("").await;
    node.runtime.forget(&image.digest());
    assert!(allowed(&gate.create(&image.id(), &name).await));
}

#[tokio::test]
async fn altered_content_is_told_in_audit_mode() {
    let (node, gate, image, name) = preloaded("").await;
    drop(gate);
    let gate = node.serve("mode: audit\n").await;
    node.runtime.alter(&image.id(), |content| content.push(b' '));
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let record = node.record("the record", |r| r["reason"] == "ContentAltered").await;
    assert_eq!((&record["decision"], &record["effective"]), (&json!("denied"), &json!("forwarded")));
}
