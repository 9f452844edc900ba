//! crivet's own calls to the runtime: what it reads to know an image and a container, and the few things it
//! does (remove what it did not vouch for, pull the pause image). The kubelet's calls never come through here.

pub mod handlers;
pub mod unpacked;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use super::containerd::containers::{Container, GetContainerRequest, containers_client::ContainersClient};
use super::containerd::content::{ReadContentRequest, content_client::ContentClient};
use super::containerd::snapshots::{self, StatSnapshotRequest, snapshots_client::SnapshotsClient};
use super::storage::{Stacked, Storage, StorageError};
use super::v1::image_service_client::ImageServiceClient;
use super::v1::runtime_service_client::RuntimeServiceClient;
use super::v1::{self, Image, ImageSpec};
use crate::image::quoted;
use crate::limits;

/// Why a question to the runtime has no answer. Deterministic, one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime has no such thing.
    #[error("the runtime has no {0}")]
    NotFound(String),
    /// The runtime answered with an error, or not at all.
    #[error("the runtime did not answer {call}: {reason}")]
    Failed {
        /// What was asked.
        call: &'static str,
        /// The gRPC code's name and the runtime's message, shortened.
        reason: String,
    },
    /// CRI-O's store does not tell.
    #[error("CRI-O's store: {0}")]
    Store(String),
    /// More bytes than crivet reads.
    #[error("{what} is larger than {cap} bytes ({limit})")]
    TooLarge {
        /// What was read.
        what: String,
        /// Bytes.
        cap: usize,
        /// The limit's name.
        limit: &'static str,
    },
}

/// A client of the runtime's socket(s). Cheap to clone; connects when first used and again after a loss.
#[derive(Clone, Debug)]
pub struct RuntimeClient {
    runtime: Channel,
    image: Channel,
    /// The snapshotter of the container looked at last; empty before the first.
    snapshotter: Arc<Mutex<String>>,
    content: Arc<Mutex<Option<(Content, Instant)>>>,
    /// For what CRI-O says beside the CRI.
    socket: Arc<Path>,
    handlers: Arc<Mutex<Option<handlers::Known>>>,
}

/// Where a runtime's images and containers can be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// containerd's own services, on its socket.
    Services,
    /// CRI-O's files.
    Storage(Storage),
}

/// What a container or sandbox stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Under {
    /// The chain ID of its layers; empty if there are none.
    pub chain_id: String,
    /// By what containerd made it. None for CRI-O, whose store says what was unpacked.
    pub made_by: Option<MadeBy>,
}

/// By what containerd made a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeBy {
    /// The snapshotter's name.
    pub snapshotter: String,
    /// The runtime's name, as the type of a runtime handler: `io.containerd.runc.v2`.
    pub runtime: String,
}

/// How long what a runtime is is believed.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

impl RuntimeClient {
    /// A client of the two endpoints (often one socket). Does not connect yet.
    pub fn new(runtime_endpoint: &Path, image_endpoint: &Path) -> RuntimeClient {
        let runtime = channel(runtime_endpoint.to_owned());
        let image = if image_endpoint == runtime_endpoint {
            runtime.clone()
        } else {
            channel(image_endpoint.to_owned())
        };
        let socket = runtime_endpoint.into();
        RuntimeClient {
            runtime,
            image,
            snapshotter: Arc::default(),
            content: Arc::default(),
            socket,
            handlers: Arc::default(),
        }
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.image.clone()).max_decoding_message_size(limits::RUNTIME_MESSAGE_BYTES)
    }

    fn pods(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.runtime.clone())
            .max_decoding_message_size(limits::RUNTIME_MESSAGE_BYTES)
    }

    /// The runtime's name and version.
    pub async fn version(&self) -> Result<v1::VersionResponse, RuntimeError> {
        let request = v1::VersionRequest::default();
        Ok(self.pods().version(timed(request)).await.map_err(|s| failed("Version", s))?.into_inner())
    }

    /// The image the runtime has under a name (reference, ID, truncated ID); `None` if it has none.
    pub async fn image_status(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        let image = ImageSpec { image: name.to_owned(), ..Default::default() };
        let request = v1::ImageStatusRequest { image: Some(image) };
        let response =
            self.images().image_status(timed(request)).await.map_err(|s| failed("ImageStatus", s))?;
        Ok(response.into_inner().image.filter(|image| !image.id.is_empty()))
    }

    /// All images.
    pub async fn list_images(&self) -> Result<Vec<Image>, RuntimeError> {
        let request = v1::ListImagesRequest::default();
        let response =
            self.images().list_images(timed(request)).await.map_err(|s| failed("ListImages", s))?;
        Ok(response.into_inner().images)
    }

    /// The images the runtime keeps from being collected; the pause image is among them.
    pub async fn pinned_images(&self) -> Result<Vec<Image>, RuntimeError> {
        Ok(self.list_images().await?.into_iter().filter(|image| image.pinned).collect())
    }

    /// The runtime's own words about itself, by key.
    pub async fn status_info(&self) -> Result<std::collections::BTreeMap<String, String>, RuntimeError> {
        let request = v1::StatusRequest { verbose: true };
        Ok(self.pods().status(timed(request)).await.map_err(|s| failed("Status", s))?.into_inner().info)
    }

    /// All pod sandboxes, whatever their state.
    pub async fn pod_sandboxes(&self) -> Result<Vec<v1::PodSandbox>, RuntimeError> {
        let request = timed(v1::ListPodSandboxRequest::default());
        let response = self.pods().list_pod_sandbox(request).await;
        Ok(response.map_err(|s| failed("ListPodSandbox", s))?.into_inner().items)
    }

    /// All containers, whatever their state.
    pub async fn containers(&self) -> Result<Vec<v1::Container>, RuntimeError> {
        let request = timed(v1::ListContainersRequest::default());
        let response = self.pods().list_containers(request).await;
        Ok(response.map_err(|s| failed("ListContainers", s))?.into_inner().containers)
    }

    /// The images that are mounted into a container.
    pub async fn image_volumes(&self, id: &str) -> Result<Vec<ImageSpec>, RuntimeError> {
        let request = timed(v1::ContainerStatusRequest { container_id: id.to_owned() });
        let response = self.pods().container_status(request).await;
        let status = response.map_err(|s| failed("ContainerStatus", s))?.into_inner().status;
        Ok(status.into_iter().flat_map(|status| status.mounts).filter_map(|mount| mount.image).collect())
    }

    /// Pulls an image. Only ever the pause image, after it was vetted.
    pub async fn pull_image(
        &self,
        reference: &str,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<(), RuntimeError> {
        let image = ImageSpec { image: reference.to_owned(), ..Default::default() };
        let request = v1::PullImageRequest { image: Some(image), auth: None, sandbox_config: sandbox };
        self.images().pull_image(Request::new(request)).await.map_err(|s| failed("PullImage", s))?;
        Ok(())
    }

    /// Asks for a container as a kubelet does: the canary of `crivet doctor`, which must be refused.
    ///
    /// # Errors
    /// The status' code and message as they came.
    pub async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<String, (Code, String)> {
        let response = self.pods().create_container(timed(request)).await;
        let response = response.map_err(|status| (status.code(), status.message().to_owned()))?;
        Ok(response.into_inner().container_id)
    }

    /// The runtime's container events from now on. Not every runtime hands each event to all that listen: see
    /// [`crate::relay::found`].
    pub async fn events(&self) -> Result<tonic::Streaming<v1::ContainerEventResponse>, RuntimeError> {
        // Without a deadline: the stream has no end.
        let request = Request::new(v1::GetEventsRequest::default());
        let response = self.pods().get_container_events(request).await;
        Ok(response.map_err(|s| failed("GetContainerEvents", s))?.into_inner())
    }

    /// Removes a container that was made and is not what was vetted.
    pub async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        self.pods().remove_container(timed(request)).await.map_err(|s| failed("RemoveContainer", s))?;
        Ok(())
    }

    /// Stops and removes a pod sandbox that was made and is not what was vetted.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let stopped = self.pods().stop_pod_sandbox(timed(stop)).await;
        // Of one that still runs, too: the CRI has it terminated then.
        let remove = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let removed = self.pods().remove_pod_sandbox(timed(remove)).await;
        match (stopped, removed) {
            (_, Ok(_)) => Ok(()),
            (Err(status), Err(_)) => Err(failed("StopPodSandbox", status)),
            (Ok(_), Err(status)) => Err(failed("RemovePodSandbox", status)),
        }
    }

    /// Where what the runtime keeps can be looked at.
    ///
    /// # Errors
    /// The runtime does not answer, or is a CRI-O that does not say where its store is.
    pub async fn content(&self) -> Result<Content, RuntimeError> {
        let known = self.content.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((content, _)) = known.filter(|(_, since)| since.elapsed() < BELIEVED_FOR) {
            return Ok(content);
        }
        let content = match self.version().await?.runtime_name.as_str() {
            "cri-o" => Content::Storage(self.storage().await?),
            _ => Content::Services,
        };
        *self.content.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((content.clone(), Instant::now()));
        Ok(content)
    }

    async fn storage(&self) -> Result<Storage, RuntimeError> {
        let request = timed(v1::ImageFsInfoRequest {});
        let response = self.images().image_fs_info(request).await.map_err(|s| failed("ImageFsInfo", s))?;
        let folders = response.into_inner().image_filesystems.into_iter().filter_map(|usage| usage.fs_id);
        let folders: Vec<String> = folders.map(|id| id.mountpoint).collect();
        let storage = folders.iter().find_map(|folder| Storage::of_images(Path::new(folder)));
        storage.ok_or_else(|| RuntimeError::Store(format!(
            "expected ImageFsInfo to name the folder DRIVER-images of a store of containers/storage, found {}",
            quoted(&folders.join(" "))
        )))
    }

    /// Reads a store's files where waiting for the disk holds up nothing else.
    ///
    /// # Errors
    /// They cannot be read, or do not have it.
    pub async fn in_storage<T: Send + 'static>(
        read: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, RuntimeError> {
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error @ StorageError::Missing { .. })) => Err(RuntimeError::NotFound(error.to_string())),
            Ok(Err(error)) => Err(RuntimeError::Store(error.to_string())),
            Err(_) => Err(RuntimeError::Store("reading it failed; see the log".to_owned())),
        }
    }

    /// What a container (or sandbox) stands on.
    pub async fn layers_under(&self, id: &str) -> Result<Under, RuntimeError> {
        match self.content().await? {
            Content::Services => self.snapshot_under(id).await,
            Content::Storage(storage) => {
                let id = id.to_owned();
                let chain_id = Self::in_storage(move || storage.chain_under(&id)).await?;
                Ok(Under { chain_id, made_by: None })
            }
        }
    }

    /// What CRI-O's store has of layers with this chain ID and those below them; `None`: this is no CRI-O, and has snapshots.
    pub async fn stored_layers(&self, chain_id: &str) -> Result<Option<Vec<Stacked>>, RuntimeError> {
        let Content::Storage(storage) = self.content().await? else { return Ok(None) };
        let chain_id = chain_id.to_owned();
        Self::in_storage(move || storage.stacks(&chain_id)).await.map(Some)
    }

    /// By containerd's containers and snapshots services. The snapshot tells the truth where names do not: containerd
    /// creates by name.
    ///
    /// A container's snapshot has the container's ID for a key, and all have one snapshotter: containerd's CRI
    /// has it so. So both questions are asked at once, and the guess counts only if the container confirms it.
    async fn snapshot_under(&self, id: &str) -> Result<Under, RuntimeError> {
        let guess = self.snapshotter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let guessed =
            async { if guess.is_empty() { None } else { Some(self.snapshot_parent(&guess, id).await) } };
        let (container, guessed) = tokio::join!(self.container(id), guessed);
        let Container { snapshotter, snapshot_key, runtime, .. } = container?;
        let chain_id = match guessed.filter(|_| snapshotter == guess && snapshot_key == id) {
            Some(parent) => parent?,
            None => self.snapshot_parent(&snapshotter, &snapshot_key).await?,
        };
        if snapshotter != guess {
            self.snapshotter.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&snapshotter);
        }
        let runtime = runtime.unwrap_or_default().name;
        Ok(Under { chain_id, made_by: Some(MadeBy { snapshotter, runtime }) })
    }

    /// By which of containerd's snapshotters a container (or sandbox) was made.
    pub async fn snapshotter_of(&self, id: &str) -> Result<String, RuntimeError> {
        match self.content().await? {
            Content::Services => Ok(self.container(id).await?.snapshotter),
            Content::Storage(storage) => {
                let id = id.to_owned();
                Self::in_storage(move || storage.name_under(&id)).await
            }
        }
    }

    async fn container(&self, id: &str) -> Result<Container, RuntimeError> {
        let request = in_k8s(GetContainerRequest { id: id.to_owned() });
        let response = ContainersClient::new(self.runtime.clone()).get(request).await;
        let container = response.map_err(|s| failed("containers.Get", s))?.into_inner().container;
        container.ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))
    }

    async fn snapshot_parent(&self, snapshotter: &str, key: &str) -> Result<String, RuntimeError> {
        Ok(stat(self.runtime.clone(), snapshotter, key).await?.parent)
    }

    /// A document of an image that the runtime keeps, unverified: whoever asks must hash it.
    pub async fn read_content(&self, digest: &str, cap: usize) -> Result<Vec<u8>, RuntimeError> {
        if let Content::Storage(storage) = self.content().await? {
            let digest = digest.to_owned();
            return Self::in_storage(move || storage.document(&digest, cap)).await;
        }
        let request = in_k8s(ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 });
        let mut client =
            ContentClient::new(self.image.clone()).max_decoding_message_size(limits::RUNTIME_MESSAGE_BYTES);
        let response = client.read(request).await.map_err(|s| failed("content.Read", s))?;
        let mut stream = response.into_inner();
        let mut content = Vec::new();
        while let Some(chunk) = stream.message().await.map_err(|s| failed("content.Read", s))? {
            if content.len().saturating_add(chunk.data.len()) > cap {
                let what = format!("blob {digest}");
                return Err(RuntimeError::TooLarge { what, cap, limit: "the caller's cap" });
            }
            content.extend_from_slice(&chunk.data);
        }
        Ok(content)
    }
}

fn channel(socket: PathBuf) -> Channel {
    // The URI is never resolved; containerd and CRI-O expect the kubelet's `localhost`.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}

/// A request with a deadline, so that a hung runtime does not hang crivet.
fn timed<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(limits::RUNTIME_CALL_SECONDS));
    request
}

/// A request to one of containerd's own services, in the namespace of the CRI.
fn in_k8s<M>(message: M) -> Request<M> {
    let mut request = timed(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static("k8s.io"));
    request
}

/// What containerd says of a snapshot.
async fn stat(channel: Channel, snapshotter: &str, key: &str) -> Result<snapshots::Info, RuntimeError> {
    let request = in_k8s(StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() });
    let response = SnapshotsClient::new(channel).stat(request).await;
    let info = response.map_err(|s| failed("snapshots.Stat", s))?.into_inner().info;
    info.ok_or_else(|| RuntimeError::NotFound(format!("snapshot {key}")))
}

fn failed(call: &'static str, status: Status) -> RuntimeError {
    let mut message: String = status.message().chars().take(limits::QUOTED_CHARS).collect();
    if status.code() == Code::NotFound {
        return RuntimeError::NotFound(message);
    }
    if status.code() == Code::Unavailable {
        // The transport's own words vary from call to call.
        message = "it cannot be reached".to_owned();
    }
    RuntimeError::Failed {
        call,
        reason: format!("{:?}: {message}", status.code()).escape_debug().to_string(),
    }
}
