//! What is below a snapshot of containerd's, remembered: a policy that asks for checks of layers asks for it at each create, and an
//! image may have a hundred layers.
//!
//! What is known is tied to one snapshot, by name and by when it was made. containerd removes no snapshot that another stands on. So as
//! long as it has that one, what was seen below it while it was there is there still, and is the same.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::cri::runtime::unpacked::Snapshot;
use crate::cri::runtime::{RuntimeClient, RuntimeError};
use crate::limits;

/// What is known.
#[derive(Default)]
pub struct Stacks(Mutex<HashMap<Of, Snapshot>>);

/// A snapshot.
#[derive(PartialEq, Eq, Hash)]
struct Of {
    snapshotter: String,
    key: String,
    created: String,
}

impl Stacks {
    /// The snapshot below one that the runtime has just told of, or that was found so.
    ///
    /// # Errors
    /// The runtime does not tell.
    pub async fn below(
        &self,
        runtime: &RuntimeClient,
        snapshotter: &str,
        key: &str,
        snapshot: &Snapshot,
    ) -> Result<Snapshot, RuntimeError> {
        let created = snapshot.created.clone();
        let of = Of { snapshotter: snapshotter.to_owned(), key: key.to_owned(), created };
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&of) {
            return Ok(known.clone());
        }
        let below = runtime.snapshot(snapshotter, &snapshot.parent).await?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= limits::CONTENT_STACKS {
            known.clear();
        }
        known.insert(of, below.clone());
        Ok(below)
    }
}
