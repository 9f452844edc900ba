//! CRI-O: by itself, and with crivet in front of it.

mod handlers;
mod layers;

use crate::support::cosign::{Cosign, Key, Version};
use crate::support::crio::Crio;
use crate::support::crivet::{Crivet, key_policy, policy, signed_by};
use crate::support::image::{Image, Pushed};
use crate::support::kubelet::{Kubelet, Pod};
use crate::support::machine::Machine;
use crate::support::machine_node::{CRIO, install_crio, install_kubelet_on};
use crate::support::node::{DENIED, UNDECIDED, assert_refused};
use crate::support::peers::Peers;
use crate::support::recorder::Recorder;
use crate::support::registry::Registry;
use crate::support::wait_for;
use serde_json::{Value, json};
use std::time::Duration;

const A_MINUTE: Duration = Duration::from_secs(60);

/// CRI-O's spelling of an image's ID.
fn bare(image: &Pushed) -> &str {
    image.id.strip_prefix("sha256:").unwrap()
}

#[test]
fn crio_pulls_and_runs_and_says_what_crivet_relies_on() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let crio = Crio::start(&peers, &registry);
    let crictl = crio.crictl();
    let pushed = Image::says(&peers, "hello from the image").push(&registry, "app", "1");
    // Up to 1.34 a pull answers with the digest, and a kubelet creates by that.
    let pulled = crictl.pull(&pushed.reference).unwrap();
    assert!(pulled.ends_with(&pushed.by_digest), "{pulled}");
    let container =
        crictl.start("hello", &Pushed { id: pushed.by_digest.clone(), ..pushed.clone() }).unwrap();
    assert_eq!(container.first_line(), "hello from the image");

    let status =
        |name: &str| crictl.json(["inspecti", "-o", "json", name]).map(|said| said["status"].clone());
    let known = status(&pushed.reference).unwrap();
    assert_eq!((&known["id"], &known["repoDigests"]), (&json!(bare(&pushed)), &json!([pushed.by_digest])));
    assert_eq!(status(bare(&pushed)).unwrap(), known);
    assert!(status(&pushed.id).is_err(), "sha256:<hex> is a name to CRI-O");
    let listed = crictl.json(["ps", "-o", "json"]).unwrap()["containers"][0].clone();
    let said = [&listed["imageId"], &listed["imageRef"], &listed["image"]["image"]];
    assert_eq!(said, [&json!(bare(&pushed)), &json!(pushed.by_digest), &json!(pushed.by_digest)]);
    assert_eq!(listed["image"]["userSpecifiedImage"], "", "the pod's own words are not kept");
    let info = crictl.json(["info", "-o", "json"]).unwrap();
    assert_eq!(info["config"]["sandboxImage"], crio.pause().reference);

    container.remove(crictl).unwrap();
    assert_eq!(crictl.run(["ps", "--all", "--quiet"]).unwrap(), "");
}

/// crivet in front of CRI-O. Everything of the registry wants a signature; the pause image has one.
struct Node {
    crivet: Crivet,
    crio: Crio,
    registry: Registry,
    cosign: Cosign,
    key: Key,
    peers: Peers,
}

impl Node {
    fn start(mode: &str) -> Option<Self> {
        Self::with(mode, Crio::start)
    }

    fn with(mode: &str, start: fn(&Peers, &Registry) -> Crio) -> Option<Self> {
        let peers = Peers::get()?;
        let registry = Registry::start(&peers);
        let crio = start(&peers, &registry);
        let cosign = Cosign::new(&peers, Version::V2);
        let key = cosign.generate_key("key");
        cosign.sign(&key, &crio.pause().by_digest, &[]);
        let policy = key_policy("all", &format!("{}/**", registry.address()), &key);
        let crivet = Crivet::start(&peers, &crio, mode, &[policy]);
        Some(Self { crivet, crio, registry, cosign, key, peers })
    }

    fn push(&self, name: &str) -> Pushed {
        Image::says(&self.peers, name).push(&self.registry, name, "1")
    }

    fn push_signed(&self, name: &str) -> Pushed {
        let pushed = self.push(name);
        self.cosign.sign(&self.key, &pushed.by_digest, &[]);
        pushed
    }

    /// Kind, decision and effect of each record about an image, as they come.
    fn decisions(&self, image: &Pushed) -> Vec<[String; 3]> {
        let records = self.crivet.audit();
        let about = records.iter().filter(|record| record["reference"] == image.reference);
        let text = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
        about.map(|record| ["kind", "decision", "effective"].map(|key| text(record, key))).collect()
    }

    fn records(&self, image: &Pushed, kinds: &[&str], decision: &str) {
        for kind in kinds {
            let wanted = [*kind, decision, "forwarded"].map(str::to_owned);
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            while !self.decisions(image).contains(&wanted) {
                let now = std::time::Instant::now();
                assert!(now < deadline, "no {wanted:?} in {:#?}", self.crivet.audit());
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

#[test]
fn in_audit_mode_a_kubelets_pods_run_and_the_records_tell_them_apart() {
    let Some(node) = Node::start("audit") else { return };
    let (signed, unsigned) = (node.push_signed("signed"), node.push("unsigned"));
    let kubelet = Kubelet::start(&node.peers, &node.crivet.socket());
    for (name, image) in [("signed", &signed), ("unsigned", &unsigned)] {
        kubelet.add_pod(name, &image.reference, &json!({}));
        kubelet.wait_pod(name, A_MINUTE, Pod::ready);
        assert_eq!(kubelet.first_line(name), name);
    }
    node.records(&signed, &["PullImage", "CreateContainer"], "allowed");
    node.records(&unsigned, &["PullImage", "CreateContainer"], "denied");
    let undecided =
        |image: &Pushed| node.decisions(image).into_iter().any(|[_, decision, _]| decision == "undecided");
    assert!(!undecided(&signed) && !undecided(&unsigned), "{:#?}", node.crivet.audit());

    let (code, said) = node.crivet.json("inventory", &[]);
    assert_eq!((code, &said["judgedBy"]), (Some(1), &json!("daemon")), "{said:#}");
    for (image, decision) in [(&signed, "allowed"), (&unsigned, "denied")] {
        // The pod's own words are not kept: what the kubelet named.
        let running = said["running"].as_array().unwrap();
        let row = running.iter().find(|row| row["reference"] == image.by_digest).expect(&image.by_digest);
        assert_eq!((&row["decision"], &row["imageId"]), (&json!(decision), &json!(image.id)), "{row:#}");
        assert_eq!((&row["namespace"], &row["staticPod"]), (&json!("e2e"), &json!(true)), "{row:#}");
    }

    let (code, said) = node.crivet.json("doctor", &[]);
    let findings = said["findings"].as_array().unwrap();
    let level =
        |id: &str| findings.iter().find(|found| found["id"] == id).map(|found| found["level"].clone());
    for (id, expected) in [
        ("runtime", "ok"),
        ("mode-audit", "failure"),
        ("kubelet-configured", "ok"),
        ("kubelet-connected", "ok"),
        ("pause-image", "ok"),
    ] {
        assert_eq!(level(id), Some(json!(expected)), "{id}: {said:#}");
    }
    assert_eq!(code, Some(1));
    for name in ["signed", "unsigned"] {
        kubelet.remove_pod(name);
        wait_for("the pod to go", Duration::from_secs(30), || kubelet.pod(name).is_none().then_some(()));
    }
    // It would take what it does not know away.
    drop(kubelet);

    // As a kubelet names it; by its ID it would have no name, because CRI-O does not keep the pod's words.
    let by_digest = Pushed { id: unsigned.by_digest.clone(), ..unsigned.clone() };
    let past = node.crio.crictl().start("past", &by_digest).unwrap();
    let found = |record: &Value| record["kind"] == "FoundContainer" && record["pod"] == "past";
    let record = wait_for("the container that was made past crivet", A_MINUTE, || {
        node.crivet.audit().into_iter().find(found)
    });
    assert_eq!(
        (&record["decision"], &record["reason"]),
        (&json!("denied"), &json!("SignatureMissing")),
        "{record:#}"
    );
    past.remove(node.crio.crictl()).unwrap();
}

#[test]
fn in_enforce_mode_what_is_signed_runs_and_what_came_past_crivet_does_not() {
    let Some(node) = Node::start("enforce") else { return };
    let (signed, unsigned) = (node.push_signed("signed"), node.push("unsigned"));
    let (crictl, direct) = (node.crivet.crictl(), node.crio.crictl());
    crictl.pull(&signed.reference).unwrap();
    assert_refused(crictl.pull(&unsigned.reference), DENIED, &[&unsigned.digest]);
    let images = direct.run(["images", "--quiet"]).unwrap();
    assert!(images.contains(&bare(&signed)[..13]) && !images.contains(&bare(&unsigned)[..13]), "{images}");

    // Brought past crivet.
    direct.pull(&unsigned.reference).unwrap();
    let create = |image: &Pushed, named: &str| {
        let pod = crictl.sandbox("pod").unwrap();
        let image = json!({"image": named, "user_specified_image": image.reference});
        let made = crictl.create_of("pod", &pod, "e2e", &image, &json!([]));
        direct.run(["rmp", "--force", &pod]).unwrap();
        made
    };
    // By digest up to 1.34, by ID later.
    for named in [signed.by_digest.as_str(), bare(&signed)] {
        create(&signed, named).unwrap();
    }
    for named in [unsigned.by_digest.as_str(), bare(&unsigned)] {
        assert_refused(create(&unsigned, named), DENIED, &[&unsigned.digest]);
    }
    assert_eq!(direct.run(["ps", "--all", "--quiet"]).unwrap(), "");
    assert_eq!(direct.run(["pods", "--quiet"]).unwrap(), "");
}

#[test]
fn in_enforce_mode_a_kubelets_signed_pod_runs_as_the_images_user_and_an_unsigned_one_says_why() {
    let Some(node) = Node::start("enforce") else { return };
    let signed = Image::says(&node.peers, "uid $(id -u)").user("1000").push(&node.registry, "signed", "1");
    node.cosign.sign(&node.key, &signed.by_digest, &[]);
    let unsigned = node.push("unsigned");
    let kubelet = Kubelet::start(&node.peers, &node.crivet.socket());
    kubelet.add_pod("signed", &signed.reference, &json!({}));
    kubelet.wait_pod("signed", A_MINUTE, Pod::ready);
    assert_eq!(kubelet.first_line("signed"), "uid 1000");
    kubelet.add_pod("unsigned", &unsigned.reference, &json!({}));
    let denied = |pod: &Pod| pod.waiting().is_some_and(|(why, _)| why == "SignatureValidationFailed");
    let pod = kubelet.wait_pod("unsigned", A_MINUTE, denied);
    let (_, message) = pod.waiting().unwrap();
    assert!(message.contains(&unsigned.digest), "{message}");
}

/// A node whose policy rechecks tags each second; a signed image was pulled, and its tag has moved to another signed one.
fn drifted(on_drift: &str) -> Option<(Node, Pushed, Pushed)> {
    let node = Node::start("enforce")?;
    let recheck = format!(
        "  recheck: {{interval: 1s, onDrift: {on_drift}, whenRegistryDown: deny, whenLoginRefused: deny}}\n{}",
        signed_by(&node.key)
    );
    let all = policy("all", &format!("{}/**", node.registry.address()), &recheck);
    node.crivet.put_policies(&[all]);
    let first = node.push_signed("app");
    node.crivet.crictl().pull(&first.reference).unwrap();
    let second = Image::says(&node.peers, "moved").file("moved", "x").push(&node.registry, "app", "1");
    node.cosign.sign(&node.key, &second.by_digest, &[]);
    std::thread::sleep(Duration::from_millis(1200));
    Some((node, first, second))
}

impl Node {
    /// As a kubelet creates: by digest up to 1.34, by ID later, for a pod that names the tag.
    fn create_by(&self, named: &str, image: &Pushed) -> Result<String, String> {
        let pod = self.crivet.crictl().sandbox("pod").unwrap();
        let image = json!({"image": named, "user_specified_image": image.reference});
        let made = self.crivet.crictl().create_of("pod", &pod, "e2e", &image, &json!([]));
        self.crio.crictl().run(["rmp", "--force", &pod]).unwrap();
        made
    }
}

#[test]
fn in_enforce_mode_a_tag_that_moved_is_denied_where_the_policy_says_so() {
    let Some((node, first, second)) = drifted("deny") else { return };
    for named in [first.by_digest.as_str(), bare(&first)] {
        assert_refused(
            node.create_by(named, &first),
            DENIED,
            &[&first.digest, &second.digest, "onDrift: deny"],
        );
    }
    // A digest does not move.
    let by_digest = Pushed { reference: first.by_digest.clone(), ..first.clone() };
    node.create_by(&first.by_digest, &by_digest).unwrap();
    // Pulled anew, as a kubelet does with imagePullPolicy: Always.
    node.crivet.crictl().pull(&first.reference).unwrap();
    node.create_by(&second.by_digest, &second).unwrap();
}

#[test]
fn in_enforce_mode_a_tag_that_moved_is_recorded_where_the_policy_warns() {
    let Some((node, first, second)) = drifted("warn") else { return };
    node.create_by(&first.by_digest, &first).unwrap();
    let is_it = |record: &Value| record["reason"] == "ImageDrifted" && record["decision"] == "allowed";
    let record = wait_for("its record", A_MINUTE, || node.crivet.audit().into_iter().find(is_it));
    assert_eq!(record["effective"], "forwarded");
    assert!(record["message"].as_str().unwrap().contains(&second.digest), "{record}");
}

/// The kubelet's way: the image is hidden from its question whether to pull, it pulls, and the new one runs as its user.
#[test]
fn in_enforce_mode_a_tag_that_moved_is_pulled_anew_by_the_kubelet() {
    let Some((node, first, _)) = drifted("repull") else { return };
    let second = Image::says(&node.peers, "new $(id -u)").user("1000").push(&node.registry, "app", "1");
    node.cosign.sign(&node.key, &second.by_digest, &[]);
    std::thread::sleep(Duration::from_millis(1200));
    let kubelet = Kubelet::start(&node.peers, &node.crivet.socket());
    kubelet.add_pod("app", &first.reference, &json!({"imagePullPolicy": "IfNotPresent"}));
    kubelet.wait_pod("app", 2 * A_MINUTE, Pod::ready);
    assert_eq!(kubelet.first_line("app"), "new 1000");
}

#[test]
fn in_enforce_mode_a_config_altered_on_the_disk_is_denied() {
    let Some(node) = Node::start("enforce") else { return };
    let signed = node.push_signed("signed");
    let crictl = node.crivet.crictl();
    crictl.pull(&signed.reference).unwrap();
    let pod = crictl.sandbox("pod").unwrap();
    let image = json!({"image": signed.by_digest, "user_specified_image": signed.reference});
    let create = || crictl.create_of("pod", &pod, "e2e", &image, &json!([]));
    let made = create().unwrap();
    node.crio.crictl().run(["rm", "--force", &made]).unwrap();
    let config = node.crio.document(&signed.id, &signed.id);
    let whole = std::fs::read(&config).unwrap();
    crate::content::not_hashed_a_moment_ago();
    // Something that means the same to CRI-O.
    std::fs::write(&config, [&whole[..], b" "].concat()).unwrap();
    // With a held permit.
    assert_refused(create(), DENIED, &[&signed.id, "it was altered on this node"]);
    assert_eq!(node.crio.crictl().run(["ps", "--all", "--quiet"]).unwrap(), "");
    std::fs::write(&config, whole).unwrap();
    create().unwrap();
}

/// The layers that CRI-O says are under a container are held to the vetted image's.
#[test]
fn in_enforce_mode_a_container_on_other_layers_is_removed() {
    let Some(node) = Node::start("enforce") else { return };
    let signed = node.push_signed("signed");
    let crictl = node.crivet.crictl();
    crictl.pull(&signed.reference).unwrap();
    let pod = crictl.sandbox("pod").unwrap();
    // As a CRI-O that did not hold layers to the config would have written it.
    node.crio.change_store("overlay-layers/layers.json", |layers| {
        for layer in layers.as_array_mut().unwrap() {
            layer["diff-digest"] = json!(format!("sha256:{}", "0".repeat(64)));
        }
    });
    let image = json!({"image": signed.by_digest, "user_specified_image": signed.reference});
    let made = crictl.create_of("pod", &pod, "e2e", &image, &json!([]));
    assert_refused(made, UNDECIDED, &["instead of the vetted image's"]);
    assert_eq!(node.crio.crictl().run(["ps", "--all", "--quiet"]).unwrap(), "");
}

/// As CRI-O writes down a layer that it pulled by its table of contents (zstd:chunked).
#[test]
fn in_enforce_mode_what_was_pulled_in_part_makes_no_container() {
    let Some(node) = Node::start("enforce") else { return };
    let signed = node.push_signed("signed");
    let crictl = node.crivet.crictl();
    crictl.pull(&signed.reference).unwrap();
    let pod = crictl.sandbox("pod").unwrap();
    node.crio.change_store("overlay-layers/layers.json", |layers| {
        for layer in layers.as_array_mut().unwrap() {
            layer["toc-digest"] = json!(format!("sha256:{}", "0".repeat(64)));
        }
    });
    for named in [signed.by_digest.as_str(), bare(&signed)] {
        let image = json!({"image": named, "user_specified_image": signed.reference});
        let made = crictl.create_of("pod", &pod, "e2e", &image, &json!([]));
        assert_refused(made, UNDECIDED, &["was pulled in part", "enable_partial_images"]);
    }
    assert_refused(crictl.sandbox("another"), UNDECIDED, &["was pulled in part"]);
    let direct = node.crio.crictl();
    assert_eq!(direct.run(["ps", "--all", "--quiet"]).unwrap(), "");
    assert_eq!(direct.run(["pods", "--quiet"]).unwrap(), pod);
}

/// Partial pulls are on, and the registry has ordinary layers. What CRI-O then unpacks by another way it has hashed whole before.
#[test]
fn in_enforce_mode_ordinary_layers_run_where_partial_pulls_are_on() {
    let Some(node) = Node::with("enforce", Crio::start_pulling_in_part) else { return };
    let signed = node.push_signed("signed");
    let crictl = node.crivet.crictl();
    crictl.pull(&signed.reference).unwrap();
    let layers = std::fs::read_to_string(node.crio.store().join("overlay-layers/layers.json")).unwrap();
    assert!(layers.contains("zstd-chunked-manifest") && !layers.contains("toc-digest"), "{layers}");
    let pod = crictl.sandbox("pod").unwrap();
    let image = json!({"image": signed.by_digest, "user_specified_image": signed.reference});
    crictl.create_of("pod", &pod, "e2e", &image, &json!([])).unwrap();
}

/// Whether a kubelet that reaches CRI-O by this name asks it for the resources that containers use, and whether it knows
/// them.
fn counts(machine: &Machine, name: &str) -> (bool, bool) {
    // From outside /var/run would lead to the host's.
    let (socket, upstream) = (machine.path(name), machine.path(CRIO.trim_start_matches("/var")));
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let recorder = Recorder::at(&socket, &upstream);
    let pods = install_kubelet_on(machine, name);
    let mut last = Err(String::new());
    let known = |summary: &Value| summary["pods"][0]["containers"][0]["cpu"]["usageCoreNanoSeconds"].is_u64();
    let deadline = std::time::Instant::now() + A_MINUTE;
    while !last.as_ref().is_ok_and(known) && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
        last = pods.summary();
    }
    machine.ok(["systemctl", "stop", "kubelet.service"]);
    eprintln!("{name}: {} calls, {last:?}", recorder.calls("ListContainerStats").len());
    (!recorder.calls("ListContainerStats").is_empty(), last.as_ref().is_ok_and(known))
}

#[test]
fn a_kubelet_knows_crio_by_the_end_of_its_sockets_path() {
    let Some(peers) = Peers::get() else { return };
    let machine = Machine::boot(&peers);
    let registry = Registry::start(&peers);
    install_crio(&machine, &peers, &registry);
    let app = Image::says(&peers, "I run").push(&registry, "app", "1");
    let pods = install_kubelet_on(&machine, CRIO);
    pods.add_pod("app", &app.reference, &json!({}));
    pods.wait_pod("app", A_MINUTE, Pod::ready);
    machine.ok(["systemctl", "stop", "kubelet.service"]);
    // By that it leaves the counting to cAdvisor, which asks CRI-O's own socket; else it asks for what CRI-O counts.
    assert_eq!(counts(&machine, "/run/other/run/crio/crio.sock"), (false, true));
    assert_eq!(counts(&machine, "/run/other/crio.sock"), (true, true));
}
