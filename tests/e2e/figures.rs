//! How much a vetting costs, in counts that do not depend on the machine. The times are printed, never asserted.

use crate::content::{Layer, blob, push, tar, unpacked};
use crate::support::cri::Cri;
use crate::support::node::Node;
use crivet::cri::runtime::RuntimeClient;
use crivet::image::Digest;
use std::time::Instant;

const AT_ONCE: usize = 200;

fn print(text: &str) {
    use std::io::Write as _;
    // Past the test runner's capture: the figures are wanted of a run that passes, too.
    let _ = writeln!(std::io::stderr(), "figures: {text}");
}

/// The requests that `work` causes, as `crivet/…` or `cosign/…` makes them.
fn requests_of(node: &Node, agent: &str, work: impl FnOnce()) -> Vec<String> {
    let before = node.registry.requests_of(agent).len();
    work();
    node.registry.requests_of(agent).split_off(before)
}

#[test]
fn a_cold_vetting_costs_no_more_requests_than_cosign_verify_and_the_walk() {
    let Some(node) = Node::enforcing() else { return };
    let pulled = node.push_signed("pulled", &node.says("pulled"));
    let created = node.push_signed("created", &node.says("created").file("n", "2"));
    // The pause image is another matter.
    let pod = node.crictl().sandbox("cold").unwrap();

    let began = Instant::now();
    let cosign = requests_of(&node, "cosign/", || node.cosign.verify(&node.key, &pulled.reference));
    let cosign_took = began.elapsed();
    let pull = requests_of(&node, "crivet/", || drop(node.crictl().pull(&pulled.reference).unwrap()));
    node.preload(&created.reference);
    let create = requests_of(&node, "crivet/", || drop(node.crictl().create("c", &pod, &created).unwrap()));
    let again =
        requests_of(&node, "crivet/", || drop(node.crictl().create("again", &pod, &created).unwrap()));

    print(&format!("cosign verify: {} requests, {cosign_took:?}: {cosign:?}", cosign.len()));
    print(&format!("cold pull: {} requests of crivet's: {pull:?}", pull.len()));
    print(&format!("cold create of what is there: {} requests of crivet's: {create:?}", create.len()));
    for (image, what) in [(&pulled, "pull"), (&created, "create")] {
        let of_image = |r: &&serde_json::Value| r["digest"] == image.digest.as_str();
        let record = crate::support::wait_for("the record", std::time::Duration::from_secs(5), || {
            node.crivet.audit().iter().find(of_image).cloned()
        });
        print(&format!("cold {what}: vetted in {} ms", record["latencyMs"]));
    }
    // The tag, the walk to the config, the signatures' manifest and one payload.
    assert!(!pull.is_empty() && pull.len() <= cosign.len() + 1, "{pull:#?} and {cosign:#?}");
    assert_eq!(pull.len(), 4, "{pull:#?}");
    // What the walk needs is in containerd's content store.
    assert_eq!(create.len(), 2, "{create:#?}");
    assert_eq!(again, [""; 0]);
}

#[test]
fn many_creates_of_one_new_image_at_once_are_one_verification() {
    let Some(node) = Node::enforcing() else { return };
    let image = node.push_signed("popular", &node.says("popular"));
    node.preload(&image.reference);
    let pod = node.crictl().sandbox("popular").unwrap();
    let cri = Cri::connect(&node.crivet.socket());
    let request = |n| Cri::create_request(&format!("c{n}"), &pod, &image.id, &image.reference);

    let mut made = Vec::new();
    let began = Instant::now();
    let requests = requests_of(&node, "crivet/", || {
        made = cri.create_at_once((0..AT_ONCE).map(request).collect());
    });
    print(&format!(
        "{AT_ONCE} creates at once: {:?}, {} requests of crivet's",
        began.elapsed(),
        requests.len()
    ));
    for answer in made {
        answer.unwrap();
    }
    assert_eq!(requests.len(), 2, "{requests:#?}");
    let chains = node.containerd.chains();
    assert_eq!(
        chains.values().filter(|chain| **chain == image.chain).count(),
        AT_ONCE + sandboxes_alike(&node)
    );
}

/// Sandboxes whose pause image has the layers that all test images without files have.
fn sandboxes_alike(node: &Node) -> usize {
    node.containerd.crictl().run(["pods", "--quiet"]).unwrap().lines().count()
}

/// Before each create its image's name is asked for, and beside that its config and manifest are read and hashed again.
#[test]
fn what_it_costs_to_hash_documents_again_before_each_create() {
    let Some(node) = Node::enforcing() else { return };
    let image = node.push_signed("read-again", &node.says("read again"));
    node.crictl().pull(&image.reference).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let client = RuntimeClient::new(node.containerd.socket(), node.containerd.socket());
    let named = async || drop(client.image_status(&image.reference).await.unwrap());
    let read = |digest: &str| {
        let (client, digest) = (client.clone(), digest.to_owned());
        tokio::spawn(async move {
            let bytes = client.read_content(&digest, 1 << 22).await.unwrap();
            assert_eq!(Digest::of(&bytes).to_string(), digest);
        })
    };
    let both = async || {
        let reads = [read(&image.digest), read(&image.id)];
        named().await;
        for read in reads {
            read.await.unwrap();
        }
    };
    runtime.block_on(async {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..AT_ONCE {
            let began = Instant::now();
            named().await;
            alone.push(began.elapsed());
            let began = Instant::now();
            both().await;
            beside.push(began.elapsed());
        }
        for times in [&mut alone, &mut beside] {
            times.sort();
        }
        let (alone, beside) = (alone[AT_ONCE / 2], beside[AT_ONCE / 2]);
        print(&format!(
            "the name alone {alone:?}, with manifest and config hashed again {beside:?} (medians)"
        ));
    });
}

/// Bytes of files in all layers together.
const LAYERS_BYTES: usize = if cfg!(debug_assertions) { 8 << 20 } else { 128 << 20 };

/// So many layers of files like programs, none of which is another's.
fn layers(node: &Node, count: usize, compression: &str) -> Vec<Layer> {
    let program = std::fs::read(node.peers.program("busybox")).unwrap();
    let chunk = &program[..256 << 10];
    let files = LAYERS_BYTES / chunk.len() / count;
    let layer = |number| {
        let folder = node.peers.path().join(format!("figures-{count}-{compression}-{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        for file in 0..files.max(1) {
            let own = format!("{compression} {count} {number} {file}");
            std::fs::write(folder.join(format!("{number}-{file}")), [own.as_bytes(), chunk].concat())
                .unwrap();
        }
        let archive = tar(&folder, &["--owner=0", "--group=0", "-c", "."]);
        std::fs::remove_dir_all(&folder).unwrap();
        Layer::new(archive, compression)
    };
    (0..count).map(layer).collect()
}

#[test]
fn what_it_costs_to_check_layers() {
    let Some(node) = Node::enforcing() else { return };
    for (count, compression) in [(1, "gzip"), (10, "gzip"), (100, "gzip"), (10, "zstd"), (10, "none")] {
        let layers = layers(&node, count, compression);
        let (name, chain) = push(&node.registry, &layers);
        node.preload(&name);
        let blobs: Vec<_> =
            layers.iter().map(|layer| blob(&node, &crate::support::registry::digest(&layer.blob))).collect();
        let folders = unpacked(&node.containerd, &chain);
        let began = Instant::now();
        let mut by_hand = std::process::Command::new("sh");
        by_hand.args(["-c", "find \"$@\" -type f -print0 | xargs -0 sha256sum > /dev/null", "sh"]);
        assert!(by_hand.args(&blobs).args(&folders).status().unwrap().success());
        let by_hand = began.elapsed().as_secs_f64();
        let (_, report) = crate::layers::check(&node);
        let (bytes, seconds) = (report["bytes"].as_f64().unwrap(), report["seconds"].as_f64().unwrap());
        print(&format!(
            "{count} layers, {compression}: {:.0} MB on the disk checked in {seconds:.2} s, {:.0} MB/s; sha256sum {by_hand:.2} s",
            bytes / 1e6,
            bytes / 1e6 / seconds,
        ));
        node.containerd.ctr(&["snapshots", "rm", "to-be-looked-at"]);
        node.containerd.crictl().run(["rmi", &name]).unwrap();
    }
}
