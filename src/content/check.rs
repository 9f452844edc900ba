//! The order of work: images, their documents, their layers, lowest first.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::folders::folders;
use super::layer::{self, Expected, Found};
use super::{Image, Layer, Outcome, Unpacked};
use crate::cri::runtime::unpacked::Snapshot;
use crate::cri::runtime::{RuntimeClient, RuntimeError};
use crate::image::layer::Tree;
use crate::image::manifest::{Document, ImageConfig, Manifest, chain_id};
use crate::image::{Digest, ImageId};
use crate::limits;

/// The snapshotter whose folders are read. Others have other trees (native lays all layers into one), or none on the node.
pub const OVERLAYFS: &str = "overlayfs";

/// How long what a check keeps from being collected is kept should it be killed.
const LEASE: Duration = Duration::from_secs(limits::CONTENT_LEASE_SECONDS);

/// What the runtime has under one digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The digest of an index or manifest.
    pub target: String,
    /// The names that lead to it, those first that people know.
    pub names: Vec<String>,
}

/// All images of a containerd.
///
/// # Errors
/// It does not say.
pub async fn held(runtime: &RuntimeClient) -> Result<Vec<Held>, RuntimeError> {
    let mut by_target: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, target) in runtime.image_targets().await? {
        by_target.entry(target).or_default().push(name);
    }
    let all = by_target.into_iter().map(|(target, mut names)| {
        // Tags, then digests, then the ID, by which the CRI has each image once more.
        names.sort_by_key(|name| (ImageId::parse(name).is_ok(), name.contains('@'), name.clone()));
        Held { target, names }
    });
    Ok(all.collect())
}

/// A check under way. Layers that several images have are read once.
pub struct Checker {
    runtime: RuntimeClient,
    lease: String,
    views: u64,
    done: HashMap<(Digest, Digest), Done>,
    skeletons: HashMap<Digest, Arc<Tree>>,
}

/// What came of a layer.
struct Done {
    layer: Layer,
    /// There was a folder to compare it with.
    compared: bool,
}

impl Done {
    /// Whether it says all that looking at the layer for this image would. One that was compared for an image that overlayfs has not
    /// unpacked says nothing of the folder in which another image has it.
    fn is_enough(&self, plan: &Plan) -> bool {
        let has = |name: &String| self.layer.unpacked.iter().any(|unpacked| unpacked.snapshotter == *name);
        (self.compared || plan.folders.is_err()) && plan.snapshotters.iter().all(has)
    }
}

/// The image's layers, as they are to be looked at.
struct Plan {
    manifest: Manifest,
    config: ImageConfig,
    /// The folders, lowest first, with the name of the view that keeps them; or why there are none to compare with.
    folders: Result<(String, Vec<PathBuf>), String>,
    /// By which snapshotters it was unpacked, sorted.
    snapshotters: Vec<String>,
}

impl Checker {
    /// Begins a check. What is looked at is kept from being collected meanwhile.
    ///
    /// # Errors
    /// The runtime does not answer.
    pub async fn begin(runtime: RuntimeClient, now: SystemTime) -> Result<Checker, RuntimeError> {
        let moment = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let lease = format!("crivet-content-{}-{moment}", std::process::id());
        runtime.begin_lease(&lease, now + LEASE).await?;
        Ok(Checker { runtime, lease, views: 0, done: HashMap::new(), skeletons: HashMap::new() })
    }

    /// Ends it.
    ///
    /// # Errors
    /// The runtime does not answer; then what was kept is kept until the lease ends.
    pub async fn end(self) -> Result<(), RuntimeError> {
        self.runtime.end_lease(&self.lease).await
    }

    /// How many different layers were looked at.
    pub fn layers(&self) -> usize {
        self.done.len()
    }

    /// Checks what the runtime has under one digest: an image, or those of an index that it has. None: it is gone since.
    pub async fn image(&mut self, held: &Held) -> Vec<Image> {
        let alone = |documents| {
            vec![Image { names: held.names.clone(), id: String::new(), documents, layers: Vec::new() }]
        };
        let document = match Digest::parse(&held.target) {
            Ok(target) => self.document(target).await,
            Err(error) => Err(Outcome::Unchecked(error.to_string())),
        };
        let manifests = match document {
            Ok(None) => {
                return alone(Outcome::Unchecked("the runtime has no index or manifest of it".to_owned()));
            }
            Ok(Some(Document::Manifest(manifest))) => vec![manifest],
            Ok(Some(Document::Index(index))) => {
                let mut manifests = Vec::new();
                for entry in index.manifests {
                    match self.document(entry.digest).await {
                        // Another platform's.
                        Ok(None) => {}
                        Ok(Some(Document::Manifest(manifest))) => manifests.push(manifest),
                        Ok(Some(Document::Index(_))) => {
                            return alone(Outcome::Unchecked("it is an index of indexes".to_owned()));
                        }
                        Err(outcome) => return alone(outcome),
                    }
                }
                manifests
            }
            Err(outcome) => return alone(outcome),
        };
        let mut images = Vec::new();
        for manifest in manifests {
            let id = manifest.config.digest.to_string();
            match self.plan(manifest).await {
                Ok(None) => {}
                Ok(Some(plan)) => {
                    let layers = self.layers_of(&plan).await;
                    images.push(Image { names: held.names.clone(), id, documents: Outcome::Whole, layers });
                    self.leave(&plan).await;
                }
                Err(documents) => {
                    images.push(Image { names: held.names.clone(), id, documents, layers: Vec::new() });
                }
            }
        }
        if images.is_empty() {
            return alone(Outcome::Unchecked("the runtime has no manifest and config of it".to_owned()));
        }
        images
    }

    async fn bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, Outcome> {
        let cap = limits::MANIFEST_BYTES.max(limits::CONFIG_BYTES);
        match self.runtime.read_content(&digest.to_string(), cap).await {
            Ok(bytes) if Digest::of(&bytes) == digest => Ok(Some(bytes)),
            Ok(bytes) => Err(Outcome::Altered(format!(
                "expected a document that hashes to {digest}, found {}",
                Digest::of(&bytes)
            ))),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(error) => Err(Outcome::Unchecked(error.to_string())),
        }
    }

    async fn document(&self, digest: Digest) -> Result<Option<Document>, Outcome> {
        let Some(bytes) = self.bytes(digest).await? else { return Ok(None) };
        Document::parse(&bytes).map(Some).map_err(|error| Outcome::Unchecked(error.to_string()))
    }

    /// `None`: the runtime has no config for this manifest, so it is another platform's.
    async fn plan(&mut self, manifest: Manifest) -> Result<Option<Plan>, Outcome> {
        let unread = |error: String| Outcome::Unchecked(error);
        let id = manifest.config.digest;
        let Some(bytes) = self.bytes(id).await? else { return Ok(None) };
        let config = ImageConfig::parse(&bytes).map_err(|error| unread(error.to_string()))?;
        let (layers, diff_ids) = (manifest.layers.len(), config.diff_ids().len());
        if layers != diff_ids {
            return Err(unread(format!(
                "expected as many layers as diff IDs, found {layers} and {diff_ids}"
            )));
        }
        let chain = config.chain_id().to_string();
        let mut snapshotters =
            self.runtime.unpacked_by(&id.to_string()).await.map_err(|error| unread(error.to_string()))?;
        // What another image had unpacked already has no label of this one's.
        match self.runtime.snapshot(OVERLAYFS, &chain).await {
            Ok(_) => snapshotters.push(OVERLAYFS.to_owned()),
            Err(RuntimeError::NotFound(_)) => {}
            Err(error) => return Err(unread(error.to_string())),
        }
        snapshotters.sort();
        snapshotters.dedup();
        let folders = match snapshotters.iter().any(|name| name == OVERLAYFS) {
            true => self.view(&chain, layers).await,
            false => Err("it was not unpacked".to_owned()),
        };
        Ok(Some(Plan { manifest, config, folders, snapshotters }))
    }

    async fn view(&mut self, chain: &str, layers: usize) -> Result<(String, Vec<PathBuf>), String> {
        self.views += 1;
        let key = format!("{}-{}", self.lease, self.views);
        let mounts = self.runtime.view(&self.lease, OVERLAYFS, &key, chain).await;
        let mounts = mounts.map_err(|error| error.to_string())?;
        Ok((key, folders(&mounts, layers)?))
    }

    async fn leave(&self, plan: &Plan) {
        if let Ok((view, _)) = &plan.folders
            && let Err(error) = self.runtime.remove_view(OVERLAYFS, view).await
        {
            tracing::warn!(%error, view, "a view of an image's layers is still there; it goes with its lease");
        }
    }

    async fn layers_of(&mut self, plan: &Plan) -> Vec<Layer> {
        let diff_ids = plan.config.diff_ids();
        let chains: Vec<Digest> = (1..=diff_ids.len()).filter_map(|n| chain_id(diff_ids.get(..n)?)).collect();
        let layers: Vec<_> = plan.manifest.layers.iter().zip(diff_ids).zip(chains).collect();
        let known = |((layer, _), chain): &((&crate::image::manifest::Descriptor, &Digest), Digest)| {
            self.done.get(&(*chain, layer.digest)).is_some_and(|done| done.is_enough(plan))
        };
        let to_do = layers.len() - layers.iter().rev().take_while(|each| known(each)).count();
        let mut found = Vec::with_capacity(layers.len());
        let mut below = Some(Vec::new());
        for (at, ((descriptor, diff_id), chain)) in layers.into_iter().enumerate() {
            let key = (chain, descriptor.digest);
            let skeleton = self.skeletons.get(&chain).cloned();
            let done = self.done.get(&key).filter(|done| done.is_enough(plan));
            let (layer, skeleton) = match done.filter(|_| at >= to_do || skeleton.is_some()) {
                Some(done) => (done.layer.clone(), skeleton),
                None => {
                    let expected =
                        Expected { digest: descriptor.digest, diff_id: *diff_id, below: below.clone() };
                    let (layer, skeleton) = self.layer(plan, at, chain, expected).await;
                    let compared = plan.folders.is_ok();
                    self.done.insert(key, Done { layer: layer.clone(), compared });
                    (layer, skeleton)
                }
            };
            if let (Some(below), Some(skeleton)) = (&mut below, &skeleton) {
                below.insert(0, Arc::clone(skeleton));
            }
            let weight: u64 = below.iter().flatten().map(|tree| tree.weight()).sum();
            if skeleton.is_none() || weight > limits::CONTENT_TREES_BYTES {
                below = None;
            }
            self.keep(chain, skeleton);
            found.push(layer);
        }
        found
    }

    fn keep(&mut self, chain: Digest, skeleton: Option<Arc<Tree>>) {
        let Some(skeleton) = skeleton else { return };
        let weight: u64 = self.skeletons.values().map(|tree| tree.weight()).sum();
        if weight > limits::CONTENT_TREES_BYTES {
            self.skeletons.clear();
        }
        self.skeletons.insert(chain, skeleton);
    }

    async fn layer(
        &self,
        plan: &Plan,
        at: usize,
        chain: Digest,
        expected: Expected,
    ) -> (Layer, Option<Arc<Tree>>) {
        let (digest, began) = (expected.digest, Instant::now());
        let mut snapshots = Vec::with_capacity(plan.snapshotters.len());
        for snapshotter in &plan.snapshotters {
            snapshots.push(self.runtime.snapshot(snapshotter, &chain.to_string()).await);
        }
        let folder = plan.folders.as_ref().ok().and_then(|(_, folders)| folders.get(at).cloned());
        let Found { blob, unpacked, skeleton, bytes } = match layer::open(&self.runtime, digest).await {
            Ok(pieces) => {
                let checked =
                    tokio::task::spawn_blocking(move || layer::check(pieces, &expected, folder.as_deref()));
                checked
                    .await
                    .unwrap_or_else(|error| Found::unreadable(&format!("reading it failed: {error}"), 0))
            }
            Err(RuntimeError::NotFound(_)) => Found::unreadable(
                "the runtime does not keep its layer (discard_unpacked_layers, or a snapshotter that fetches by itself)",
                0,
            ),
            Err(error) => Found::unreadable(&error.to_string(), 0),
        };
        let mut by_snapshotter = Vec::new();
        for (snapshotter, mut snapshot) in plan.snapshotters.iter().zip(snapshots) {
            // Of what is altered nobody can be told without its time.
            if matches!(&snapshot, Err(error) if !matches!(error, RuntimeError::NotFound(_))) {
                snapshot = self.runtime.snapshot(snapshotter, &chain.to_string()).await;
            }
            let outcome = match (&plan.folders, snapshotter.as_str()) {
                (Ok((view, _)), OVERLAYFS) => self.confirmed(view, &snapshot, unpacked.clone()).await,
                (Err(why), OVERLAYFS) => Outcome::Unchecked(why.clone()),
                (_, other) => {
                    Outcome::Unchecked(format!("snapshotter {other}: crivet reads {OVERLAYFS} only"))
                }
            };
            by_snapshotter.push(Unpacked {
                snapshotter: snapshotter.clone(),
                created: snapshot.map(|snapshot| snapshot.created).unwrap_or_default(),
                outcome,
            });
        }
        (
            Layer { digest, chain_id: chain, blob: Some(blob), unpacked: by_snapshotter, bytes, began },
            skeleton,
        )
    }

    /// What was removed meanwhile was not altered. Whether it was, only the runtime can say.
    async fn confirmed(
        &self,
        view: &str,
        snapshot: &Result<Snapshot, RuntimeError>,
        outcome: Outcome,
    ) -> Outcome {
        let removed = || Outcome::Unchecked("the runtime removed it while it was read".to_owned());
        match (outcome, snapshot) {
            (Outcome::Altered(_) | Outcome::Whole, Err(RuntimeError::NotFound(_))) => removed(),
            (Outcome::Whole, Err(error)) => Outcome::Unchecked(error.to_string()),
            (Outcome::Altered(found), _) => match self.runtime.snapshot(OVERLAYFS, view).await {
                Err(RuntimeError::NotFound(_)) => removed(),
                Ok(_) | Err(_) => Outcome::Altered(found),
            },
            (outcome, _) => outcome,
        }
    }
}
