//! Before a create, where a policy asks for it (`content.layersCheckedWithin`): every layer that the image stands on was found whole by a
//! check, not too long ago. What was not is requested, and the create is undecided until it is done.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout};

use super::altered::{self, shown};
use super::ask::Refusal;
use super::checked::Found;
use super::requested::Asked;
use super::{Relay, documents};
use crate::audit::Reason;
use crate::config::spoken;
use crate::cri::deadline::Budget;
use crate::cri::runtime::{RuntimeClient, RuntimeError};
use crate::cri::storage::Stacked;
use crate::limits;
use crate::vetter::wire::{Call, ImageUse, Judged, Outcome, VettedImage};

/// The snapshotter that has what other images had unpacked already, which no label of theirs says.
const OVERLAYFS: &str = "overlayfs";

/// What is asked of an image's layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The image's ID; empty: it is not known.
    pub image_id: String,
    /// Its topmost layer and all below it; empty: that is not known.
    pub chain_id: String,
    /// How long ago they may have been found whole.
    pub within: Duration,
}

impl Wanted {
    /// What a verdict wants of an image's layers, if anything.
    pub fn of(image: &VettedImage) -> Option<Wanted> {
        (image.layers_checked_within > 0).then(|| Wanted {
            image_id: image.image_ids.first().cloned().unwrap_or_default(),
            chain_id: image.chain_id.clone(),
            within: Duration::from_secs(image.layers_checked_within.into()),
        })
    }
}

/// Why an image's layers are not known to be whole.
enum Lacking {
    /// The runtime has unpacked it nowhere.
    Nowhere,
    /// By the name of the snapshot.
    Layer { chain_id: String, is_too_old: bool },
}

/// Holds the images of a permitted call to what their policies ask of their layers, within what is left of the budget. What lacks a
/// check is requested. Answers with the snapshotters that were looked at, image by image; empty: nothing is asked.
///
/// # Errors
/// One is altered, or not known to be whole.
pub async fn before(
    relay: &Relay,
    call: &Call,
    wanted: &[Option<Wanted>],
    budget: Budget,
) -> Result<Vec<Vec<String>>, Refusal> {
    if wanted.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let held = async {
        // What is altered is denied, whatever else there is to say.
        let asked = wanted.iter().map(|wanted| wanted.as_ref().map(|wanted| wanted.chain_id.as_str()));
        altered::stand_on_whole_layers(relay, call, asked.map(|id| id.filter(|id| !id.is_empty()))).await?;
        hold(relay, call, wanted, true).await
    };
    timeout(budget.left(Instant::now().into_std()), held).await.unwrap_or_else(|_| Err(documents::not_read()))
}

/// The same where nothing is enforced, of what is not altered: nothing is requested.
///
/// # Errors
/// What enforce mode would have said.
pub async fn beside(relay: &Relay, call: &Call, wanted: &[Option<Wanted>]) -> Result<(), Refusal> {
    hold(relay, call, wanted, false).await.map(drop)
}

/// Holds images that crivet itself has asked about to what checks have found, as it would be done before a create. What would be
/// refused for it is judged so.
pub async fn judged(relay: &Relay, images: &[ImageUse], judged: &mut [Judged]) {
    for (image, judged) in images.iter().zip(judged) {
        let Some(vetted) = judged.vetted.clone().filter(|vetted| !vetted.chain_id.is_empty()) else {
            continue;
        };
        let call = Call { images: vec![image.clone()], ..Default::default() };
        let held = async {
            altered::found_under(relay, image, &vetted.chain_id).await?;
            beside(relay, &call, &[Wanted::of(&vetted)]).await
        };
        if let Err(refusal) = held.await {
            let outcome = if refusal.is_denial() { Outcome::Denied } else { Outcome::Undecided };
            (judged.outcome, judged.refuses) = (outcome.into(), true);
            judged.message = refusal.reply.message;
        }
    }
}

/// Holds what was made to the snapshotters that were looked at: the runtime may have another for the pod's runtime class, and unpack
/// for it within the call.
///
/// # Errors
/// It stands on what was not looked at.
pub async fn stands_on(relay: &Relay, made: &str, snapshotters: &[String]) -> Result<(), Refusal> {
    let own = |text: &str| Refusal::own(text, Reason::ContentNotChecked);
    match relay.runtime.snapshotter_of(made).await {
        Ok(snapshotter) if snapshotters.contains(&snapshotter) => Ok(()),
        Ok(snapshotter) => Err(own(&format!(
            "the runtime made the container by its snapshotter {}, which had not unpacked the image before; its layers there were not checked",
            crate::image::quoted(&snapshotter)
        ))),
        Err(error) => {
            Err(own(&format!("by which snapshotter the container was made cannot be told: {error}")))
        }
    }
}

async fn hold(
    relay: &Relay,
    call: &Call,
    wanted: &[Option<Wanted>],
    requests: bool,
) -> Result<Vec<Vec<String>>, Refusal> {
    let mut looked_at = Vec::with_capacity(wanted.len());
    for (image, wanted) in call.images.iter().zip(wanted) {
        let Some(wanted) = wanted else {
            looked_at.push(Vec::new());
            continue;
        };
        match look(relay, wanted).await {
            Ok(Ok(snapshotters)) => looked_at.push(snapshotters),
            Ok(Err(lacking)) => return Err(refusal(relay, image, wanted, &lacking, requests).await),
            Err(why) => {
                let text = format!("{}: {}, found none: {why}", shown(image), expected(wanted));
                return Err(Refusal::own(&text, Reason::ContentNotChecked));
            }
        }
    }
    Ok(looked_at)
}

/// By which snapshotters the image is unpacked, if it is whole in each.
async fn look(relay: &Relay, wanted: &Wanted) -> Result<Result<Vec<String>, Lacking>, String> {
    if wanted.image_id.is_empty() || wanted.chain_id.is_empty() {
        return Err("on which layers it stands is not known".to_owned());
    }
    let now = relay.checked.now(SystemTime::now(), Instant::now());
    if relay.checked.lags(now) {
        relay.checked.keep().await;
    }
    let stored = relay.runtime.stored_layers(&wanted.chain_id).await.map_err(|error| error.to_string())?;
    if let Some(stored) = stored {
        return Ok(stacked(relay, &stored, wanted, now));
    }
    let snapshotters = unpacked_by(&relay.runtime, wanted).await.map_err(|error| error.to_string())?;
    if snapshotters.is_empty() {
        return Ok(Err(Lacking::Nowhere));
    }
    for snapshotter in &snapshotters {
        let lacking = under(relay, snapshotter, wanted, now).await.map_err(|error| error.to_string())?;
        if let Some(lacking) = lacking {
            return Ok(Err(lacking));
        }
    }
    Ok(Ok(snapshotters))
}

/// The same in CRI-O's store, whose folders stand for snapshotters: each that a container could be made on, if it is whole and what is
/// below it.
fn stacked(relay: &Relay, stored: &[Stacked], wanted: &Wanted, now: u64) -> Result<Vec<String>, Lacking> {
    if stored.is_empty() {
        return Err(Lacking::Nowhere);
    }
    for Stacked { name, chain_id, layer } in stored {
        let chain_id = chain_id.to_string();
        match relay.checked.find(name, &chain_id, &layer.created, wanted.within, now) {
            Found::Whole => {}
            Found::TooOld => return Err(Lacking::Layer { chain_id, is_too_old: true }),
            Found::Never => return Err(Lacking::Layer { chain_id, is_too_old: false }),
        }
    }
    let tops = stored.iter().filter(|stacked| stacked.chain_id.to_string() == wanted.chain_id);
    Ok(tops.map(|top| top.name.clone()).collect())
}

async fn unpacked_by(runtime: &RuntimeClient, wanted: &Wanted) -> Result<Vec<String>, RuntimeError> {
    let (unpacked_by, snapshot) =
        tokio::join!(runtime.unpacked_by(&wanted.image_id), runtime.snapshot(OVERLAYFS, &wanted.chain_id));
    let mut snapshotters = unpacked_by?;
    match snapshot {
        Ok(_) => snapshotters.push(OVERLAYFS.to_owned()),
        Err(RuntimeError::NotFound(_)) => {}
        Err(error) => return Err(error),
    }
    snapshotters.sort();
    snapshotters.dedup();
    Ok(snapshotters)
}

/// The first layer, from the top down, that is not known to be whole.
async fn under(
    relay: &Relay,
    snapshotter: &str,
    wanted: &Wanted,
    now: u64,
) -> Result<Option<Lacking>, RuntimeError> {
    let mut key = wanted.chain_id.clone();
    let mut asked = relay.runtime.snapshot(snapshotter, &key).await;
    for _ in 0..=limits::LAYERS {
        let snapshot = match asked {
            Ok(snapshot) => snapshot,
            Err(RuntimeError::NotFound(_)) => {
                return Ok(Some(Lacking::Layer { chain_id: key, is_too_old: false }));
            }
            Err(error) => return Err(error),
        };
        match relay.checked.find(snapshotter, &key, &snapshot.created, wanted.within, now) {
            Found::Whole => {}
            Found::TooOld => return Ok(Some(Lacking::Layer { chain_id: key, is_too_old: true })),
            Found::Never => return Ok(Some(Lacking::Layer { chain_id: key, is_too_old: false })),
        }
        if snapshot.parent.is_empty() {
            return Ok(None);
        }
        asked = relay.stacks.below(&relay.runtime, snapshotter, &key, &snapshot).await;
        key = snapshot.parent;
    }
    Ok(Some(Lacking::Layer { chain_id: key, is_too_old: false }))
}

fn expected(wanted: &Wanted) -> String {
    format!(
        "expected a check that has found its layers whole within the last {} (content.layersCheckedWithin)",
        spoken(wanted.within)
    )
}

async fn refusal(
    relay: &Relay,
    image: &ImageUse,
    wanted: &Wanted,
    lacking: &Lacking,
    requests: bool,
) -> Refusal {
    let found = match lacking {
        Lacking::Nowhere => "found that the runtime has not unpacked it".to_owned(),
        Lacking::Layer { chain_id, is_too_old: true } => format!("found an older one of layers {chain_id}"),
        Lacking::Layer { chain_id, is_too_old: false } => format!("found none of layers {chain_id}"),
    };
    let todo = if requests {
        let name = if image.reference.is_empty() { &image.named } else { &image.reference };
        let asked = relay.requested.ask(&wanted.image_id, name, Instant::now()).await;
        altered::tell(relay);
        told(&asked)
    } else {
        "run crivet content check".to_owned()
    };
    let text = format!("{}: {}, {found}; {todo}", shown(image), expected(wanted));
    Refusal::own(&text, Reason::ContentNotChecked)
}

fn told(asked: &Asked) -> String {
    match asked {
        Asked::Waits => "one was requested, and the container is made if it finds the image whole; if none is made: systemctl enable --now crivet-content-requested.path".to_owned(),
        Asked::Begun => "one was begun, and the container is made if it finds the image whole".to_owned(),
        Asked::NotWhole(why) => format!(
            "the last one could not find it whole: {}; it is tried again later",
            altered::printable(why)
        ),
        Asked::TooMany => format!(
            "more than {} images wait for one (limits::CONTENT_REQUESTS); run crivet content check",
            limits::CONTENT_REQUESTS
        ),
    }
}
