//! Policies in Rego on all that authorities found: they see all evidence there is, or nothing is known.

use std::fmt::Write;

use super::node::{Node, allowed, refusal};
use super::signer::Signer;
use crate::registry::fake::reply;

/// Signed by us, and withdrawn by nobody.
fn policy(node: &Node, ours: &Signer, withdraws: &Signer) -> String {
    let mut text = format!(
        "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: rego}}\nspec:\n  images: [{{glob: '{}/**'}}]\n  authorities:\n",
        node.host()
    );
    for (name, signer) in [("ours", ours), ("withdrawn", withdraws)] {
        writeln!(text, "  - name: {name}\n    key:\n      data: |").unwrap();
        for line in signer.pem().lines() {
            writeln!(text, "        {line}").unwrap();
        }
    }
    text + "  policy:\n    type: rego\n    data: |\n      package sigstore\n      isCompliant {\n        input.authorityMatches.ours\n        not input.authorityMatches.withdrawn\n      }\n"
}

#[tokio::test]
async fn policy_that_says_no_because_of_what_is_there_sees_all_there_is() {
    let node = Node::new().await;
    let (ours, withdraws) = (Signer::new(), Signer::new());
    node.policy("rego.yaml", &policy(&node, &ours, &withdraws));
    let good = node.push("good", "1", "one");
    node.registry.sign("good", &good, &ours);
    let bad = node.push("bad", "1", "two");
    // What would do by itself comes first.
    let both = [&ours, &withdraws].map(|signer| signer.sign(&bad.digest(), &node.named("bad")));
    node.registry.put_signatures("bad", &bad.digest(), &both);
    let gate = node.serve("mode: enforce\nunmatched: deny\n").await;
    assert!(allowed(&gate.pull(&node.named("good:1")).await));
    let text = refusal(&gate.pull(&node.named("bad:1")).await);
    assert!(
        text.starts_with("SignatureValidationFailed: image ")
            && text.contains(
                "found evidence for ours, withdrawn, of which the Rego of spec.policy does not hold"
            ),
        "{text}"
    );
}

#[tokio::test]
async fn policy_that_cannot_see_all_there_may_be_is_undecided() {
    let node = Node::new().await;
    let (ours, withdraws) = (Signer::new(), Signer::new());
    node.policy("rego.yaml", &policy(&node, &ours, &withdraws));
    let image = node.push("app", "1", "one");
    node.registry.sign("app", &image, &ours);
    // Its signature is there; what refers to it besides cannot be known.
    node.registry.instead(|seen| seen.path.contains("/referrers/").then(|| reply(500, &[], "")));
    let gate = node.serve("mode: enforce\nunmatched: deny\n").await;
    let text = refusal(&gate.pull(&node.named("app:1")).await);
    assert!(text.starts_with("RegistryUnavailable: ") && text.contains("500"), "{text}");
    node.registry.well();
    assert!(allowed(&gate.pull(&node.named("app:1")).await));
}
