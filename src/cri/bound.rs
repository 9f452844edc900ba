//! Where the chain ID under a container says what runs in it.
//!
//! A chain ID is a name that a snapshotter gave. It says what is in the snapshot if the layers were unpacked into it and hashed meanwhile, as
//! containerd does for the snapshotters below. A lazy one (stargz, SOCI, Nydus, overlaybd, GKE's image streaming) is told the
//! chain ID and fetches files when they are read: another manifest can have filled it. And a runtime may take the snapshot for a
//! hint and pull the image in its guest by itself (Kata), or run a module out of it. Neither says so to anybody, so those are known that do not.
//!
//! CRI-O's store says which layers were pulled in part. Which of its runtimes pull by themselves its configuration says, so that is asked before
//! anything is made.

use super::facts::Handler;
use super::runtime::{RuntimeClient, RuntimeError, Under};
use crate::config::InsecureAllowed;

/// containerd's own and fuse-overlayfs: each layer is unpacked whole, by containerd, which holds it to the diff ID.
const SNAPSHOTTERS: &[&str] =
    &["blockfile", "btrfs", "devmapper", "fuse-overlayfs", "native", "overlayfs", "zfs"];

/// They run the root file system that they are given: runc and what takes its place (crun, youki, NVIDIA's, sysbox), gVisor.
const RUNTIMES: &[&str] = &[
    "io.containerd.runc.v1",
    "io.containerd.runc.v2",
    "io.containerd.runsc.v1",
    "io.containerd.runtime.v1.linux",
];

/// Whether what a container stands on says what runs in it, or the configuration lets it run all the same.
///
/// # Errors
/// It does not; one line.
pub fn is_bound(under: &Under, allowed: &InsecureAllowed) -> Result<(), String> {
    let Some(made_by) = &under.made_by else { return Ok(()) };
    let known = |name: &str, bound: &[&str], allowed: &[String]| {
        bound.contains(&name) || allowed.iter().any(|allowed| allowed == name)
    };
    if !known(&made_by.snapshotter, SNAPSHOTTERS, &allowed.snapshotters) {
        return Err(format!(
            "the container is on snapshotter {:?}, where layers need not be what their image says (lazy snapshotters fetch them unchecked); expected one of {}; use one of these for the pod, or name it in insecureAllowSnapshotters",
            made_by.snapshotter,
            SNAPSHOTTERS.join(", ")
        ));
    }
    if !known(&made_by.runtime, RUNTIMES, &allowed.runtimes) {
        return Err(format!(
            "the container is for runtime {:?}, which may run something else than the image's layers (guests can pull by themselves); expected one of {}; use one of these for the pod, or name it in insecureAllowRuntimes",
            made_by.runtime,
            RUNTIMES.join(", ")
        ));
    }
    Ok(())
}

/// Why nothing is made by a handler of CRI-O's.
#[derive(Debug, PartialEq, Eq)]
pub enum Against {
    /// It may run something else than what was vetted; one line.
    Unbound(String),
    /// It is not known by which handler, or what that does.
    Unknown(RuntimeError),
}

impl From<RuntimeError> for Against {
    fn from(error: RuntimeError) -> Against {
        Against::Unknown(error)
    }
}

/// Whether what CRI-O makes by this handler runs what CRI-O unpacked, or the configuration lets it run all the same. containerd tells of a
/// container when it is made, so of that nothing is asked here.
///
/// # Errors
/// It need not, or it is not known.
pub async fn handler_is_bound(
    runtime: &RuntimeClient,
    handler: &Handler,
    allowed: &InsecureAllowed,
) -> Result<(), Against> {
    let Some(mut handlers) = runtime.handlers().await? else { return Ok(()) };
    let name = match handler {
        Handler::Named(name) => name.clone(),
        // Of most nodes nothing more is asked.
        Handler::OfSandbox(_) if handlers.are_all_bound(&allowed.runtimes) => return Ok(()),
        Handler::OfSandbox(sandbox) => runtime.handler_of(sandbox).await?,
    };
    if !handlers.has(&name) {
        // It may be new.
        handlers = runtime.handlers_anew().await?;
    }
    handlers.is_bound(&name, &allowed.runtimes).map_err(Against::Unbound)
}

/// What stands against making another container like this one, which is there already; one that is gone by now tells nothing.
pub async fn against(runtime: &RuntimeClient, id: &str, allowed: &InsecureAllowed) -> Option<String> {
    let looked = async {
        let under = runtime.layers_under(id).await?;
        is_bound(&under, allowed).map_err(Against::Unbound)?;
        match runtime.handlers().await? {
            Some(handlers) if !handlers.are_all_bound(&allowed.runtimes) => {
                let sandbox = runtime.sandbox_of(id).await?;
                handler_is_bound(runtime, &Handler::OfSandbox(sandbox), allowed).await
            }
            Some(_) | None => Ok(()),
        }
    };
    match looked.await {
        Ok(()) | Err(Against::Unknown(RuntimeError::NotFound(_))) => None,
        Err(Against::Unbound(text)) => Some(text),
        Err(Against::Unknown(error)) => {
            Some(format!("what it stands on cannot be looked at ({error}); see that the runtime answers"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::runtime::MadeBy;

    fn is_bound_by(snapshotter: &str, runtime: &str, allowed: &InsecureAllowed) -> Result<(), String> {
        let made_by = MadeBy { snapshotter: snapshotter.to_owned(), runtime: runtime.to_owned() };
        is_bound(&Under { chain_id: String::new(), made_by: Some(made_by) }, allowed)
    }

    #[test]
    fn what_is_not_known_to_bind_is_named_and_needs_a_word_of_its_own() {
        let (runc, none) = ("io.containerd.runc.v2", InsecureAllowed::default());
        assert_eq!(is_bound_by("overlayfs", runc, &none), Ok(()));
        for (snapshotter, runtime, named, key) in [
            ("stargz", runc, "\"stargz\"", "insecureAllowSnapshotters"),
            ("", runc, "\"\"", "insecureAllowSnapshotters"),
            ("overlayfs", "io.containerd.kata.v2", "\"io.containerd.kata.v2\"", "insecureAllowRuntimes"),
            ("overlayfs", "", "\"\"", "insecureAllowRuntimes"),
        ] {
            let text = is_bound_by(snapshotter, runtime, &none).unwrap_err();
            assert!(text.contains(named) && text.contains(key), "{text}");
        }
        let stargz = InsecureAllowed { snapshotters: vec!["stargz".to_owned()], ..Default::default() };
        assert_eq!(is_bound_by("stargz", runc, &stargz), Ok(()));
        assert!(is_bound_by("nydus", runc, &stargz).is_err());
        // One is not the other.
        assert!(is_bound_by("stargz", "stargz", &stargz).is_err());
    }
}
