//! From a name to a digest, and from a digest to image IDs, by bytes that hash to it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::flight::Flights;
use super::layouts::Layouts;
use super::node::Node;
use super::trouble::Trouble;
use super::visit::Visit;
use crate::image::{Content, Digest, ImageId, Need, Platform, Step, Target, Tie, Walk, WalkError};
use crate::limits;
use crate::proofs::{Moment, Proofs};
use crate::registry::{Cap, Credential};
use crate::telemetry::Role;

/// Root, the ID that is looked for (a platform's images otherwise), repository, credential, and whether nobody waits:
/// a live call does not wait for a guest.
type Key = (Digest, Option<ImageId>, String, Credential, bool);

/// Walks digests to image IDs, and keeps where they led.
pub struct Identities {
    flights: Flights<Key, Result<Vec<Tie>, Trouble>>,
    proofs: Arc<Proofs>,
    host: Platform,
}

/// Where the bytes of a walk come from: the runtime's own store and the node's folders first, which need no network.
#[derive(Clone)]
pub struct Sources {
    /// The node.
    pub node: Node,
    /// The registry, and the repository in which the digest is looked for.
    pub visit: Visit,
    /// A document that was fetched already.
    pub seed: Option<Bytes>,
    /// The node's own folders.
    pub layouts: Arc<Layouts>,
}

impl Identities {
    /// Walks for images of `host`'s platform.
    pub fn new(proofs: Arc<Proofs>, host: Platform) -> Identities {
        Identities { flights: Flights::default(), proofs, host }
    }

    /// What `root` is on this node's platform.
    pub async fn on_this_platform(
        &self,
        root: Digest,
        sources: Sources,
        deadline: Instant,
    ) -> Result<Vec<Tie>, Trouble> {
        let known = self.proofs.ties_of_root(&root);
        if !known.is_empty() {
            return Ok(known);
        }
        self.walk(root, None, sources, deadline).await
    }

    /// The tie between `root` and `id`.
    pub async fn of_id(
        &self,
        root: Digest,
        id: ImageId,
        sources: Sources,
        deadline: Instant,
    ) -> Result<Tie, Trouble> {
        let known = self.proofs.ties_of_root(&root);
        if let Some(tie) = known.into_iter().find(|tie| tie.id() == id) {
            return Ok(tie);
        }
        let ties = self.walk(root, Some(id), sources, deadline).await?;
        let tie = ties.into_iter().find(|tie| tie.id() == id);
        tie.ok_or(Trouble::Walk(WalkError::NoSuchId { id, root, tried: 0 }))
    }

    async fn walk(
        &self,
        root: Digest,
        id: Option<ImageId>,
        sources: Sources,
        deadline: Instant,
    ) -> Result<Vec<Tie>, Trouble> {
        let target = match id {
            Some(id) => Target::Id { id, host: self.host.clone() },
            None => Target::Platform(self.host.clone()),
        };
        let visit = &sources.visit;
        let key = (root, id, visit.repository.repo_name(), visit.credential.clone(), visit.guest.is_some());
        let proofs = Arc::clone(&self.proofs);
        let mut sources = sources;
        let work = async move {
            let mut span = sources.visit.trace.span("walk from digest to image ID", Role::Internal);
            span.set("crivet.digest", &root.to_string());
            sources.visit.trace = span.below();
            let ties = walk(Walk::new(root, target), sources)
                .await
                .inspect_err(|why| span.failed(&why.to_string()))?;
            proofs.keep_ties(&ties, Moment::now());
            Ok(ties)
        };
        self.flights.join(key, deadline, work).await.unwrap_or(Err(Trouble::Late))
    }
}

async fn walk(mut walk: Walk, mut sources: Sources) -> Result<Vec<Tie>, Trouble> {
    let mut steps = 0;
    loop {
        let need = match walk.next() {
            Step::Done(ties) => return Ok(ties),
            Step::Need(need) => need,
        };
        steps += 1;
        debug_assert!(steps <= 2 * limits::WALK_CHILDREN + 2);
        if let Some(bytes) = sources.at_hand(&need).await {
            match walk.give(&bytes) {
                Ok(()) => continue,
                // Altered in the runtime's store, or another document at hand: the registry may have it whole.
                Err(WalkError::Hash { expected, found }) => {
                    tracing::debug!(%expected, %found, "content at hand is not what was needed");
                }
                Err(error) => return Err(error.into()),
            }
        }
        walk.give(&sources.fetch(&need).await?)?;
    }
}

impl Sources {
    async fn at_hand(&mut self, need: &Need) -> Option<Bytes> {
        match self.seed.take() {
            Some(seed) => Some(seed),
            None => {
                let in_store = self.node.content(&need.digest, need.cap).await;
                in_store.or_else(|| self.layouts.document(&need.digest))
            }
        }
    }

    async fn fetch(&self, need: &Need) -> Result<Bytes, Trouble> {
        match need.what {
            Content::Manifest => self.visit.manifest(&need.digest).await,
            Content::Config => self.visit.blob(&need.digest, Cap::CONFIG).await,
        }
    }
}
