//! As which user a container runs, the kubelet reads by the pod's own name of the image; the container it has made by an ID.
//! If the name moved in between, or is gone, another image's user runs this one, or root does.

pub mod answers;

use std::time::Instant;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::answers::Last;
use super::Relay;
use super::ask::Refusal;
use super::intercept::same_id;
use crate::audit::Reason;
use crate::cri::deadline::Budget;
use crate::cri::facts::ROLE_IMAGE;
use crate::cri::runtime::{RuntimeClient, RuntimeError};
use crate::image::{ImageId, ImageName, quoted};
use crate::vetter::wire::{Call, ImageUse};

/// Holds the image that a create names to what the kubelet was told of the pod's own name. Where that is not known, the runtime
/// is asked; its answer is not waited for before it is asked to create, which would cost each container a question's time.
/// `None`: nothing is open.
///
/// Left out: a name with a digest, whose content cannot be another's; an ID; no name at all, as older kubelets have it; and
/// image volumes, which run nothing.
pub fn ask(relay: &Relay, call: &Call) -> Option<Asked> {
    let image = call.images.iter().find(|image| image.role == ROLE_IMAGE)?.clone();
    // A name with a digest may be told of or not. CRI-O up to 1.34 is told repository@digest, which is no ID to compare.
    if is_held(&image) && ImageId::parse(&image.named).is_ok() {
        match relay.user_answers.last(&image.reference, tokio::time::Instant::now()) {
            Some(Last { id: Some(id), alone: true }) if same_id(&id, &image.named) => return None,
            // The kubelet tries again, and asks again.
            Some(Last { id, .. }) if !id.as_ref().is_some_and(|id| same_id(id, &image.named)) => {
                let refusal = moved(&image, &image.named, id);
                return Some(tokio::spawn(std::future::ready(Err(refusal))));
            }
            Some(_) | None => {}
        }
    }
    let runtime = relay.runtime.clone();
    Some(tokio::spawn(async move { is_the_images(&runtime, &image).await }))
}

/// Whether the pod's name of the image is one that can move. What cannot be read is the vetter's to refuse.
fn is_held(image: &ImageUse) -> bool {
    let name = ImageName::parse(&image.reference);
    matches!(name, Ok(ImageName::Reference(reference)) if reference.digest().is_none())
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
    if !is_held(image) {
        return Ok(());
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
    Err(moved(image, &named, found))
}

fn moved(image: &ImageUse, named: &str, found: Option<String>) -> Refusal {
    let found = found.unwrap_or_else(|| "none".to_owned());
    let text = format!(
        "{}: expected the runtime to have image {named} under this name, found {found}; the kubelet reads by the name as which user the container runs, and tries again",
        shown(image)
    );
    Refusal::own(&text, Reason::NameMoved)
}

async fn id_of(runtime: &RuntimeClient, name: &str) -> Result<Option<String>, RuntimeError> {
    Ok(runtime.image_status(name).await?.map(|image| image.id))
}

fn shown(image: &ImageUse) -> String {
    format!("image {}", quoted(&image.reference))
}
