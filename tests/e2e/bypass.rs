//! Containers made on containerd's own socket, past crivet.

use crate::support::metrics::{Metrics, sample};
use crate::support::node::{Node, Setup};
use crate::support::wait_for;
use std::time::Duration;

/// Found within seconds: the list is asked for every ten, and one whose create is being answered is given three.
const SECONDS: Duration = Duration::from_secs(40);

fn unvetted(metrics: &Metrics, origin: &str) -> Option<f64> {
    sample(&metrics.page()?, &format!("crivet_unvetted_containers{{origin=\"{origin}\"}}"))
}

fn found_records(node: &Node, container: &str) -> Vec<serde_json::Value> {
    let is = |r: &serde_json::Value| r["kind"] == "FoundContainer" && r["container"] == container;
    node.crivet.audit().into_iter().filter(is).collect()
}

#[test]
fn a_container_made_past_crivet_is_found_and_one_made_through_it_never_is() {
    for (containerd, mode) in [("1.6", "enforce"), ("2", "audit")] {
        let metrics = Metrics::unused();
        let settings = metrics.setting();
        let pause_is_there = containerd == "2";
        let setup = Setup { containerd, mode, settings: &settings, pause_is_there, ..Setup::default() };
        let Some(mut node) = Node::start(&setup) else { return };
        let signed = node.push_signed("signed", &node.says("through"));
        let unsigned = node.push("unsigned", &node.says("past").file("n", "2"));
        for image in [&signed, &unsigned] {
            node.preload(&image.reference);
        }
        // One from before crivet let anything through.
        let before = node.containerd.crictl().start("before", &signed).unwrap();
        wait_for("what was there before", SECONDS, || found_records(&node, "before").pop());
        let mine = node.crictl().start("mine", &signed).unwrap();
        let theirs = node.containerd.crictl().start("theirs", &unsigned).unwrap();

        for restart in ["", "in order", "kill"] {
            match restart {
                "in order" => drop(node.crivet.stop()),
                "kill" => node.crivet.kill(),
                _ => {}
            }
            if !restart.is_empty() {
                let peers = &node.peers;
                node.crivet.start_again(peers);
            }
            let told = || node.crivet.log().contains("that was made past crivet was vetted");
            wait_for("the bypass", SECONDS, || told().then_some(()));
            let counted = || unvetted(&metrics, "bypass").filter(|count| *count == 1.0);
            wait_for("the count of bypasses", SECONDS, counted);
            assert_eq!(unvetted(&metrics, "before_crivet"), Some(1.0), "{containerd} {restart}");
        }
        let record = found_records(&node, "theirs").pop().unwrap();
        assert_eq!((&record["decision"], &record["mode"]), (&"denied".into(), &mode.into()), "{record}");
        assert_eq!((&record["pod"], &record["namespace"]), (&"theirs".into(), &"e2e".into()), "{record}");
        assert!(found_records(&node, "mine").is_empty());
        let running = node.containerd.crictl().run(["ps", "--quiet", "--no-trunc"]).unwrap();
        for container in [&before, &mine, &theirs] {
            assert!(running.contains(&container.id), "{containerd}: {running}");
        }
        for container in [before, mine, theirs] {
            container.remove(node.containerd.crictl()).unwrap();
        }
    }
}

/// On containerd 2 crivet listens to events after half a minute, so that even what is gone before the next list is
/// asked for soon.
#[test]
fn on_containerd_2_a_bypass_is_heard_of_and_a_kubelet_that_listens_has_its_events() {
    let Some(node) = Node::start(&Setup { mode: "audit", rust_log: "debug", ..Setup::on_containerd_2() })
    else {
        return;
    };
    let signed = node.push_signed("signed", &node.says("through"));
    node.preload(&signed.reference);
    let mine = node.crictl().start("mine", &signed).unwrap();
    let listens = || node.crivet.log().contains("listening to the runtime's events").then_some(());
    wait_for("crivet listens", Duration::from_secs(60), listens);
    let theirs = node.containerd.crictl().start("theirs", &signed).unwrap();
    // The list is asked for once a minute now.
    wait_for("the bypass", Duration::from_secs(20), || found_records(&node, "theirs").pop());

    // As a kubelet with evented PLEG does.
    let (socket, crictl) = (node.crivet.socket(), node.peers.program("crictl"));
    let events = node.peers.path().join("events");
    let endpoint = format!("unix://{}", socket.display());
    let mut kubelet = std::process::Command::new(crictl)
        .args(["--config", node.peers.path().join("crictl/crictl.yaml").to_str().unwrap()])
        .args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint, "events"])
        .stdout(std::fs::File::create(&events).unwrap())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let leaves =
        || node.crivet.log().contains("not listening to the runtime's events any more").then_some(());
    wait_for("crivet leaves", Duration::from_secs(20), leaves);
    let more = node.crictl().start("more", &signed).unwrap();
    let heard = || std::fs::read_to_string(&events).unwrap().contains(&more.id).then_some(());
    wait_for("the kubelet's event", Duration::from_secs(20), heard);
    kubelet.kill().unwrap();
    kubelet.wait().unwrap();
    for container in [mine, theirs, more] {
        container.remove(node.containerd.crictl()).unwrap();
    }
}
