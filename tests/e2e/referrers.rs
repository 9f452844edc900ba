//! crivet's lists of referrers, from real registries with and without the API.

use crate::support::fixture::{self, Case};
use crate::support::olareg::Olareg;
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use crivet::image::{Digest, Reference};
use crivet::registry::{Client, Credential, HostFiles, ProxySettings, Referrers, Settings};
use std::sync::Arc;
use std::time::Duration;

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// The list, and how many requests it took.
fn list(case: &Case, registry: &str) -> (Referrers, u64) {
    let settings = Settings {
        plain_http: Vec::new(),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(20),
        max_concurrent_per_host: 4,
        user_agent: "crivet/e2e".to_owned(),
        hosts: HostFiles::None,
        proxies: ProxySettings::default(),
    };
    let client = Client::new(&settings, Arc::new(|_| {})).unwrap();
    let repository = Reference::parse(&fixture::reference(case, registry)).unwrap();
    let digest = Digest::parse(&case.digest).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (none, by) = (Credential::Anonymous, tokio::time::Instant::now() + Duration::from_secs(30));
        let listed = client.referrers(&repository, &digest, false, &none, by).await.unwrap();
        let requests = client.requests();
        for found in &listed.found {
            let manifest = client.manifest(&repository, &found.digest, &none, by).await.unwrap();
            let manifest: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
            assert_eq!(manifest["subject"]["digest"], case.digest, "{manifest}");
        }
        (listed, requests)
    })
}

#[test]
fn signatures_that_cosign_stored_are_listed_by_the_api_page_by_page() {
    let Some(peers) = Peers::get() else { return };
    let case = Case::load("three-signers-none-bundle");
    for (page, pages) in [(None, 1), (Some(1000), 2)] {
        let registry = Olareg::start(&peers, page);
        fixture::push(&case, registry.address());
        let (listed, requests) = list(&case, registry.address());
        assert_eq!((listed.found.len(), listed.incomplete.is_none()), (3, true));
        assert!(listed.found.iter().all(|found| found.artifact_type.as_deref() == Some(BUNDLE)));
        assert_eq!(requests, pages, "{page:?}");
    }
}

#[test]
fn signatures_that_cosign_stored_are_listed_by_the_fallback_tag() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let case = Case::load("three-signers-none-bundle");
    fixture::push(&case, registry.address());
    let (listed, requests) = list(&case, registry.address());
    assert_eq!((listed.found.len(), listed.incomplete.is_none()), (3, true));
    assert_eq!(requests, 2);

    let unsigned = Case::load("unsigned");
    fixture::push(&unsigned, registry.address());
    let (none, _) = list(&unsigned, registry.address());
    assert!(none.found.is_empty() && none.incomplete.is_none());
}
