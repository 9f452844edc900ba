//! Credentials stay what they are: seen by the registry, and by nobody else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crivet::cri::v1;
use prost::Message;

use super::node::{Gate, Node, pull, refusal};
use crate::registry::fake::reply;
use crate::support::client::PULL;
use crate::support::until;

const SECRETS: [&str; 4] =
    ["swordfish-password", "swordfish-auth", "swordfish-identity", "swordfish-registry"];

/// A pull with one kind of credential.
fn with(auth: v1::AuthConfig, name: &str) -> Vec<u8> {
    v1::PullImageRequest { auth: Some(auth), ..pull(name) }.encode_to_vec()
}

fn credentials(host: &str) -> [v1::AuthConfig; 4] {
    let server_address = host.to_owned();
    let own = || v1::AuthConfig { server_address: server_address.clone(), ..Default::default() };
    [
        v1::AuthConfig { username: "user".into(), password: SECRETS[0].into(), ..own() },
        v1::AuthConfig { auth: STANDARD.encode(format!("user:{}", SECRETS[1])), ..own() },
        v1::AuthConfig { identity_token: SECRETS[2].into(), ..own() },
        v1::AuthConfig { registry_token: SECRETS[3].into(), ..own() },
    ]
}

/// Every form in which a secret could show.
fn forms() -> Vec<String> {
    let mut forms: Vec<String> = SECRETS.iter().map(|secret| (*secret).to_owned()).collect();
    forms.extend(SECRETS.iter().map(|secret| STANDARD.encode(format!("user:{secret}"))));
    // As the Debug of bytes writes them.
    forms.extend(SECRETS.iter().map(|secret| format!("{:?}", secret.as_bytes())));
    forms
}

async fn nothing_shows(node: &Node, gate: &Gate, answers: &[String]) {
    let records = node.records().iter().map(ToString::to_string).collect::<String>();
    let state = node.place.path().join("state/vetter/proofs.redb");
    let shown = [
        ("proofs on disk", String::from_utf8_lossy(&std::fs::read(state).unwrap()).into_owned()),
        ("log", gate.crivet.log()),
        ("records", records),
        ("metrics", node.metrics().await),
        ("answers", answers.concat()),
    ];
    for (place, text) in shown {
        for form in forms() {
            assert!(!text.contains(form.trim_matches(['[', ']'])), "a credential is in the {place}");
        }
    }
}

async fn start(node: &Node, mode: &str) -> Gate {
    node.configure(&format!("mode: {mode}\n"));
    let gate = node.start(&[("RUST_LOG", "trace")]).await;
    until("the vetter is ready", 20, || gate.readied() > 0).await;
    gate
}

#[tokio::test]
async fn no_credential_shows_anywhere_whatever_the_registry_makes_of_it() {
    for mode in ["enforce", "audit"] {
        let node = Node::strict().await;
        node.push_signed("app", "1", "one");
        let (gate, name, host) = (start(&node, mode).await, node.named("app:1"), node.host());
        let (mut answers, mut number) = (Vec::new(), 0);
        for (status, challenge) in [
            (401, "Basic realm=\"r\"".to_owned()),
            (401, format!("Bearer realm=\"http://{host}/token\",service=\"s\"")),
            (403, String::new()),
            (500, String::new()),
        ] {
            // The registry says the credential back to whoever will listen.
            node.registry.instead(move |seen| {
                let echo = format!("{:?} {}", seen.authorization, seen.body);
                let error = format!(r#"{{"errors":[{{"code":"DENIED","message":{echo:?}}}]}}"#);
                Some(reply(status, &[("www-authenticate", &challenge), ("x-echo", "x")], error))
            });
            for auth in credentials(&host) {
                let answer = gate.client.call(PULL, &with(auth, &name)).await;
                answers.push(if mode == "enforce" { refusal(&answer) } else { String::new() });
                number += 1;
            }
        }
        assert_eq!(answers.len(), number);
        node.record("a record", |r| r["decision"] == "undecided").await;
        node.registry.instead(|seen| match &seen.authorization {
            Some(_) => None,
            None => Some(reply(401, &[("www-authenticate", "Basic realm=\"r\"")], "")),
        });
        let [basic, ..] = credentials(&host);
        assert_eq!(gate.client.call(PULL, &with(basic, &name)).await.code(), 0);
        node.record("the record of the good one", |r| r["decision"] == "allowed").await;
        // The registry did see it, or this test would prove nothing; and so did the log see the call.
        let shown = format!("Basic {}", STANDARD.encode(format!("user:{}", SECRETS[0])));
        assert!(node.registry.seen().iter().any(|seen| seen.authorization.as_deref() == Some(&shown)));
        assert!(gate.crivet.log().contains("TRACE"));
        super::kept::written(&node).await;
        nothing_shows(&node, &gate, &answers).await;
    }
}
