//! Small images: a static busybox, a command, and whatever makes one differ from another.

use super::peers::Peers;
use super::registry::{Registry, digest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// This machine's architecture by the name that images use.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An image yet to be pushed.
#[derive(Clone)]
pub struct Image {
    /// The layers below its own.
    below: Vec<Vec<u8>>,
    config: Value,
    files: Vec<(String, Vec<u8>)>,
    annotations: BTreeMap<String, String>,
}

/// An image that is in a registry.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// `host:port/repository:tag`
    pub reference: String,
    /// `host:port/repository@sha256:<hex>`, of the manifest or index that was pushed.
    pub by_digest: String,
    /// `sha256:<hex>` of that manifest or index.
    pub digest: String,
    /// `sha256:<hex>` of the configuration: containerd's image ID. An index has that of its first image.
    pub id: String,
    /// The chain ID of the layers: what the snapshot of a container of this image has as its parent.
    pub chain: String,
    /// The digests of an index's manifests, in its order; none for a manifest.
    pub manifests: Vec<String>,
}

impl Image {
    /// An image whose command is a shell script. It runs as process 1, so a script that should end on SIGTERM
    /// has to say so.
    pub fn script(peers: &Peers, script: &str) -> Self {
        let config = json!({"Cmd": ["/bin/sh", "-c", script], "Env": ["PATH=/bin"]});
        Self {
            below: vec![base_layer(&peers.program("busybox"))],
            config,
            files: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }

    /// An image that says `line` once and stays up until it is told to stop.
    pub fn says(peers: &Peers, line: &str) -> Self {
        Self::script(peers, &format!("echo {line}; trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"))
    }

    /// An image of so many layers with so many bytes in files, none of which another image has. It has nothing that could
    /// be run.
    pub fn layered(peers: &Peers, layers: usize, bytes: usize) -> Self {
        let program = std::fs::read(peers.program("busybox")).unwrap();
        let content = |layer: usize| {
            let own = format!("layer {layer} of {layers}\n").into_bytes();
            own.into_iter().chain(program.iter().copied().cycle()).take(bytes / layers).collect::<Vec<u8>>()
        };
        let below = (1..layers).map(|layer| {
            let mut tar = Tar::default();
            tar.file(&format!("file-{layer}"), 0o644, &content(layer));
            tar.finish()
        });
        Self {
            below: below.collect(),
            config: json!({"Cmd": ["/none"]}),
            files: vec![("file".to_owned(), content(layers))],
            annotations: BTreeMap::new(),
        }
    }

    /// Sets the user that containers of the image run as.
    pub fn user(mut self, user: &str) -> Self {
        self.config["User"] = json!(user);
        self
    }

    /// Adds a file in the root folder, and so makes an image that has another ID.
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.to_owned(), content.as_bytes().to_vec()));
        self
    }

    /// Adds an annotation to the manifest, and so makes another manifest of the same image.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn push(&self, registry: &Registry, repository: &str, tag: &str) -> Pushed {
        let (manifest, id) = self.upload(registry, repository, architecture());
        registry.put_manifest(repository, tag, MANIFEST, &manifest);
        Pushed::new(registry, repository, tag, &manifest, id, self.chain())
    }

    fn layers(&self) -> Vec<Vec<u8>> {
        let mut own = Tar::default();
        for (name, content) in &self.files {
            own.file(name, 0o644, content);
        }
        self.below.iter().cloned().chain([own.finish()]).collect()
    }

    /// ChainID of the OCI image specification, "Layer ChainID".
    fn chain(&self) -> String {
        let diff_ids = self.layers().into_iter().map(|layer| digest(&layer));
        diff_ids.reduce(|chain, id| digest(format!("{chain} {id}").as_bytes())).unwrap()
    }

    fn upload(&self, registry: &Registry, repository: &str, architecture: &str) -> (Vec<u8>, String) {
        let layers = self.layers();
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({"architecture": architecture, "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = config.to_string().into_bytes();
        let id = registry.put_blob(repository, &config);
        let described = layers.iter().map(|layer| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": registry.put_blob(repository, layer), "size": layer.len()})
        });
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "annotations": self.annotations,
            "layers": described.collect::<Vec<_>>(),
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": id, "size": config.len()}});
        (manifest.to_string().into_bytes(), id)
    }
}

/// busybox under all its names, and the users that images may name.
fn base_layer(busybox: &Path) -> Vec<u8> {
    let applets = Command::new(busybox).arg("--list").output().unwrap().stdout;
    let mut tar = Tar::default();
    for folder in ["bin", "etc", "tmp"] {
        tar.folder(folder);
    }
    tar.file("bin/busybox", 0o755, &std::fs::read(busybox).unwrap());
    for applet in String::from_utf8(applets).unwrap().lines().filter(|&name| name != "busybox") {
        tar.link(&format!("bin/{applet}"), "busybox");
    }
    tar.file("etc/passwd", 0o644, PASSWD);
    tar.file("etc/group", 0o644, GROUP);
    tar.finish()
}

const PASSWD: &[u8] =
    b"root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\ndefault-user:x:1000:1000::/:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\nextra:x:50000:default-user\n";

impl Pushed {
    fn new(
        registry: &Registry,
        repository: &str,
        tag: &str,
        manifest: &[u8],
        id: String,
        chain: String,
    ) -> Self {
        let name = format!("{}/{repository}", registry.address());
        let digest = digest(manifest);
        let (reference, by_digest) = (format!("{name}:{tag}"), format!("{name}@{digest}"));
        Self { reference, by_digest, digest, id, chain, manifests: Vec::new() }
    }
}

/// Pushes an index over one image per architecture.
pub fn push_index(registry: &Registry, repository: &str, tag: &str, images: &[(&str, Image)]) -> Pushed {
    let mut ids = Vec::new();
    let (mut entries, mut manifests) = (Vec::new(), Vec::new());
    for (architecture, image) in images {
        let (manifest, id) = image.upload(registry, repository, architecture);
        let digest = digest(&manifest);
        registry.put_manifest(repository, &digest, MANIFEST, &manifest);
        entries.push(json!({"mediaType": MANIFEST, "digest": digest, "size": manifest.len(),
            "platform": {"architecture": architecture, "os": "linux"}}));
        manifests.push(digest);
        ids.push(id);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    registry.put_manifest(repository, tag, INDEX, index.as_bytes());
    let (id, chain) = (ids.swap_remove(0), images[0].1.chain());
    Pushed { manifests, ..Pushed::new(registry, repository, tag, index.as_bytes(), id, chain) }
}

/// POSIX ustar, the entries that a small image needs.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn folder(&mut self, name: &str) {
        self.entry(&format!("{name}/"), 0o755, b'5', "", &[]);
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, mode, b'0', "", content);
    }

    fn link(&mut self, name: &str, target: &str) {
        self.entry(name, 0o777, b'2', target, &[]);
    }

    fn entry(&mut self, name: &str, mode: u32, kind: u8, target: &str, content: &[u8]) {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        put(108, b"0000000");
        put(116, b"0000000");
        put(124, format!("{:011o}", content.len()).as_bytes());
        put(136, b"00000000000");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
