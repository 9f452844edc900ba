//! What a check came to, for people, for machines, and for the daemon. Pure.

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::heal::Healed;
use super::{Image, Layer, Outcome};
use crate::control::wire::{CheckedImage, CheckedLayer, ContentChecked};
use crate::image::quoted_name;
use crate::limits;

/// What to do about what was altered.
const REMEDY: &str = "Find out who wrote to the runtime's folder. Then remove these images with all containers of them (crictl rmp, crictl rmi): \
    the next pull fetches and unpacks them anew.";

/// What to do about an image whose layers the runtime has, and has unpacked by no snapshotter: only the create would, which waits for a check.
const NOT_UNPACKED: &str = "the runtime has not unpacked it, and of what it unpacks within a create nothing is checked; pull it \
    (crictl pull), or without a registry unpack it (ctr -n k8s.io snapshots unpack, with its digest in ctr -n k8s.io images ls), and run \
    crivet content check";

/// A whole check.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Image by image.
    pub images: Vec<Image>,
    /// Different layers.
    pub layers: usize,
    /// How long it took.
    pub took: Duration,
    /// What became of the images that are altered; none where nothing was to be removed.
    pub healed: Vec<Healed>,
}

impl Report {
    /// The worst of all.
    pub fn outcome(&self) -> Outcome {
        self.images.iter().map(Image::outcome).fold(Outcome::Whole, Outcome::and)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for image in &self.images {
            let outcome = image.outcome();
            // Writing to a String cannot fail.
            let _ = write!(text, "{:<9}  {}", outcome.as_str(), shown(image.name()));
            if !image.id.is_empty() {
                let _ = write!(text, "  {}", image.id);
            }
            text.push('\n');
            let mut told = Vec::new();
            if image.documents != Outcome::Whole {
                told.push(image.documents.text().to_owned());
            }
            told.extend(image.layers.iter().filter_map(said));
            for line in told {
                let _ = writeln!(text, "           {line}");
            }
        }
        let count = |word| self.images.iter().filter(|image| image.outcome().as_str() == word).count();
        let _ = writeln!(
            text,
            "{} images: {} whole, {} altered, {} unchecked; {} layers, {:.1} MB read in {:.1} s",
            self.images.len(),
            count("whole"),
            count("altered"),
            count("unchecked"),
            self.layers,
            self.bytes() as f64 / 1e6,
            self.took.as_secs_f64(),
        );
        for healed in &self.healed {
            let became = match healed.kept.as_str() {
                "" => "removed; the next pull fetches and unpacks it anew",
                kept => kept,
            };
            let _ = writeln!(text, "{}  {}: {became}", shown(&healed.name), healed.id);
        }
        let is_mended = !self.healed.is_empty() && self.healed.iter().all(|healed| healed.kept.is_empty());
        if matches!(self.outcome(), Outcome::Altered(_)) && !is_mended {
            let _ = writeln!(text, "{REMEDY}");
        }
        text
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let images = self.images.iter().map(|image| {
            let layers = image.layers.iter().map(|layer| {
                let outcome = layer.outcome();
                json!({"digest": layer.digest.to_string(), "chainID": layer.chain_id.to_string(),
                    "outcome": outcome.as_str(), "message": outcome.text(),
                    "blob": layer.blob.as_ref().map(Outcome::as_str),
                    "snapshots": layer.unpacked.iter().map(|unpacked| {
                        json!({"snapshotter": unpacked.snapshotter, "outcome": unpacked.outcome.as_str()})
                    }).collect::<Vec<_>>()})
            });
            let outcome = image.outcome();
            json!({"names": image.names, "imageID": image.id, "outcome": outcome.as_str(), "message": outcome.text(),
                "layers": layers.collect::<Vec<_>>()})
        });
        let healed = self.healed.iter().map(|healed| {
            json!({"name": healed.name, "imageID": healed.id, "removed": healed.kept.is_empty(),
                "message": healed.kept})
        });
        json!({"outcome": self.outcome().as_str(), "images": images.collect::<Vec<_>>(), "healed": healed.collect::<Vec<_>>(), "layers": self.layers,
            "bytes": self.bytes(), "seconds": self.took.as_secs_f64()})
    }

    /// Bytes read: a layer's once, however many images have it.
    fn bytes(&self) -> u64 {
        let layers = self.images.iter().flat_map(|image| &image.layers);
        let by_layer =
            layers.map(|layer| ((layer.chain_id.to_string(), layer.digest.to_string()), layer.bytes));
        by_layer.collect::<std::collections::BTreeMap<_, _>>().values().sum()
    }

    /// The end of what the daemon is told.
    pub fn checked(&self) -> ContentChecked {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let is_unchecked = |image: &&Image| matches!(image.outcome(), Outcome::Unchecked(_));
        let because = self.images.iter().find(is_unchecked);
        let because = because.map(|image| format!("{}: {}", shown(image.name()), image.outcome().text()));
        ContentChecked {
            images: number(self.images.len()),
            layers: number(self.layers),
            unchecked: number(self.images.iter().filter(is_unchecked).count()),
            unchecked_because: short(&because.unwrap_or_default()),
            took_ms: Some(millis(self.took)),
        }
    }
}

/// What the daemon is told of an image's layers: what is altered, and what is whole.
pub fn told(image: &Image, now: Instant) -> Vec<CheckedLayer> {
    let layers = image.layers.iter().flat_map(|layer| {
        layer.unpacked.iter().filter_map(|unpacked| {
            let found = match layer.blob().and(unpacked.outcome.clone()) {
                Outcome::Whole => String::new(),
                Outcome::Altered(_) => short(&said(layer)?),
                Outcome::Unchecked(_) => return None,
            };
            Some(CheckedLayer {
                snapshotter: unpacked.snapshotter.clone(),
                chain_id: layer.chain_id.to_string(),
                created: unpacked.created.clone(),
                found,
                image_id: image.id.clone(),
                image: short(image.name()),
                age_ms: Some(millis(now.saturating_duration_since(layer.began))),
            })
        })
    });
    layers.collect()
}

/// What it is told of the image, when it has been told of all its layers. For whoever waits for a check of it, an image is not whole that
/// there was nothing to compare of.
pub fn told_of_image(image: &Image) -> CheckedImage {
    let found = image.layers.iter().find_map(said).unwrap_or_else(|| image.outcome().text().to_owned());
    let is_unpacked = image.layers.last().is_none_or(|top| !top.unpacked.is_empty());
    let found = if found.is_empty() && !is_unpacked { NOT_UNPACKED.to_owned() } else { found };
    CheckedImage { image_id: image.id.clone(), found: short(&found) }
}

fn short(text: &str) -> String {
    text.chars().take(limits::CONTENT_FOUND_CHARS).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn said(layer: &Layer) -> Option<String> {
    if let Some(Outcome::Altered(text) | Outcome::Unchecked(text)) = &layer.blob {
        return Some(format!("layer {}: {text}", layer.digest));
    }
    match layer.outcome() {
        Outcome::Whole => None,
        outcome => Some(format!("layer {}, unpacked: {}", layer.digest, outcome.text())),
    }
}

/// A name from outside, as it is where it is harmless.
fn shown(name: &str) -> String {
    let harmless = name.len() < limits::QUOTED_CHARS && name.bytes().all(|byte| byte.is_ascii_graphic());
    if harmless { name.to_owned() } else { quoted_name(name) }
}

#[cfg(test)]
mod tests {
    use super::super::Unpacked;
    use super::*;
    use crate::image::Digest;

    #[test]
    fn image_that_is_unpacked_nowhere_is_not_whole_to_who_waits_for_it() {
        let layer = |outcomes: &[Outcome]| Layer {
            digest: Digest::of(b"layer"),
            chain_id: Digest::of(b"layer"),
            blob: Some(Outcome::Whole),
            unpacked: outcomes
                .iter()
                .map(|outcome| Unpacked {
                    snapshotter: "overlayfs".to_owned(),
                    created: "1".to_owned(),
                    outcome: outcome.clone(),
                })
                .collect(),
            bytes: 0,
            began: Instant::now(),
        };
        let found = |layers: &[Layer]| {
            let image = Image {
                names: Vec::new(),
                id: "id".to_owned(),
                documents: Outcome::Whole,
                layers: layers.to_vec(),
            };
            told_of_image(&image).found
        };
        let (whole, nowhere) = (layer(&[Outcome::Whole]), layer(&[]));
        assert_eq!(found(&[whole.clone(), whole.clone()]), "");
        // What is below may be another image's.
        assert_eq!(found(&[whole, nowhere.clone()]), NOT_UNPACKED);
        let altered = layer(&[Outcome::Altered("a file".to_owned())]);
        assert!(found(&[altered, nowhere]).ends_with("unpacked: a file"));
        // It is handed on as it is.
        assert_eq!(short(NOT_UNPACKED), NOT_UNPACKED);
        assert!(NOT_UNPACKED.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    }
}
