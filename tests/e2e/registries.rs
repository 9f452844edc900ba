//! The kinds of registries that nodes pull from, as the other tests rely on them: what makes each of them different.

use crate::support::cosign::{Cosign, Version};
use crate::support::fixture::{self, Case};
use crate::support::measured::run;
use crate::support::olareg::Olareg;
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use crate::support::secured::{Secured, file};
use crate::support::tokens::TokenServer;
use crate::support::{http, measured};
use serde_json::Value;

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

fn verify(peers: &Peers, case: &Case, registry: &str, more: &[&str]) -> measured::Ended {
    let key = case.dir.join("cosign.pub").display().to_string();
    let mut arguments = vec!["verify", "--insecure-ignore-tlog", "--key", key.as_str()];
    arguments.extend(more);
    let image = fixture::reference(case, registry);
    arguments.push(&image);
    let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
    run(&peers.program("cosign3"), &arguments, &[("HOME", peers.path().join("cosign").display().to_string())])
}

#[test]
fn olareg_lists_referrers_and_needs_no_fallback_tag() {
    let Some(peers) = Peers::get() else { return };
    let registry = Olareg::start(&peers, None);
    let mut case = Case::load("key-none-bundle");
    case.stored.retain(|stored| !stored.file.starts_with("fallback"));
    fixture::push(&case, registry.address());
    let target = format!("/v2/{}/referrers/{}", case.repository(), case.digest);
    let reply = http::request(registry.address(), "GET", &target, &[], &[]).unwrap();
    let index: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((reply.status, index["manifests"].as_array().unwrap().len()), (200, 1), "{index}");
    assert_eq!(index["manifests"][0]["artifactType"], BUNDLE);
    let ended = verify(&peers, &case, registry.address(), &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
}

#[test]
fn olareg_lists_referrers_page_by_page() {
    let Some(peers) = Peers::get() else { return };
    // One descriptor is about 400 bytes: three do not fit.
    let registry = Olareg::start(&peers, Some(1000));
    let case = Case::load("three-signers-none-bundle");
    fixture::push(&case, registry.address());
    let mut target = format!("/v2/{}/referrers/{}", case.repository(), case.digest);
    let mut pages = Vec::new();
    loop {
        let reply = http::request(registry.address(), "GET", &target, &[], &[]).unwrap();
        let index: Value = serde_json::from_slice(&reply.body).unwrap();
        pages.push(index["manifests"].as_array().unwrap().len());
        let next =
            reply.header("link").and_then(|link| Some(link.split_once('<')?.1.split_once('>')?.0.to_owned()));
        let Some(next) = next else { break };
        target = next;
    }
    assert!(pages.len() > 1 && pages.iter().sum::<usize>() == 3, "{pages:?}");
}

#[test]
fn docker_registry_has_no_referrers_api() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let case = Case::load("key-none-bundle");
    fixture::push(&case, registry.address());
    let target = format!("/v2/{}/referrers/{}", case.repository(), case.digest);
    let reply = http::request(registry.address(), "GET", &target, &[], &[]).unwrap();
    assert_eq!(reply.status, 404);
}

#[test]
fn a_registry_with_tokens_lets_nobody_in_without_one() {
    let Some(peers) = Peers::get() else { return };
    let content = Registry::start(&peers);
    let tokens = TokenServer::start("robot", "hunter2");
    let registry = Secured::with_tokens(&peers, &content, &tokens);
    let case = Case::load("key-none-legacy");
    fixture::push(&case, content.address());
    let ca = file("ca.crt").display().to_string();
    let with_ca = ["--registry-cacert", ca.as_str()];

    let stranger = verify(&peers, &case, registry.address(), &with_ca);
    assert_ne!(stranger.code, Some(0), "{}", stranger.said);
    assert!(
        !tokens.asked().is_empty() && tokens.asked().iter().all(|asked| !asked.granted),
        "{:?}",
        tokens.asked()
    );

    let cosign = Cosign::new(&peers, Version::V2);
    cosign.log_in(registry.address(), "robot:hunter2");
    let ended = verify(&peers, &case, registry.address(), &with_ca);
    assert_eq!(ended.code, Some(0), "{}{}", ended.said, registry.log());
    let scope = format!("repository:{}:pull", case.repository());
    assert!(
        tokens.asked().iter().any(|asked| asked.granted && asked.scopes == [scope.as_str()]),
        "{:?}",
        tokens.asked()
    );

    let blind = verify(&peers, &case, registry.address(), &[]);
    assert_ne!(blind.code, Some(0), "{}", blind.said);
}

#[test]
fn a_registry_with_client_certificates_lets_nobody_in_without_one() {
    let Some(peers) = Peers::get() else { return };
    let content = Registry::start(&peers);
    let registry = Secured::with_client_certificates(&peers, &content);
    let case = Case::load("key-none-legacy");
    fixture::push(&case, content.address());
    let [ca, certificate, key] =
        ["ca.crt", "client.crt", "client.key"].map(|name| file(name).display().to_string());
    let stranger = verify(&peers, &case, registry.address(), &["--registry-cacert", &ca]);
    assert_ne!(stranger.code, Some(0), "{}", stranger.said);
    let shown =
        ["--registry-cacert", &ca, "--registry-client-cert", &certificate, "--registry-client-key", &key];
    let ended = verify(&peers, &case, registry.address(), &shown);
    assert_eq!(ended.code, Some(0), "{}{}", ended.said, registry.log());
}
