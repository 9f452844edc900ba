//! `crivet doctor` with a real kubelet: protected, and not.

use crate::support::containerd::Containerd;
use crate::support::cosign::{Cosign, Version};
use crate::support::crivet::{Crivet, key_policy};
use crate::support::image::Image;
use crate::support::kubelet::Kubelet;
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use crate::support::wait_for;
use serde_json::{Value, json};
use std::time::Duration;

fn level<'a>(said: &'a Value, id: &str) -> Option<&'a str> {
    let found = said["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == id)?;
    found["level"].as_str()
}

#[test]
fn a_node_is_protected_only_with_its_kubelet_through() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let containerd = Containerd::start(&peers, "1.7", &registry);
    let cosign = Cosign::new(&peers, Version::V2);
    let key = cosign.generate_key("key");
    cosign.sign(&key, &containerd.pause().by_digest, &[]);
    let policy = key_policy("all", &format!("{}/**", registry.address()), &key);
    let crivet = Crivet::start(&peers, &containerd, "enforce", &[policy]);

    let kubelet = Kubelet::start(&peers, containerd.socket());
    let (code, said) = crivet.json("doctor", &[]);
    assert_eq!((code, level(&said, "kubelet-bypasses")), (Some(1), Some("failure")), "{said:#}");
    assert_eq!(level(&said, "kubelet-not-connected"), Some("failure"), "{said:#}");
    assert_eq!(level(&said, "canary"), Some("ok"), "enforcing is not enough: {said:#}");
    drop(kubelet);

    let signed = Image::says(&peers, "signed").push(&registry, "signed", "1");
    cosign.sign(&key, &signed.by_digest, &[]);
    let kubelet = Kubelet::start(&peers, &crivet.socket());
    kubelet.add_pod("signed", &signed.reference, &json!({}));
    kubelet.wait_pod("signed", Duration::from_secs(60), |pod| pod.ready());
    let protected = || {
        let (code, said) = crivet.json("doctor", &[]);
        (code == Some(0)).then_some(said)
    };
    // The kubelet's second connection is made when it first lists images.
    let said = wait_for("protection", Duration::from_secs(30), protected);
    for id in ["kubelet-configured", "kubelet-connected", "kubelet-version", "canary", "pause-image", "mode"]
    {
        assert_eq!(level(&said, id), Some("ok"), "{id}: {said:#}");
    }
    let (_, inventory) = crivet.json("inventory", &[]);
    let pod = inventory["running"].as_array().unwrap().iter().find(|row| row["container"] == "main").unwrap();
    assert_eq!((&pod["staticPod"], &pod["decision"]), (&json!(true), &json!("allowed")), "{pod:#}");
    kubelet.remove_pod("signed");
    wait_for("the pod to go", Duration::from_secs(30), || kubelet.pod("signed").is_none().then_some(()));
}
