//! crivet is restarted, as an upgrade does it, under a kubelet that starts pods: the socket is the service manager's and stays.

use crate::support::crivet::{Activation, Crivet};
use crate::support::kubelet::Kubelet;
use crate::support::node::{Node, Setup};
use crate::support::peers::Peers;
use crate::support::probe::Probe;
use serde_json::json;
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// The socket that outlives crivet.
pub fn socket(peers: &Peers) -> Activation {
    let dir = Crivet::dir(peers);
    std::fs::create_dir_all(&dir).unwrap();
    let socket = UnixListener::bind(dir.join("crivet.sock")).unwrap();
    Activation { socket: Some(socket), environment: Vec::new() }
}

/// The kubelet's words about calls that failed, other than that a pod's image was refused.
fn failed_calls(kubelet: &Kubelet) -> Vec<String> {
    let log = kubelet.log();
    let failed = log.lines().filter(|line| {
        (line.contains("from runtime service failed") || line.contains("from image service failed"))
            && !line.contains("SignatureValidationFailed")
            // Asked of containers that are gone, with and without crivet.
            && !line.contains("code = NotFound")
    });
    failed.map(str::to_owned).collect()
}

#[test]
fn restarts_under_a_kubelet_that_starts_pods_fail_no_call_and_leave_no_gap() {
    let Some(mut node) = Node::activated(&Setup::default(), socket) else { return };
    let signed = node.push_signed("signed", &node.says("here"));
    let unsigned = node.push("unsigned", &node.says("never").file("unsigned", "x"));
    let kubelet = Kubelet::start(&node.peers, &node.crivet.socket());
    kubelet.add_pod("first", &signed.reference, &json!({}));
    kubelet.wait_pod("first", Duration::from_secs(60), |pod| pod.ready());
    kubelet.add_pod("unsigned", &unsigned.reference, &json!({}));
    let before = failed_calls(&kubelet).len();

    let probe = Probe::start(&node.crivet.socket());
    let mut events = 0;
    for restart in 0..4 {
        kubelet.add_pod(&format!("pod-{restart}"), &signed.reference, &json!({}));
        // Each time at another moment of a pod's start.
        std::thread::sleep(Duration::from_millis(700 + 400 * restart));
        events += usize::from(node.crivet.stop() == Some(0));
        node.crivet.start_again(&node.peers);
    }
    assert_eq!(events, 4, "crivet did not end in order");
    for restart in 0..4 {
        kubelet.wait_pod(&format!("pod-{restart}"), Duration::from_secs(60), |pod| pod.ready());
    }
    let answers = probe.end();
    let failed = failed_calls(&kubelet);
    eprintln!(
        "four restarts: {} probes, {} failed, longest gap {:?}; the kubelet's calls that failed: {}",
        answers.calls,
        answers.failed.len(),
        answers.gap,
        failed.len() - before
    );
    assert!(failed.len() == before, "{failed:#?}");
    assert!(answers.failed.is_empty(), "{:?}", answers.failed);
    // Measured well below a second; what matters is the 3 s after which a kubelet looks for its runtime.
    assert!(answers.gap < Duration::from_secs(3), "no answer for {:?}", answers.gap);
    assert!(kubelet.healthy());
    assert_eq!(kubelet.pod_log("first"), ["here"], "the container was started again");
    assert!(!node.containerd.chains().values().any(|chain| *chain == unsigned.chain));
    assert!(!kubelet.log().contains("container runtime is down"));
}
