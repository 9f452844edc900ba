//! A question as crivet is asked it: a policy, and the configuration with the case's trusted root.

use super::asked::{Question, Signer};
use crate::support::measured::{Ended, run};
use crate::support::peers::Peers;
use serde_json::{Value, json};
use std::path::Path;

/// What policies call the case's trusted root.
pub const ROOT: &str = "fixture";

pub fn ask(peers: &Peers, question: &Question<'_>, registry: &str) -> Ended {
    let file = |name: &str, text: &str| {
        let path = peers.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    // JSON is YAML.
    let policy = file("policy.json", &policy(question, registry).to_string());
    let roots: Vec<Value> = question
        .trusted_root()
        .map(|root| file("trusted_root.json", std::str::from_utf8(&root).unwrap()))
        .map(|file| json!({"name": ROOT, "file": file}))
        .into_iter()
        .collect();
    let config = json!({
        "apiVersion": "crivet.dev/v1alpha1",
        "kind": "ProxyConfiguration",
        "listen": "unix:///run/crivet/crivet.sock",
        "runtimeEndpoint": "unix:///run/containerd/containerd.sock",
        "mode": "enforce",
        "unmatched": "deny",
        "stateDir": peers.path().join("state"),
        "trust": {"roots": roots},
    });
    let config = file("config.json", &config.to_string());
    let image = question.image(registry);
    let arguments = ["verify", "--config", &config, "--policy", &policy, &image].map(str::to_owned);
    run(Path::new(env!("CARGO_BIN_EXE_crivet")), &arguments, &[])
}

/// A policy of the native language that asks for just that.
pub fn policy(question: &Question<'_>, registry: &str) -> Value {
    let case = question.case;
    let mut requirements = json!({"evidence": [place(question, registry)]});
    let signers = signers(question);
    match question.predicate_type() {
        Some(predicate_type) => {
            let mut attestation = signers;
            attestation["predicateType"] = predicate_type.into();
            requirements["attestations"] = json!([attestation]);
        }
        None => {
            for (kind, signers) in signers.as_object().unwrap() {
                requirements[kind] = signers.clone();
            }
            // The image as it was named when it was signed; a bundle has no place for that.
            requirements["claimedRepository"] = json!({"oneOf": [case.image]});
            if case.stored.iter().any(|stored| stored.file.starts_with("bundle")) {
                requirements["claimedRepository"]["unnamed"] = "accept".into();
            }
        }
    }
    json!({
        "apiVersion": "crivet.dev/v1alpha1",
        "kind": "ImagePolicy",
        "metadata": {"name": "fixture"},
        "spec": {"images": ["**"], "requirements": requirements},
    })
}

fn place(question: &Question<'_>, registry: &str) -> Value {
    let case = question.case;
    match case.name.as_str() {
        name if name.starts_with("elsewhere-") => {
            json!({"repository": format!("{registry}/{}-signatures", case.repository())})
        }
        name if name.starts_with("tag-prefix-") => json!({"tagPrefix": "test-"}),
        _ => json!({}),
    }
}

/// `keys`, `keyless` or `certificates`.
fn signers(question: &Question<'_>) -> Value {
    let pem = |file: &Path| std::fs::read_to_string(file).unwrap();
    let (rekor, tsa) = (question.asks_for("rekor"), question.asks_for("tsa"));
    let mut signer = json!({});
    if tsa {
        signer["timestamps"] = json!({"threshold": 1, "trustRoot": ROOT});
    }
    // A keyless signer without a word about logs is asked for one.
    let keyless = matches!(question.signer, Signer::Identity { .. });
    if rekor || (keyless && tsa) {
        signer["transparencyLogs"] = json!({"threshold": u8::from(rekor), "trustRoot": ROOT});
    }
    let kind = match &question.signer {
        Signer::Key(file) => {
            signer["data"] = pem(file).into();
            "keys"
        }
        Signer::Identity { issuer, subject } => {
            signer["trustRoot"] = ROOT.into();
            signer["identities"] = json!([{"issuer": issuer, "subject": subject}]);
            "keyless"
        }
        Signer::Private { subject } => {
            signer["roots"] = pem(&question.authorities.join("ca-root.pem")).into();
            // Else it has to come with the signature.
            let intermediate = question.authorities.join("ca-intermediate.pem");
            if intermediate.exists() {
                signer["intermediates"] = pem(&intermediate).into();
            }
            signer["subjects"] = json!([{"subject": subject}]);
            "certificates"
        }
    };
    let mut signers = json!({});
    signers[kind] = json!([signer]);
    signers
}
