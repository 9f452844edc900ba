//! Removing what was found altered, so that the next pull fetches it and unpacks it anew.

use std::collections::BTreeMap;

use super::check::OVERLAYFS;
use super::report::Report;
use super::{Image, Outcome};
use crate::control::Control;
use crate::cri::runtime::unpacked::Snapshot;
use crate::cri::runtime::{Content, RuntimeClient, RuntimeError};

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
    let content = runtime.content().await?;
    let altered = match content {
        Content::Services => altered_snapshots,
        Content::Storage(_) => altered_folders,
    };
    let users = users(runtime).await?;
    let snapshots = snapshots_of(runtime, &content).await?;
    let mut healed = Vec::new();
    for image in report.images.iter().filter(is_altered) {
        let altered = altered(image);
        let kept = match keeps(&altered, &snapshots, &users) {
            Some(why) => why,
            None if !is_there(&altered, &snapshots) => {
                "what was altered of it was removed or unpacked anew since; check again".to_owned()
            }
            None => remove(runtime, control, &content, image).await.err().unwrap_or_default(),
        };
        healed.push(Healed { name: image.name().to_owned(), id: image.id.clone(), kept });
    }
    // Only now: what two images share goes with the second.
    let left = snapshots_of(runtime, &content).await?;
    for (healed, image) in healed.iter_mut().zip(report.images.iter().filter(is_altered)) {
        let same = |chain: &&String| {
            let created = |all: &Snapshots| all.get(*chain).map(|snapshot| snapshot.created.clone());
            created(&left).is_some_and(|left| created(&snapshots) == Some(left))
        };
        if let (true, Some(chain)) = (healed.kept.is_empty(), altered(image).keys().find(same)) {
            healed.kept = format!("it was removed, and the runtime still keeps its layer {chain}");
        }
    }
    Ok(healed)
}

type Snapshots = BTreeMap<String, Snapshot>;

/// What stands on what, by name: on containerd a layer's snapshot has its chain ID for one, in CRI-O's store a layer has an ID. What is not
/// committed has the container's.
async fn snapshots_of(runtime: &RuntimeClient, content: &Content) -> Result<Snapshots, RuntimeError> {
    let Content::Storage(storage) = content else { return runtime.snapshots(OVERLAYFS).await };
    let storage = storage.clone();
    let read = RuntimeClient::in_storage(move || Ok((storage.layers()?, storage.containers()?))).await;
    let (layers, containers) = read?;
    let snapshots = layers.into_values().map(|layer| {
        let container = containers.get(&layer.id);
        let snapshot =
            Snapshot { parent: layer.parent, created: layer.created, committed: container.is_none() };
        (container.cloned().unwrap_or(layer.id), snapshot)
    });
    Ok(snapshots.collect())
}

/// What is altered, by the names that [`Snapshots`] go by, with when it was made; empty: that is not known, or it was unpacked nowhere.
type Found = BTreeMap<String, String>;

/// An image's altered layers by their chain IDs.
fn altered_snapshots(image: &Image) -> Found {
    let layers = image.layers.iter().filter(|layer| matches!(layer.outcome(), Outcome::Altered(_)));
    let altered = layers.map(|layer| {
        let unpacked = layer.unpacked.iter().find(|unpacked| unpacked.snapshotter == OVERLAYFS);
        (layer.chain_id.to_string(), unpacked.map(|unpacked| unpacked.created.clone()).unwrap_or_default())
    });
    altered.collect()
}

/// An image's altered layers by their IDs in CRI-O's store; by those its folders are called.
fn altered_folders(image: &Image) -> Found {
    let unpacked = image.layers.iter().flat_map(|layer| &layer.unpacked);
    let altered = unpacked.filter(|unpacked| matches!(unpacked.outcome, Outcome::Altered(_)));
    let altered = altered.filter_map(|unpacked| {
        Some((unpacked.snapshotter.split_once('/')?.1.to_owned(), unpacked.created.clone()))
    });
    altered.collect()
}

/// Whether anything of it is still there as it was found: a check may take hours, and the image may have been pulled anew meanwhile.
fn is_there(altered: &Found, snapshots: &Snapshots) -> bool {
    altered.iter().any(|(name, created)| match snapshots.get(name) {
        Some(snapshot) => snapshot.created == *created,
        None => created.is_empty(),
    })
}

/// Why an image cannot be removed, or its removal would mend nothing.
fn keeps(altered: &Found, snapshots: &Snapshots, users: &BTreeMap<String, String>) -> Option<String> {
    if altered.is_empty() {
        return Some("what stands on it is not known; remove it with all its containers by hand".to_owned());
    }
    let stands = |key: &&String| {
        let mut below = snapshots.get(*key).map(|snapshot| snapshot.parent.as_str());
        let mut steps = 0;
        while let Some(parent) = below.filter(|parent| !parent.is_empty() && steps <= crate::limits::LAYERS) {
            if altered.contains_key(parent) {
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

async fn remove(
    runtime: &RuntimeClient,
    control: &mut Control,
    content: &Content,
    image: &Image,
) -> Result<(), String> {
    control.healing(&image.id).await.map_err(|error| error.to_string())?;
    let id = match content {
        Content::Services => &image.id,
        // `sha256:<hex>` is a name to CRI-O, that nothing has.
        Content::Storage(_) => image.id.trim_start_matches("sha256:"),
    };
    runtime.remove_image(id).await.map_err(|error| error.to_string())
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
        let kept = |image: &Image| keeps(&altered_snapshots(image), &all, &users);
        let of_base = image("base", &[(b"base", true), (b"oth\0", false)]);
        assert!(kept(&of_base).is_some_and(|why| why.starts_with("container c of pod a/b stands on ")));
        assert!(kept(&image("top", &[(b"base", false), (b"top\0", true)])).is_some());
        assert_eq!(kept(&image("other", &[(b"base", false), (b"oth\0", true)])), None);
        assert!(kept(&image("none", &[])).is_some());
    }

    #[test]
    fn what_stands_on_an_altered_folder_of_crios_is_kept_and_not_what_stands_on_its_copy() {
        let mut image = image("app", &[(b"base", false), (b"top\0", true)]);
        image.layers[1].unpacked[0].snapshotter = "overlay/aa".to_owned();
        image.layers[1].unpacked.push(Unpacked {
            snapshotter: "overlay/copy".to_owned(),
            created: "1".to_owned(),
            outcome: Outcome::Unchecked("x".to_owned()),
        });
        assert_eq!(altered_folders(&image), Found::from([("aa".to_owned(), "1".to_owned())]));
        let users = BTreeMap::from([("container".to_owned(), "container c of pod a/b".to_owned())]);
        let kept = |below: &str| {
            let all = snapshots(&[("aa", "", true), ("copy", "", true), ("container", below, false)]);
            keeps(&altered_folders(&image), &all, &users)
        };
        assert!(kept("aa").is_some_and(|why| why.starts_with("container c of pod a/b stands on ")));
        assert_eq!(kept("copy"), None);
    }

    #[test]
    fn what_is_not_there_any_more_as_it_was_found_is_not_removed() {
        let name = Digest::of(b"base").to_string();
        let made = |created: &str| {
            let mut all = snapshots(&[(&name, "", true)]);
            all.values_mut().for_each(|snapshot| snapshot.created = created.to_owned());
            all
        };
        let mut altered = image("base", &[(b"base", true)]);
        assert!(is_there(&altered_snapshots(&altered), &made("1")));
        assert!(!is_there(&altered_snapshots(&altered), &made("2")));
        assert!(!is_there(&altered_snapshots(&altered), &snapshots(&[])));
        // When it was made could not be told.
        altered.layers[0].unpacked[0].created.clear();
        assert!(!is_there(&altered_snapshots(&altered), &made("1")));
        // Its bytes are altered, and nothing has unpacked them.
        altered.layers[0].unpacked.clear();
        altered.layers[0].blob = Some(Outcome::Altered("x".to_owned()));
        assert!(is_there(&altered_snapshots(&altered), &snapshots(&[])));
        assert!(!is_there(&altered_snapshots(&altered), &made("1")));
        altered.layers[0].unpacked.push(Unpacked {
            snapshotter: "overlay/aa".to_owned(),
            created: "1".to_owned(),
            outcome: Outcome::Altered("x".to_owned()),
        });
        let stored = |created: &str| {
            let mut all = snapshots(&[("aa", "", true)]);
            all.values_mut().for_each(|snapshot| snapshot.created = created.to_owned());
            is_there(&altered_folders(&altered), &all)
        };
        assert!(stored("1") && !stored("2"));
    }
}
