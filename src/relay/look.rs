//! The look after a create: containerd makes a container from what a *name* points at by then, not from the ID
//! it was given. The snapshot under the finished container tells the truth. CRI-O up to 1.32 does not hold layers to the
//! config that names them; its store says which are under the container.

use std::sync::Arc;

use super::Relay;
use super::ask::Refusal;
use crate::audit::Reason;
use crate::cri::bound::{self, Against};
use crate::cri::facts::Handler;
use crate::cri::methods::Vetted;
use crate::cri::runtime::RuntimeError;

/// Holds a new container or sandbox to the chain ID of the vetted image's layers.
///
/// # Errors
/// It stands on others, on what is not bound to any, or cannot be looked at.
pub async fn look(relay: &Relay, id: &str, chain_id: &str) -> Result<(), Refusal> {
    let under = relay.runtime.layers_under(id).await.map_err(|error| {
        let text = format!("what the new container stands on cannot be looked at ({error}); crivet needs containerd's own services on its socket, or CRI-O's store");
        Refusal::own(&text, Reason::ContentDiffers)
    })?;
    let allowed = Arc::clone(&relay.live.borrow().allowed);
    bound::is_bound(&under, &allowed).map_err(|text| Refusal::own(&text, Reason::ContentUnbound))?;
    if under.chain_id == chain_id {
        return Ok(());
    }
    // containerd resolves an ID to a name, and the name may have moved (seen: 5 of 208).
    let text = format!(
        "the runtime made the container on layers {} instead of the vetted image's {chain_id}; the image's name moved meanwhile, try again",
        if under.chain_id.is_empty() { "(none)" } else { &under.chain_id }
    );
    Err(Refusal::own(&text, Reason::ContentDiffers))
}

/// Whether what is made can be looked at afterwards. Where it cannot, nothing is to be made.
///
/// # Errors
/// A CRI-O does not say where its store is.
pub async fn possible(relay: &Relay) -> Result<(), Refusal> {
    match relay.runtime.content().await {
        Err(RuntimeError::Store(why)) => {
            let text = format!("nothing is made that cannot be looked at afterwards: CRI-O's store: {why}");
            Err(Refusal::own(&text, Reason::Runtime))
        }
        // A runtime that does not answer will not make anything either.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether what is made by this handler is known beforehand to run what is looked at afterwards: a guest that pulls by itself stands on the
/// vetted layers, too.
///
/// # Errors
/// It need not, or it is not known.
pub async fn handler(relay: &Relay, handler: Option<&Handler>) -> Result<(), Refusal> {
    let Some(handler) = handler else { return Ok(()) };
    let allowed = Arc::clone(&relay.live.borrow().allowed);
    bound::handler_is_bound(&relay.runtime, handler, &allowed).await.map_err(|against| match against {
        Against::Unbound(text) => Refusal::own(&text, Reason::ContentUnbound),
        Against::Unknown(error) => {
            let text = format!(
                "whether the runtime runs what was vetted, or pulls by itself, is not known: {error}"
            );
            Refusal::own(&text, Reason::Runtime)
        }
    })
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
