//! Where the chain ID under a container says what runs in it.
//!
//! A chain ID is a name that a snapshotter gave. It says what is in the snapshot if the layers were unpacked into it and hashed meanwhile, as
//! containerd does for the snapshotters below. A lazy one (stargz, SOCI, Nydus, overlaybd, GKE's image streaming) is told the
//! chain ID and fetches files when they are read: another manifest can have filled it. And a runtime may take the snapshot for a
//! hint and pull the image in its guest by itself (Kata), or run a module out of it. Neither says so to anybody, so those are known that do not.

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

/// What stands against making another container like this one, which is there already; one that is gone by now tells nothing.
pub async fn against(runtime: &RuntimeClient, id: &str, allowed: &InsecureAllowed) -> Option<String> {
    match runtime.layers_under(id).await {
        Ok(under) => is_bound(&under, allowed).err(),
        Err(RuntimeError::NotFound(_)) => None,
        Err(error) => {
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
