//! What `crivet content check` says of a containerd's images. Images, folders and errors are the test's.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use crivet::content::{Checker, Held, Image, Outcome};
use crivet::cri::containerd::{content, leases, snapshots, types};
use crivet::cri::runtime::RuntimeClient;
use crivet::cri::v1;
use crivet::image::Digest;
use prost::Message;
use serde_json::json;
use tempfile::TempDir;

use crate::support::runtime::{Call, FakeRuntime};

const OVERLAYFS: &str = "overlayfs";
const NOT_FOUND: u16 = 5;
const UNAVAILABLE: u16 = 14;

/// The gRPC code that a question comes to, by its method and what it is about, if it fails.
type Fails = Box<dyn FnMut(&str, &str) -> Option<u16> + Send>;

#[derive(Default)]
struct State {
    content: HashMap<String, Vec<u8>>,
    /// What is unpacked, by chain ID: the layer below, and the folder.
    unpacked: BTreeMap<String, (String, PathBuf)>,
    views: BTreeMap<String, String>,
    /// The digests of what was read, in order.
    read: Vec<String>,
    fails: Option<Fails>,
}

/// A containerd, and the folders that it unpacks to.
struct Node {
    _fake: FakeRuntime,
    state: Arc<Mutex<State>>,
    folder: TempDir,
    checker: Checker,
}

impl Node {
    async fn new() -> Node {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let fake = FakeRuntime::start(folder.path(), move |call| serve(Arc::clone(&shared), call));
        let runtime = RuntimeClient::new(fake.socket(), fake.socket());
        let checker = Checker::begin(runtime, SystemTime::now()).await.unwrap();
        Node { _fake: fake, state, folder, checker }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The folder of the layer with this word.
    fn layer(&self, word: &str) -> PathBuf {
        self.folder.path().join(word)
    }

    /// Has the runtime take in an image of these layers, each a folder with one file, without unpacking it.
    fn import(&self, words: &[&str]) -> Pushed {
        let archives: Vec<Vec<u8>> = words.iter().map(|word| archive(&self.layer(word), word)).collect();
        let diff_ids: Vec<String> = archives.iter().map(|archive| digest(archive)).collect();
        let config = json!({"architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = config.to_string().into_bytes();
        let layers = archives.iter().map(|archive| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest(archive), "size": archive.len()})
        });
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config), "size": config.len()},
            "layers": layers.collect::<Vec<_>>()});
        let manifest = manifest.to_string().into_bytes();
        let mut chains: Vec<String> = Vec::new();
        for diff_id in &diff_ids {
            let below = chains.last();
            chains.push(
                below
                    .map_or_else(|| diff_id.clone(), |below| digest(format!("{below} {diff_id}").as_bytes())),
            );
        }
        let held = Held { target: digest(&manifest), names: vec![words.join("/")] };
        let documents = [config, manifest];
        self.state()
            .content
            .extend(archives.into_iter().chain(documents).map(|bytes| (digest(&bytes), bytes)));
        let folders = words.iter().map(|word| self.layer(word)).collect();
        Pushed { held, chains, folders, layers: diff_ids }
    }

    /// The same, unpacked.
    fn pull(&self, words: &[&str]) -> Pushed {
        let image = self.import(words);
        let mut below = String::new();
        for (chain, folder) in image.chains.iter().zip(&image.folders) {
            self.state().unpacked.insert(chain.clone(), (below.clone(), folder.clone()));
            below.clone_from(chain);
        }
        image
    }

    async fn check(&mut self, image: &Pushed) -> Image {
        self.checker.image(&image.held).await.pop().unwrap()
    }

    /// How often this layer's bytes were read.
    fn read(&self, layer: &str) -> usize {
        self.state().read.iter().filter(|read| *read == layer).count()
    }
}

struct Pushed {
    held: Held,
    chains: Vec<String>,
    folders: Vec<PathBuf>,
    /// The layers' digests.
    layers: Vec<String>,
}

fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// The layer with this word, and the folder that it was unpacked into, as it was.
fn archive(folder: &Path, word: &str) -> Vec<u8> {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(word), word).unwrap();
    let output = Command::new("tar").arg("-C").arg(folder).args(["--mtime=@0", "-c", word]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn alter(folder: &Path, word: &str) {
    fs::write(folder.join(word), word.to_uppercase()).unwrap();
}

fn is_altered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Altered(_))
}

async fn serve(state: Arc<Mutex<State>>, mut call: Call) {
    let Ok(seen) = call.read().await else { return };
    let path = call.path().to_owned();
    let method = path.rsplit('.').next().unwrap_or_default();
    let answer = answer(&mut state.lock().unwrap(), method, seen.data.get(5..).unwrap_or_default());
    match answer {
        Ok(message) => call.answer(&message).await,
        Err(code) => call.trailers_only(code, "as the test has it"),
    }
}

fn answer(state: &mut State, method: &str, body: &[u8]) -> Result<Vec<u8>, u16> {
    let mut about =
        |what: &str| state.fails.as_mut().and_then(|fails| fails(method, what)).map_or(Ok(()), Err);
    Ok(match method {
        "RuntimeService/Version" => {
            v1::VersionResponse { runtime_name: "containerd".to_owned(), runtime_version: "2.1.9".to_owned() }
                .encode_to_vec()
        }
        "Leases/Create" => leases::CreateResponse {}.encode_to_vec(),
        "Content/Info" => {
            let labels = BTreeMap::new();
            content::InfoResponse { info: Some(content::Info { labels }) }.encode_to_vec()
        }
        "Content/Read" => {
            let digest = content::ReadContentRequest::decode(body).unwrap().digest;
            about(&digest)?;
            let data = state.content.get(&digest).ok_or(NOT_FOUND)?.clone().into();
            state.read.push(digest);
            content::ReadContentResponse { offset: 0, data }.encode_to_vec()
        }
        "Snapshots/Stat" => {
            let snapshots::StatSnapshotRequest { snapshotter, key } = Message::decode(body).unwrap();
            about(&key)?;
            let below = state.unpacked.get(&key).map(|(below, _)| below).or_else(|| state.views.get(&key));
            let parent = below.filter(|_| snapshotter == OVERLAYFS).ok_or(NOT_FOUND)?.clone();
            let created_at = Some(types::Timestamp { seconds: 1, nanos: 0 });
            let info = snapshots::Info { name: key, parent, created_at, ..Default::default() };
            snapshots::StatSnapshotResponse { info: Some(info) }.encode_to_vec()
        }
        "Snapshots/View" => {
            let snapshots::ViewSnapshotRequest { key, parent, .. } = Message::decode(body).unwrap();
            about(&parent)?;
            let mut folders = Vec::new();
            let mut at = parent.clone();
            while let Some((below, folder)) = state.unpacked.get(&at) {
                folders.push(folder.to_str().unwrap());
                at.clone_from(below);
            }
            let options = vec![format!("lowerdir={}", folders.join(":"))];
            let mount = types::Mount { r#type: "overlay".to_owned(), source: "overlay".to_owned(), options };
            state.views.insert(key, parent);
            snapshots::ViewSnapshotResponse { mounts: vec![mount] }.encode_to_vec()
        }
        "Snapshots/Remove" => {
            let key = snapshots::RemoveSnapshotRequest::decode(body).unwrap().key;
            state.views.remove(&key).ok_or(NOT_FOUND)?;
            Vec::new()
        }
        _ => return Err(NOT_FOUND),
    })
}

#[tokio::test]
async fn layer_of_an_image_that_was_not_unpacked_is_compared_where_another_image_has_its_folder() {
    let mut node = Node::new().await;
    let imported = node.import(&["base", "a"]);
    let pulled = node.pull(&["base", "b"]);
    alter(&node.layer("base"), "base");
    let first = node.check(&imported).await;
    assert!(first.layers.iter().all(|layer| layer.unpacked.is_empty()), "{first:?}");
    let second = node.check(&pulled).await;
    assert!(is_altered(&second.layers[0].outcome()), "{:?}", second.layers[0]);
    // By now it is known, whoever asks.
    let third = node.check(&imported).await;
    assert!(is_altered(&third.layers[0].outcome()), "{:?}", third.layers[0]);
    assert_eq!(node.read(&pulled.layers[0]), 2);
}

#[tokio::test]
async fn folder_that_could_not_be_had_for_one_image_is_looked_at_for_the_next() {
    let mut node = Node::new().await;
    let (first, second) = (node.pull(&["base", "a"]), node.pull(&["base", "b"]));
    alter(&node.layer("base"), "base");
    let top = first.chains[1].clone();
    node.state().fails = Some(failing(usize::MAX, "Snapshots/View", move |key| key == top));
    let unchecked = node.check(&first).await;
    assert!(matches!(unchecked.outcome(), Outcome::Unchecked(_)), "{unchecked:?}");
    let altered = node.check(&second).await;
    assert!(is_altered(&altered.layers[0].outcome()), "{:?}", altered.layers[0]);
}

/// The first so many questions by this method about this fail.
fn failing(mut times: usize, method: &'static str, about: impl Fn(&str) -> bool + Send + 'static) -> Fails {
    Box::new(move |asked, key| {
        let fails = asked == method && about(key) && times > 0;
        times -= usize::from(fails);
        fails.then_some(UNAVAILABLE)
    })
}

#[tokio::test]
async fn runtime_that_does_not_answer_has_not_removed_what_is_altered() {
    let mut node = Node::new().await;
    let image = node.pull(&["base", "a"]);
    alter(&node.layer("base"), "base");
    // The view.
    node.state().fails =
        Some(failing(usize::MAX, "Snapshots/Stat", |key| key.starts_with("crivet-content-")));
    let found = node.check(&image).await;
    assert!(is_altered(&found.layers[0].outcome()), "{:?}", found.layers[0]);
}

#[tokio::test]
async fn time_of_a_layer_is_asked_for_again_where_the_runtime_did_not_answer() {
    let mut node = Node::new().await;
    let image = node.pull(&["base", "a"]);
    alter(&node.layer("base"), "base");
    let base = image.chains[0].clone();
    node.state().fails = Some(failing(1, "Snapshots/Stat", move |key| key == base));
    let found = node.check(&image).await;
    assert!(is_altered(&found.layers[0].outcome()), "{:?}", found.layers[0]);
    assert_eq!(found.layers[0].unpacked[0].created, "1.000000000");
}

#[tokio::test]
async fn layer_whose_time_the_runtime_does_not_say_is_not_whole() {
    let mut node = Node::new().await;
    let image = node.pull(&["base", "a"]);
    let base = image.chains[0].clone();
    node.state().fails = Some(failing(usize::MAX, "Snapshots/Stat", move |key| key == base));
    let found = node.check(&image).await;
    assert_ne!(found.layers[0].outcome(), Outcome::Whole);
}

#[tokio::test]
async fn image_of_which_the_runtime_does_not_say_whether_it_is_unpacked_is_not_whole() {
    let mut node = Node::new().await;
    let image = node.pull(&["base", "a"]);
    let top = image.chains[1].clone();
    node.state().fails = Some(failing(usize::MAX, "Snapshots/Stat", move |key| key == top));
    let found = node.check(&image).await;
    assert!(matches!(found.outcome(), Outcome::Unchecked(_)), "{found:?}");
}

#[tokio::test]
async fn layer_that_was_removed_while_it_was_read_is_not_altered() {
    let mut node = Node::new().await;
    let image = node.pull(&["base", "a"]);
    alter(&node.layer("base"), "base");
    node.state().fails = Some(Box::new(|asked, key| {
        (asked == "Snapshots/Stat" && key.starts_with("crivet-content-")).then_some(NOT_FOUND)
    }));
    let found = node.check(&image).await;
    assert!(matches!(found.layers[0].outcome(), Outcome::Unchecked(_)), "{:?}", found.layers[0]);
}
