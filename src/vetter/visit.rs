//! Requests to one repository, as one caller: the one way from vetting to the network.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::background::{Background, Guest};
use super::trouble::Trouble;
use crate::image::{Digest, Reference};
use crate::registry::{Cap, Client, Credential, FetchError, Fetched};

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
    /// Set where nobody waits.
    pub guest: Option<Guest>,
    /// Everything is over then.
    pub by: Instant,
}

impl Visit {
    /// What a tag points at, as the registry claims it.
    pub async fn head(&self, tag: &str) -> Result<Digest, Trouble> {
        self.turn().await?;
        self.told(self.registry.head(&self.repository, tag, &self.credential, self.by).await)
    }

    /// The manifest a tag points at.
    pub async fn manifest_by_tag(&self, tag: &str) -> Result<Fetched, Trouble> {
        self.turn().await?;
        self.told(self.registry.manifest_by_tag(&self.repository, tag, &self.credential, self.by).await)
    }

    /// The manifest with this digest.
    pub async fn manifest(&self, digest: &Digest) -> Result<Bytes, Trouble> {
        self.turn().await?;
        let manifest = self.registry.manifest(&self.repository, digest, &self.credential, self.by).await;
        self.told(manifest).map(|manifest| manifest.bytes)
    }

    /// The blob with this digest.
    pub async fn blob(&self, digest: &Digest, cap: Cap) -> Result<Bytes, Trouble> {
        self.turn().await?;
        self.told(self.registry.blob(&self.repository, digest, cap, &self.credential, self.by).await)
    }

    async fn turn(&self) -> Result<(), Trouble> {
        match &self.guest {
            Some(guest) => guest.turn(self.by).await,
            None => Ok(()),
        }
    }

    fn told<T>(&self, answer: Result<T, FetchError>) -> Result<T, Trouble> {
        if let Err(error) = &answer {
            self.background.told(self.repository.registry(), error, Instant::now());
        }
        Ok(answer?)
    }
}
