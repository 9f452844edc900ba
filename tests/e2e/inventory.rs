//! `crivet inventory` on real runtimes: what runs, what is only there, and what a private registry does not show.

use crate::support::containerd::Containerd;
use crate::support::cosign::{Cosign, Version};
use crate::support::crivet::{Crivet, key_policy};
use crate::support::image::Image;
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use serde_json::{Value, json};

fn rows<'a>(said: &'a Value, list: &str, reference: &str) -> Vec<&'a Value> {
    said[list].as_array().unwrap().iter().filter(|row| row["reference"] == reference).collect()
}

fn inventory_on(version: &str, knows_references: bool) {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let containerd = Containerd::start(&peers, version, &registry);
    let cosign = Cosign::new(&peers, Version::V2);
    let key = cosign.generate_key("key");
    cosign.sign(&key, &containerd.pause().by_digest, &[]);
    let policy = key_policy("all", &format!("{}/**", registry.address()), &key);
    let pause = format!("pauseImage: {}\n", containerd.pause().reference);
    let crivet = Crivet::start_with(&peers, &containerd, "audit", &[policy], &pause, "info");
    let [signed, unsigned, idle] =
        ["signed", "unsigned", "idle"].map(|name| Image::says(&peers, name).push(&registry, name, "1"));
    cosign.sign(&key, &signed.by_digest, &[]);
    for image in [&signed, &unsigned, &idle] {
        containerd.crictl().pull(&image.reference).unwrap();
    }
    let crictl = containerd.crictl();
    let containers = [crictl.start("signed", &signed), crictl.start("unsigned", &unsigned)];

    let (code, said) = crivet.json("inventory", &[]);
    assert_eq!((code, &said["judgedBy"]), (Some(1), &json!("daemon")), "{said:#}");
    for (image, decision) in [(&signed, "allowed"), (&unsigned, "denied")] {
        let [row] = rows(&said, "running", &image.reference)[..] else { panic!("{said:#}") };
        assert_eq!((&row["decision"], &row["imageId"]), (&json!(decision), &json!(image.id)), "{row:#}");
        assert_eq!((&row["namespace"], &row["use"]), (&json!("e2e"), &json!("image")), "{row:#}");
        assert_eq!(row["referenceGuessed"], json!(!knows_references), "{row:#}");
    }
    let [idle] = rows(&said, "notInUse", &idle.reference)[..] else { panic!("{said:#}") };
    assert_eq!(idle["decision"], "denied");
    let pause = said["running"].as_array().unwrap().iter().find(|row| row["use"] == "pause image").unwrap();
    assert_eq!((&pause["decision"], &pause["namespace"]), (&json!("allowed"), &json!("e2e")), "{pause:#}");

    let (again, same) = crivet.json("inventory", &["--warm"]);
    assert_eq!((again, &same["running"]), (code, &said["running"]));
    for container in containers {
        container.unwrap().remove(containerd.crictl()).unwrap();
    }
}

#[test]
fn inventory_on_containerd_1_6() {
    inventory_on("1.6", false);
}

#[test]
fn inventory_on_containerd_1_7() {
    inventory_on("1.7", true);
}

#[test]
fn inventory_on_containerd_2() {
    inventory_on("2", true);
}

#[test]
fn inventory_of_a_node_without_a_daemon() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let containerd = Containerd::start(&peers, "1.7", &registry);
    let cosign = Cosign::new(&peers, Version::V2);
    let key = cosign.generate_key("key");
    let policy = key_policy("all", &format!("{}/**", registry.address()), &key);
    let mut crivet = Crivet::start(&peers, &containerd, "audit", &[policy]);
    let signed = Image::says(&peers, "signed").push(&registry, "signed", "1");
    cosign.sign(&key, &signed.by_digest, &[]);
    containerd.crictl().pull(&signed.reference).unwrap();
    crivet.stop();
    let (code, said) = crivet.json("inventory", &[]);
    let [row] = rows(&said, "notInUse", &signed.reference)[..] else { panic!("{said:#}") };
    assert_eq!((&row["decision"], &said["judgedBy"]), (&json!("allowed"), &json!("command")), "{row:#}");
    let pause = &said["running"][0];
    assert_eq!(
        (&pause["decision"], &pause["reference"]),
        (&json!("undecided"), &json!(containerd.pause().reference))
    );
    assert_eq!(code, Some(2), "the pause image is not there yet: {said:#}");
}
