//! A containerd with images, contents, containers and snapshots as a test says.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crivet::cri::containerd::{containers, content, snapshots, types::Timestamp};
use crivet::cri::v1;
use prost::Message;

use super::registry::{Image, digest_of};
use crate::support::client::{CREATE, PULL};
use crate::support::runtime::{Call, FakeRuntime, Lists, Seen};

pub const SANDBOX: &str = "/runtime.v1.RuntimeService/RunPodSandbox";
pub const STOP_SANDBOX: &str = "/runtime.v1.RuntimeService/StopPodSandbox";
pub const REMOVE_SANDBOX: &str = "/runtime.v1.RuntimeService/RemovePodSandbox";
pub const REMOVE: &str = "/runtime.v1.RuntimeService/RemoveContainer";
const LIST_IMAGES: &str = "/runtime.v1.ImageService/ListImages";
const CONTAINER_STATUS: &str = "/runtime.v1.RuntimeService/ContainerStatus";
const VERSION: &str = "/runtime.v1.RuntimeService/Version";
const STATUS: &str = "/runtime.v1.RuntimeService/Status";
const SANDBOXES: &str = "/runtime.v1.RuntimeService/ListPodSandbox";
const CONTAINERS: &str = "/runtime.v1.RuntimeService/ListContainers";
const IMAGE_STATUS: &str = "/runtime.v1.ImageService/ImageStatus";
pub const CONTAINER: &str = "/containerd.services.containers.v1.Containers/Get";
const CONTENT_INFO: &str = "/containerd.services.content.v1.Content/Info";
pub const SNAPSHOT: &str = "/containerd.services.snapshots.v1.Snapshots/Stat";
/// containerd's content service.
pub const CONTENT: &str = "/containerd.services.content.v1.Content/Read";

const OVERLAYFS: &str = "overlayfs";
const NOT_FOUND: u16 = 5;
const INTERNAL: u16 = 13;

/// What the runtime has, and does.
#[derive(Default)]
pub struct State {
    /// By the name it was pulled as.
    pub images: BTreeMap<String, v1::Image>,
    /// What a pull of a name brings.
    arrives: HashMap<String, Image>,
    content: HashMap<String, Vec<u8>>,
    chains: HashMap<String, String>,
    /// What overlayfs has unpacked, by chain ID: the layer below, and when.
    pub unpacked: BTreeMap<String, (String, i64)>,
    /// What it unpacks within the next create.
    unpacks: BTreeMap<String, (String, i64)>,
    /// Other snapshotters that have unpacked all images.
    pub other_snapshotters: Vec<String>,
    containers: BTreeMap<String, String>,
    made: usize,
    /// Sandboxes and containers that are there already, as they are listed.
    sandboxes: Vec<v1::PodSandbox>,
    pub running: Vec<v1::Container>,
    /// Images that are mounted into each container.
    pub volumes: Vec<v1::ImageSpec>,
    /// The image that sandboxes are made of, by name.
    pub pause: String,
    /// Puts this under each new container instead of what its image says.
    pub parent: Option<String>,
    /// The snapshotter of all containers, if not overlayfs.
    pub snapshotter: Option<String>,
    /// The runtime of all containers, if not runc.
    pub runtime: Option<String>,
    /// Sandboxes cannot be stopped.
    pub stops_nothing: bool,
    /// containerd's containers service answers with an error.
    pub no_containers_service: bool,
    /// containerd's content service answers with an error.
    pub no_content_service: bool,
    is_crio: bool,
    /// Pulls and creates end with this.
    pub error: Option<(u16, String)>,
    /// Pulls and creates take so long.
    pub takes: Duration,
    /// A look at a container takes so long.
    pub look_takes: Duration,
    /// Pods that run, each with one container.
    pub pods: Vec<Pod>,
}

/// A pod that runs.
pub struct Pod {
    pub name: &'static str,
    /// `kubernetes.io/config.source`
    pub source: &'static str,
    pub image_id: String,
    pub reference: String,
}

pub struct Runtime {
    fake: FakeRuntime,
    state: Arc<Mutex<State>>,
}

impl Runtime {
    pub fn start(folder: &Path) -> Runtime {
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let fake = FakeRuntime::start(folder, move |call| serve(Arc::clone(&shared), call));
        fake.lists().by_handler = true;
        Runtime { fake, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A pull of `name` will bring this image.
    pub fn arrives(&self, name: &str, image: &Image) {
        self.state().arrives.insert(name.to_owned(), image.clone());
    }

    /// The image is there, under this name.
    pub fn preloaded(&self, name: &str, image: &Image) {
        self.state().take_in(name, image);
    }

    /// The image is there, and its topmost layer is unpacked within the next create only; the name of what is below it, which is unpacked.
    pub fn unpacks_within_the_call(&self, image: &Image) -> String {
        let below = digest_of(b"below");
        let mut state = self.state();
        state.unpacked.remove(&image.chain()).unwrap();
        state.unpacked.insert(below.clone(), (String::new(), 1));
        state.unpacks.insert(image.chain(), (below.clone(), 1));
        below
    }

    /// What the runtime says an image's digest is, as an import under a false name makes it say.
    pub fn lists(&self, image: &Image, repo_digest: &str) {
        for listed in self.state().images.values_mut().filter(|listed| listed.id == image.id()) {
            listed.repo_digests = vec![repo_digest.to_owned()];
        }
    }

    /// From now on it calls itself CRI-O, writes and knows the IDs of what it has as that does (`sha256:<hex>` is a name
    /// to it that nothing has), and has none of containerd's services.
    pub fn becomes_crio(&self) {
        let mut state = self.state();
        (state.is_crio, state.no_containers_service) = (true, true);
        let bare = |id: &mut String| *id = id.trim_start_matches("sha256:").to_owned();
        state.images.values_mut().for_each(|listed| bare(&mut listed.id));
        state.pods.iter_mut().for_each(|pod| bare(&mut pod.image_id));
    }

    /// Calls that arrived by this path, in order.
    pub fn calls(&self, path: &str) -> Vec<Seen> {
        self.fake.seen().into_iter().filter(|seen| seen.head.uri.path() == path).collect()
    }

    /// A container runs already, in a pod that the kubelet has from `source` (`api`, `file`).
    pub fn runs(&self, namespace: &str, pod: &str, source: &str, image: &Image, reference: &str) {
        let metadata =
            v1::PodSandboxMetadata { name: pod.into(), namespace: namespace.into(), ..Default::default() };
        let spec =
            v1::ImageSpec { image: image.id(), user_specified_image: reference.into(), ..Default::default() };
        let mut state = self.state();
        state.sandboxes.push(v1::PodSandbox {
            id: pod.into(),
            metadata: Some(metadata),
            annotations: [("kubernetes.io/config.source".to_owned(), source.to_owned())].into(),
            ..Default::default()
        });
        state.running.push(v1::Container {
            id: format!("{pod}-main"),
            pod_sandbox_id: pod.into(),
            metadata: Some(v1::ContainerMetadata { name: "main".into() }),
            image: Some(spec),
            image_ref: image.id(),
            state: v1::ContainerState::ContainerRunning.into(),
            ..Default::default()
        });
    }

    /// What crivet is told when it looks for containers.
    pub fn lists_of_containers(&self) -> MutexGuard<'_, Lists> {
        self.fake.lists()
    }

    /// Alters content on the disk; answers with what it was.
    pub fn alter(&self, digest: &str, alter: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut state = self.state();
        let content = state.content.get_mut(digest).unwrap();
        let whole = content.clone();
        alter(content);
        whole
    }

    /// Loses content.
    pub fn forget(&self, digest: &str) {
        self.state().content.remove(digest).unwrap();
    }

    /// Containers that are there.
    pub fn containers(&self) -> usize {
        self.state().containers.len()
    }
}

impl State {
    /// The image of a container or sandbox, made here or there already, by ID.
    fn image_under(&self, id: &str) -> Option<String> {
        let made = self.containers.get(id).cloned();
        let pod = || self.pods.iter().find(|pod| pod.name == id).map(|pod| pod.image_id.clone());
        let running = || self.running.iter().find(|each| each.id == id).map(|each| each.image_ref.clone());
        let of_sandbox =
            || self.sandboxes.iter().find(|each| each.id == id).and_then(|_| self.find(&self.pause));
        made.or_else(pod).or_else(running).or_else(|| of_sandbox().map(|pause| pause.id.clone()))
    }

    fn take_in(&mut self, name: &str, image: &Image) {
        let repository = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
        let listed = v1::Image {
            id: image.id(),
            repo_tags: vec![name.to_owned()],
            repo_digests: vec![format!("{repository}@{}", image.digest())],
            pinned: false,
        };
        self.images.insert(name.to_owned(), listed);
        self.content.insert(image.digest(), image.manifest.clone());
        self.content.insert(image.id(), image.config.clone());
        self.chains.insert(image.id(), image.chain());
        self.unpacked.insert(image.chain(), (String::new(), 1));
    }

    fn find(&self, name: &str) -> Option<&v1::Image> {
        let known =
            |image: &&v1::Image| image.id == name || image.repo_digests.iter().any(|known| known == name);
        self.images.get(name).or_else(|| self.images.values().find(known))
    }
}

async fn serve(state: Arc<Mutex<State>>, mut call: Call) {
    let Ok(seen) = call.read().await else { return };
    // Whatever is not read as a message, the runtime takes as it comes.
    let body = seen.data.get(5..).unwrap_or_default();
    let path = call.path().to_owned();
    if path == PULL || path == CREATE {
        let (takes, error) = {
            let state = state.lock().unwrap();
            (state.takes, state.error.clone())
        };
        tokio::time::sleep(takes).await;
        if let Some((code, message)) = error {
            return call.trailers_only(code, &message);
        }
    }
    if path == CONTAINER {
        let takes = state.lock().unwrap().look_takes;
        tokio::time::sleep(takes).await;
    }
    if path == CONTENT && state.lock().unwrap().no_content_service {
        return call.trailers_only(INTERNAL, "no content");
    }
    if path == CREATE || path == SANDBOX {
        let mut state = state.lock().unwrap();
        let unpacks = std::mem::take(&mut state.unpacks);
        state.unpacked.extend(unpacks);
    }
    let answer = answer(&mut state.lock().unwrap(), &path, body);
    match answer {
        Some(message) => call.answer(&message).await,
        None => call.trailers_only(NOT_FOUND, "not found"),
    }
}

fn answer(state: &mut State, path: &str, body: &[u8]) -> Option<Vec<u8>> {
    Some(match path {
        SANDBOXES => {
            let items = state.pods.iter().map(|pod| v1::PodSandbox {
                id: format!("sandbox of {}", pod.name),
                metadata: Some(v1::PodSandboxMetadata {
                    name: pod.name.to_owned(),
                    uid: pod.name.to_owned(),
                    namespace: "kube-system".to_owned(),
                }),
                annotations: [("kubernetes.io/config.source".to_owned(), pod.source.to_owned())].into(),
                ..Default::default()
            });
            let items = items.chain(state.sandboxes.iter().cloned()).collect();
            v1::ListPodSandboxResponse { items }.encode_to_vec()
        }
        CONTAINERS => {
            let containers = state.pods.iter().map(|pod| v1::Container {
                id: pod.name.to_owned(),
                pod_sandbox_id: format!("sandbox of {}", pod.name),
                metadata: Some(v1::ContainerMetadata { name: "main".to_owned() }),
                image: Some(v1::ImageSpec {
                    image: pod.image_id.clone(),
                    user_specified_image: pod.reference.clone(),
                    ..Default::default()
                }),
                state: v1::ContainerState::ContainerRunning.into(),
                ..Default::default()
            });
            let containers = containers.chain(state.running.iter().cloned()).collect();
            v1::ListContainersResponse { containers }.encode_to_vec()
        }
        IMAGE_STATUS => {
            let name = v1::ImageStatusRequest::decode(body).ok()?.image?.image;
            v1::ImageStatusResponse { image: state.find(&name).cloned() }.encode_to_vec()
        }
        LIST_IMAGES => {
            let images = state.images.values().cloned().collect();
            v1::ListImagesResponse { images }.encode_to_vec()
        }
        CONTAINER_STATUS => {
            let mount = |image: &v1::ImageSpec| v1::Mount { image: Some(image.clone()) };
            let mounts = state.volumes.iter().map(mount).collect();
            v1::ContainerStatusResponse { status: Some(v1::ContainerStatus { mounts }) }.encode_to_vec()
        }
        VERSION => v1::VersionResponse {
            runtime_name: if state.is_crio { "cri-o" } else { "containerd" }.to_owned(),
            runtime_version: if state.is_crio { "1.34.0" } else { "1.7.27" }.to_owned(),
        }
        .encode_to_vec(),
        STATUS if !state.pause.is_empty() => {
            let info = [("sandboxImage".to_owned(), state.pause.clone())].into();
            v1::StatusResponse { info }.encode_to_vec()
        }
        PULL => {
            let name = v1::PullImageRequest::decode(body).ok().and_then(|pull| pull.image);
            let name = name.unwrap_or_default().image;
            let image_ref = match state.arrives.get(&name).cloned() {
                Some(image) => {
                    state.take_in(&name, &image);
                    image.id()
                }
                None => "sha256:unknown".to_owned(),
            };
            v1::PullImageResponse { image_ref }.encode_to_vec()
        }
        CREATE => {
            let create = v1::CreateContainerRequest::decode(body).unwrap_or_default();
            let image = create.config.and_then(|config| config.image).unwrap_or_default().image;
            let id = format!("c{}", state.made);
            state.made += 1;
            state.containers.insert(id.clone(), image);
            v1::CreateContainerResponse { container_id: id }.encode_to_vec()
        }
        SANDBOX => {
            let id = format!("s{}", state.made);
            let image = state.find(&state.pause)?.id.clone();
            state.made += 1;
            state.containers.insert(id.clone(), image);
            v1::RunPodSandboxResponse { pod_sandbox_id: id }.encode_to_vec()
        }
        STOP_SANDBOX if state.stops_nothing => return None,
        REMOVE_SANDBOX => {
            let id = v1::RemovePodSandboxRequest::decode(body).ok()?.pod_sandbox_id;
            state.containers.remove(&id)?;
            Vec::new()
        }
        REMOVE => {
            let id = v1::RemoveContainerRequest::decode(body).ok()?.container_id;
            state.containers.remove(&id)?;
            Vec::new()
        }
        CONTAINER => {
            let id = containers::GetContainerRequest::decode(body).ok()?.id;
            if state.no_containers_service {
                return None;
            }
            state.image_under(&id)?;
            let container = containers::Container {
                snapshotter: state.snapshotter.clone().unwrap_or_else(|| OVERLAYFS.to_owned()),
                snapshot_key: id.clone(),
                runtime: Some(containers::container::Runtime {
                    name: state.runtime.clone().unwrap_or_else(|| "io.containerd.runc.v2".to_owned()),
                }),
                id,
                ..Default::default()
            };
            containers::GetContainerResponse { container: Some(container) }.encode_to_vec()
        }
        SNAPSHOT => {
            let snapshots::StatSnapshotRequest { snapshotter, key } = Message::decode(body).ok()?;
            if let Some((parent, created)) = state.unpacked.get(&key).filter(|_| snapshotter == OVERLAYFS) {
                let created_at = Some(Timestamp { seconds: *created, nanos: 0 });
                let info =
                    snapshots::Info { name: key, parent: parent.clone(), created_at, ..Default::default() };
                return Some(snapshots::StatSnapshotResponse { info: Some(info) }.encode_to_vec());
            }
            let image = state.image_under(&key)?;
            let parent = state.parent.clone().or_else(|| state.chains.get(&image).cloned())?;
            let info = snapshots::Info { name: key, parent, ..Default::default() };
            snapshots::StatSnapshotResponse { info: Some(info) }.encode_to_vec()
        }
        CONTENT_INFO => {
            let digest = content::InfoRequest::decode(body).ok()?.digest;
            state.content.get(&digest)?;
            let label = |name: &String| (format!("containerd.io/gc.ref.snapshot.{name}"), String::new());
            let labels = state.other_snapshotters.iter().map(label).collect();
            content::InfoResponse { info: Some(content::Info { labels }) }.encode_to_vec()
        }
        CONTENT => {
            let digest = content::ReadContentRequest::decode(body).ok()?.digest;
            let data = state.content.get(&digest)?.clone();
            content::ReadContentResponse { offset: 0, data: data.into() }.encode_to_vec()
        }
        _ => body.to_vec(),
    })
}
