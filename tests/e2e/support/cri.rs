//! A CRI client of crivet's own wire types, for many calls at once and for fields that crictl does not write.

use crivet::cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, CreateContainerResponse, ImageSpec,
    PodSandboxConfig, PodSandboxMetadata, PullImageRequest, PullImageResponse,
};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use std::path::Path;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

const CREATE: &str = "/runtime.v1.RuntimeService/CreateContainer";
const PULL: &str = "/runtime.v1.ImageService/PullImage";

pub struct Cri {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Cri {
    pub fn connect(socket: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = {
            let _inside = runtime.enter();
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
        };
        Self { runtime, channel }
    }

    /// A CreateContainer as a kubelet writes it: named by ID, with the pod's own words beside.
    pub fn create_request(name: &str, pod: &str, image: &str, reference: &str) -> CreateContainerRequest {
        let image = ImageSpec {
            image: image.to_owned(),
            user_specified_image: reference.to_owned(),
            ..Default::default()
        };
        let metadata = PodSandboxMetadata { name: name.into(), uid: name.into(), namespace: "e2e".into() };
        CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(ContainerConfig {
                metadata: Some(ContainerMetadata { name: name.to_owned() }),
                image: Some(image),
                mounts: Vec::new(),
            }),
            sandbox_config: Some(PodSandboxConfig { metadata: Some(metadata), ..Default::default() }),
        }
    }

    /// All of them at once; the new containers' IDs, in the order of the requests.
    pub fn create_at_once(&self, requests: Vec<CreateContainerRequest>) -> Vec<Result<String, Status>> {
        let tasks: Vec<_> = requests
            .into_iter()
            .map(|request| self.runtime.spawn(create(self.channel.clone(), request)))
            .collect();
        tasks.into_iter().map(|task| self.runtime.block_on(task).unwrap()).collect()
    }

    /// Pulls all of them at once; what the runtime calls them, in their order.
    pub fn pull_at_once(&self, references: &[String]) -> Vec<Result<String, Status>> {
        let tasks: Vec<_> = references
            .iter()
            .map(|reference| self.runtime.spawn(pull(self.channel.clone(), reference.clone())))
            .collect();
        tasks.into_iter().map(|task| self.runtime.block_on(task).unwrap()).collect()
    }
}

async fn pull(channel: Channel, image: String) -> Result<String, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let request =
        PullImageRequest { image: Some(ImageSpec { image, ..Default::default() }), ..Default::default() };
    let codec = tonic_prost::ProstCodec::<PullImageRequest, PullImageResponse>::default();
    let answer = grpc.unary(Request::new(request), PathAndQuery::from_static(PULL), codec).await?;
    Ok(answer.into_inner().image_ref)
}

async fn create(channel: Channel, request: CreateContainerRequest) -> Result<String, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<CreateContainerRequest, CreateContainerResponse>::default();
    let answer = grpc.unary(Request::new(request), PathAndQuery::from_static(CREATE), codec).await?;
    Ok(answer.into_inner().container_id)
}
