//! A node with crivet in front of containerd, as most tests want one.

use super::containerd::Containerd;
use super::cosign::{Cosign, Key, Version};
use super::crictl::Crictl;
use super::crivet::{Activation, Crivet, key_policy};
use super::image::{Image, Pushed};
use super::peers::Peers;
use super::registry::Registry;
use serde_json::{Value, json};

/// Dropped in this order: crivet goes first, the scratch folder last.
pub struct Node {
    pub crivet: Crivet,
    pub containerd: Containerd,
    pub registry: Registry,
    pub cosign: Cosign,
    pub key: Key,
    pub peers: Peers,
}

/// What a node is made of. Everything of its registry wants a signature by its key.
pub struct Setup<'a> {
    pub containerd: &'a str,
    pub mode: &'a str,
    /// Further lines of crivet's configuration; `REGISTRY` stands for the registry's address.
    pub settings: &'a str,
    pub rust_log: &'a str,
    pub pause_is_signed: bool,
    /// Whether containerd pulled it by itself before crivet came.
    pub pause_is_there: bool,
}

impl Setup<'_> {
    /// containerd 2 says which image it pins, and so the pause image's name, only once it has that image.
    pub fn on_containerd_2() -> Self {
        Self { containerd: "2", pause_is_there: true, ..Self::default() }
    }
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            containerd: "1.6",
            mode: "enforce",
            settings: "",
            rust_log: "info",
            pause_is_signed: true,
            pause_is_there: false,
        }
    }
}

impl Node {
    /// A node in enforce mode on containerd 1.6 with a signed pause image.
    pub fn enforcing() -> Option<Self> {
        Self::start(&Setup::default())
    }

    pub fn start(setup: &Setup<'_>) -> Option<Self> {
        Self::activated(setup, |_| Activation::default())
    }

    /// As [`Node::start`], with crivet started as a service manager does it.
    pub fn activated(setup: &Setup<'_>, by: impl FnOnce(&Peers) -> Activation) -> Option<Self> {
        let peers = Peers::get()?;
        let activation = by(&peers);
        let registry = Registry::start(&peers);
        let containerd = Containerd::start(&peers, setup.containerd, &registry);
        let cosign = Cosign::new(&peers, Version::V2);
        let key = cosign.generate_key("key");
        if setup.pause_is_signed {
            cosign.sign(&key, &containerd.pause().by_digest, &[]);
        }
        if setup.pause_is_there {
            containerd.crictl().pull(&containerd.pause().reference).unwrap();
        }
        let all = key_policy("all", &format!("{}/**", registry.address()), &key);
        let settings = setup.settings.replace("REGISTRY", registry.address());
        let crivet =
            Crivet::activated(&peers, &containerd, setup.mode, &[all], &settings, setup.rust_log, activation);
        Some(Self { crivet, containerd, registry, cosign, key, peers })
    }

    pub fn push(&self, name: &str, image: &Image) -> Pushed {
        image.push(&self.registry, name, "1")
    }

    pub fn push_signed(&self, name: &str, image: &Image) -> Pushed {
        let pushed = self.push(name, image);
        self.sign(&pushed);
        pushed
    }

    pub fn sign(&self, pushed: &Pushed) {
        self.cosign.sign(&self.key, &pushed.by_digest, &[]);
    }

    pub fn says(&self, line: &str) -> Image {
        Image::says(&self.peers, line)
    }

    /// crictl through crivet.
    pub fn crictl(&self) -> &Crictl {
        self.crivet.crictl()
    }

    /// Brings an image onto the node past crivet.
    pub fn preload(&self, reference: &str) {
        self.containerd.crictl().pull(reference).unwrap();
    }

    /// Creates through crivet by these names for namespace `e2e`, in a sandbox of its own.
    pub fn create(&self, name: &str, image: &Value) -> Result<String, String> {
        let pod = self.crictl().sandbox(name)?;
        self.crictl().create_of(name, &pod, "e2e", image, &json!([]))
    }

    /// A glob over this part of the registry.
    pub fn glob(&self, rest: &str) -> String {
        format!("{}/{rest}", self.registry.address())
    }

    /// The containers that containerd has.
    pub fn containers(&self) -> String {
        self.containerd.crictl().run(["ps", "--all", "--quiet"]).unwrap()
    }
}

/// Says that a call was refused by crivet with a text that starts and continues so.
pub fn assert_refused<T>(result: Result<T, String>, prefix: &str, texts: &[&str]) {
    let Err(refusal) = result else { panic!("not refused, though {texts:?} was expected") };
    let start = format!("code = Unknown desc = {prefix}");
    assert!(refusal.contains(&start), "expected {start:?} in {refusal}");
    for text in texts {
        assert!(refusal.contains(text), "expected {text:?} in {refusal}");
    }
}

/// How an answer with evidence against the image starts: not with `undecided: `.
pub const DENIED: &str = "SignatureValidationFailed: image ";
pub const UNDECIDED: &str = "SignatureValidationFailed: undecided: ";
pub const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable: ";
