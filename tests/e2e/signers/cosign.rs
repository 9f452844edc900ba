//! A question as cosign is asked it.

use super::asked::{Question, Signer};
use crate::support::measured::{Ended, run};
use crate::support::peers::Peers;

/// cosign 3, unless cosign 2 has to be asked. In either what cosign says first.
pub fn ask(peers: &Peers, question: &Question<'_>, registry: &str) -> Ended {
    let case = question.case;
    let name = case.name.as_str();
    // cosign 3 has dropped the experimental referrers and the tags' prefix, and where there is a bundle it looks at
    // no tag.
    let second = ["experimental-", "tag-prefix-"].iter().any(|prefix| name.starts_with(prefix))
        || question.name == "both-formats-key-none, key 1";
    let mut environment = vec![("HOME", peers.path().display().to_string())];
    let mut arguments: Vec<String> = Vec::new();
    let mut ask = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
    match question.attestation {
        Some(kind) => ask(&["verify-attestation", "--type", kind]),
        None => ask(&["verify"]),
    }
    match &question.signer {
        Signer::Key(file) => ask(&["--key", &file.display().to_string()]),
        Signer::Identity { issuer, subject } => {
            ask(&["--certificate-identity", subject, "--certificate-oidc-issuer", issuer]);
        }
        // A private CA names no issuer, and logs its certificates nowhere.
        Signer::Private { subject } => {
            ask(&["--certificate-identity", subject, "--certificate-oidc-issuer-regexp", ".*"]);
            ask(&["--insecure-ignore-sct"]);
        }
    }
    if second {
        if !question.asks_for("rekor") {
            ask(&["--private-infrastructure"]);
        }
        if name.starts_with("experimental-") {
            ask(&["--experimental-oci11"]);
            environment.push(("COSIGN_EXPERIMENTAL", "1".to_owned()));
        }
        if name.starts_with("tag-prefix-") {
            ask(&["--attachment-tag-prefix", "test-"]);
        }
        environment.extend(pieces_of_trust(peers, question));
    } else {
        let root = question.authorities.join("trusted_root.json");
        if root.exists() {
            ask(&["--trusted-root", &root.display().to_string()]);
        }
        if question.asks_for("tsa") {
            ask(&["--use-signed-timestamps"]);
        }
        if !question.asks_for("rekor") {
            ask(&["--insecure-ignore-tlog"]);
        }
    }
    if name.starts_with("elsewhere-") {
        let repository = format!("{registry}/{}-signatures", case.repository());
        environment.push(("COSIGN_REPOSITORY", repository));
    }
    ask(&[&image(question, registry)]);
    run(&peers.program(if second { "cosign" } else { "cosign3" }), &arguments, &environment)
}

/// cosign signs the digest it is given: where that was a platform's, cosign is asked for that platform.
fn image(question: &Question<'_>, registry: &str) -> String {
    let (case, whole) = (question.case, question.image(registry));
    if !case.name.starts_with("platform-") {
        return whole;
    }
    let child = case.stored.iter().find(|s| s.file == "child-amd64.json").expect("an index has platforms");
    whole.replace(&case.digest, &child.digest)
}

/// cosign 2 takes its trust in pieces, as PEM files.
fn pieces_of_trust(peers: &Peers, question: &Question<'_>) -> Vec<(&'static str, String)> {
    let Ok(root) = std::fs::read(question.authorities.join("trusted_root.json")) else { return Vec::new() };
    let root: serde_json::Value = serde_json::from_slice(&root).unwrap();
    let chain = root["certificateAuthorities"][0]["certChain"]["certificates"].as_array().unwrap();
    let pem = |label: &str, bytes: &serde_json::Value| {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", bytes.as_str().unwrap())
    };
    let files = [
        ("SIGSTORE_ROOT_FILE", chain.iter().map(|c| pem("CERTIFICATE", &c["rawBytes"])).collect()),
        ("SIGSTORE_REKOR_PUBLIC_KEY", pem("PUBLIC KEY", &root["tlogs"][0]["publicKey"]["rawBytes"])),
        ("SIGSTORE_CT_LOG_PUBLIC_KEY_FILE", pem("PUBLIC KEY", &root["ctlogs"][0]["publicKey"]["rawBytes"])),
    ];
    let written = files.into_iter().map(|(name, text): (_, String)| {
        let file = peers.path().join(format!("{name}.pem"));
        std::fs::write(&file, text).unwrap();
        (name, file.display().to_string())
    });
    written.collect()
}
