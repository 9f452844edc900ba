//! `crivet content check` on a real CRI-O: layers altered on the disk of a node that runs.

use super::{Node, bare};
use crate::content::{ALTERATIONS, Layer, folder, layers, push, tar};
use crate::layers::{NOT_CHECKED, asks_for_checks, checked, of};
use crate::support::crio::Crio;
use crate::support::crivet::Crivet;
use crate::support::image::{Image, Pushed};
use crate::support::kubelet::{Kubelet, Pod};
use crate::support::node::{DENIED, UNDECIDED, assert_refused};
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use crate::support::wait_for;
use rustix::fs::{XattrFlags, removexattr, setxattr};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

impl Node {
    fn push_signed_with(&self, name: &str, greeting: &str) -> Pushed {
        let image = Image::says(&self.peers, name).file("greeting", greeting);
        let pushed = image.push(&self.registry, name, "1");
        self.cosign.sign(&self.key, &pushed.by_digest, &[]);
        pushed
    }

    fn create_in(&self, pod: &str, name: &str, image: &Pushed) -> Result<String, String> {
        let named = json!({"image": image.by_digest, "user_specified_image": image.reference});
        self.crivet.crictl().create_of(name, pod, "e2e", &named, &json!([]))
    }

    fn check(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        checked(&self.peers, arguments)
    }
}

/// The IDs of the layers that CRI-O's store has of an image, lowest first.
fn stored(crio: &Crio, id: &str) -> Vec<String> {
    let list = |name: &str| -> Vec<Value> {
        serde_json::from_slice(&fs::read(crio.store().join(name)).unwrap()).unwrap()
    };
    let (images, layers) = (list("overlay-images/images.json"), list("overlay-layers/layers.json"));
    let image = images.iter().find(|image| image["id"] == id).unwrap();
    let mut found = Vec::new();
    let mut next = image["layer"].as_str();
    while let Some(id) = next.filter(|id| !id.is_empty()) {
        found.insert(0, id.to_owned());
        next = layers.iter().find(|layer| layer["id"] == id).unwrap()["parent"].as_str();
    }
    found
}

fn unpacked(crio: &Crio, layer: &str) -> PathBuf {
    crio.store().join("overlay").join(layer).join("diff")
}

fn tar_split(crio: &Crio, layer: &str) -> PathBuf {
    crio.store().join("overlay-layers").join(format!("{layer}.tar-split.gz"))
}

/// Something that is done to a layer's folder, what undoes it, and what is said of it.
type Change = (&'static str, fn(&Path), fn(&Path), &'static str);

const OPAQUE: &str = "trusted.overlay.opaque";

const CHANGES: [Change; 8] = [
    (
        "file",
        |at| fs::write(at.join("greeting"), "hullo").unwrap(),
        |at| fs::write(at.join("greeting"), "hello").unwrap(),
        "\"/greeting\": expected its data as they were unpacked, found others",
    ),
    (
        "size",
        |at| fs::write(at.join("greeting"), "hello again").unwrap(),
        |at| fs::write(at.join("greeting"), "hello").unwrap(),
        "\"/greeting\": expected 5 bytes, found 11",
    ),
    (
        "added",
        |at| fs::write(at.join("new"), "").unwrap(),
        |at| fs::remove_file(at.join("new")).unwrap(),
        "\"/new\": expected nothing, found a file",
    ),
    ("mode", |at| mode(at, 0o4644), |at| mode(at, 0o644), "\"/greeting\": expected mode 0644, found 4644"),
    (
        "owner",
        |at| chown(at.join("greeting"), Some(1000), Some(0)).unwrap(),
        |at| chown(at.join("greeting"), Some(0), Some(0)).unwrap(),
        "\"/greeting\": expected owner 0:0, found 1000:0",
    ),
    (
        "attribute",
        |at| setxattr(at, OPAQUE, b"y", XattrFlags::empty()).unwrap(),
        |at| removexattr(at, OPAQUE).unwrap(),
        "\"/\": expected attribute trusted.overlay.opaque as in the layer, found another",
    ),
    (
        "gone",
        |at| fs::rename(at.join("greeting"), at.join("../greeting")).unwrap(),
        |at| fs::rename(at.join("../greeting"), at.join("greeting")).unwrap(),
        "\"/greeting\": expected a file, found nothing",
    ),
    (
        "root",
        |at| fs::set_permissions(at, PermissionsExt::from_mode(0o777)).unwrap(),
        |at| fs::set_permissions(at, PermissionsExt::from_mode(0o555)).unwrap(),
        "\"/\": expected mode 0555, found 0777",
    ),
];

fn mode(folder: &Path, mode: u32) {
    fs::set_permissions(folder.join("greeting"), PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn altered_layers_are_found_and_denied_until_they_are_whole() {
    let Some(mut node) = Node::start("enforce") else { return };
    let app = node.push_signed_with("app", "hello");
    let other = node.push_signed_with("other", "good day");
    for image in [&app, &other] {
        node.crivet.crictl().pull(&image.reference).unwrap();
    }
    let pod = node.crivet.crictl().sandbox("altered").unwrap();
    let (code, report) = node.check(&[]);
    assert_eq!((code, of(&report, &app)), (Some(0), ("whole".to_owned(), String::new())), "{report}");
    let top = stored(&node.crio, bare(&app)).pop().unwrap();
    let folder = unpacked(&node.crio, &top);
    for (name, alter, undo, said) in CHANGES {
        alter(&folder);
        let (code, report) = node.check(&[]);
        let (outcome, message) = of(&report, &app);
        assert_eq!((code, outcome.as_str()), (Some(1), "altered"), "{name}: {report}");
        assert!(message.contains(said), "{name}: {message}");
        assert_eq!(of(&report, &other).0, "whole", "{name}: {report}");
        // crictl escapes quotes.
        let said = said.rsplit("\": ").next().unwrap();
        let refused = node.create_in(&pod, name, &app);
        assert_refused(refused, DENIED, &[said, "it was altered on this node", &app.reference]);
        node.create_in(&pod, &format!("other-{name}"), &other).unwrap();
        undo(&folder);
        if name == "file" {
            // Put back, but not checked: what is known outlives a crash.
            node.crivet.kill();
            node.crivet.start_again(&node.peers);
            assert_refused(node.create_in(&pod, name, &app), DENIED, &[said]);
        }
        let (code, report) = node.check(&[]);
        assert_eq!(code, Some(0), "{name}: {report}");
        node.create_in(&pod, name, &app).unwrap();
    }

    // As the message says: without the image and its containers it is unpacked anew, and counts as whole at once.
    fs::write(folder.join("new"), "").unwrap();
    let (code, report) = node.check(&["--heal"]);
    let healed = &report["healed"][0];
    assert_eq!((code, &healed["removed"]), (Some(1), &json!(false)), "{report}");
    let message = healed["message"].as_str().unwrap();
    assert!(message.contains(" of pod e2e/altered stands on its altered layer"), "{message}");
    node.crio.crictl().run(["rmp", "-fa"]).unwrap();
    node.crio.crictl().run(["rmi", bare(&app)]).unwrap();
    node.crivet.crictl().pull(&app.reference).unwrap();
    assert_eq!(stored(&node.crio, bare(&app)).pop().unwrap(), top, "CRI-O gives it the same ID");
    let pod = node.crivet.crictl().sandbox("healed").unwrap();
    node.create_in(&pod, "healed", &app).unwrap();
    assert_eq!(node.check(&[]).0, Some(0));
}

const HAS_TO_READ: &str = "has to read once more as which user";

#[test]
fn altered_images_are_removed_and_pulled_anew() {
    let Some(mut node) = Node::start("enforce") else { return };
    let app = node.push_signed_with("app", "hello");
    let crictl = node.crivet.crictl().clone();
    crictl.pull(&app.reference).unwrap();
    let pod = crictl.sandbox("runs").unwrap();
    node.create_in(&pod, "main", &app).unwrap();
    let top = stored(&node.crio, bare(&app)).pop().unwrap();
    fs::write(unpacked(&node.crio, &top).join("new"), "").unwrap();

    // A container that was never started stands on it.
    let (code, report) = node.check(&["--heal"]);
    let healed = &report["healed"][0];
    assert_eq!((code, &healed["removed"]), (Some(1), &json!(false)), "{report}");
    let message = healed["message"].as_str().unwrap();
    assert!(message.starts_with("container main of pod e2e/runs stands on its altered layer"), "{message}");
    assert_refused(node.create_in(&pod, "again", &app), DENIED, &["it was altered on this node"]);

    node.crio.crictl().run(["rmp", "-fa"]).unwrap();
    let (code, report) = node.check(&["--heal"]);
    assert_eq!((code, &report["healed"][0]["removed"]), (Some(1), &json!(true)), "{report}");
    assert!(node.crio.crictl().run(["inspecti", "-q", bare(&app)]).is_err(), "it is still there");
    assert!(!unpacked(&node.crio, &top).exists());

    // Who read the user while it was gone would make it as root, by a digest as by its ID; a crash does not change that.
    node.crivet.kill();
    node.crivet.start_again(&node.peers);
    let pod = crictl.sandbox("healed").unwrap();
    let by_id = Pushed { by_digest: bare(&app).to_owned(), ..app.clone() };
    for image in [&app, &by_id] {
        assert!(node.create_in(&pod, "gone", image).is_err());
    }
    crictl.pull(&app.reference).unwrap();
    for image in [&app, &by_id] {
        assert_refused(node.create_in(&pod, "too-soon", image), UNDECIDED, &[HAS_TO_READ]);
    }
    wait_for("the image to be one like any other", Duration::from_secs(90), || {
        node.create_in(&pod, "healed", &app).ok()
    });
    assert_eq!(node.check(&[]).0, Some(0));
}

/// The kubelet of CRI-O's version makes its containers by the digest that a pull came to.
#[test]
fn an_altered_image_is_removed_and_pulled_anew_by_the_kubelet_and_runs_as_its_user() {
    let Some(node) = Node::start("enforce") else { return };
    let app = Image::says(&node.peers, "uid $(id -u)").user("1000").file("greeting", "hello");
    let app = app.push(&node.registry, "app", "1");
    node.cosign.sign(&node.key, &app.by_digest, &[]);
    let kubelet = Kubelet::start(&node.peers, &node.crivet.socket());
    let once = json!({"imagePullPolicy": "IfNotPresent"});
    kubelet.add_pod("before", &app.reference, &once);
    kubelet.wait_pod("before", Duration::from_secs(60), Pod::ready);
    let top = stored(&node.crio, bare(&app)).pop().unwrap();
    fs::write(unpacked(&node.crio, &top).join("greeting"), "hullo").unwrap();
    let (_, report) = node.check(&["--heal"]);
    let message = report["healed"][0]["message"].as_str().unwrap();
    assert!(message.contains(" stands on its altered layer; delete that pod"), "{message}");

    kubelet.remove_pod("before");
    wait_for("the pod to go", Duration::from_secs(60), || kubelet.pod("before").is_none().then_some(()));
    // As the kubelet does by and by.
    node.crio.crictl().run(["rmp", "-fa"]).unwrap();
    let (_, report) = node.check(&["--heal"]);
    assert_eq!(report["healed"][0]["removed"], json!(true), "{report}");
    kubelet.add_pod("after", &app.reference, &once);
    kubelet.wait_pod("after", Duration::from_secs(180), Pod::ready);
    assert_eq!(kubelet.first_line("after"), "uid 1000");
    // Not at the first try: it may have read the user while there was no image.
    let has_to_read = |record: &Value| record["message"].as_str().unwrap_or_default().contains(HAS_TO_READ);
    let records: Vec<Value> = node.crivet.audit().into_iter().filter(has_to_read).collect();
    assert!(!records.is_empty(), "{:#?}", node.crivet.audit());
    assert_eq!(node.check(&[]).0, Some(0));
}

#[test]
fn nothing_is_removed_where_nothing_is_enforced() {
    let Some(node) = Node::start("audit") else { return };
    let app = node.push_signed_with("app", "hello");
    node.crivet.crictl().pull(&app.reference).unwrap();
    let top = stored(&node.crio, bare(&app)).pop().unwrap();
    fs::write(unpacked(&node.crio, &top).join("new"), "").unwrap();
    let (code, report) = node.check(&["--heal"]);
    let healed = &report["healed"][0];
    assert_eq!((code, &healed["removed"]), (Some(1), &json!(false)), "{report}");
    assert!(healed["message"].as_str().unwrap().contains("expected enforce mode"), "{report}");
    node.crio.crictl().run(["inspecti", "-q", bare(&app)]).unwrap();
}

#[test]
fn an_image_is_made_only_after_a_check_that_its_policy_asks_for() {
    let Some(mut node) = Node::start("enforce") else { return };
    let app = node.push_signed_with("app", "hello");
    node.crivet.crictl().pull(&app.reference).unwrap();
    let pod = node.crivet.crictl().sandbox("before").unwrap();
    asks_for_checks(&node.peers, &mut node.crivet);
    let refused = |node: &Node, found: &str| {
        assert_refused(node.create_in(&pod, "app", &app), UNDECIDED, &[NOT_CHECKED, found]);
    };
    refused(&node, "found none of layers");
    let (code, report) = node.check(&["--requested"]);
    // That image alone.
    assert_eq!((code, report["images"].as_array().unwrap().len()), (Some(0), 1), "{report}");
    assert_eq!(of(&report, &app).0, "whole");
    node.create_in(&pod, "checked", &app).unwrap();
    node.crivet.kill();
    node.crivet.start_again(&node.peers);
    node.create_in(&pod, "restarted", &app).unwrap();

    // Altered since: not seen before the next check.
    let folder = unpacked(&node.crio, &stored(&node.crio, bare(&app)).pop().unwrap());
    fs::write(folder.join("greeting"), "hullo").unwrap();
    node.create_in(&pod, "not-seen", &app).unwrap();
    assert_eq!(node.check(&[]).0, Some(1));
    assert_refused(node.create_in(&pod, "seen", &app), DENIED, &["it was altered on this node"]);

    // Removed and pulled anew it has the same layers by name, and they are not those that were checked.
    node.crio.crictl().run(["rmp", "-fa"]).unwrap();
    node.crio.crictl().run(["rmi", bare(&app)]).unwrap();
    node.crivet.crictl().pull(&app.reference).unwrap();
    assert_eq!(node.check(&["--requested"]).0, Some(0), "nothing waits");
    let pod = node.crivet.crictl().sandbox("anew").unwrap();
    assert_refused(node.create_in(&pod, "anew", &app), UNDECIDED, &[NOT_CHECKED, "found none of layers"]);
    assert_eq!(node.check(&["--requested"]).0, Some(0));
    node.create_in(&pod, "anew", &app).unwrap();
}

#[test]
fn a_layer_that_images_share_is_denied_to_each_of_them() {
    let Some(node) = Node::start("enforce") else { return };
    let before = node.push_signed_with("before", "before");
    node.crivet.crictl().pull(&before.reference).unwrap();
    let pod = node.crivet.crictl().sandbox("before").unwrap();
    let base = stored(&node.crio, bare(&before)).remove(0);
    fs::write(unpacked(&node.crio, &base).join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    assert_eq!(node.check(&[]).0, Some(1));
    // Pulled since: CRI-O unpacks nothing that it has.
    let after = node.push_signed_with("after", "after");
    node.crivet.crictl().pull(&after.reference).unwrap();
    for image in [&before, &after] {
        let refused = node.create_in(&pod, "refused", image);
        assert_refused(refused, DENIED, &["/etc/passwd", "found 22", &image.reference]);
    }
    assert_refused(node.crivet.crictl().sandbox("after"), DENIED, &["/etc/passwd", "found 22"]);
}

#[test]
fn altered_documents_and_records_are_found_by_name() {
    let Some(node) = Node::start("enforce") else { return };
    let app = node.push_signed_with("app", "hello");
    node.crivet.crictl().pull(&app.reference).unwrap();
    let top = stored(&node.crio, bare(&app)).pop().unwrap();
    let altered = |path: &Path, bytes: &[u8]| {
        let whole = fs::read(path).unwrap();
        fs::write(path, bytes).unwrap();
        let (code, report) = node.check(&[]);
        fs::write(path, whole).unwrap();
        // What was found counts until then.
        assert_eq!(node.check(&[]).0, Some(0));
        (code, of(&report, &app))
    };
    for (key, digest) in [(app.id.clone(), &app.id), (format!("manifest-{}", app.digest), &app.digest)] {
        let path = node.crio.document(&app.id, &key);
        let more = [&fs::read(&path).unwrap()[..], b" "].concat();
        let (code, (outcome, message)) = altered(&path, &more);
        assert_eq!((code, outcome.as_str()), (Some(1), "altered"), "{key}");
        assert!(message.starts_with(&format!("expected a document that hashes to {digest}")), "{message}");
    }

    // What CRI-O wrote down of the archive says something else, in every header that has the name.
    let split = tar_split(&node.crio, &top);
    let (code, (outcome, message)) = altered(&split, &changed(&fs::read(&split).unwrap()));
    assert_eq!((code, outcome.as_str()), (Some(1), "altered"), "{message}");
    assert!(
        message.contains("expected files and headers that make an archive with diff ID sha256:"),
        "{message}"
    );

    // Or nothing: then it cannot be said what the folder has to be, and that counts neither way.
    for (bytes, said) in [(&b""[..], "it is empty"), (b"neither gzip nor JSON", "a record cannot be read")] {
        let (code, (outcome, message)) = altered(&split, bytes);
        assert_eq!((code, outcome.as_str()), (Some(2), "unchecked"), "{message}");
        assert!(message.contains(said), "{message}");
    }
    fs::remove_file(&split).unwrap();
    let (code, report) = node.check(&[]);
    let (outcome, message) = of(&report, &app);
    assert_eq!((code, outcome.as_str()), (Some(2), "unchecked"), "{report}");
    assert!(message.contains("tar-split.gz, which CRI-O writes for each layer"), "{message}");
    let (_, doctor) = node.crivet.json("doctor", &[]);
    assert!(doctor.to_string().contains("layers-unchecked"), "{doctor}");
    let pod = node.crivet.crictl().sandbox("unchecked").unwrap();
    node.create_in(&pod, "unchecked", &app).unwrap();
}

/// The records of an archive, the mode of its file `greeting` changed.
fn changed(split: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use std::io::{Read as _, Write as _};
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(split).read_to_string(&mut text).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for line in text.lines() {
        let mut record: Value = serde_json::from_str(line).unwrap();
        let mut payload = STANDARD.decode(record["payload"].as_str().unwrap_or_default()).unwrap();
        if payload.starts_with(b"greeting\0") {
            payload[100..107].copy_from_slice(b"0000664");
            let sum = |at: usize, byte: &u8| if (148..156).contains(&at) { 32 } else { u32::from(*byte) };
            let sum: u32 = payload[..512].iter().enumerate().map(|(at, byte)| sum(at, byte)).sum();
            payload[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            record["payload"] = json!(STANDARD.encode(payload));
        }
        gzip.write_all(format!("{record}\n").as_bytes()).unwrap();
    }
    gzip.finish().unwrap()
}

/// An entry for `/` itself, and what is whited out in a folder that is whited out.
const EDGES: &str =
    "mkdir -p bin var/plain; echo x > bin/edge; touch var/.wh.plain var/plain/.wh.kept; chmod 0711 .";

/// Everything that a layer may have, as CRI-O unpacks it.
#[test]
fn what_crio_unpacked_is_as_its_layers_say() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let crio = Crio::start(&peers, &registry);
    let mut all = layers(&peers);
    // The last has a file twice, which CRI-O does not pull.
    all.pop();
    let edges = folder(&peers, "edges", EDGES);
    let by_root = ["-P", "--transform=s,^[.]$,/,;s,^[.]/,/,", "--format=posix", "-c", "--no-recursion", "."];
    let names = ["./bin", "./bin/edge", "./var/.wh.plain", "./var/plain/.wh.kept"];
    all.push(Layer::new(tar(&edges, &[&by_root[..], &names[..]].concat()), "gzip"));
    // Its folder is as the one below.
    let upper = peers.path().join("layers/upper");
    all.push(Layer::new(tar(&upper, &["--format=gnu", "-c", "./etc/conf"]), "gzip"));
    let (name, _) = push(&registry, &all);
    crio.crictl().pull(&name).unwrap();
    let crivet = Crivet::start(&peers, &crio, "audit", &[]);
    let said = || {
        let (code, report) = checked(&peers, &[]);
        let images = report["images"].as_array().unwrap();
        let image = images.iter().find(|image| image["names"][0] == *name).unwrap();
        let layers: Vec<String> = image["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| layer["message"].as_str().unwrap().to_owned())
            .collect();
        (code, layers)
    };
    assert_eq!(said(), (Some(0), vec![String::new(); all.len()]));

    let (_, report) = checked(&peers, &[]);
    let images = report["images"].as_array().unwrap();
    let id = images.iter().find(|image| image["names"][0] == *name).unwrap()["imageID"].as_str().unwrap();
    let ids = stored(&crio, id.trim_start_matches("sha256:"));
    let lowest = unpacked(&crio, &ids[0]);
    let kept = lowest.with_file_name("kept");
    for (alter, expected) in ALTERATIONS {
        assert!(Command::new("cp").arg("-a").arg(&lowest).arg(&kept).status().unwrap().success());
        alter(&lowest);
        let (code, found) = said();
        // Of a file's data there is no digest; of a file that is gone it is said both ways alike.
        let expected = expected.replace("expected content ", "expected its data ");
        assert!(code == Some(1) && found[0].starts_with(&expected), "{expected}: {found:?}");
        assert!(found[1..].iter().all(String::is_empty), "{expected}: {found:?}");
        fs::remove_dir_all(&lowest).unwrap();
        fs::rename(&kept, &lowest).unwrap();
    }
    // Whiteouts and opaque folders decide what is seen of the layers below.
    let middle = unpacked(&crio, &ids[1]);
    removexattr(middle.join("var/old"), OPAQUE).unwrap();
    fs::remove_file(middle.join("var/gone")).unwrap();
    let (_, found) = said();
    assert_eq!(found[1], "\"/var/gone\": expected a whiteout, found nothing; and 1 more");
    drop(crivet);
}
