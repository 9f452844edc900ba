//! What the runtime has: images, pods and running containers.

use std::collections::BTreeMap;

use crate::cri::runtime::{RuntimeClient, RuntimeError};
use crate::cri::v1::{Container, ContainerState, Image, ImageSpec, PodSandbox};
use crate::relay::pause::PauseImage;

/// What there is on the node.
#[derive(Debug, Default)]
pub struct Listed {
    /// Every image.
    pub images: Vec<Image>,
    /// Every pod sandbox, whatever its state.
    pub sandboxes: Vec<PodSandbox>,
    /// The running containers.
    pub containers: Vec<Container>,
    /// By a container's ID: the images mounted into it.
    pub volumes: BTreeMap<String, Vec<ImageSpec>>,
    /// The pause image.
    pub pause: Pause,
}

/// The pause image as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    /// Its name.
    pub name: String,
    /// Its ID; empty where there is trouble.
    pub id: String,
    /// Why it cannot be judged; empty if it can.
    pub trouble: String,
}

impl Listed {
    /// Asks the runtime. `pause_image` is the setting of that name.
    ///
    /// # Errors
    /// It does not answer. A container that goes away meanwhile is none.
    pub async fn of(runtime: &RuntimeClient, pause_image: Option<String>) -> Result<Listed, RuntimeError> {
        let images = runtime.list_images().await?;
        let sandboxes = runtime.pod_sandboxes().await?;
        let mut containers = runtime.containers().await?;
        containers.retain(|container| container.state() == ContainerState::ContainerRunning);
        let mut volumes = BTreeMap::new();
        for container in &containers {
            match runtime.image_volumes(&container.id).await {
                Ok(mounted) if mounted.is_empty() => {}
                Ok(mounted) => {
                    volumes.insert(container.id.clone(), mounted);
                }
                Err(RuntimeError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let pause = pause(runtime, pause_image).await;
        Ok(Listed { images, sandboxes, containers, volumes, pause })
    }
}

async fn pause(runtime: &RuntimeClient, setting: Option<String>) -> Pause {
    let name = match PauseImage::new(setting).name(runtime).await {
        Ok(name) => name,
        Err(trouble) => return Pause { trouble, ..Pause::default() },
    };
    let (id, trouble) = match runtime.image_status(&name).await {
        Ok(Some(image)) => (image.id, String::new()),
        Ok(None) => (
            String::new(),
            format!("the pause image {name} is not on this node yet; it is vetted when it is pulled"),
        ),
        Err(error) => (String::new(), error.to_string()),
    };
    Pause { name, id, trouble }
}
