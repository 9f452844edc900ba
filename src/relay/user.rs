//! As which user a container runs, the kubelet reads by the pod's own name of the image; the container it has made by an ID.
//! If the name moved in between, or is gone, another image's user runs this one, or root does.

use super::Relay;
use super::ask::Refusal;
use super::intercept::same_id;
use crate::audit::Reason;
use crate::cri::facts::ROLE_IMAGE;
use crate::cri::runtime::RuntimeError;
use crate::image::{ImageId, ImageName, quoted};
use crate::vetter::wire::{Call, ImageUse};

/// Holds what the runtime has under the pod's own name to the image that the create names.
///
/// Left out: a name with a digest, whose content cannot be another's; an ID; no name at all, as older kubelets have it; and
/// image volumes, which run nothing.
///
/// # Errors
/// It has another image there, or none, or does not say.
pub async fn is_the_images(relay: &Relay, call: &Call) -> Result<(), Refusal> {
    let Some(image) = call.images.iter().find(|image| image.role == ROLE_IMAGE) else { return Ok(()) };
    match ImageName::parse(&image.reference) {
        Ok(ImageName::Reference(reference)) if reference.digest().is_none() => {}
        // What cannot be read is the vetter's to refuse.
        Ok(_) | Err(_) => return Ok(()),
    }
    let found = id_of(relay, &image.reference).await.map_err(|error| {
        let text = format!("{}: the user it runs as cannot be told: {error}", shown(image));
        Refusal::own(&text, Reason::Runtime)
    })?;
    let named = match ImageId::parse(&image.named) {
        Ok(_) => image.named.clone(),
        // CRI-O up to 1.34 is told repository@digest.
        Err(_) => id_of(relay, &image.named).await.ok().flatten().unwrap_or_default(),
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

/// The runtime did not say in time.
pub fn not_told() -> Refusal {
    Refusal::own(
        "the runtime does not say in time which image it has under the pod's own name",
        Reason::Runtime,
    )
}

async fn id_of(relay: &Relay, name: &str) -> Result<Option<String>, RuntimeError> {
    Ok(relay.runtime.image_status(name).await?.map(|image| image.id))
}

fn shown(image: &ImageUse) -> String {
    format!("image {}", quoted(&image.reference))
}
