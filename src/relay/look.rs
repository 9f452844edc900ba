//! The look after a create: containerd makes a container from what a *name* points at by then, not from the ID
//! it was given. The snapshot under the finished container tells the truth.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Relay;
use super::ask::Refusal;
use crate::audit::Reason;
use crate::cri::methods::Vetted;

/// Holds a new container or sandbox to the chain ID of the vetted image's layers.
///
/// # Errors
/// What is wrong, one deterministic line.
pub async fn look(relay: &Relay, id: &str, chain_id: &str) -> Result<(), String> {
    let snapshot = relay.runtime.container_snapshot(id).await.map_err(|error| {
        format!("what the new container stands on cannot be looked at ({error}); containerd's own services must be reachable on its socket")
    })?;
    if snapshot.parent == chain_id {
        return Ok(());
    }
    // containerd resolves an ID to a name, and the name may have moved (seen: 5 of 208).
    Err(format!(
        "the runtime made the container on layers {} instead of the vetted image's {chain_id}; the image's name moved meanwhile, try again",
        if snapshot.parent.is_empty() { "(none)" } else { &snapshot.parent }
    ))
}

/// Why nothing is made that could not be looked at afterwards.
pub const IMPOSSIBLE: &str = "the runtime is CRI-O, whose containers this crivet cannot look at after they were made, so enforce mode makes none that need a proof; stay in mode: audit";

/// How long the runtime's name is believed.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// Whether containers of this runtime can be looked at.
#[derive(Default)]
pub struct Looks {
    is_crio: Mutex<Option<(bool, Instant)>>,
}

/// Whether what is made can be looked at afterwards: CRI-O has no services to ask. Where it cannot, nothing is to be made.
pub async fn possible(relay: &Relay) -> Result<(), Refusal> {
    let known = *relay.looks.is_crio.lock().unwrap_or_else(PoisonError::into_inner);
    let believed = known.filter(|(_, since)| since.elapsed() < BELIEVED_FOR).map(|(is_crio, _)| is_crio);
    let is_crio = match believed {
        Some(is_crio) => is_crio,
        // A runtime that does not answer will not make anything either.
        None => {
            let Ok(version) = relay.runtime.version().await else { return Ok(()) };
            let is_crio = version.runtime_name == "cri-o";
            *relay.looks.is_crio.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((is_crio, Instant::now()));
            is_crio
        }
    };
    match is_crio {
        true => Err(Refusal::own(IMPOSSIBLE, Reason::Runtime)),
        false => Ok(()),
    }
}

/// Removes what was made and must not be.
pub async fn remove(relay: &Relay, vetted: Vetted, id: &str, refusal: &Refusal) {
    let removed = match vetted {
        Vetted::RunPodSandbox => relay.runtime.remove_sandbox(id).await,
        _ => relay.runtime.remove_container(id).await,
    };
    if let Err(error) = removed {
        tracing::error!(id, %error, "what must not be there could not be removed");
    }
    tracing::warn!(id, reason = %refusal.reply.message, "removed what was made and must not be");
}
