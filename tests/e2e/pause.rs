//! The pause image, which no call names and which the runtime pulls and starts within one call.

use crate::support::image::Pushed;
use crate::support::node::{DENIED, Node, Setup, UNDECIDED, assert_refused};
use crate::support::wait_for;
use serde_json::Value;
use std::time::Duration;

fn images(node: &Node) -> String {
    node.containerd.crictl().run(["images", "--quiet", "--no-trunc"]).unwrap()
}

fn sandboxes(node: &Node) -> String {
    node.containerd.crictl().run(["pods", "--quiet"]).unwrap()
}

fn records(node: &Node, pause: &Pushed, kind: &str) -> Vec<Value> {
    let of_pause = |r: &Value| r["kind"] == kind && r["reference"] == pause.reference.as_str();
    wait_for("the pause image's record", Duration::from_secs(5), || {
        let found: Vec<_> = node.crivet.audit().into_iter().filter(of_pause).collect();
        (!found.is_empty()).then_some(found)
    })
}

#[test]
fn an_absent_pause_image_is_pulled_vetted_before_the_sandbox() {
    let Some(node) = Node::enforcing() else { return };
    assert_eq!(images(&node), "");
    node.crictl().sandbox("first").unwrap();
    let pause = node.containerd.pause().clone();
    assert!(images(&node).contains(&pause.id));
    let pulled = records(&node, &pause, "PullImage");
    assert_eq!(
        (&pulled[0]["decision"], &pulled[0]["digest"]),
        (&"allowed".into(), &pause.digest.as_str().into())
    );
    let run = records(&node, &pause, "RunPodSandbox");
    assert_eq!((&run[0]["decision"], &run[0]["pod"]), (&"allowed".into(), &"first".into()));
}

#[test]
fn sandboxes_at_once_pull_an_absent_pause_image_once() {
    let Some(node) = Node::enforcing() else { return };
    let before = node.registry.requests().len();
    std::thread::scope(|scope| {
        let one = |n: i32| node.crictl().sandbox(&format!("pod{n}")).unwrap();
        let made: Vec<_> = (0..4).map(|n| scope.spawn(move || one(n))).collect();
        made.into_iter().for_each(|thread| drop(thread.join().unwrap()));
    });
    // containerd asks so in a pull, and crivet does not: it has the manifest by its tag.
    let manifest = format!("GET /v2/pause/manifests/{}", node.containerd.pause().digest);
    let requests = node.registry.requests();
    assert_eq!(
        requests.iter().skip(before).filter(|request| **request == manifest).count(),
        1,
        "{requests:#?}"
    );
}

#[test]
fn an_absent_unsigned_pause_image_is_neither_pulled_nor_run() {
    let Some(node) = Node::start(&Setup { pause_is_signed: false, ..Setup::default() }) else { return };
    let pause = node.containerd.pause();
    assert_refused(node.crictl().sandbox("refused"), DENIED, &[&pause.reference[..10], &pause.digest]);
    assert_eq!((images(&node), sandboxes(&node)), (String::new(), String::new()));
}

#[test]
fn an_unsigned_pause_image_that_is_there_is_not_run() {
    for containerd in ["1.6", "2"] {
        let setup = Setup { containerd, pause_is_signed: false, pause_is_there: true, ..Setup::default() };
        let Some(node) = Node::start(&setup) else { return };
        assert_refused(node.crictl().sandbox("refused"), DENIED, &[&node.containerd.pause().digest]);
        assert_eq!(sandboxes(&node), "");
    }
}

#[test]
fn on_containerd_2_the_pause_image_is_found_among_the_pinned_ones() {
    let Some(node) = Node::start(&Setup::on_containerd_2()) else { return };
    node.crictl().sandbox("pinned").unwrap();
    let run = records(&node, node.containerd.pause(), "RunPodSandbox");
    assert_eq!(run[0]["decision"], "allowed");
}

#[test]
fn on_containerd_2_an_absent_pause_image_is_known_by_the_setting_only() {
    let without = Setup { containerd: "2", ..Setup::default() };
    if let Some(node) = Node::start(&without) {
        assert_refused(node.crictl().sandbox("refused"), UNDECIDED, &["set pauseImage"]);
        assert_eq!((images(&node), sandboxes(&node)), (String::new(), String::new()));
    }
    let with = Setup { settings: "pauseImage: REGISTRY/pause:test\n", ..without };
    let Some(node) = Node::start(&with) else { return };
    node.crictl().sandbox("named").unwrap();
    assert!(images(&node).contains(&node.containerd.pause().id));
}

/// The same that a pause image's name does that moves between crivet's question and the runtime's look: what was
/// vetted is not what the sandbox stands on.
#[test]
fn a_sandbox_on_another_file_system_than_the_vetted_one_is_removed() {
    for containerd in ["1.6", "2"] {
        let settings = "pauseImage: REGISTRY/vetted-pause:1\n";
        let setup = Setup { containerd, settings, pause_is_there: true, ..Setup::default() };
        let Some(node) = Node::start(&setup) else { return };
        node.push_signed("vetted-pause", &node.says("pause").file("other", "another file system"));
        let text = "the runtime made the container on layers";
        assert_refused(node.crictl().sandbox("elsewhere"), UNDECIDED, &[text]);
        assert_eq!(sandboxes(&node), "");
        let undecided = |r: &Value| r["kind"] == "RunPodSandbox" && r["decision"] == "undecided";
        wait_for("the record", Duration::from_secs(5), || node.crivet.audit().into_iter().find(undecided));
    }
}

#[test]
fn a_static_pod_waits_while_its_pause_image_is_unsigned() {
    let Some(node) = Node::start(&Setup { pause_is_signed: false, ..Setup::default() }) else { return };
    let signed = node.push_signed("signed", &node.says("after all"));
    let kubelet = crate::support::kubelet::Kubelet::start(&node.peers, &node.crivet.socket());
    kubelet.add_pod("waits", &signed.reference, &serde_json::json!({}));
    let digest = &node.containerd.pause().digest;
    wait_for("the kubelet's own word", Duration::from_secs(30), || {
        let log = kubelet.log();
        log.lines()
            .any(|l| l.contains("SignatureValidationFailed: ") && l.contains(digest.as_str()))
            .then_some(())
    });
    node.sign(node.containerd.pause());
    kubelet.wait_pod("waits", Duration::from_secs(60), |pod| pod.ready());
}
