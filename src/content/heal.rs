//! Removing what was found altered, so that the next pull fetches it and unpacks it anew.

use std::collections::{BTreeMap, BTreeSet};

use super::check::OVERLAYFS;
use super::report::Report;
use super::{Image, Outcome};
use crate::control::Control;
use crate::cri::runtime::unpacked::Snapshot;
use crate::cri::runtime::{RuntimeClient, RuntimeError};

/// What became of an image that is altered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healed {
    /// What people know it by.
    pub name: String,
    /// Its ID.
    pub id: String,
    /// Why it is not removed, or its layers are still there; empty: they are gone.
    pub kept: String,
}

/// Removes the images that a check found altered, those on whose altered layers nothing stands that runs or has run.
///
/// # Errors
/// The runtime does not say what stands on what.
pub async fn heal(
    runtime: &RuntimeClient,
    control: &mut Control,
    report: &Report,
) -> Result<Vec<Healed>, RuntimeError> {
    let is_altered = |image: &&Image| matches!(image.outcome(), Outcome::Altered(_));
    let users = users(runtime).await?;
    let snapshots = runtime.snapshots(OVERLAYFS).await?;
    let mut healed = Vec::new();
    for image in report.images.iter().filter(is_altered) {
        let kept = match keeps(image, &snapshots, &users) {
            Some(why) => why,
            None => remove(runtime, control, image).await.err().unwrap_or_default(),
        };
        healed.push(Healed { name: image.name().to_owned(), id: image.id.clone(), kept });
    }
    // Only now: what two images share goes with the second.
    let left = runtime.snapshots(OVERLAYFS).await?;
    for (healed, image) in healed.iter_mut().zip(report.images.iter().filter(is_altered)) {
        let same = |chain: &&String| {
            let created = |all: &Snapshots| all.get(*chain).map(|snapshot| snapshot.created.clone());
            created(&left).is_some_and(|left| created(&snapshots) == Some(left))
        };
        if let (true, Some(chain)) = (healed.kept.is_empty(), altered(image).iter().find(same)) {
            healed.kept = format!("it was removed, and the runtime still keeps its layer {chain}");
        }
    }
    Ok(healed)
}

/// What `--heal` comes to on CRI-O. The kubelets of its versions up to 1.34 name an image that they make a container of by a digest and not by its ID, so creates of
/// what was removed would not be known for what they are: see [`crate::relay::healed`].
pub fn not_healed(report: &Report) -> Vec<Healed> {
    let altered = report.images.iter().filter(|image| matches!(image.outcome(), Outcome::Altered(_)));
    let healed = altered.map(|image| Healed {
        name: image.name().to_owned(),
        id: image.id.clone(),
        kept: "crivet removes no images from CRI-O; drain the node, remove the image's pods (crictl rmp) and the image (crictl rmi), and check again"
            .to_owned(),
    });
    healed.collect()
}

type Snapshots = BTreeMap<String, Snapshot>;

/// The chain IDs of an image's altered layers.
fn altered(image: &Image) -> BTreeSet<String> {
    let layers = image.layers.iter().filter(|layer| matches!(layer.outcome(), Outcome::Altered(_)));
    layers.map(|layer| layer.chain_id.to_string()).collect()
}

/// Why an image cannot be removed, or its removal would mend nothing.
fn keeps(image: &Image, snapshots: &Snapshots, users: &BTreeMap<String, String>) -> Option<String> {
    let altered = altered(image);
    if altered.is_empty() {
        return Some("what stands on it is not known; remove it with all its containers by hand".to_owned());
    }
    let stands = |key: &&String| {
        let mut below = snapshots.get(*key).map(|snapshot| snapshot.parent.as_str());
        let mut steps = 0;
        while let Some(parent) = below.filter(|parent| !parent.is_empty() && steps <= crate::limits::LAYERS) {
            if altered.contains(parent) {
                return true;
            }
            (below, steps) = (snapshots.get(parent).map(|snapshot| snapshot.parent.as_str()), steps + 1);
        }
        false
    };
    let key =
        snapshots.iter().filter(|(_, snapshot)| !snapshot.committed).map(|(key, _)| key).find(stands)?;
    let user = users.get(key).cloned().unwrap_or_else(|| format!("snapshot {key}"));
    Some(format!("{user} stands on its altered layer; delete that pod, and check again"))
}

/// Containers and pod sandboxes by their IDs, which the CRI gives their snapshots for names.
async fn users(runtime: &RuntimeClient) -> Result<BTreeMap<String, String>, RuntimeError> {
    let mut pods = BTreeMap::new();
    for sandbox in runtime.pod_sandboxes().await? {
        let metadata = sandbox.metadata.unwrap_or_default();
        pods.insert(sandbox.id, format!("pod {}/{}", metadata.namespace, metadata.name));
    }
    let mut users = pods.clone();
    for container in runtime.containers().await? {
        let pod = pods.get(&container.pod_sandbox_id).map_or("a pod", String::as_str);
        let name = container.metadata.unwrap_or_default().name;
        users.insert(container.id, format!("container {name} of {pod}"));
    }
    Ok(users)
}

async fn remove(runtime: &RuntimeClient, control: &mut Control, image: &Image) -> Result<(), String> {
    control.healing(&image.id).await.map_err(|error| error.to_string())?;
    runtime.remove_image(&image.id).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Layer, Unpacked};
    use crate::image::Digest;

    fn image(name: &str, layers: &[(&[u8], bool)]) -> Image {
        let layers = layers.iter().map(|(chain, altered)| Layer {
            digest: Digest::of(chain),
            chain_id: Digest::of(chain),
            blob: Some(Outcome::Whole),
            unpacked: vec![Unpacked {
                snapshotter: OVERLAYFS.to_owned(),
                created: "1".to_owned(),
                outcome: if *altered { Outcome::Altered("x".to_owned()) } else { Outcome::Whole },
            }],
            bytes: 0,
            began: std::time::Instant::now(),
        });
        Image {
            names: vec![name.to_owned()],
            id: name.to_owned(),
            documents: Outcome::Whole,
            layers: layers.collect(),
        }
    }

    fn snapshots(all: &[(&str, &str, bool)]) -> Snapshots {
        let all = all.iter().map(|(key, parent, committed)| {
            let snapshot =
                Snapshot { parent: (*parent).to_owned(), created: "1".to_owned(), committed: *committed };
            ((*key).to_owned(), snapshot)
        });
        all.collect()
    }

    #[test]
    fn what_something_stands_on_is_kept_however_far_below() {
        let [base, top, other] = [b"base", b"top\0", b"oth\0"].map(|name| Digest::of(name).to_string());
        let all = snapshots(&[
            (&base, "", true),
            (&top, &base, true),
            (&other, &base, true),
            ("container", &top, false),
        ]);
        let users = BTreeMap::from([("container".to_owned(), "container c of pod a/b".to_owned())]);
        let kept = |image: &Image| keeps(image, &all, &users);
        let of_base = image("base", &[(b"base", true), (b"oth\0", false)]);
        assert!(kept(&of_base).is_some_and(|why| why.starts_with("container c of pod a/b stands on ")));
        assert!(kept(&image("top", &[(b"base", false), (b"top\0", true)])).is_some());
        assert_eq!(kept(&image("other", &[(b"base", false), (b"oth\0", true)])), None);
        assert!(kept(&image("none", &[])).is_some());
    }
}
