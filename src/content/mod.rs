//! `crivet content check`: what the node has on its disk of its images, held to what their IDs say.
//!
//! A process of its own. It is root, because the runtime's folder is root's, and reads what anybody has written who could push:
//! so it has no network, answers nobody, and what it costs if it falls is one check. The relay, which must not fall, is told what was
//! found, and believes of it only that less may run.
//!
//! An image's ID is its config's digest, and the config names its layers by what they unpack to. So the ID alone says what every
//! folder has to be: no policy is asked, and every image on the node is looked at.
//!
//! containerd keeps the layers, and its services say which folder is whose ([`Checker`]). CRI-O keeps none, but what is not a file's data of
//! their archives, and its store is files ([`StoreChecker`]).

mod check;
mod folders;
pub mod heal;
mod layer;
pub mod report;
mod stored;
pub mod unpacked;

pub use check::{Checker, Held, held};
pub use stored::StoreChecker;

use std::time::Instant;

use crate::image::Digest;

/// What came of comparing something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is what it has to be.
    Whole,
    /// It is not; how, in one line.
    Altered(String),
    /// That cannot be said, and why, in one line. Never taken for whole.
    Unchecked(String),
}

impl Outcome {
    /// In one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Altered(_) => "altered",
            Self::Unchecked(_) => "unchecked",
        }
    }

    /// What there is to say of it; empty where all is well.
    pub fn text(&self) -> &str {
        match self {
            Self::Whole => "",
            Self::Altered(text) | Self::Unchecked(text) => text,
        }
    }

    /// This, unless the other is worse.
    pub fn and(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Altered(_), _) | (_, Self::Whole) => self,
            (_, Self::Altered(_)) | (Self::Whole, _) => other,
            (Self::Unchecked(_), Self::Unchecked(_)) => self,
        }
    }
}

/// An image, as one manifest has it.
#[derive(Clone, Debug)]
pub struct Image {
    /// What the runtime calls it.
    pub names: Vec<String>,
    /// Its ID; empty where its manifest cannot be read.
    pub id: String,
    /// Index, manifest and config.
    pub documents: Outcome,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// What came of all of it: the worst, and of equally bad the first.
    pub fn outcome(&self) -> Outcome {
        let layers = self.layers.iter().map(Layer::outcome);
        layers.fold(self.documents.clone(), Outcome::and)
    }

    /// What people know it by.
    pub fn name(&self) -> &str {
        self.names.first().map_or(self.id.as_str(), String::as_str)
    }
}

/// A layer of an image.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its digest; where the runtime does not keep its bytes, that of the archive in them.
    pub digest: Digest,
    /// The chain ID of it and all below it: what the runtime calls the folder that it was unpacked into.
    pub chain_id: Digest,
    /// Its bytes; `None`: the runtime has done with what it wrote down of them instead.
    pub blob: Option<Outcome>,
    /// What it was unpacked to, by snapshotter.
    pub unpacked: Vec<Unpacked>,
    /// Bytes read, the blob's and those of files.
    pub bytes: u64,
    /// When comparing it began.
    pub began: Instant,
}

/// What a snapshotter has made of a layer.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// Which; of CRI-O's store the driver, and the layer's ID in it.
    pub snapshotter: String,
    /// When: see [`crate::cri::runtime::unpacked::Snapshot`].
    pub created: String,
    /// What came of comparing it.
    pub outcome: Outcome,
}

impl Layer {
    /// What came of it.
    pub fn outcome(&self) -> Outcome {
        let unpacked = self.unpacked.iter().map(|unpacked| unpacked.outcome.clone());
        unpacked.fold(self.blob(), Outcome::and)
    }

    /// What came of its bytes.
    fn blob(&self) -> Outcome {
        self.blob.clone().unwrap_or(Outcome::Whole)
    }
}
