//! PullImage in enforce mode: what is vetted is what arrives.

use std::time::Duration;

use serde_json::json;

use super::node::{Gate, Node, allowed, refusal};
use super::registry::{Image, digest_of, signature_tag};
use super::signer::{Signer, claim};
use crate::registry::fake::{endless, reply};
use crate::support::client::PULL;
use crate::support::until;

const DENIED: &str = "SignatureValidationFailed: image ";
const UNDECIDED: &str = "SignatureValidationFailed: undecided: ";
const UNAVAILABLE: &str = "RegistryUnavailable: ";

/// Pulls, and gives the refusal; nothing may have reached the runtime.
async fn refused(node: &Node, gate: &Gate, name: &str) -> String {
    let before = node.runtime.calls(PULL).len();
    let text = refusal(&gate.pull(name).await);
    assert_eq!(node.runtime.calls(PULL).len(), before, "{name} reached the runtime");
    text
}

/// What was found missing is believed for some seconds.
async fn soon_allowed(gate: &Gate, name: &str) {
    for _ in 0..20 {
        if allowed(&gate.pull(name).await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("a signed image is still refused after 10 s");
}

#[tokio::test]
async fn signed_image_is_pulled_as_the_call_came() {
    let node = Node::strict().await;
    let image = node.push_signed("app", "1", "one");
    let gate = node.enforce().await;
    let answer = gate.pull(&node.named("app:1")).await;
    assert!(allowed(&answer), "{answer:?}");
    assert!(String::from_utf8_lossy(&answer.data).contains(&image.id()));
    let record = node.record("the record", |r| r["kind"] == "PullImage").await;
    assert_eq!((&record["decision"], &record["effective"]), (&json!("allowed"), &json!("forwarded")));
    assert_eq!((&record["digest"], &record["imageId"]), (&json!(image.digest()), &json!(image.id())));
    // Resolve, config, signatures, payload: the manifest is fetched once.
    assert_eq!(node.registry.asked().len(), 4, "{:?}", node.registry.asked());
}

#[tokio::test]
async fn unsigned_image_is_denied_and_allowed_soon_after_it_is_signed() {
    let node = Node::strict().await;
    let image = node.push("app", "1", "one");
    let (gate, name) = (node.enforce().await, node.named("app:1"));
    let text = refused(&node, &gate, &name).await;
    assert!(
        text.starts_with(&format!("{DENIED}{name}@{}: policy all (all.yaml:1): ", image.digest())),
        "{text}"
    );
    assert!(
        text.contains(&node.signer.fingerprint()) && text.contains("found no signature; sign it"),
        "{text}"
    );
    for _ in 0..3 {
        assert_eq!(refused(&node, &gate, &name).await, text);
    }
    node.registry.sign("app", &image, &node.signer);
    soon_allowed(&gate, &name).await;
}

#[tokio::test]
async fn image_signed_by_another_key_is_denied() {
    let node = Node::strict().await;
    let image = node.push("app", "1", "one");
    node.registry.sign("app", &image, &Signer::new());
    let gate = node.enforce().await;
    let text = refused(&node, &gate, &node.named("app:1")).await;
    assert!(text.starts_with(DENIED) && text.contains(&node.signer.fingerprint()), "{text}");
    assert!(text.contains("found 1 signature: made by none of the policy's signers"), "{text}");
}

#[tokio::test]
async fn signature_on_another_image_or_for_another_repository_is_denied() {
    let node = Node::strict().await;
    let (own, other) = (node.push("app", "1", "one"), Image::new("other"));
    let gate = node.enforce().await;
    let copied = node.signer.sign(&other.digest(), &node.named("app"));
    node.registry.put_signatures("app", &own.digest(), &[copied]);
    let text = refused(&node, &gate, &node.named("app:1")).await;
    assert!(text.starts_with(DENIED) && text.contains("found 1 signature: subject: it is about "), "{text}");

    let elsewhere = node.push("elsewhere", "1", "two");
    let copied = node.signer.sign(&elsewhere.digest(), &node.named("app"));
    node.registry.put_signatures("elsewhere", &elsewhere.digest(), &[copied]);
    let text = refused(&node, &gate, &node.named("elsewhere:1")).await;
    assert!(
        text.starts_with(DENIED) && text.contains("one on this image, but made for repository"),
        "{text}"
    );
}

#[tokio::test]
async fn tag_that_moved_while_the_runtime_pulled_brings_nothing_that_counts_as_vetted() {
    let node = Node::strict().await;
    node.push_signed("app", "1", "one");
    let (gate, name, other) = (node.enforce().await, node.named("app:1"), Image::new("moved"));
    // The registry gave crivet the first, and the runtime the second.
    node.runtime.arrives(&name, &other);
    let text = refusal(&gate.pull(&name).await);
    assert!(text.starts_with(UNDECIDED) && text.contains(&other.id()), "{text}");
    assert!(text.contains("the tag moved meanwhile, try again"), "{text}");
    assert_eq!(text.matches(&name).count(), 1, "{text}");
    let text = refusal(&gate.create(&other.id(), &name).await);
    assert!(text.starts_with("SignatureValidationFailed: "), "{text}");
    assert_eq!(node.runtime.containers(), 0);
    // Signed, it is as good as any.
    node.registry.push("app", "1", &other);
    node.registry.sign("app", &other, &node.signer);
    soon_allowed(&gate, &name).await;
    assert!(allowed(&gate.create(&other.id(), &name).await));
}

#[tokio::test]
async fn reference_that_cannot_be_vetted_is_undecided() {
    let node = Node::strict().await;
    // Covers names without a repository too.
    let policy = node.signed_by("rest", &node.signer, "").replace(&format!("{}/**", node.host()), "**");
    node.policy("rest.yaml", &policy);
    let gate = node.enforce().await;
    let hex = "ab".repeat(32);
    for (name, expected) in [
        ("x".repeat(10 << 10), "limit REFERENCE_BYTES"),
        ("x".repeat(1 << 20), "limits::CALL_FACTS_BYTES"),
        (node.named("app:1\n\u{1b}[2J"), "expected a tag"),
        (node.named("\u{202e}app:1"), "expected a repository"),
        (node.named(&format!("app@sha512:{hex}{hex}")), "sha512"),
        (node.named("app@sha256:abc"), "sha256"),
        (format!("sha256:{hex}"), "expected a reference with a repository"),
        (String::new(), "expected a reference with a repository"),
    ] {
        let shown: String = name.chars().take(80).collect();
        let text = refused(&node, &gate, &name).await;
        assert!(text.starts_with(UNDECIDED) && text.contains(expected), "{shown:?}: {text}");
        assert!(text.len() < 2000, "{shown:?}: {} bytes", text.len());
        assert_eq!(refused(&node, &gate, &name).await, text);
    }
    assert_eq!(node.registry.asked(), Vec::<String>::new());
    assert!(!gate.crivet.log().contains("starting it anew"), "the vetter ended");
}

#[tokio::test]
async fn each_answer_of_a_registry_has_its_prefix_and_the_same_words_again() {
    let node = Node::strict().await;
    node.push_signed("app", "1", "one");
    // Short enough for a registry that never answers.
    let gate = node.serve("mode: enforce\nregistry: {timeout: 1s}\nvetting: {timeout: 20s}\n").await;
    let name = node.named("app:1");
    let unknown = refused(&node, &gate, &node.named("app:absent")).await;
    assert!(unknown.starts_with(UNDECIDED) && unknown.contains("not found (MANIFEST_UNKNOWN)"), "{unknown}");
    for (what, status, prefix) in [
        ("html", 200, UNAVAILABLE),
        ("hang", 200, UNAVAILABLE),
        ("", 500, UNAVAILABLE),
        ("", 503, UNAVAILABLE),
        ("", 429, UNAVAILABLE),
        ("", 401, UNDECIDED),
        ("", 403, UNDECIDED),
        ("endless", 200, UNDECIDED),
        ("wrong", 200, UNDECIDED),
        ("redirect", 307, UNDECIDED),
    ] {
        node.registry.instead(move |_| {
            Some(match what {
                "html" => reply(200, &[("content-type", "text/html")], "<html>sign in"),
                "hang" => endless(b"", Duration::from_secs(3600)),
                "endless" => endless(&[b' '; 1 << 16], Duration::ZERO),
                "wrong" => reply(200, &[("docker-content-digest", &digest_of(b"promised"))], "{}"),
                "redirect" => reply(307, &[("location", "http://169.254.169.254/latest")], ""),
                _ => reply(status, &[("retry-after", "0"), ("www-authenticate", "Basic realm=\"r\"")], ""),
            })
        });
        let text = refused(&node, &gate, &name).await;
        assert!(text.starts_with(prefix) && text.contains(&name), "{what} {status}: {text}");
        if what != "hang" {
            assert_eq!(refused(&node, &gate, &name).await, text, "{what} {status}");
        }
    }
    node.registry.well();
    assert!(allowed(&gate.pull(&name).await));
}

#[tokio::test]
async fn registry_that_is_away_is_unavailable() {
    let node = Node::strict().await;
    let gate = node.enforce().await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let policy = node.signed_by("gone", &node.signer, "").replace(&node.host(), &gone.to_string());
    node.policy("gone.yaml", &policy);
    gate.reload().await;
    let text = refused(&node, &gate, &format!("{gone}/app:1")).await;
    assert!(text.starts_with(UNAVAILABLE) && text.contains("connection refused"), "{text}");
    assert_eq!(refused(&node, &gate, &format!("{gone}/app:1")).await, text);
}

#[tokio::test]
async fn signatures_beyond_a_limit_are_undecided_and_never_none() {
    let node = Node::strict().await;
    let (gate, name) = (node.enforce().await, node.named("app:1"));
    let image = node.push("app", "1", "one");
    let layer = json!({"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "digest": digest_of(b""), "size": 0, "annotations": {"dev.cosignproject.cosign/signature": "AA=="}});
    node.registry.put_signature_layers("app", &image.digest(), &vec![layer; 10_000]);
    let text = refused(&node, &gate, &name).await;
    assert!(text.starts_with(UNDECIDED) && text.contains("limit SIGNATURES"), "{text}");
    assert!(text.contains("found 10000"), "{text}");

    // A payload that is read only in part proves nothing, for or against.
    let mut long = claim(&image.digest(), &node.named("app")).into_bytes();
    long.resize(65 << 10, b' ');
    let (long, good) =
        (node.signer.sign_payload(long), node.signer.sign(&image.digest(), &node.named("app")));
    node.registry.put_signatures("app", &image.digest(), std::slice::from_ref(&long));
    let text = refused(&node, &gate, &name).await;
    assert!(text.starts_with(UNDECIDED) && text.contains("PAYLOAD_BYTES"), "{text}");
    node.registry.put_signatures("app", &image.digest(), &[long, good]);
    assert!(allowed(&gate.pull(&name).await));
}

#[tokio::test]
async fn signature_manifest_that_is_none_is_undecided() {
    let node = Node::strict().await;
    let (gate, name) = (node.enforce().await, node.named("app:1"));
    let image = node.push("app", "1", "one");
    for garbage in
        ["", "{}", "[]", "\u{0}", r#"{"schemaVersion":1}"#, r#"{"schemaVersion":2,"manifests":[]}"#]
    {
        node.registry.put_manifest("app", &signature_tag(&image.digest()), garbage);
        let text = refused(&node, &gate, &name).await;
        assert!(text.starts_with(UNDECIDED), "{garbage:?}: {text}");
    }
}

#[tokio::test]
async fn error_of_the_runtime_passes_untouched() {
    let node = Node::strict().await;
    node.push_signed("app", "1", "one");
    let gate = node.enforce().await;
    let words = "failed to pull and unpack image: 100%25 of it %C3%A9";
    node.runtime.state().error = Some((13, words.to_owned()));
    let answer = gate.pull(&node.named("app:1")).await;
    assert_eq!((answer.code(), answer.message()), (13, words));
    assert!(answer.is_trailers_only());
}

#[tokio::test]
async fn images_no_policy_covers_follow_unmatched() {
    let node = Node::strict().await;
    node.policy("all.yaml", &node.signed_by("all", &node.signer, "").replace("/**", "/team/**"));
    node.push("app", "1", "one");
    let (gate, name) = (node.enforce().await, node.named("app:1"));
    assert!(allowed(&gate.pull(&name).await));
    node.configure("mode: enforce\nunmatched: deny\n");
    gate.reload().await;
    let text = refused(&node, &gate, &name).await;
    assert!(text.starts_with(DENIED) && text.contains("found none and unmatched: deny"), "{text}");
    node.configure("mode: enforce\nunmatched: allow\n");
    gate.reload().await;
    assert!(allowed(&gate.pull(&name).await));
    until("no registry was asked", 1, || node.registry.asked().is_empty()).await;
}
