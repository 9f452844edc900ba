//! The registry client against a registry that misbehaves, and against a real one.

mod body;
pub mod fake;
mod login;
mod mirrors;
mod provider;
mod proxies;
mod real;
mod redirect;
mod referrers;
mod status;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crivet::image::{Digest, Reference};
use crivet::registry::{Cause, Client, Credential, FetchError, HostFiles, Outcome, ProxySettings, Settings};
use fake::{Fake, Reply, Seen, reply};
use tokio::time::Instant;

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn settings() -> Settings {
    Settings {
        plain_http: Vec::new(),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(20),
        max_concurrent_per_host: 4,
        user_agent: "crivet/test".to_owned(),
        hosts: HostFiles::None,
        proxies: ProxySettings::default(),
    }
}

fn client() -> Client {
    Client::new(&settings(), Arc::new(|_| {})).unwrap()
}

/// A client and the outcomes it reports.
fn observed() -> (Client, Arc<Mutex<Vec<Outcome>>>) {
    observed_with(&settings())
}

fn observed_with(settings: &Settings) -> (Client, Arc<Mutex<Vec<Outcome>>>) {
    let outcomes: Arc<Mutex<Vec<Outcome>>> = Arc::default();
    let log = Arc::clone(&outcomes);
    let client = Client::new(settings, Arc::new(move |o| log.lock().unwrap().push(o))).unwrap();
    (client, outcomes)
}

fn repo(fake: &Fake) -> Reference {
    Reference::parse(&format!("{}/team/app:v1", fake.host())).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(15)
}

fn good_manifest() -> Reply {
    let digest = Digest::of(MANIFEST.as_bytes()).to_string();
    reply(200, &[("content-type", OCI_MANIFEST), ("docker-content-digest", &digest)], MANIFEST)
}

async fn by_tag(client: &Client, fake: &Fake, credential: &Credential) -> Result<Digest, FetchError> {
    client.manifest_by_tag(&repo(fake), "v1", credential, soon()).await.map(|m| m.digest)
}

/// Why a fresh client's anonymous fetch of tag v1 fails.
async fn cause(fake: &Fake) -> Cause {
    by_tag(&client(), fake, &Credential::Anonymous).await.unwrap_err().cause
}

async fn serving(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Fake {
    Fake::new(answer).await
}
