//! Requests to one repository, as one caller: the one way from vetting to the network.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::background::{Background, Guest};
use super::trouble::Trouble;
use crate::image::{Digest, Reference};
use crate::registry::{Cap, Client, Credential, FetchError, Fetched, Referrers};
use crate::telemetry::{Role, Span, Trace};

/// Whom to ask, as whom, and until when.
#[derive(Clone)]
pub struct Visit {
    /// Speaks to the registry.
    pub registry: Arc<Client>,
    /// The repository.
    pub repository: Reference,
    /// Shown to the registry.
    pub credential: Credential,
    /// Told of every 429, also of a live vetting's.
    pub background: Arc<Background>,
    /// Where the spans of its requests go.
    pub trace: Trace,
    /// Set where nobody waits.
    pub guest: Option<Guest>,
    /// Everything is over then.
    pub by: Instant,
}

impl Visit {
    /// What a tag points at, as the registry claims it.
    pub async fn head(&self, tag: &str) -> Result<Digest, Trouble> {
        let span = self.turn("HEAD manifest", tag).await?;
        self.told(span, self.registry.head(&self.repository, tag, &self.credential, self.by).await)
    }

    /// The manifest a tag points at.
    pub async fn manifest_by_tag(&self, tag: &str) -> Result<Fetched, Trouble> {
        let span = self.turn("GET manifest", tag).await?;
        let manifest = self.registry.manifest_by_tag(&self.repository, tag, &self.credential, self.by).await;
        self.told(span, manifest)
    }

    /// As [`Visit::head`], for a tag that holds signatures or attestations: any host that serves the image is asked.
    pub async fn evidence_head(&self, tag: &str) -> Result<Digest, Trouble> {
        let span = self.turn("HEAD manifest", tag).await?;
        let head = self.registry.evidence_head(&self.repository, tag, &self.credential, self.by).await;
        self.told(span, head)
    }

    /// As [`Visit::manifest_by_tag`], for such a tag.
    pub async fn evidence_by_tag(&self, tag: &str) -> Result<Fetched, Trouble> {
        let span = self.turn("GET manifest", tag).await?;
        let manifest = self.registry.evidence_by_tag(&self.repository, tag, &self.credential, self.by).await;
        self.told(span, manifest)
    }

    /// What refers to a digest. A guest is counted one request, however many pages there are.
    pub async fn referrers(&self, digest: &Digest) -> Result<Referrers, Trouble> {
        let span = self.turn("GET referrers", &digest.to_string()).await?;
        let (repository, credential) = (&self.repository, &self.credential);
        let found =
            self.registry.referrers(repository, digest, self.guest.is_some(), credential, self.by).await;
        self.told(span, found)
    }

    /// The manifest with this digest.
    pub async fn manifest(&self, digest: &Digest) -> Result<Bytes, Trouble> {
        let span = self.turn("GET manifest", &digest.to_string()).await?;
        let manifest = self.registry.manifest(&self.repository, digest, &self.credential, self.by).await;
        self.told(span, manifest).map(|manifest| manifest.bytes)
    }

    /// The blob with this digest.
    pub async fn blob(&self, digest: &Digest, cap: Cap) -> Result<Bytes, Trouble> {
        let span = self.turn("GET blob", &digest.to_string()).await?;
        self.told(span, self.registry.blob(&self.repository, digest, cap, &self.credential, self.by).await)
    }

    /// Waits for its turn, where nobody waits; then the request begins.
    async fn turn(&self, name: &str, what: &str) -> Result<Span, Trouble> {
        if let Some(guest) = &self.guest {
            guest.turn(self.by).await?;
        }
        let mut span = self.trace.span(name, Role::Client);
        span.set("server.address", self.repository.registry());
        span.set("crivet.repository", self.repository.repository());
        span.set("crivet.what", what);
        Ok(span)
    }

    fn told<T>(&self, mut span: Span, answer: Result<T, FetchError>) -> Result<T, Trouble> {
        if let Err(error) = &answer {
            span.failed(&error.to_string());
            self.background.told(self.repository.registry(), error, Instant::now());
        }
        Ok(answer?)
    }
}
