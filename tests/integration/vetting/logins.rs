//! The node's own logins: docker configs and credential providers, where a create brings none.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crivet::cri::v1;
use prost::Message;
use serde_json::{Value, json};

use super::node::{Gate, Node, allowed, create, pull, refusal};
use super::registry::Image;
use crate::registry::fake::reply;
use crate::support::client::{CREATE, PULL};
use crate::support::until;

const UNDECIDED: &str = "SignatureValidationFailed: undecided: ";
const LOGIN: &str = "node:correct-horse";

/// A node whose registry lets in only [`LOGIN`], with a signed image that its runtime has.
async fn private() -> (Node, Image) {
    let node = Node::strict().await;
    let image = node.push_signed("team/app", "1", "one");
    node.runtime.preloaded(&node.named("team/app:1"), &image);
    wants(&node, LOGIN, Private::Refuses);
    (node, image)
}

/// How the registry answers whoever has no right to see it.
#[derive(Clone, Copy)]
enum Private {
    /// It wants HTTP basic authentication of everybody.
    Refuses,
    /// It gives everybody a token, and says of what this does not open that it is not there.
    Hides,
}

/// The registry wants this login from now on.
fn wants(node: &Node, login: &str, private: Private) {
    let expected = format!("Basic {}", STANDARD.encode(login));
    let challenge = match private {
        Private::Refuses => "Basic realm=\"r\"".to_owned(),
        Private::Hides => format!("Bearer realm=\"http://{}/token\"", node.host()),
    };
    node.registry.instead(move |seen| {
        match (seen.path.starts_with("/token"), seen.authorization.as_deref()) {
            (true, None) => Some(reply(200, &[], r#"{"token":"nobody"}"#)),
            (true, Some(shown)) if shown == expected => Some(reply(200, &[], r#"{"token":"somebody"}"#)),
            (false, Some("Bearer somebody")) => None,
            (false, Some("Bearer nobody")) => {
                Some(reply(404, &[], r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#))
            }
            (false, Some(shown)) if shown == expected => None,
            _ => Some(reply(401, &[("www-authenticate", &challenge)], "")),
        }
    });
}

fn write(node: &Node, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = node.place.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn docker_config(node: &Node, name: &str, entry: &Value) -> String {
    let config = json!({"auths": {format!("https://{}/v2/", node.host()): entry}});
    write(node, name, &config.to_string(), 0o600).display().to_string()
}

fn auth(login: &str) -> Value {
    json!({"auth": STANDARD.encode(login)})
}

/// A provider of this shell script for the registry; gives lines for the configuration. What the script says in `runs`
/// is counted by [`runs`].
fn provider(node: &Node, script: &str, more: &str) -> String {
    let runs = node.place.path().join("runs");
    let script = format!("#!/bin/sh\nread -r asked\necho \"$asked\" >> {}\n{script}\n", runs.display());
    write(node, "providers/of-test", &script, 0o755);
    let host = node.host();
    let config = format!(
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: of-test\n  \
         matchImages: ['{host}']\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n{more}"
    );
    let config = write(node, "providers.yaml", &config, 0o600);
    format!(
        "imageCredentialProviderConfig: {}, imageCredentialProviderBinDir: {}",
        config.display(),
        node.place.path().join("providers").display()
    )
}

/// What a provider's script says for this login.
fn says(node: &Node, login: &str, key: &str) -> String {
    let (username, password) = login.split_once(':').unwrap();
    let answer = json!({"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": key, "auth": {node.host(): {"username": username, "password": password}}});
    format!("echo '{answer}'")
}

fn runs(node: &Node) -> Vec<Value> {
    let text = fs::read_to_string(node.place.path().join("runs")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn with(node: &Node, credentials: &str) -> Gate {
    node.serve(&format!("mode: enforce\nregistry: {{credentials: {{{credentials}}}}}\n")).await
}

async fn created(node: &Node, gate: &Gate, image: &Image) -> Result<(), String> {
    let answer = gate.create(&image.id(), &node.named("team/app:1")).await;
    if allowed(&answer) { Ok(()) } else { Err(refusal(&answer)) }
}

#[tokio::test]
async fn without_a_login_of_the_node_s_a_private_image_is_undecided() {
    let (node, image) = private().await;
    let gate = with(&node, "").await;
    let text = created(&node, &gate, &image).await.unwrap_err();
    assert!(text.starts_with(UNDECIDED) && text.contains("the registry wants another login"), "{text}");
}

#[tokio::test]
async fn a_create_is_vetted_with_the_docker_config_s_login() {
    let (node, image) = private().await;
    let file = docker_config(&node, "config.json", &auth(LOGIN));
    let gate = with(&node, &format!("dockerConfigs: [{file}]")).await;
    created(&node, &gate, &image).await.unwrap();
    // So is a pull that brings none.
    assert!(allowed(&gate.pull(&node.named("team/app:1")).await));
}

#[tokio::test]
async fn after_one_login_is_refused_the_next_is_tried() {
    let (node, image) = private().await;
    let first = docker_config(&node, "first.json", &auth("node:wrong-staple"));
    let second = docker_config(&node, "second.json", &auth(LOGIN));
    let gate = with(&node, &format!("dockerConfigs: [{first}, {second}]")).await;
    created(&node, &gate, &image).await.unwrap();
}

#[tokio::test]
async fn after_one_login_is_refused_at_another_repository_the_next_is_tried() {
    for private in [Private::Refuses, Private::Hides] {
        let (node, _) = self::private().await;
        wants(&node, LOGIN, private);
        let image = node.push("team/app", "1", "two");
        node.runtime.preloaded(&node.named("team/app:1"), &image);
        let signed = node.signer.sign(&image.digest(), &node.named("team/app"));
        node.registry.put_signatures("team/signatures", &image.digest(), &[signed]);
        let elsewhere = format!("    evidence: [{{repository: {}}}]\n", node.named("team/signatures"));
        node.policy("all.yaml", &(node.signed_by("all", &node.signer, "") + &elsewhere));
        let first = docker_config(&node, "first.json", &auth("node:wrong-staple"));
        let second = docker_config(&node, "second.json", &auth(LOGIN));
        let gate = with(&node, &format!("dockerConfigs: [{first}]")).await;
        let text = created(&node, &gate, &image).await.unwrap_err();
        assert!(text.starts_with(UNDECIDED), "{text}");
        drop(gate);
        let gate = with(&node, &format!("dockerConfigs: [{first}, {second}]")).await;
        created(&node, &gate, &image).await.unwrap();
    }
}

#[tokio::test]
async fn logins_that_are_all_refused_leave_it_undecided_whatever_nobody_is_told() {
    for private in [Private::Refuses, Private::Hides] {
        let (node, image) = self::private().await;
        wants(&node, "somebody:else", private);
        let files = [
            docker_config(&node, "first.json", &auth("node:wrong-staple")),
            docker_config(&node, "second.json", &auth(LOGIN)),
        ];
        let gate = with(&node, &format!("dockerConfigs: [{}, {}]", files[0], files[1])).await;
        let text = created(&node, &gate, &image).await.unwrap_err();
        assert!(text.starts_with(UNDECIDED) && text.contains("the registry wants another login"), "{text}");
        let tried = format!("refused logins: {}, {}", files[0], files[1]);
        assert!(text.contains(&tried) && !text.contains("staple"), "{text}");
        let record = node.record("the record", |record| record["kind"] == "CreateContainer").await;
        assert_eq!(record["reason"], "RegistryLogin", "{record}");
    }
}

#[tokio::test]
async fn an_unsigned_image_is_denied_to_the_node_s_login() {
    let (node, _) = private().await;
    let unsigned = node.push("team/app", "2", "two");
    node.runtime.preloaded(&node.named("team/app:2"), &unsigned);
    let file = docker_config(&node, "config.json", &auth(LOGIN));
    let gate = with(&node, &format!("dockerConfigs: [{file}]")).await;
    let text = refusal(&gate.create(&unsigned.id(), &node.named("team/app:2")).await);
    assert!(text.starts_with("SignatureValidationFailed: image ") && text.contains("no signature"), "{text}");
}

#[tokio::test]
async fn a_public_image_is_vetted_although_the_node_s_login_is_refused() {
    let (node, image) = private().await;
    node.registry.instead(|seen| {
        let refused = || reply(401, &[("www-authenticate", "Basic realm=\"r\"")], "");
        // It asks for a login first, and lets in nobody's but nobody's.
        (seen.authorization.is_some() || seen.path.contains("/secret/")).then(refused)
    });
    let file = docker_config(&node, "config.json", &auth("node:wrong-staple"));
    let gate = with(&node, &format!("dockerConfigs: [{file}]")).await;
    created(&node, &gate, &image).await.unwrap();
}

#[tokio::test]
async fn a_pull_s_own_refused_login_is_not_helped_by_the_node_s() {
    let (node, _) = private().await;
    let file = docker_config(&node, "config.json", &auth(LOGIN));
    let gate = with(&node, &format!("dockerConfigs: [{file}]")).await;
    let own =
        v1::AuthConfig { username: "pod".to_owned(), password: "its-own".to_owned(), ..Default::default() };
    let call = v1::PullImageRequest { auth: Some(own), ..pull(&node.named("team/app:1")) };
    let text = refusal(&gate.client.call(PULL, &call.encode_to_vec()).await);
    assert!(text.starts_with(UNDECIDED) && text.contains("check the pull secret"), "{text}");
    let node_s = format!("Basic {}", STANDARD.encode(LOGIN));
    let shown = |seen: &crate::registry::fake::Seen| seen.authorization.as_ref() == Some(&node_s);
    assert!(!node.registry.seen().iter().any(shown), "the node's login was shown for a pod");
}

#[tokio::test]
async fn an_identity_token_of_a_docker_config_is_exchanged() {
    let (node, image) = private().await;
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", node.host());
    node.registry.instead(move |seen| match seen.authorization.as_deref() {
        _ if seen.path.starts_with("/token") => {
            let right = seen.method == "POST" && seen.body.contains("refresh_token=refresh-me");
            Some(reply(if right { 200 } else { 400 }, &[], r#"{"access_token":"good"}"#))
        }
        Some("Bearer good") => None,
        _ => Some(reply(401, &[("www-authenticate", &realm)], "")),
    });
    let wrong = docker_config(&node, "wrong.json", &json!({"identitytoken": "over"}));
    let right = docker_config(&node, "right.json", &json!({"auth": "MDA6", "identitytoken": "refresh-me"}));
    let gate = with(&node, &format!("dockerConfigs: [{wrong}, {right}]")).await;
    created(&node, &gate, &image).await.unwrap();
}

#[tokio::test]
async fn a_docker_config_that_others_can_write_is_not_used() {
    let (node, image) = private().await;
    let file = docker_config(&node, "config.json", &auth(LOGIN));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let gate = with(&node, &format!("dockerConfigs: [{file}]")).await;
    created(&node, &gate, &image).await.unwrap_err();
    assert!(gate.crivet.log().contains("mode 0666"), "{}", gate.crivet.log());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    gate.reload().await;
    created(&node, &gate, &image).await.unwrap();
}

#[tokio::test]
async fn a_provider_is_asked_as_the_kubelet_does_and_its_answer_is_kept_for_its_registry() {
    let (node, image) = private().await;
    let other = node.push_signed("team/other", "1", "other");
    node.runtime.preloaded(&node.named("team/other:1"), &other);
    let script = format!(
        "[ \"$1\" = --for -a \"$2\" = us -a \"$REGION\" = here -a -z \"$RUST_LOG\" ] || exit 7\n{}",
        says(&node, LOGIN, "Registry")
    );
    let more = "  args: [--for, us]\n  env: [{name: REGION, value: here}]\n";
    let gate = with(&node, &provider(&node, &script, more)).await;
    created(&node, &gate, &image).await.unwrap();
    assert!(allowed(&gate.create(&other.id(), &node.named("team/other:1")).await));
    let question = json!({"kind": "CredentialProviderRequest",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "image": node.named("team/app")});
    assert_eq!(runs(&node), [question]);
}

#[tokio::test]
async fn a_provider_is_not_run_for_what_is_public() {
    let (node, image) = private().await;
    node.registry.well();
    let script = says(&node, LOGIN, "Registry");
    let gate = with(&node, &provider(&node, &script, "")).await;
    created(&node, &gate, &image).await.unwrap();
    assert!(runs(&node).is_empty());
}

#[tokio::test]
async fn a_provider_that_fails_leaves_it_undecided_and_says_so() {
    for (script, private, expected) in [
        (
            "echo correct-horse >&2; exit 3",
            Private::Refuses,
            "credential provider of-test: it ended with exit status: 3",
        ),
        (
            "echo correct-horse",
            Private::Refuses,
            "credential provider of-test: expected a CredentialProviderResponse",
        ),
        // Nobody is told that it is not there: that is no "unsigned".
        ("exit 3", Private::Hides, "credential provider of-test: it ended with exit status: 3"),
    ] {
        let (node, image) = self::private().await;
        wants(&node, LOGIN, private);
        let gate = with(&node, &provider(&node, script, "")).await;
        let text = created(&node, &gate, &image).await.unwrap_err();
        assert!(text.starts_with(UNDECIDED) && text.contains(expected), "{script}: {text}");
        assert!(!text.contains("horse") && !gate.crivet.log().contains("horse"), "{text}");
        // Nor is it run again at once.
        created(&node, &gate, &image).await.unwrap_err();
        assert_eq!(runs(&node).len(), 1);
    }
}

#[tokio::test]
async fn a_provider_that_wants_the_pod_s_token_is_not_run_and_says_so() {
    let (node, image) = private().await;
    let more = "  tokenAttributes: {serviceAccountTokenAudience: a, cacheType: Token, requireServiceAccount: true}\n";
    let script = says(&node, LOGIN, "Registry");
    let gate = with(&node, &provider(&node, &script, more)).await;
    let text = created(&node, &gate, &image).await.unwrap_err();
    assert!(text.starts_with(UNDECIDED) && text.contains("a token of the pod's service account"), "{text}");
    assert!(runs(&node).is_empty());
}

#[tokio::test]
async fn a_provider_s_program_that_others_can_write_is_not_run() {
    let (node, image) = private().await;
    let script = says(&node, LOGIN, "Registry");
    let lines = provider(&node, &script, "");
    let program = node.place.path().join("providers/of-test");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o775)).unwrap();
    let gate = with(&node, &lines).await;
    let text = created(&node, &gate, &image).await.unwrap_err();
    assert!(text.contains("mode 0775"), "{text}");
    assert!(runs(&node).is_empty());
}

#[tokio::test]
async fn a_provider_s_refused_login_is_followed_by_the_docker_config_s_and_the_other_way_round() {
    let (node, image) = private().await;
    let file = docker_config(&node, "config.json", &auth("node:wrong-staple"));
    let lines = provider(&node, &says(&node, LOGIN, "Global"), "");
    let gate = with(&node, &format!("dockerConfigs: [{file}], {lines}")).await;
    created(&node, &gate, &image).await.unwrap();
    let held = create("prod", &image.id(), &node.named("team/app:1")).encode_to_vec();
    assert!(allowed(&gate.client.call(CREATE, &held).await));
}

#[tokio::test]
async fn a_vetter_that_is_killed_takes_its_provider_along() {
    let (node, image) = private().await;
    let file = node.place.path().join("pid");
    let gate =
        with(&node, &provider(&node, &format!("echo $$ > {}\nexec sleep 1000", file.display()), "")).await;
    let name = node.named("team/app:1");
    let pid = || fs::read_to_string(&file).ok().filter(|pid| pid.ends_with('\n'));
    let kill = async {
        until("the provider runs", 20, || pid().is_some()).await;
        gate.signal_vetter("KILL");
        let process = format!("/proc/{}/stat", pid().unwrap().trim());
        let ended = || fs::read_to_string(&process).map_or(true, |stat| stat.contains(") Z "));
        until("the provider's end", 10, ended).await;
    };
    let (created, ()) = futures_util::future::join(gate.create(&image.id(), &name), kill).await;
    assert!(refusal(&created).starts_with(UNDECIDED), "{created:?}");
}
