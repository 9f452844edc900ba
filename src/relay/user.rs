//! As which user a container runs, the kubelet reads by the pod's own name of the image; the container it has made by an ID.
//! If the name moved in between, or is gone, another image's user runs this one, or root does.

pub mod answers;

use std::time::Instant;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Relay;
use super::ask::Refusal;
use super::intercept::same_id;
use crate::audit::Reason;
use crate::cri::deadline::Budget;
use crate::cri::facts::ROLE_IMAGE;
use crate::cri::runtime::{RuntimeClient, RuntimeError};
use crate::image::{ImageId, ImageName, quoted};
use crate::vetter::wire::{Call, ImageUse};

/// Asks whether what the runtime has under the pod's own name is the image that the create names. Not waited for before the
/// runtime is asked to create: it would cost each container a question's time. `None` if that is known: all who asked lately
/// for the user, the kubelet among them, were told of this image.
///
/// Left out: a name with a digest, whose content cannot be another's; an ID; no name at all, as older kubelets have it; and
/// image volumes, which run nothing.
pub fn ask(relay: &Relay, call: &Call) -> Option<Asked> {
    let image = call.images.iter().find(|image| image.role == ROLE_IMAGE)?;
    let told = relay.user_answers.agree_on(&image.reference, tokio::time::Instant::now());
    if told.is_some_and(|told| same_id(&told, &image.named)) {
        return None;
    }
    let (runtime, image) = (relay.runtime.clone(), image.clone());
    Some(tokio::spawn(async move { is_the_images(&runtime, &image).await }))
}

/// What the runtime says, or will say.
pub type Asked = JoinHandle<Result<(), Refusal>>;

/// What it said.
///
/// # Errors
/// It has another image there, or none, or does not say within the budget.
pub async fn told(asked: Asked, budget: Budget) -> Result<(), Refusal> {
    match timeout(budget.left(Instant::now()), asked).await {
        Ok(Ok(told)) => told,
        Ok(Err(_)) | Err(_) => Err(Refusal::own(
            "the runtime does not say in time which image it has under the pod's own name",
            Reason::Runtime,
        )),
    }
}

async fn is_the_images(runtime: &RuntimeClient, image: &ImageUse) -> Result<(), Refusal> {
    match ImageName::parse(&image.reference) {
        Ok(ImageName::Reference(reference)) if reference.digest().is_none() => {}
        // What cannot be read is the vetter's to refuse.
        Ok(_) | Err(_) => return Ok(()),
    }
    let found = id_of(runtime, &image.reference).await.map_err(|error| {
        let text = format!("{}: the user it runs as cannot be told: {error}", shown(image));
        Refusal::own(&text, Reason::Runtime)
    })?;
    let named = match ImageId::parse(&image.named) {
        Ok(_) => image.named.clone(),
        // CRI-O up to 1.34 is told repository@digest.
        Err(_) => id_of(runtime, &image.named).await.ok().flatten().unwrap_or_default(),
    };
    if found.as_deref().is_some_and(|found| same_id(found, &named)) {
        return Ok(());
    }
    let found = found.unwrap_or_else(|| "none".to_owned());
    let text = format!(
        "{}: expected the runtime to have image {named} under this name, found {found}; the kubelet reads by the name as which user the container runs, and tries again",
        shown(image)
    );
    Err(Refusal::own(&text, Reason::NameMoved))
}

async fn id_of(runtime: &RuntimeClient, name: &str) -> Result<Option<String>, RuntimeError> {
    Ok(runtime.image_status(name).await?.map(|image| image.id))
}

fn shown(image: &ImageUse) -> String {
    format!("image {}", quoted(&image.reference))
}
