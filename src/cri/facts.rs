//! The facts of a vetted call: what the vetter needs to know of it, taken from a bounded copy of its bytes.

use prost::Message;

use super::message::{MessageError, decode, only_message};
use super::methods::Vetted;
use super::unknown::unknown_fields;
use super::v1::{
    self, CreateContainerRequest, ImageSpec, PodSandboxConfig, PullImageRequest, RunPodSandboxRequest,
};
use crate::vetter::wire::{Auth, Call, ImageUse, Kind};

/// The role of the image a container is made of.
pub const ROLE_IMAGE: &str = "image";
/// Labels that the kubelet sets, over the author's, and that differ from pod to pod: no policy asks for them.
pub const OF_ONE_POD: [&str; 2] = ["io.kubernetes.pod.name", "io.kubernetes.pod.uid"];
/// The role of the image a pod sandbox is made of.
pub const ROLE_PAUSE: &str = "pause image";

/// A vetted call, decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// What the vetter is asked; for a RunPodSandbox without the pause image, which the call does not name.
    pub call: Call,
    /// Paths of fields crivet has never heard of.
    pub unknown: Vec<String>,
    /// The pod of a RunPodSandbox, for the pull of its pause image.
    pub sandbox: Option<PodSandboxConfig>,
    /// By which of the runtime's handlers something is made; none by a pull.
    pub handler: Option<Handler>,
}

/// By which of the runtime's handlers something is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handler {
    /// By that of this name; empty: the runtime's default.
    Named(String),
    /// By that of the sandbox with this ID.
    OfSandbox(String),
}

impl Facts {
    /// Bytes of what a call is vetted by: names and labels.
    pub fn bytes(&self) -> usize {
        let handler = match &self.handler {
            Some(Handler::Named(name) | Handler::OfSandbox(name)) => name.len(),
            None => 0,
        };
        self.call.encoded_len() + handler
    }
}

/// As what the vetter is asked about a vetted call.
pub fn kind(vetted: Vetted) -> Kind {
    match vetted {
        Vetted::PullImage => Kind::PullImage,
        Vetted::CreateContainer => Kind::CreateContainer,
        Vetted::RunPodSandbox => Kind::RunPodSandbox,
    }
}

/// Decodes the body of a vetted call.
pub fn facts(vetted: Vetted, body: &[u8]) -> Result<Facts, MessageError> {
    let bytes = only_message(body)?;
    match vetted {
        Vetted::PullImage => {
            let request: PullImageRequest = decode("PullImageRequest", bytes)?;
            let mut call = of_pod(kind(vetted), request.sandbox_config.as_ref());
            let spec = request.image.unwrap_or_default();
            // The runtime pulls what `image` says; the pod's own words are the policy's only in a create.
            call.images = vec![ImageUse {
                reference: spec.image.clone(),
                named: spec.image,
                role: ROLE_IMAGE.to_owned(),
                ..Default::default()
            }];
            call.auth = request.auth.map(auth);
            let unknown = unknown_fields("PullImageRequest", bytes);
            Ok(Facts { call, unknown, sandbox: None, handler: None })
        }
        Vetted::CreateContainer => {
            let request: CreateContainerRequest = decode("CreateContainerRequest", bytes)?;
            let mut call = of_pod(kind(vetted), request.sandbox_config.as_ref());
            let config = request.config.unwrap_or_default();
            call.container_name = config.metadata.unwrap_or_default().name;
            call.images.push(created_from(config.image.unwrap_or_default(), ROLE_IMAGE.to_owned()));
            for (index, mount) in config.mounts.into_iter().enumerate() {
                if let Some(image) = mount.image {
                    call.images.push(created_from(image, format!("mounts[{index}].image")));
                }
            }
            let unknown = unknown_fields("CreateContainerRequest", bytes);
            let handler = Some(Handler::OfSandbox(request.pod_sandbox_id));
            Ok(Facts { call, unknown, sandbox: None, handler })
        }
        Vetted::RunPodSandbox => {
            let request: RunPodSandboxRequest = decode("RunPodSandboxRequest", bytes)?;
            let call = of_pod(kind(vetted), request.config.as_ref());
            Ok(Facts {
                call,
                unknown: unknown_fields("RunPodSandboxRequest", bytes),
                sandbox: request.config,
                handler: Some(Handler::Named(request.runtime_handler)),
            })
        }
    }
}

/// The ID of the container or sandbox that a response says was made; empty if it does not say.
pub fn made(vetted: Vetted, body: &[u8]) -> Result<String, MessageError> {
    let bytes = only_message(body)?;
    match vetted {
        Vetted::CreateContainer => {
            Ok(decode::<v1::CreateContainerResponse>("CreateContainerResponse", bytes)?.container_id)
        }
        Vetted::RunPodSandbox => {
            Ok(decode::<v1::RunPodSandboxResponse>("RunPodSandboxResponse", bytes)?.pod_sandbox_id)
        }
        Vetted::PullImage => Ok(decode::<v1::PullImageResponse>("PullImageResponse", bytes)?.image_ref),
    }
}

fn created_from(spec: ImageSpec, role: String) -> ImageUse {
    let (named, reference) = (spec.image, spec.user_specified_image);
    ImageUse { named, reference, role, ..Default::default() }
}

fn of_pod(kind: Kind, pod: Option<&PodSandboxConfig>) -> Call {
    let metadata = pod.and_then(|pod| pod.metadata.clone()).unwrap_or_default();
    Call {
        kind: kind.into(),
        namespace: metadata.namespace,
        pod_name: metadata.name,
        pod_uid: metadata.uid,
        labels: pod.map(|pod| pod.labels.clone()).unwrap_or_default(),
        ..Default::default()
    }
}

fn auth(auth: v1::AuthConfig) -> Auth {
    Auth {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }
}
