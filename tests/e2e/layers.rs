//! `crivet content check` on a real containerd: layers altered on the disk of a node that runs.

use crate::content::{alter, blob, unpacked};
use crate::support::crivet::Crivet;
use crate::support::image::{Image, Pushed};
use crate::support::node::{DENIED, Node, Setup, assert_refused};
use crate::support::peers::Peers;
use crate::support::wait_for;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Runs the check; its exit code, and what it says as JSON.
pub fn check(node: &Node) -> (Option<i32>, Value) {
    check_with(node, &[])
}

fn check_with(node: &Node, arguments: &[&str]) -> (Option<i32>, Value) {
    checked(&node.peers, arguments)
}

/// The same with these parts' crivet.
pub fn checked(peers: &Peers, arguments: &[&str]) -> (Option<i32>, Value) {
    let config = Crivet::dir(peers).join("config.yaml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_crivet"));
    command.args(["content", "check", "-o", "json", "--config"]).arg(config);
    let output = command.args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("it says {said}"));
    assert_eq!(said, "", "nothing to complain about");
    (output.status.code(), report)
}

/// What the check says of an image.
pub fn of(report: &Value, image: &Pushed) -> (String, String) {
    let all = report["images"].as_array().unwrap();
    let is_it = |entry: &&Value| entry["names"].as_array().unwrap().contains(&json!(image.reference));
    let entry = all.iter().find(is_it).unwrap_or_else(|| panic!("{} is not in {report}", image.reference));
    let text = |key: &str| entry[key].as_str().unwrap().to_owned();
    (text("outcome"), text("message"))
}

/// The folders of the layers of an image, lowest first; nothing keeps them afterwards.
fn folders(node: &Node, image: &Pushed) -> Vec<PathBuf> {
    let folders = unpacked(&node.containerd, &image.chain);
    node.containerd.ctr(&["snapshots", "rm", "to-be-looked-at"]);
    folders
}

/// The digest of an image's topmost layer, by its manifest in the content store.
fn topmost(node: &Node, image: &Pushed) -> String {
    let manifest: Value = serde_json::from_slice(&fs::read(blob(node, &image.digest)).unwrap()).unwrap();
    manifest["layers"].as_array().unwrap().last().unwrap()["digest"].as_str().unwrap().to_owned()
}

/// Something that is done to a blob or a folder, with what undoes it.
type Change = (&'static str, fn(&Path, &Path), fn(&Path, &Path), &'static str);

const CHANGES: [Change; 5] = [
    ("blob", |blob, _| alter(blob), |blob, _| alter(blob), "expected bytes that hash to sha256:"),
    (
        "file",
        |_, folder| fs::write(folder.join("greeting"), "hullo").unwrap(),
        |_, folder| fs::write(folder.join("greeting"), "hello").unwrap(),
        "\"/greeting\": expected content sha256:",
    ),
    (
        "added",
        |_, folder| fs::write(folder.join("new"), "").unwrap(),
        |_, folder| fs::remove_file(folder.join("new")).unwrap(),
        "\"/new\": expected nothing, found a file",
    ),
    (
        "mode",
        |_, folder| mode(folder, 0o4644),
        |_, folder| mode(folder, 0o644),
        "\"/greeting\": expected mode 0644, found 4644",
    ),
    (
        "gone",
        |_, folder| fs::rename(folder.join("greeting"), folder.join("../greeting")).unwrap(),
        |_, folder| fs::rename(folder.join("../greeting"), folder.join("greeting")).unwrap(),
        "\"/greeting\": expected a file, found nothing",
    ),
];

fn mode(folder: &Path, mode: u32) {
    fs::set_permissions(folder.join("greeting"), PermissionsExt::from_mode(mode)).unwrap();
}

fn altered_layers_are_found_and_denied(setup: &Setup<'_>) {
    let Some(mut node) = Node::start(setup) else { return };
    let app = node.push_signed("app", &node.says("vouched for").file("greeting", "hello"));
    let other = node.push_signed("other", &node.says("vouched for").file("greeting", "good day"));
    for image in [&app, &other] {
        node.crictl().pull(&image.reference).unwrap();
    }
    let pod = node.crictl().sandbox("altered").unwrap();
    let (code, report) = check(&node);
    assert_eq!((code, of(&report, &app)), (Some(0), ("whole".to_owned(), String::new())), "{report}");

    let folder = folders(&node, &app).pop().unwrap();
    let layer = blob(&node, &topmost(&node, &app));
    for (name, alter, undo, said) in CHANGES {
        alter(&layer, &folder);
        let (code, report) = check(&node);
        let (outcome, message) = of(&report, &app);
        assert_eq!((code, outcome.as_str()), (Some(1), "altered"), "{name}: {report}");
        assert!(message.contains(said), "{name}: {message}");
        assert_eq!(of(&report, &other).0, "whole", "{name}: {report}");
        // crictl escapes quotes.
        let said = said.rsplit("\": ").next().unwrap();
        let refused = node.crictl().create(name, &pod, &app);
        assert_refused(refused, DENIED, &[said, "it was altered on this node", &app.reference]);
        node.crictl().create(&format!("other-{name}"), &pod, &other).unwrap();
        // A crash forgets nothing.
        node.crivet.kill();
        node.crivet.start_again(&node.peers);
        assert_refused(node.crictl().create(name, &pod, &app), DENIED, &[said]);
        undo(&layer, &folder);
        let (code, report) = check(&node);
        assert_eq!(code, Some(0), "{name}: {report}");
        node.crictl().create(name, &pod, &app).unwrap();
    }

    let recorded = || node.crivet.audit().into_iter().find(|record| record["kind"] == "ContentCheck");
    let record = wait_for("the record", Duration::from_secs(5), recorded);
    assert_eq!((&record["decision"], &record["reason"]), (&json!("denied"), &json!("ContentAltered")));
    assert_eq!(record["reference"], json!(app.reference));

    // As the message says: without the image and its containers it is fetched and unpacked anew, and counts as whole at once.
    alter(&layer);
    assert_eq!(check(&node).0, Some(1));
    node.crictl().run(["rmp", "-fa"]).unwrap();
    node.crictl().run(["rmi", &app.id]).unwrap();
    node.crictl().pull(&app.reference).unwrap();
    let pod = node.crictl().sandbox("healed").unwrap();
    node.crictl().create("healed", &pod, &app).unwrap();
    assert_eq!(check(&node).0, Some(0));
    // Nothing of the checks is left.
    assert!(!node.containerd.ctr(&["snapshots", "list"]).contains("crivet-content"));
    assert!(!node.containerd.ctr(&["leases", "list"]).contains("crivet-content"));
}

#[test]
fn altered_layers_are_found_and_denied_until_they_are_whole() {
    altered_layers_are_found_and_denied(&Setup::default());
}

#[test]
fn altered_layers_are_found_and_denied_on_containerd_2() {
    altered_layers_are_found_and_denied(&Setup::on_containerd_2());
}

#[test]
fn what_stands_on_an_altered_layer_is_denied_whoever_else_brought_it() {
    let Some(node) = Node::start(&Setup { pause_is_there: true, ..Setup::default() }) else { return };
    let before = node.push_signed("before", &node.says("before"));
    node.crictl().pull(&before.reference).unwrap();
    let pod = node.crictl().sandbox("before").unwrap();
    // All images of these tests have it.
    let base = folders(&node, &before).remove(0);
    fs::write(base.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nother:x:0:0::/:/bin/sh\n").unwrap();
    let (code, report) = check(&node);
    assert_eq!(code, Some(1), "{report}");
    // Pulled since: the runtime unpacks nothing that it has.
    let after = node.push_signed("after", &node.says("after").file("other", "file"));
    node.crictl().pull(&after.reference).unwrap();
    for image in [&before, &after] {
        let refused = node.crictl().create("refused", &pod, image);
        assert_refused(refused, DENIED, &["/etc/passwd", "expected 86 bytes, found ", &image.reference]);
    }
    assert_refused(node.crictl().sandbox("after"), DENIED, &["/etc/passwd", "expected 86 bytes, found "]);
}

#[test]
fn altered_layers_are_told_in_audit_mode_only() {
    let Some(node) = Node::start(&Setup { mode: "audit", ..Setup::default() }) else { return };
    let app = node.push_signed("app", &node.says("vouched for").file("greeting", "hello"));
    node.crictl().pull(&app.reference).unwrap();
    let pod = node.crictl().sandbox("altered").unwrap();
    fs::write(folders(&node, &app).pop().unwrap().join("new"), "").unwrap();
    assert_eq!(check(&node).0, Some(1));
    node.crictl().create("altered", &pod, &app).unwrap();
    let is_it = |record: &Value| record["kind"] == "CreateContainer" && record["reason"] == "ContentAltered";
    let record =
        wait_for("the record", Duration::from_secs(10), || node.crivet.audit().into_iter().find(is_it));
    assert_eq!((&record["decision"], &record["effective"]), (&json!("denied"), &json!("forwarded")));
}

#[test]
fn what_cannot_be_compared_is_not_called_whole() {
    let Some(node) = Node::enforcing() else { return };
    let app = node.push_signed("app", &node.says("vouched for").file("greeting", "hello"));
    node.crictl().pull(&app.reference).unwrap();
    // As with discard_unpacked_layers.
    node.containerd.ctr(&["content", "rm", &topmost(&node, &app)]);
    let (code, report) = check(&node);
    let (outcome, message) = of(&report, &app);
    assert_eq!((code, outcome.as_str()), (Some(2), "unchecked"), "{report}");
    assert!(message.contains("does not keep its layer"), "{message}");
    let (_, doctor) = node.crivet.json("doctor", &[]);
    assert!(doctor.to_string().contains("layers-unchecked"), "{doctor}");
    // It says nothing against it either.
    let pod = node.crictl().sandbox("unchecked").unwrap();
    node.crictl().create("unchecked", &pod, &app).unwrap();
}

/// Has the node's policy ask for a check of layers, by a restart of crivet.
/// Has the policy ask for checks from now on.
pub fn asks_for_checks(peers: &Peers, crivet: &mut Crivet) {
    let file = Crivet::dir(peers).join("policies.d/0.yaml");
    let policy = fs::read_to_string(&file).unwrap();
    let asking = policy.replace("\nspec:\n", "\nspec:\n  content: {layersCheckedWithin: 1h}\n");
    assert_ne!(asking, policy);
    fs::write(&file, asking).unwrap();
    crivet.kill();
    crivet.start_again(peers);
}

const UNDECIDED: &str = "SignatureValidationFailed: undecided: ";
pub const NOT_CHECKED: &str = "expected a check that has found its layers whole within the last 1h";

fn image_is_made_only_after_a_check(setup: &Setup<'_>) {
    let Some(mut node) = Node::start(setup) else { return };
    let dir = Crivet::dir(&node.peers);
    let (request, kept) = (dir.join("content-requested"), dir.join("state/checked.json"));
    let app = node.push_signed("app", &node.says("vouched for").file("greeting", "hello"));
    node.crictl().pull(&app.reference).unwrap();
    let pod = node.crictl().sandbox("before").unwrap();
    asks_for_checks(&node.peers, &mut node.crivet);
    let refused = |node: &Node, pod: &str, found: &str| {
        assert_refused(node.crictl().create("app", pod, &app), UNDECIDED, &[NOT_CHECKED, found]);
    };
    let requested = |node: &Node| {
        assert!(request.exists());
        let (code, report) = check_with(node, &["--requested"]);
        assert!(!request.exists());
        (code, report)
    };

    refused(&node, &pod, "found none of layers");
    let (code, report) = requested(&node);
    // That image alone.
    assert_eq!((code, report["images"].as_array().unwrap().len()), (Some(0), 1), "{report}");
    assert_eq!(of(&report, &app).0, "whole");
    node.crictl().create("app", &pod, &app).unwrap();
    // The pause image is asked about by the same policy.
    assert_refused(node.crictl().sandbox("pause"), UNDECIDED, &[NOT_CHECKED]);
    assert_eq!(requested(&node).0, Some(0));
    let pod = node.crictl().sandbox("pause").unwrap();
    node.crictl().create("another", &pod, &app).unwrap();

    // A restart forgets nothing, and what is too old by then is checked anew.
    node.crivet.kill();
    node.crivet.start_again(&node.peers);
    node.crictl().create("restarted", &pod, &app).unwrap();
    node.crivet.kill();
    let mut known: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    for layer in known["layers"].as_array_mut().unwrap() {
        layer["at"] = json!(layer["at"].as_u64().unwrap() - 3_600_000);
    }
    fs::write(&kept, known.to_string()).unwrap();
    node.crivet.start_again(&node.peers);
    refused(&node, &pod, "found an older one of layers");
    assert_eq!(requested(&node).0, Some(0));

    // Altered since: not seen before the next check, which here is one of all there is.
    fs::write(folders(&node, &app).pop().unwrap().join("greeting"), "hullo").unwrap();
    node.crictl().create("not-seen", &pod, &app).unwrap();
    assert_eq!(check(&node).0, Some(1));
    assert_refused(node.crictl().create("seen", &pod, &app), DENIED, &["it was altered on this node"]);
    assert!(!request.exists(), "it is denied, and waits for nothing");

    // Removed and pulled anew, it is not what was checked.
    node.crictl().run(["rmp", "-fa"]).unwrap();
    node.crictl().run(["rmi", &app.id]).unwrap();
    node.crictl().pull(&app.reference).unwrap();
    let pod = node.crictl().sandbox("anew").unwrap();
    refused(&node, &pod, "found none of layers");
    assert_eq!(requested(&node).0, Some(0));
    node.crictl().create("anew", &pod, &app).unwrap();
    assert!(!node.containerd.ctr(&["leases", "list"]).contains("crivet-content"));
}

#[test]
fn image_is_made_only_after_a_check_that_its_policy_asks_for() {
    image_is_made_only_after_a_check(&Setup::default());
}

#[test]
fn image_is_made_only_after_a_check_that_its_policy_asks_for_on_containerd_2() {
    image_is_made_only_after_a_check(&Setup::on_containerd_2());
}

#[test]
fn image_of_a_hundred_layers_is_made_after_a_check_and_altered_at_the_bottom_denied_after_the_next() {
    let Some(mut node) = Node::enforcing() else { return };
    let app = node.push_signed("app", &Image::layered(&node.peers, 100, 1 << 20));
    node.crictl().pull(&app.reference).unwrap();
    let pod = node.crictl().sandbox("deep").unwrap();
    asks_for_checks(&node.peers, &mut node.crivet);
    assert_refused(node.crictl().create("app", &pod, &app), UNDECIDED, &[NOT_CHECKED]);
    assert_eq!(check_with(&node, &["--requested"]).0, Some(0));
    for name in ["app", "again"] {
        node.crictl().create(name, &pod, &app).unwrap();
    }
    fs::write(folders(&node, &app)[0].join("file-1"), "altered").unwrap();
    assert_eq!(check(&node).0, Some(1));
    let refused = node.crictl().create("altered", &pod, &app);
    assert_refused(refused, DENIED, &["/file-1", "it was altered on this node"]);
}

fn altered_images_are_removed_and_pulled_anew(setup: &Setup<'_>) {
    let Some(mut node) = Node::start(setup) else { return };
    let app = node.push_signed("app", &node.says("vouched for").file("greeting", "hello"));
    node.crictl().pull(&app.reference).unwrap();
    let pod = node.crictl().sandbox("runs").unwrap();
    node.crictl().create("main", &pod, &app).unwrap();
    fs::write(folders(&node, &app).pop().unwrap().join("new"), "").unwrap();

    // A container that was never started stands on it.
    let (code, report) = check_with(&node, &["--heal"]);
    let healed = &report["healed"][0];
    assert_eq!((code, &healed["removed"]), (Some(1), &json!(false)), "{report}");
    let message = healed["message"].as_str().unwrap();
    assert!(message.starts_with("container main of pod e2e/runs stands on its altered layer"), "{message}");
    assert_refused(node.crictl().create("again", &pod, &app), DENIED, &["it was altered on this node"]);

    node.crictl().run(["rmp", "-fa"]).unwrap();
    let (code, report) = check_with(&node, &["--heal"]);
    assert_eq!((code, &report["healed"][0]["removed"]), (Some(1), &json!(true)), "{report}");
    assert!(node.crictl().run(["inspecti", "-q", &app.id]).is_err(), "it is still there");

    // Who read the user while it was gone would make it as root; a crash does not change that.
    node.crivet.kill();
    node.crivet.start_again(&node.peers);
    node.crictl().pull(&app.reference).unwrap();
    let pod = node.crictl().sandbox("healed").unwrap();
    let refused = node.crictl().create("too-soon", &pod, &app);
    assert_refused(
        refused,
        "SignatureValidationFailed: undecided: ",
        &["has to read once more as which user"],
    );
    wait_for("the image to be one like any other", Duration::from_secs(90), || {
        node.crictl().create("healed", &pod, &app).ok()
    });
    assert_eq!(check(&node).0, Some(0));
}

#[test]
fn altered_images_are_removed_and_pulled_anew_on_containerd_1_6() {
    altered_images_are_removed_and_pulled_anew(&Setup::default());
}

#[test]
fn altered_images_are_removed_and_pulled_anew_on_containerd_2() {
    altered_images_are_removed_and_pulled_anew(&Setup::on_containerd_2());
}

#[test]
fn nothing_is_removed_where_nothing_is_enforced() {
    let Some(node) = Node::start(&Setup { mode: "audit", ..Setup::default() }) else { return };
    let app = node.push_signed("app", &node.says("vouched for").file("greeting", "hello"));
    node.crictl().pull(&app.reference).unwrap();
    fs::write(folders(&node, &app).pop().unwrap().join("new"), "").unwrap();
    let (code, report) = check_with(&node, &["--heal"]);
    let healed = &report["healed"][0];
    assert_eq!((code, &healed["removed"]), (Some(1), &json!(false)), "{report}");
    assert!(healed["message"].as_str().unwrap().contains("expected enforce mode"), "{report}");
    node.crictl().run(["inspecti", "-q", &app.id]).unwrap();
}
